//! The host against plugins that break the contract or are of another age, and every message of it.
//! What the verbs of real backends do is tested where those live.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::BackendConfig;

mod example;
mod files;
mod growth;
mod handmade;
mod isolated;
mod odd;
mod older;
mod whole;

/// Longer than anything here takes, on any machine.
const SOON: Duration = Duration::from_secs(20);

fn config(settings: Value) -> BackendConfig {
    BackendConfig { machines_dir: PathBuf::from("/nonexistent"), settings }
}

/// A plugin's file in `folder`, from C that finds its headers in `include`, a folder below that of
/// this crate.
fn build_c(folder: &Path, source: &str, include: &str) -> PathBuf {
    let (c, file) = (folder.join("made.c"), folder.join("made.so"));
    std::fs::write(&c, source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I"]);
    cc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(include)).arg("-o").args([&file, &c]);
    let built = cc.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    file
}
