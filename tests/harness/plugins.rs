//! Folders of plugins that a test makes for its daemon, with files that are built for tests alone
//! or just now. What is in the files is not known here.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::paths;

/// A folder of plugins; at first there is none in it.
#[derive(Debug)]
pub struct PluginFolder(TempDir);

impl PluginFolder {
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Puts a copy of a plugin in there, wholly or not at all, and trusted whatever the umask; its
    /// file's name there.
    pub fn install(&self, file: &Path) -> String {
        let name = file.file_name().expect("it is a file");
        let beside = self.path().join(name).with_extension("new");
        let copied = fs::copy(file, &beside);
        let copied =
            copied.and_then(|_| fs::set_permissions(&beside, Permissions::from_mode(0o755)));
        let installed = copied.and_then(|()| fs::rename(&beside, self.path().join(name)));
        installed.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        name.to_str().expect("it is named in ASCII").to_owned()
    }
}

/// A plugin that is broken.
pub fn broken_plugin(file: &str) -> PathBuf {
    beside_plugins("plugins-broken", file)
}

/// A plugin that is sound, and built in an unusual way.
pub fn unusual_plugin(file: &str) -> PathBuf {
    beside_plugins("plugins-unusual", file)
}

/// The plugins of that folder, in the order of their names.
pub fn broken_plugins() -> Vec<String> {
    let folder = beside_plugins("plugins-broken", "");
    let entries = fs::read_dir(folder).expect("it was just found");
    let names = entries.map(|entry| entry.expect("it can be listed").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    names
}

fn beside_plugins(folder: &str, file: &str) -> PathBuf {
    let path = paths::plugins().with_file_name(folder).join(file);
    assert!(path.exists(), "{} is not there: run `cargo xtask plugins`", path.display());
    path
}
