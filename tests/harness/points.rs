//! The test build of the daemon, which can be killed or have something fail at points with names,
//! and what it is told to do there. Where those points are is its own business.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What the test build does at its points; it writes down those that it passes in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Points {
    /// It kills itself there.
    pub kill: Option<String>,
    /// What begins or has just been done there fails.
    pub fail: Option<String>,
    /// Every effect is done twice.
    pub twice: bool,
    /// The effect of this name takes longer, by half a second.
    pub hold: Option<&'static str>,
    /// Its clock is ahead by this much.
    pub ahead: Duration,
    /// It takes the host to have been booted anew, and this to be the boot's id.
    pub boot: Option<&'static str>,
}

impl Points {
    /// `record` is the file for the points that are passed.
    pub(crate) fn tell(&self, command: &mut Command, record: &Path) {
        command.env("VMAN_POINTS_RECORD", record);
        if let Some(point) = &self.kill {
            command.env("VMAN_POINTS_KILL", point);
        }
        if let Some(point) = &self.fail {
            command.env("VMAN_POINTS_FAIL", point);
        }
        if self.twice {
            command.env("VMAN_POINTS_TWICE", "1");
        }
        if let Some(effect) = self.hold {
            command.env("VMAN_POINTS_HOLD", effect);
        }
        if let Some(boot) = self.boot {
            command.env("VMAN_POINTS_BOOT_ID", boot);
        }
        command.env("VMAN_POINTS_CLOCK_AHEAD_MS", self.ahead.as_millis().to_string());
    }
}
