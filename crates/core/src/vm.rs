//! A VM: one machine made from a template, and what is recorded of it. What happens to it is
//! decided in [`crate::lifecycle`].

use std::fmt;

use uuid::Uuid;

use crate::ident::{Generation, Name, Timestamp, VmId};
use crate::network::Lease;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    pub id: VmId,
    /// A label for people; need not be unique.
    pub name: Option<Name>,
    pub template: Name,
    pub state: VmState,
    /// Start it again when the host was booted anew while it ran.
    pub autostart: bool,
    pub generation: Generation,
    /// The machine last started for this VM, until it is known to be gone.
    pub machine: Option<Machine>,
    pub lease: Lease,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmState {
    Stopped,
    Starting,
    Running,
    Paused,
    Stopping,
    Failed(FailureReason),
    Deleting,
}

impl VmState {
    /// The stable word for this state in the API and the store.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Failed(_) => "failed",
            Self::Deleting => "deleting",
        }
    }

    /// Every word a state can have.
    pub const WORDS: [&'static str; 7] =
        ["stopped", "starting", "running", "paused", "stopping", "failed", "deleting"];

    /// The inverse of [`word`](Self::word); `reason` is used by `failed` alone.
    pub fn from_word(word: &str, reason: Option<&str>) -> Option<Self> {
        Some(match word {
            "stopped" => Self::Stopped,
            "starting" => Self::Starting,
            "running" => Self::Running,
            "paused" => Self::Paused,
            "stopping" => Self::Stopping,
            "failed" => Self::Failed(FailureReason(reason.unwrap_or_default().to_owned())),
            "deleting" => Self::Deleting,
            _ => return None,
        })
    }

    /// Why it failed, if it did.
    pub fn reason(&self) -> Option<&FailureReason> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Stopped
            | Self::Starting
            | Self::Running
            | Self::Paused
            | Self::Stopping
            | Self::Deleting => None,
        }
    }
}

/// Why a record is in `failed`: what was tried, and what the host said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureReason(pub String);

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A machine on the host, as it can be found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The backend that started it; no other may touch it.
    pub backend: String,
    /// Absent for a backend whose machines are not processes.
    pub process: Option<Process>,
}

/// Names one process for ever: a pid alone is reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    pub pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/PID/stat`, proc(5).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: Uuid,
}
