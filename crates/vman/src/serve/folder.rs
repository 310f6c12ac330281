//! `<storage>/run/`: the lock that keeps a second daemon out, and the address this one listens on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::ServeError;

const FOLDER_MODE: u32 = 0o700;
/// Of the storage folder itself: machines may run as users of their own, who reach their files
/// through it and list nothing.
const STORAGE_MODE: u32 = 0o711;
/// Of the files, since others may pass through the folders above.
const FILE_MODE: u32 = 0o600;

/// How long a daemon that was just killed may keep its lock: what it had forked has the lock, too,
/// until it becomes the program it was forked for. A machine that is being started so is found by
/// its program alone, so nothing may be looked at before.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_TRY_EVERY: Duration = Duration::from_millis(5);

/// Held for as long as the daemon runs; the kernel lets go of the lock however it ends.
#[derive(Debug)]
pub(super) struct RunFolder {
    folder: PathBuf,
    _lock: File,
    address_told: bool,
}

impl RunFolder {
    pub(super) fn open(storage: &Path) -> Result<Self, ServeError> {
        let folder = storage.join("run");
        let failed = |source| ServeError::folder(storage, source);
        for (folder, mode) in [(storage, STORAGE_MODE), (&folder, FOLDER_MODE)] {
            let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(folder);
            made.map_err(failed)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(FILE_MODE)
            .open(folder.join("lock"))
            .map_err(failed)?;
        if !take(&lock).map_err(failed)? {
            return Err(ServeError::InUse(storage.to_owned()));
        }
        let opened = Self { folder, _lock: lock, address_told: false };
        // One that a killed daemon left would lead clients astray.
        opened.forget_address().map_err(failed)?;
        Ok(opened)
    }

    /// Written beside and renamed, so that a reader never sees half of it.
    pub(super) fn tell_address(&mut self, address: SocketAddr) -> Result<(), ServeError> {
        let written = || -> io::Result<()> {
            let beside = self.folder.join(".address");
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(FILE_MODE)
                .open(&beside)?;
            write!(file, "{address}")?;
            file.sync_all()?;
            std::fs::rename(&beside, self.address_file())
        };
        written().map_err(|source| ServeError::folder(&self.folder, source))?;
        self.address_told = true;
        Ok(())
    }

    fn address_file(&self) -> PathBuf {
        self.folder.join("address")
    }

    fn forget_address(&self) -> io::Result<()> {
        match std::fs::remove_file(self.address_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.address_told
            && let Err(error) = self.forget_address()
        {
            tracing::warn!(%error, "the address file stays behind");
        }
    }
}

/// False if somebody has it and keeps it. Blocks.
fn take(lock: &File) -> io::Result<bool> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(LOCK_TRY_EVERY);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_of_at_once_is_waited_for() {
        let storage = tempfile::tempdir().expect("a temporary folder");
        let first = RunFolder::open(storage.path()).expect("nobody has it");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| RunFolder::open(storage.path()).map(drop));
            drop(first);
            second.join().expect("no panic").expect("the first one is gone");
        });
    }

    #[test]
    fn a_second_daemon_is_kept_out_until_the_first_has_ended() {
        let storage = tempfile::tempdir().expect("temporary folder");
        let first = RunFolder::open(storage.path()).expect("first");
        assert!(matches!(RunFolder::open(storage.path()), Err(ServeError::InUse(_))));
        drop(first);
        RunFolder::open(storage.path()).expect("after the first");
    }

    #[test]
    fn the_address_is_there_while_the_daemon_is() {
        let storage = tempfile::tempdir().expect("temporary folder");
        let mut folder = RunFolder::open(storage.path()).expect("opened");
        folder.tell_address("127.0.0.1:8123".parse().expect("address")).expect("told");
        let file = storage.path().join("run/address");
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "127.0.0.1:8123");
        drop(folder);
        assert!(!file.exists());
    }
}
