//! The time that simulated machines live in: the host's, or one that stands still until it is told.
//! What happens at a time is not known here.
//!
//! Virtual time is the number in the file `.clock` of the machines' folder, in milliseconds; no
//! file is 0. Whoever writes a larger one, with `echo` or by renaming, moves the time there, and
//! all that is due by then has happened. It does not move by itself: what a daemon above is about
//! to ask next is not known here, and a clock that jumped meanwhile to what is due would make each
//! run another one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::sync::watch;

use crate::files;

/// The dot keeps it apart from machines' folders, also for those who look for stray ones.
const CLOCK_FILE: &str = ".clock";
/// How often the file is looked at while the instance lives.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What the clock on the wall and a timer may differ by when something is to happen at a time.
const SLACK: Duration = Duration::from_millis(2);

/// Which time it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClockKind {
    #[default]
    Real,
    Virtual,
}

#[derive(Debug, Clone)]
pub(crate) enum Clock {
    Real,
    Virtual(Arc<Told>),
}

/// A time that is told by a file.
#[derive(Debug)]
pub(crate) struct Told {
    path: PathBuf,
    /// The latest that was read: it never goes back, nor where the file cannot be read.
    latest: watch::Sender<u64>,
}

impl Clock {
    /// Must be called inside the instance's runtime; what it starts ends with it.
    pub(crate) fn start(kind: ClockKind, machines_dir: &Path) -> Self {
        match kind {
            ClockKind::Real => Self::Real,
            ClockKind::Virtual => {
                let path = machines_dir.join(CLOCK_FILE);
                let told = Arc::new(Told { path, latest: watch::Sender::new(0) });
                let reading = Arc::clone(&told);
                tokio::spawn(async move {
                    let mut ticks = tokio::time::interval(LOOK_EVERY);
                    loop {
                        ticks.tick().await;
                        reading.read();
                    }
                });
                Self::Virtual(told)
            }
        }
    }

    /// In milliseconds: after 1970, or as the file says. It means the same to the next instance.
    pub(crate) fn now_ms(&self) -> u64 {
        match self {
            Self::Real => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Self::Virtual(told) => told.read(),
        }
    }

    /// Returns at `ms` or later, never before.
    pub(crate) async fn until(&self, ms: u64) {
        match self {
            Self::Real => {
                let left = Duration::from_millis(ms.saturating_sub(self.now_ms()));
                if !left.is_zero() {
                    tokio::time::sleep(left + SLACK).await;
                }
            }
            // Its sender lives as long as the clock.
            Self::Virtual(told) => {
                let _ = told.latest.subscribe().wait_for(|now| *now >= ms).await;
            }
        }
    }

    pub(crate) async fn pass(&self, ms: u64) {
        if ms > 0 {
            self.until(self.now_ms().saturating_add(ms)).await;
        }
    }
}

impl Told {
    fn read(&self) -> u64 {
        let file = files::read(&self.path).ok().flatten();
        let says = file.and_then(|text| String::from_utf8(text).ok()?.trim().parse::<u64>().ok());
        if let Some(says) = says {
            self.latest.send_if_modified(|latest| {
                let later = says > *latest;
                *latest = says.max(*latest);
                later
            });
        }
        *self.latest.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn virtual_time_moves_when_it_is_told_and_never_back() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::start(ClockKind::Virtual, folder.path());
        assert_eq!(clock.now_ms(), 0);
        let tell = |says: &str| std::fs::write(folder.path().join(CLOCK_FILE), says).unwrap();
        tell("40\n");
        assert_eq!(clock.now_ms(), 40);
        clock.pass(0).await;
        let mut waiting = Box::pin(clock.pass(3_600_000));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert_eq!(early.ok(), None, "nobody has told it");
        for says in ["39", "forty", ""] {
            tell(says);
            assert_eq!(clock.now_ms(), 40, "{says}");
        }
        tell("3600040");
        waiting.await;
        let next = Clock::start(ClockKind::Virtual, folder.path());
        assert_eq!(next.now_ms(), 3_600_040, "the next instance goes on there");
    }

    #[tokio::test]
    async fn real_time_passes_by_itself() {
        let clock = Clock::start(ClockKind::Real, Path::new("/nowhere"));
        let begun = clock.now_ms();
        clock.pass(20).await;
        assert!(clock.now_ms() >= begun + 20);
    }
}
