//! What lies in a daemon's storage, and which of it is the daemon's own.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// What a daemon keeps while it owns no machine and no disk.
const KEPT: &[&str] =
    &["token", "run/address", "run/lock", "vman.db", "vman.db-wal", "vman.db-shm"];
/// Folders whose files are the daemon's own, or the user's.
const KEPT_BELOW: &[&str] = &["boot/", "cache/", "logs/"];

/// The files below `storage` that belong to a machine or a disk, by their path in it.
pub(crate) fn leftovers(storage: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mut folders = vec![storage.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            let name = path.strip_prefix(storage).expect("it is below").display().to_string();
            let kind = fs::symlink_metadata(&path).map(|data| data.file_type());
            let Ok(kind) = kind else { continue };
            let own = KEPT.contains(&name.as_str())
                || KEPT_BELOW.iter().any(|folder| name.starts_with(folder));
            if kind.is_dir() {
                if folder.ends_with("machines") {
                    left.push(name);
                }
                folders.push(path);
            } else if !own || kind.is_socket() {
                left.push(name);
            }
        }
    }
    left
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        // Removed since its parent was read: nothing is left of it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{}: {error}", folder.display()),
    }
}
