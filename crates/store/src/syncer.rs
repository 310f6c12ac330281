//! Has what was committed written to the storage device, so that it outlives a loss of power. A
//! commit itself is in the kernel's hands when it returns, which the death of the daemon does not
//! undo; whoever must not be told something that a loss of power would undo waits here. Many
//! commits are then written with one `fdatasync`. It also folds the journal into the file, which
//! would otherwise grow. It changes no record.
//!
//! SQLite's own way (`synchronous = FULL`) is to do the same within each commit: see
//! <https://sqlite.org/pragma.html#pragma_synchronous> and section 2.3 of
//! <https://sqlite.org/wal.html>. What it does at checkpoints, `NORMAL` does too.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

/// Commits from one folding of the journal to the next; each is of some six pages of 4 KiB.
const COMMITS_BETWEEN: u64 = 128;

/// Bytes that the journal has from the beginning, more than it usually comes to between two
/// foldings: while a file grows, each `fdatasync` waits for the file system's own journal, which
/// takes three times as long, and holds up who writes meanwhile.
const JOURNAL_BYTES: u64 = 4 << 20;

/// How often what nobody waits for is written: later than whoever is told of it goes on.
const EVERY: Duration = Duration::from_millis(250);

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reached {
    /// So many commits are on the device.
    Commits(u64),
    /// What was not written by then may be lost, and the kernel does not say what: fsync(2).
    Failed(String),
}

/// A thread that writes what was committed.
#[derive(Debug)]
pub(crate) struct Syncer {
    commits: Commits,
    reached: watch::Receiver<Reached>,
    thread: Option<JoinHandle<()>>,
}

/// What there is to write.
#[derive(Debug, Default)]
struct Work {
    committed: u64,
    /// As many as somebody waits for.
    wanted: u64,
    written: u64,
    /// Nothing more comes.
    closing: bool,
}

/// Counts commits for the thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commits(Arc<(Mutex<Work>, Condvar)>);

impl Commits {
    /// Something was committed.
    pub(crate) fn one_more(&self) {
        self.work().committed += 1;
    }

    /// How many there are, which are to be written at once.
    fn want(&self) -> u64 {
        let mut work = self.work();
        work.wanted = work.committed;
        let (wanted, written) = (work.wanted, work.written);
        drop(work);
        if wanted > written {
            self.0.1.notify_one();
        }
        wanted
    }

    fn close(&self) {
        self.work().closing = true;
        self.0.1.notify_one();
    }

    fn written(&self, count: u64) {
        self.work().written = count;
    }

    /// Waits until something is to be written, and tells how many commits there are; none if
    /// nothing more comes.
    fn next(&self) -> Option<u64> {
        let mut work = self.work();
        while !work.closing && work.wanted <= work.written {
            let (after, waited) =
                self.0.1.wait_timeout(work, EVERY).unwrap_or_else(PoisonError::into_inner);
            work = after;
            if waited.timed_out() && work.committed > work.written {
                break;
            }
        }
        (work.committed > work.written).then_some(work.committed)
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // No statement under this lock leaves it half done.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Syncer {
    /// For the records in `path`, whose journal must be there; `connection` folds it, and no other
    /// does.
    pub(crate) fn start(path: &Path, connection: Connection) -> io::Result<Self> {
        let journal = OpenOptions::new().read(true).write(true).open(journal(path))?;
        lengthen(&journal)?;
        let (told, reached) = watch::channel(Reached::Commits(0));
        let commits = Commits::default();
        let worker = Worker { commits: commits.clone(), told, journal, connection };
        let builder = std::thread::Builder::new().name("store-syncer".to_owned());
        let thread = builder.spawn(move || worker.work())?;
        Ok(Self { commits, reached, thread: Some(thread) })
    }

    pub(crate) fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Waits until all that was committed by now is on the device. The error says why that is not
    /// known.
    pub(crate) async fn reached(&self) -> Result<(), String> {
        let wanted = self.commits.want();
        let mut reached = self.reached.clone();
        let is_there = |reached: &Reached| match reached {
            Reached::Commits(count) => *count >= wanted,
            Reached::Failed(_) => true,
        };
        match reached.wait_for(is_there).await.as_deref() {
            Ok(Reached::Commits(_)) => Ok(()),
            Ok(Reached::Failed(why)) => Err(why.clone()),
            Err(_) => Err("the thread that writes the records has ended".to_owned()),
        }
    }
}

impl Drop for Syncer {
    /// Waits until what was committed is written.
    fn drop(&mut self) {
        self.commits.close();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread of the store panicked");
        }
    }
}

