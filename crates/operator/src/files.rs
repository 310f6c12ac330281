//! The storage folder: where each file of ours lies, who may reach it, and moving one out of the
//! way. What is in an image or a machine's directory is the backend's business.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;
use tokio::sync::Mutex;
use tracing::{info, warn};
use uuid::Uuid;
use vman_core::disk::Disk;
use vman_core::ident::{FileName, Timestamp, VmId};
use vman_core::ports::{Applied, ApplyError};
use vman_core::sighting::{FileKind, FileSeen};

const IMAGES: &str = "disks";
const MACHINES: &str = "machines";
const BOOT: &str = "boot";
const QUARANTINE: &str = "quarantine";
/// Machines may run as users of their own: these must reach the files of theirs, and list nobody's.
const SEARCHED_MODE: u32 = 0o711;
/// Only the daemon's user may look into what guests write.
const PRIVATE_MODE: u32 = 0o700;
/// Bytes: with less than this left, what failed probably failed for that.
const FULL_BELOW: u64 = 1024 * 1024;
/// Levels of folders that are removed with a machine's directory: no program of ours makes one.
const LEVELS_MAX: usize = 1_000_000;
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
        make_folder(&root, SEARCHED_MODE)?;
        for folder in [IMAGES, MACHINES, BOOT] {
            make_folder(&root.join(folder), SEARCHED_MODE)?;
        }
        make_folder(&root.join(QUARANTINE), PRIVATE_MODE)?;
        Ok(Self { root, turn: Arc::default() })
    }

    pub fn machines(&self) -> PathBuf {
        self.root.join(MACHINES)
    }

    pub(crate) fn machine(&self, id: VmId) -> PathBuf {
        self.machines().join(id.to_string())
    }

    /// Already there is a success.
    pub(crate) async fn make_machine(&self, id: VmId) -> Result<(), ApplyError> {
        let directory = self.machine(id);
        let made = tokio::fs::DirBuilder::new().mode(PRIVATE_MODE).create(&directory).await;
        let failed = |why: String| {
            ApplyError::failed(format!("cannot make the directory {}: {why}", directory.display()))
        };
        match made {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let there = tokio::fs::symlink_metadata(&directory).await;
                if there.is_ok_and(|metadata| metadata.is_dir()) {
                    return Ok(());
                }
                Err(failed("something else is there; move it away".to_owned()))
            }
            Err(error) => Err(failed(format!("{error}{}", self.machines_full().await))),
        }
    }

    /// Gone already is a success. What a machine's user has put there leads nowhere else.
    pub(crate) async fn remove_machine(&self, id: VmId) -> Result<(), ApplyError> {
        let directory = self.machine(id);
        let failed = |why: String| {
            let shown = self.machine(id);
            ApplyError::failed(format!("cannot remove the directory {}: {why}", shown.display()))
        };
        let removing = tokio::task::spawn_blocking(move || remove_tree(&directory));
        let removed = removing.await.map_err(|error| failed(error.to_string()))?;
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error.to_string())),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What to do, if something failed because the file system of the images is full; else nothing.
    pub(crate) async fn images_full(&self) -> String {
        full_hint(self.root.join(IMAGES)).await
    }

    /// Likewise of what machines leave beside their images.
    pub(crate) async fn machines_full(&self) -> String {
        full_hint(self.machines()).await
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

/// What to do, if something failed because there is no room in this folder; else nothing.
async fn full_hint(folder: PathBuf) -> String {
    let looking = tokio::task::spawn_blocking(move || {
        let space = rustix::fs::statvfs(&folder).ok()?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        // Some file systems count no inodes: all of theirs are 0.
        let no_inode = space.f_files > 0 && space.f_favail == 0;
        (free < FULL_BELOW || no_inode).then_some((folder, free))
    });
    let Ok(Some((folder, free))) = looking.await else { return String::new() };
    format!(
        "; the file system of {} is full ({free} bytes are left): free some of it",
        folder.display()
    )
}

/// Removes a directory with all that is in it, or the link that is there instead of one, and
/// follows no link. A machine's user may have nested folders deeper than there are descriptors and
/// stack for, which is how the standard library goes down: here each folder's folders are moved up.
/// Blocks.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let top = match open_folder(CWD, directory) {
        Ok(top) => top,
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(directory),
        Err(error) => return Err(error.into()),
    };
    for _ in 0..LEVELS_MAX {
        let mut is_empty = true;
        for name in names(&top)? {
            is_empty = false;
            remove_entry(&top, &name?)?;
        }
        if is_empty {
            return std::fs::remove_dir(directory);
        }
    }
    Err(io::Error::other(format!("its folders are nested over {LEVELS_MAX} deep: look at it")))
}

