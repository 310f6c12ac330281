//! Who has a file open, for the message when that is in a machine's way. Reads `/proc` alone; ends
//! and asks nobody.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use procfs::process::{Process, all_processes};
use uuid::Uuid;

use crate::process::machine_of;

/// A process that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    /// As `ps` shows it.
    pub(crate) command: String,
    /// The machine of ours it runs.
    pub(crate) machine: Option<Uuid>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, command, machine } = self;
        match machine {
            Some(id) => write!(f, "process {pid} ({command}), which runs the machine {id}"),
            None => write!(f, "process {pid} ({command}), which is not a machine of vman"),
        }
    }
}

/// The first process other than ours that has the file open; `None` if none is seen, which is also
/// so when it is another user's and we are not root. Blocks.
pub(crate) fn of(file: &Path, machines_dir: &Path) -> Option<Holder> {
    let metadata = std::fs::metadata(file).ok()?;
    let wanted = (metadata.dev(), metadata.ino());
    let own = i32::try_from(std::process::id()).ok();
    all_processes()
        .ok()?
        .flatten()
        .filter(|process| Some(process.pid()) != own)
        .find(|process| has_open(process, wanted))
        .map(|process| holder(&process, machines_dir))
}

/// "image X is in use by ...: what to do".
pub(crate) fn in_use(image: &Path, machines_dir: &Path) -> String {
    let image_text = image.display();
    match of(image, machines_dir) {
        Some(holder) if holder.machine.is_some() => format!(
            "image {image_text} is in use by {holder}: stop that one, or detach the disk from it"
        ),
        Some(holder) => format!("image {image_text} is in use by {holder}: end it first"),
        None => format!(
            "image {image_text} is in use by a process that was not found (on another host, or it \
             has ended meanwhile): try again"
        ),
    }
}

fn has_open(process: &Process, wanted: (u64, u64)) -> bool {
    // A process that has ended meanwhile, or another user's, shows none.
    let Ok(all) = process.fd() else { return false };
    let pid = process.pid();
    // The link's own target, by the kernel: also of a file that was renamed or removed.
    all.flatten().any(|open| {
        std::fs::metadata(format!("/proc/{pid}/fd/{}", open.fd))
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == wanted)
    })
}

fn holder(process: &Process, machines_dir: &Path) -> Holder {
    let command = process.stat().map_or_else(|_| "ended meanwhile".to_owned(), |stat| stat.comm);
    let machine = machine_of(process, machines_dir).map(|(id, _)| id);
    Holder { pid: process.pid(), command, machine }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_process_that_has_a_file_open_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        std::fs::write(&file, "x").unwrap();
        // Ours does not count.
        let _open = File::open(&file).unwrap();
        assert_eq!(of(&file, folder.path()), None);
        let mut stranger = Command::new("cat")
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(File::open(&file).unwrap())
            .spawn()
            .unwrap();
        // By another name, as after a move.
        let moved = folder.path().join("moved");
        std::fs::rename(&file, &moved).unwrap();
        let pid = i32::try_from(stranger.id()).unwrap();
        let mut told = of(&moved, folder.path()).unwrap();
        // Between fork and exec it still has the test's name.
        told.command = "cat".to_owned();
        assert_eq!(told, Holder { pid, command: "cat".to_owned(), machine: None });
        let text = in_use(&moved, folder.path());
        assert!(
            text.contains(&format!("process {pid} (")) && text.ends_with("end it first"),
            "{text}"
        );
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