/// SQLite's journal of the database in `path`: <https://sqlite.org/tempfiles.html>, section 2.2.
fn journal(path: &Path) -> PathBuf {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-wal");
    journal.into()
}

/// Adds zeros, which are no part of the journal to SQLite: no frame of it begins so
/// (<https://sqlite.org/fileformat2.html#walformat>). Where there is no room for them, nothing.
/// Nobody may be writing.
fn lengthen(mut journal: &File) -> io::Result<()> {
    let length = journal.metadata()?.len();
    let Some(missing) = JOURNAL_BYTES.checked_sub(length) else { return Ok(()) };
    journal.seek(SeekFrom::Start(length))?;
    let added = io::copy(&mut io::repeat(0).take(missing), &mut journal);
    match added.and_then(|_| journal.sync_data()) {
        Ok(()) => Ok(()),
        Err(_) => journal.set_len(length),
    }
}

struct Worker {
    commits: Commits,
    told: watch::Sender<Reached>,
    journal: File,
    connection: Connection,
}

impl Worker {
    fn work(&self) {
        let mut folded = 0;
        // What is committed while it writes is written in the next round.
        while let Some(count) = self.commits.next() {
            if let Err(error) = self.journal.sync_data() {
                tracing::error!(%error, "the records cannot be written to their device");
                self.told.send_replace(Reached::Failed(error.to_string()));
                return;
            }
            self.commits.written(count);
            self.told.send_replace(Reached::Commits(count));
            if count - folded >= COMMITS_BETWEEN {
                folded = count;
                self.fold();
            }
        }
    }

    /// Without waiting for readers or writers: what they still use is folded the next time.
    fn fold(&self) {
        let folded = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = folded {
            tracing::warn!(%error, "the journal of the records cannot be folded; it grows");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open;

    #[tokio::test]
    async fn what_was_committed_is_waited_for_and_the_journal_stays_short() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("vman.db");
        let database = open::writer(&path).expect("opens");
        let syncer = Syncer::start(&path, open::folder(&path).expect("opens")).expect("a thread");
        database.execute_batch("CREATE TABLE numbers (number)").expect("made");
        let mut longest = 0;
        for _ in 0..4 * COMMITS_BETWEEN {
            database.execute("INSERT INTO numbers VALUES (1)", []).expect("written");
            syncer.commits().one_more();
            syncer.reached().await.expect("written to the device");
            longest = longest.max(journal(&path).metadata().expect("it is there").len());
        }
        assert_eq!(longest, JOURNAL_BYTES);
        assert_eq!(*syncer.reached.borrow(), Reached::Commits(4 * COMMITS_BETWEEN));
    }

    #[tokio::test]
    async fn that_the_device_does_not_take_it_is_told_to_whoever_waits_now_or_later() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("vman.db");
        let _database = open::writer(&path).expect("opens");
        let connection = open::folder(&path).expect("opens");
        // There is no device behind a pipe, so that fdatasync(2) fails.
        let (pipe, _other_end) = std::io::pipe().expect("a pipe");
        let journal = File::from(std::os::fd::OwnedFd::from(pipe));
        let (told, reached) = watch::channel(Reached::Commits(0));
        let commits = Commits::default();
        let worker = Worker { commits: commits.clone(), told, journal, connection };
        let thread = Some(std::thread::spawn(move || worker.work()));
        let syncer = Syncer { commits, reached, thread };
        syncer.commits().one_more();
        for _ in 0..2 {
            let why = syncer.reached().await.expect_err("it cannot be written");
            assert!(why.contains("Invalid argument"), "{why}");
        }
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_written_all_the_same() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("vman.db");
        drop(open::writer(&path).expect("opens"));
        let _open = open::writer(&path).expect("opens");
        let syncer = Syncer::start(&path, open::folder(&path).expect("opens")).expect("a thread");
        syncer.commits().one_more();
        let mut reached = syncer.reached.clone();
        let written = reached.wait_for(|reached| *reached == Reached::Commits(1));
        tokio::time::timeout(Duration::from_secs(10), written).await.expect("soon").expect("so");
        for _ in 0..3 {
            syncer.commits().one_more();
        }
        drop(syncer);
        assert_eq!(*reached.borrow(), Reached::Commits(4), "before it ends");
    }
}
