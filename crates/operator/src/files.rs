//! The storage folder: where each file of ours lies, and moving one out of the way. What is in an
//! image or a machine's directory is the backend's business.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use vman_core::disk::Disk;
use vman_core::ident::{FileName, Timestamp, VmId};
use vman_core::ports::{Applied, ApplyError};
use vman_core::sighting::{FileKind, FileSeen};

const IMAGES: &str = "disks";
const MACHINES: &str = "machines";
const BOOT: &str = "boot";
const QUARANTINE: &str = "quarantine";
/// Only the daemon's user may look into what guests write.
const FOLDER_MODE: u32 = 0o700;
/// Entries of one folder that are looked at; more are an error, so that nothing is called absent.
const ENTRIES_MAX: usize = 200_000;

/// The storage folder, laid out.
#[derive(Debug, Clone)]
pub struct Storage {
    root: PathBuf,
    /// Held while the folder is looked at.
    turn: Arc<Mutex<()>>,
}

impl Storage {
    /// Makes the folders that are not there yet below `root`, which must be absolute.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        for folder in [IMAGES, MACHINES, BOOT, QUARANTINE] {
            make_folder(&root.join(folder))?;
        }
        Ok(Self { root, turn: Arc::default() })
    }

    pub fn machines(&self) -> PathBuf {
        self.root.join(MACHINES)
    }

    pub(crate) fn machine(&self, id: VmId) -> PathBuf {
        self.machines().join(id.to_string())
    }

    /// Already there is a success.
    pub(crate) async fn make_machine(&self, id: VmId) -> io::Result<()> {
        let (mode, directory) = (FOLDER_MODE, self.machine(id));
        tokio::fs::DirBuilder::new().recursive(true).mode(mode).create(directory).await
    }

    pub(crate) fn image(&self, disk: &Disk) -> PathBuf {
        self.root.join(IMAGES).join(disk.file_name())
    }

    /// A boot file: a regular file, not a link that leads elsewhere.
    pub(crate) async fn boot_file(&self, name: &FileName) -> Result<PathBuf, ApplyError> {
        let path = self.root.join(BOOT).join(name.as_str());
        match tokio::fs::symlink_metadata(&path).await {
            Ok(metadata) if metadata.is_file() => Ok(path),
            Ok(_) => Err(ApplyError::failed(format!(
                "{} is not a regular file; copy the boot file there itself",
                path.display()
            ))),
            Err(error) => Err(ApplyError::failed(format!(
                "cannot use the boot file {}: {error}; copy it there",
                path.display()
            ))),
        }
    }

    /// `relative` as [`survey`](Self::survey) named it; gone already is a success.
    pub(crate) async fn quarantine(&self, relative: &str) -> Result<Applied, ApplyError> {
        let Some(name) = plain_entry(relative) else {
            return Err(ApplyError::failed(format!(
                "{relative} is not the path of a file of ours"
            )));
        };
        let (from, to) = (self.root.join(relative), self.root.join(QUARANTINE).join(name));
        if is_gone(&from).await {
            return Ok(Applied::default());
        }
        if tokio::fs::symlink_metadata(&to).await.is_ok() {
            return Err(ApplyError::failed(format!(
                "cannot move {} away: {} is there already; look at it and remove it",
                from.display(),
                to.display()
            )));
        }
        match tokio::fs::rename(&from, &to).await {
            Ok(()) => Ok(Applied {
                note: Some(format!("moved to {}", to.display())),
                ..Applied::default()
            }),
            Err(error) => {
                Err(ApplyError::failed(format!("cannot move {} away: {error}", from.display())))
            }
        }
    }

    /// Every file a record could own, or why it cannot be known. One look at a time: on a file
    /// system that hangs, each costs a thread for ever, and there are only so many.
    pub(crate) async fn look(&self) -> Result<BTreeMap<String, FileSeen>, String> {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            return Err(format!(
                "the last look at {} has not ended; see to its file system",
                self.root.display()
            ));
        };
        let storage = self.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let seen = storage.survey();
            drop(turn);
            seen
        });
        let seen =
            looking.await.map_err(|error| format!("looking at the files failed: {error}"))?;
        seen.map_err(|error| format!("cannot read the storage folder: {error}"))
    }

    /// Blocks.
    fn survey(&self) -> io::Result<BTreeMap<String, FileSeen>> {
        let mut seen = BTreeMap::new();
        for (folder, kind) in [(IMAGES, FileKind::Image), (MACHINES, FileKind::MachineDirectory)] {
            for (count, entry) in std::fs::read_dir(self.root.join(folder))?.enumerate() {
                if count >= ENTRIES_MAX {
                    return Err(io::Error::other(format!("more than {ENTRIES_MAX} in {folder}")));
                }
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // Being written, or somebody's own.
                if name.starts_with('.') {
                    continue;
                }
                match entry.metadata() {
                    Ok(metadata) => {
                        seen.insert(format!("{folder}/{name}"), file_seen(kind, &metadata));
                    }
                    // Gone since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(seen)
    }
}

fn file_seen(kind: FileKind, metadata: &std::fs::Metadata) -> FileSeen {
    // ctime(inode(7)) also moves when a file is renamed to here.
    let changed = metadata.ctime().max(metadata.mtime());
    let changed_at = Timestamp(u64::try_from(changed).unwrap_or(0).saturating_mul(1000));
    let size = if metadata.is_file() { metadata.len() } else { 0 };
    FileSeen { kind, size, changed_at }
}

async fn is_gone(path: &Path) -> bool {
    let found = tokio::fs::symlink_metadata(path).await;
    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The last component of a path of exactly two plain ones, the first a surveyed folder.
fn plain_entry(relative: &str) -> Option<&str> {
    let (folder, name) = relative.split_once('/')?;
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    (plain && [IMAGES, MACHINES].contains(&folder)).then_some(name)
}

/// Already there is a success. Blocks.
fn make_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stray_file_is_moved_away_once_and_nothing_outside_is_touched() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = Storage::open(folder.path().to_owned()).expect("storage");
        std::fs::write(folder.path().join("disks/stray.raw"), "x").expect("write");
        for _ in 0..2 {
            storage.quarantine("disks/stray.raw").await.expect("quarantined");
        }
        assert!(folder.path().join("quarantine/stray.raw").exists());
        for bad in
            ["../x", "disks/../token", "token", "disks/", "boot/vmlinuz", "disks/.x", "/etc/x"]
        {
            storage.quarantine(bad).await.expect_err(bad);
        }
    }

    #[tokio::test]
    async fn a_boot_file_that_is_a_link_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = Storage::open(folder.path().to_owned()).expect("storage");
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("boot/kernel"))
            .expect("symlink");
        let name: FileName = "kernel".parse().expect("valid");
        let error = storage.boot_file(&name).await.expect_err("refused");
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_is_not_joined_by_others() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = Storage::open(folder.path().to_owned()).expect("storage");
        let hangs = storage.turn.lock().await;
        let reason = storage.clone().look().await.expect_err("one hangs already");
        assert!(reason.contains("has not ended"), "{reason}");
        drop(hangs);
        for _ in 0..2 {
            assert_eq!(storage.look().await, Ok(BTreeMap::new()));
        }
    }

    #[test]
    fn a_survey_names_images_and_machine_directories_and_nothing_hidden() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = Storage::open(folder.path().to_owned()).expect("storage");
        std::fs::write(folder.path().join("disks/a.raw"), "abc").expect("write");
        std::fs::write(folder.path().join("disks/.a.raw.tmp"), "abc").expect("write");
        std::fs::create_dir(folder.path().join("machines/m")).expect("mkdir");
        let seen = storage.survey().expect("survey");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["disks/a.raw", "machines/m"]);
        assert_eq!(seen["disks/a.raw"].size, 3);
        std::fs::remove_dir_all(folder.path().join("disks")).expect("remove");
        storage.survey().expect_err("a folder that cannot be read is not an empty one");
    }
}
