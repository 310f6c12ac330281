//! Our own sources as text, for the tests that read them. What they must be like is those tests'
//! business.

use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The folders of our sources.
const FOLDERS: [&str; 4] = ["crates", "plugins", "policies", "tests"];
/// What cargo builds lies here, below some of them.
const BUILT: &str = "target";

/// A Rust file of ours.
#[derive(Debug)]
pub struct Source {
    /// From the root of the workspace, e.g. `crates/core/src/lib.rs`.
    pub path: String,
    pub text: String,
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are a folder of the workspace").to_owned()
}

/// Every Rust file of ours, in the order of their paths.
pub fn sources() -> Vec<Source> {
    let root = root();
    let files = FOLDERS.iter().flat_map(|folder| {
        let entries = WalkDir::new(root.join(folder)).sort_by_file_name().into_iter();
        let entries = entries.filter_entry(|entry| entry.file_name() != BUILT);
        entries.map(|entry| entry.expect("our own folders can be read").into_path())
    });
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = |path: PathBuf| Source {
        text: fs::read_to_string(&path).expect("our own files can be read"),
        path: path.strip_prefix(&root).expect("it is below the root").display().to_string(),
    };
    let sources: Vec<Source> = files.map(read).collect();
    assert!(!sources.is_empty(), "no sources below {}", root.display());
    sources
}

/// Fails with all of `violations`, one a line, if there is one.
pub fn assert_none(violations: impl IntoIterator<Item = String>) {
    let violations: Vec<String> = violations.into_iter().collect();
    let count = violations.len();
    assert!(violations.is_empty(), "{count} violations:\n{}", violations.join("\n"));
}
