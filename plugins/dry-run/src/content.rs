//! What the files of one simulated machine say, and what that means at a time. Reading and writing
//! them is `machines`' and `cache`'s.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vman_plugin::{ExitCause, RunState};

use crate::disks::Disk;
use crate::plan::{self, Planned};

/// What `machine.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) id: Uuid,
    /// What the guest does, until it hears its power button.
    pub(crate) state: RunState,
    /// How often it has been started, this time included.
    pub(crate) starts: u64,
    /// How often it was reset since it was started.
    #[serde(default)]
    pub(crate) resets: u64,
    /// Absent: not known.
    #[serde(default)]
    pub(crate) disks: Option<Vec<Disk>>,
    /// What is to go wrong with it until it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) faults: Vec<Planned>,
}

impl Content {
    /// Without the disks that have left it by now.
    pub(crate) fn now(mut self, now: u64) -> Self {
        if let Some(disks) = &mut self.disks {
            disks.retain(|disk| !disk.has_left(now));
        }
        self
    }

    /// Those that have not left it by now.
    pub(crate) fn has(&self, now: u64) -> impl Iterator<Item = &Disk> {
        self.disks.iter().flatten().filter(move |disk| !disk.has_left(now))
    }

    /// `off_at`: when its guest is off by itself.
    pub(crate) fn run_state(&self, off_at: Option<u64>, now: u64) -> RunState {
        match self.state {
            RunState::Running if plan::has_panicked(&self.faults, now) => RunState::GuestPanicked,
            RunState::Running if off_at.is_some_and(|off| off <= now) => RunState::GuestShutdown,
            state @ (RunState::Running
            | RunState::Paused
            | RunState::GuestShutdown
            | RunState::GuestPanicked
            | RunState::IoError
            | RunState::InternalError
            | RunState::Other) => state,
        }
    }
}

/// What `machine.end` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) cause: ExitCause,
    #[serde(default)]
    pub(crate) detail: String,
}

impl End {
    /// Of a machine that was ended while its guest was in this state.
    pub(crate) fn of(guest: RunState) -> Self {
        let (cause, detail) = match guest {
            RunState::GuestShutdown => {
                (ExitCause::GuestShutdown, "the guest had powered itself off")
            }
            RunState::GuestPanicked => (ExitCause::GuestPanic, "the guest had panicked"),
            RunState::Running
            | RunState::Paused
            | RunState::IoError
            | RunState::InternalError
            | RunState::Other => (ExitCause::Asked, "it was asked to end"),
        };
        Self { cause, detail: detail.to_owned() }
    }

    pub(crate) fn unknown(detail: String) -> Self {
        Self { cause: ExitCause::Unknown, detail }
    }

    /// Of one that crashed as its plan had it.
    pub(crate) fn crashed(cause: ExitCause) -> Self {
        Self { cause, detail: "it crashed, as the dry-run settings ask".to_owned() }
    }
}
