//! Points at which a test kills the daemon or has something fail: before and after every commit and
//! every effect. They stand in front of the engine's ports, so that the engine knows nothing of
//! them, and in a build for tests alone: the program that ships has none.
//!
//! A point is told by when, what and how often, e.g. `after effect launch #1`. "After" an effect
//! the host has been touched, and nobody has been told. What is to happen is said once, at the
//! start, by the environment: [`RECORD`], [`KILL`], [`FAIL`], [`TWICE`], [`HOLD`]. Beside them,
//! what the daemon takes the host to be: [`AHEAD`], [`BOOT`].

mod clock;
mod host;
mod names;
mod records;

use std::collections::HashMap;
use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tracing::warn;
use uuid::Uuid;
use vman_core::ports::Clock;
use vman_engine::Ports;

use host::Host;
use records::Records;

/// The file to which every point is added that is passed, one a line.
const RECORD: &str = "VMAN_POINTS_RECORD";
/// The point at which the daemon kills itself by SIGKILL.
const KILL: &str = "VMAN_POINTS_KILL";
/// The point at which a commit is refused or an effect fails. After an effect, it was done first;
/// after a commit, nothing can fail any more.
const FAIL: &str = "VMAN_POINTS_FAIL";
/// Set to anything: every effect is done twice.
const TWICE: &str = "VMAN_POINTS_TWICE";
/// The effect that takes longer, each time, by [`HELD`]: a test can do something meanwhile.
const HOLD: &str = "VMAN_POINTS_HOLD";
const HELD: Duration = Duration::from_millis(500);
/// Milliseconds that the daemon's clock is ahead: a test need not wait until something is old.
const AHEAD: &str = "VMAN_POINTS_CLOCK_AHEAD_MS";
/// The id of the host's boot, in place of the real one: a test need not boot its host.
const BOOT: &str = "VMAN_POINTS_BOOT_ID";

/// The engine's ports with points in front of them.
pub(crate) fn before(ports: Ports) -> Ports {
    let points = Arc::new(Points::of_environment());
    let host = |host| Arc::new(Host { host, points: Arc::clone(&points) });
    Ports {
        network: host(ports.network),
        operator: host(ports.operator),
        record: Arc::new(Records { records: ports.record, points: Arc::clone(&points) }),
        ..ports
    }
}

/// The clock, as far ahead as the environment says.
pub(crate) fn clock(clock: Arc<dyn Clock>) -> Arc<dyn Clock> {
    let ahead = env::var(AHEAD).map(|text| text.parse().expect("a number of milliseconds"));
    let ahead_ms: u64 = ahead.unwrap_or_default();
    Arc::new(clock::Ahead { clock, ahead_ms })
}

/// The id of the host's boot, unless the environment says another.
pub(crate) fn boot_id(real: Uuid) -> Uuid {
    env::var(BOOT).map_or(real, |text| text.parse().expect("an id"))
}

/// What is to happen where.
#[derive(Debug)]
struct Points {
    record: Option<File>,
    kill: Option<String>,
    fail: Option<String>,
    twice: bool,
    /// By its word.
    hold: Option<String>,
    /// How often each was passed, by its name without the number.
    passed: Mutex<HashMap<String, u32>>,
}

/// What somebody who has passed a point goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    GoOn,
    /// Fail, for this reason.
    Fail(String),
}

impl Points {
    fn of_environment() -> Self {
        let record = env::var_os(RECORD).map(|path| {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.unwrap_or_else(|error| panic!("{RECORD}: {}: {error}", path.display()))
        });
        Self {
            record,
            kill: env::var(KILL).ok(),
            fail: env::var(FAIL).ok(),
            twice: env::var_os(TWICE).is_some(),
            hold: env::var(HOLD).ok(),
            passed: Mutex::default(),
        }
    }

    /// `name` without the number.
    fn pass(&self, name: &str) -> Fate {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let times = passed.entry(name.to_owned()).or_default();
        *times += 1;
        let point = format!("{name} #{times}");
        // Under the lock: the file has the points in the order they were passed.
        if let Some(mut file) = self.record.as_ref() {
            file.write_all(format!("{point}\n").as_bytes()).expect("the test reads its file");
        }
        if self.kill.as_ref() == Some(&point) {
            die();
        }
        if self.fail.as_ref() != Some(&point) {
            return Fate::GoOn;
        }
        warn!(point, "failing, as the test wants");
        Fate::Fail(format!("on purpose, {point}"))
    }
}

/// As `kill -9`: nothing is flushed, closed or told.
fn die() -> ! {
    kill_process(getpid(), Signal::KILL).expect("a process may signal itself");
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_told_apart_by_how_often_it_was_passed_and_fails_where_it_should() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("points");
        let points = Points {
            record: Some(File::create(&path).expect("file")),
            kill: None,
            fail: Some("before x #2".to_owned()),
            twice: false,
            hold: None,
            passed: Mutex::default(),
        };
        assert_eq!(points.pass("before x"), Fate::GoOn);
        assert_eq!(points.pass("after x"), Fate::GoOn);
        assert_eq!(points.pass("before x"), Fate::Fail("on purpose, before x #2".to_owned()));
        assert_eq!(points.pass("before x"), Fate::GoOn);
        let told = std::fs::read_to_string(&path).expect("read");
        assert_eq!(told, "before x #1\nafter x #1\nbefore x #2\nbefore x #3\n");
    }
}
