//! Waiting for what happens outside of this process and tells nobody: looked at until it is so, and
//! never for ever.

use std::thread;
use std::time::{Duration, Instant};

/// For what a healthy host does within a second, on a busy one.
pub const SOON: Duration = Duration::from_secs(20);
/// For what takes some seconds by itself.
pub const LONG: Duration = Duration::from_secs(60);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What `look` gives, as soon as it gives something. Panics with `what` if it does not in time.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + within;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < until, "not within {within:?}: {what}");
        thread::sleep(LOOK_EVERY);
    }
}