/// A file goes, and of a folder everything but the folders in it, which are moved to `top`. What is
/// gone already is a success.
fn remove_entry(top: &OwnedFd, name: &CStr) -> io::Result<()> {
    let folder = match open_folder(top, name) {
        Ok(folder) => folder,
        Err(Errno::NOTDIR | Errno::LOOP) => return unlink(top, name, AtFlags::empty()),
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for inner in names(&folder)? {
        let inner = inner?;
        match unlinkat(&folder, &*inner, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Of a folder: EISDIR by Linux, EPERM by POSIX.
            Err(Errno::ISDIR | Errno::PERM) => {
                renameat(&folder, &*inner, top, Uuid::new_v4().to_string())?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    unlink(top, name, AtFlags::REMOVEDIR)
}

fn unlink(folder: &OwnedFd, name: &CStr, flags: AtFlags) -> io::Result<()> {
    match unlinkat(folder, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn open_folder<P: rustix::path::Arg>(above: impl AsFd, path: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, path, flags, Mode::empty())
}

fn names(folder: &OwnedFd) -> io::Result<impl Iterator<Item = io::Result<CString>>> {
    let own = [c".", c".."];
    let entries = Dir::read_from(folder)?.filter(move |entry| {
        entry.as_ref().map_or(true, |entry| !own.contains(&entry.file_name()))
    });
    Ok(entries.map(|entry| Ok(entry?.file_name().to_owned())))
}

/// Already there is a success; one that is closed to others is opened up as far as `mode` says.
/// Blocks.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    let present = std::fs::metadata(path)?.permissions().mode() & 0o7777;
    let opened = present | mode;
    if opened == present {
        return Ok(());
    }
    let (folder, now) = (path.display(), format!("{opened:04o}"));
    match std::fs::set_permissions(path, Permissions::from_mode(opened)) {
        Ok(()) => info!(%folder, mode = now, "opened up, so that machines reach their files"),
        // Only machines with users of their own need it.
        Err(error) => warn!(%folder, %error, "it should have mode {now}"),
    }
    Ok(())
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

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
    }

    #[test]
    fn machines_reach_their_files_and_nobody_lists_them() {
        let above = tempfile::tempdir().expect("temporary folder");
        let root = above.path().join("storage");
        Storage::open(root.clone()).expect("storage");
        let modes = ["", "disks", "machines", "boot", "quarantine"].map(|it| mode(&root.join(it)));
        assert_eq!(modes, [0o711, 0o711, 0o711, 0o711, 0o700]);
    }

    #[test]
    fn a_folder_that_was_closed_is_opened_up_and_one_that_is_open_left_so() {
        let root = tempfile::tempdir().expect("temporary folder");
        std::fs::create_dir(root.path().join("boot")).expect("made");
        for (folder, before) in [("", 0o700), ("boot", 0o2755)] {
            let permissions = Permissions::from_mode(before);
            std::fs::set_permissions(root.path().join(folder), permissions).expect("ours");
        }
        Storage::open(root.path().to_owned()).expect("storage");
        assert_eq!((mode(root.path()), mode(&root.path().join("boot"))), (0o711, 0o2755));
    }

    #[tokio::test]
    async fn a_machine_directory_is_private_and_no_link_is_taken_for_it() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = Storage::open(folder.path().to_owned()).expect("storage");
        let [id, planted] = [1, 2].map(|number| VmId(uuid::Uuid::from_u128(number)));
        for _ in 0..2 {
            storage.make_machine(id).await.expect("made");
        }
        assert_eq!(mode(&storage.machine(id)), 0o700);
        std::os::unix::fs::symlink("/etc", storage.machine(planted)).expect("symlink");
        let error = storage.make_machine(planted).await.expect_err("not a directory");
        assert!(error.to_string().contains("something else is there"), "{error}");
    }

    #[tokio::test]
    async fn removing_a_machine_directory_leads_nowhere_else() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = Storage::open(folder.path().join("storage")).expect("storage");
        let victim = folder.path().join("victim");
        std::fs::create_dir(&victim).expect("made");
        std::fs::write(victim.join("file"), "x").expect("written");
        let [id, planted] = [1, 2].map(|number| VmId(uuid::Uuid::from_u128(number)));
        storage.make_machine(id).await.expect("made");
        std::os::unix::fs::symlink(&victim, storage.machine(id).join("link")).expect("symlink");
        std::os::unix::fs::symlink(&victim, storage.machine(planted)).expect("symlink");
        for id in [id, id, planted] {
            storage.remove_machine(id).await.expect("removed");
            assert!(std::fs::symlink_metadata(storage.machine(id)).is_err(), "it is gone");
        }
        assert!(victim.join("file").exists());
    }

    /// Deeper than a thread's stack and a usual process's descriptors reach.
    #[tokio::test]
    async fn a_machine_directory_nested_without_end_is_removed_all_the_same() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let storage = Storage::open(folder.path().to_owned()).expect("storage");
        let id = VmId(uuid::Uuid::from_u128(1));
        storage.make_machine(id).await.expect("made");
        let mut deepest = open_folder(CWD, storage.machine(id)).expect("opened");
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&deepest, "f", Mode::RWXU).expect("made");
            deepest = open_folder(&deepest, "f").expect("opened");
            rustix::fs::symlinkat("/etc/passwd", &deepest, "link").expect("planted");
        }
        storage.remove_machine(id).await.expect("removed");
        assert!(!storage.machine(id).exists() && Path::new("/etc/passwd").exists());
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
