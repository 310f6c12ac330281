//! What QEMU's and `qemu-img`'s own words mean, where something can be done about it. The words are
//! those of QEMU 7.2 to 10; what is not known here is shown as it was said.

use std::path::{Path, PathBuf};

use uuid::Uuid;
use vman_plugin::{BackendError, ErrorCode, MachineSpec};

use crate::holder;

/// Another process has an image open: `Failed to get "write" lock`, also `shared "write"`.
pub(crate) fn is_locked(said: &str) -> bool {
    said.split_once("Failed to get ").is_some_and(|(_, rest)| rest.contains("\" lock"))
}

/// ENOSPC, in the words of the C library.
pub(crate) fn is_storage_full(said: &str) -> bool {
    said.contains("No space left on device")
}

/// Why a machine did not start, from what became of its process and what QEMU said. Blocks.
pub(crate) fn start_failed(
    spec: &MachineSpec,
    machines_dir: &Path,
    why: &str,
    said: &str,
) -> BackendError {
    let id = spec.id;
    if is_locked(said) {
        return conflict(id, &in_use(said, spec, machines_dir));
    }
    let advice = if is_storage_full(said) || is_full(machines_dir) {
        format!(": the storage is full, free some space at {}", machines_dir.display())
    } else if said.contains("Image is corrupt") {
        ": repair the image with `qemu-img check -r all`, or restore it".to_owned()
    } else {
        String::new()
    };
    let said = if why.contains(said) { String::new() } else { format!("; QEMU said: {said}") };
    BackendError::new(ErrorCode::Failed, format!("machine {id} did not start: {why}{said}{advice}"))
}

/// Then QEMU cannot even write down that it is.
fn is_full(folder: &Path) -> bool {
    rustix::fs::statvfs(folder)
        .is_ok_and(|space| space.f_bavail == 0 || (space.f_files > 0 && space.f_favail == 0))
}

fn conflict(id: Uuid, why: &str) -> BackendError {
    BackendError::new(ErrorCode::Conflict, format!("machine {id} did not start: {why}"))
}

/// QEMU names the image; where it does not, each of the machine's is looked at.
fn in_use(said: &str, spec: &MachineSpec, machines_dir: &Path) -> String {
    let named = locked_image(said);
    let mut images = spec.disks.iter().map(|disk| &disk.path).filter(|path| path.is_file());
    let held = || images.find(|path| holder::of(path, machines_dir).is_some());
    match named.as_ref().or_else(held) {
        Some(image) => holder::in_use(image, machines_dir),
        None => format!("another process has one of its images open; QEMU said: {said}"),
    }
}

/// From `Is another process using the image [/path]?`, QEMU's hint to a lock it did not get.
fn locked_image(said: &str) -> Option<PathBuf> {
    let (_, rest) = said.split_once("using the image [")?;
    let (path, _) = rest.split_once("]?")?;
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKED: &str = "qemu-system-x86_64: -blockdev {...}: Failed to get \"write\" lock | Is \
                          another process using the image [/s/disks/a b.qcow2]?";

    #[test]
    fn a_lock_that_was_not_got_is_known_with_its_image() {
        assert!(is_locked(LOCKED));
        assert!(is_locked("qemu-img: Failed to get shared \"write\" lock"));
        assert!(!is_locked("Could not open '/s/disks/a': Permission denied"));
        assert_eq!(locked_image(LOCKED), Some("/s/disks/a b.qcow2".into()));
        assert_eq!(locked_image("Failed to get \"write\" lock"), None);
    }
}
