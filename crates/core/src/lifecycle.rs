//! What a command leads to: the state machine of VMs and disks. Every state meets every command by
//! name, so a new one of either does not compile until each pair has been thought about: VMs in
//! `vm`, disks in `disk`, what an ended operation leaves in `ends`. Nothing is carried out here.
//!
//! ```text
//!            start                      (machine answers)
//!  stopped ────────▶ starting ──────────────────────────▶ running
//!     ▲                  │ failed                            │ stop, guest ended
//!     │                  ▼                                   ▼
//!     └──────────── failed(reason) ◀──── failed ──────── stopping ──▶ stopped
//!
//!  running ◀── pause, resume ──▶ paused
//!  any ── delete ──▶ deleting ──▶ (no record)
//! ```

mod disk;
mod ends;
mod vm;

use thiserror::Error;

use crate::ident::VmId;
use crate::operation::{Step, Verb};

pub use disk::{decide_disk, disk_creation};
pub use ends::{
    DiskEnd, NotCancellable, Outcome, VmEnd, cuts_short, disk_end, may_cancel, stray_steps, vm_end,
};
pub use vm::decide_vm;

/// What can be asked of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmCommand {
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Resume,
    /// Press the reset button.
    Reset,
    Delete,
    /// The host was booted anew; whatever ran on it is gone.
    Autostart,
    /// Believe the host: the machine is gone.
    MarkStopped,
    /// Believe the host: the machine lives.
    MarkRunning,
    /// End a machine that lives although its VM is recorded stopped.
    StopStray,
    /// The guest powered itself off.
    GuestEnded,
}

impl VmCommand {
    pub const ALL: [Self; 13] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Kill,
        Self::Pause,
        Self::Resume,
        Self::Reset,
        Self::Delete,
        Self::Autostart,
        Self::MarkStopped,
        Self::MarkRunning,
        Self::StopStray,
        Self::GuestEnded,
    ];

    /// The verb of the operation that carries this command out.
    pub fn verb(self) -> Verb {
        match self {
            Self::Start | Self::Autostart => Verb::VmStart,
            Self::Stop => Verb::VmStop,
            Self::Restart => Verb::VmRestart,
            Self::Kill => Verb::VmKill,
            Self::Pause => Verb::VmPause,
            Self::Resume => Verb::VmResume,
            Self::Reset => Verb::VmReset,
            Self::Delete => Verb::VmDelete,
            Self::MarkStopped => Verb::VmMarkStopped,
            Self::MarkRunning => Verb::VmMarkRunning,
            Self::StopStray => Verb::VmStopStray,
            Self::GuestEnded => Verb::VmGuestEnded,
        }
    }
}

/// What can be asked of a disk that has a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCommand {
    Attach(VmId),
    Detach,
    /// Make it as large as this, in GiB.
    Resize(u64),
    Delete,
    /// Believe the host: the guest has let go of it.
    Released,
    /// Believe the host: the image is not there.
    MarkMissing,
    /// Believe the host: the image is there, and no VM has it.
    MarkAvailable,
}

impl DiskCommand {
    /// The verb of the operation that carries this command out.
    pub fn verb(self) -> Verb {
        match self {
            Self::Attach(_) => Verb::DiskAttach,
            Self::Detach => Verb::DiskDetach,
            Self::Resize(_) => Verb::DiskResize,
            Self::Released => Verb::DiskReleased,
            Self::Delete => Verb::DiskDelete,
            Self::MarkMissing => Verb::DiskMarkMissing,
            Self::MarkAvailable => Verb::DiskMarkAvailable,
        }
    }
}

/// An accepted command: the state from now on, and what is to be done. The state after that is
/// told by [`vm_end`] and [`disk_end`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition<S> {
    pub next: S,
    pub steps: Vec<Step>,
}

/// Why a command conflicts with the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denied {
    #[error("it is not running; start it first")]
    NotRunning,
    #[error("it is running; stop it first")]
    Running,
    #[error("it is paused; resume or stop it first")]
    Paused,
    #[error("it is being started; wait for that to end, or stop it")]
    BeingStarted,
    #[error("it is being stopped; wait for that to end")]
    BeingStopped,
    #[error("it is being deleted")]
    BeingDeleted,
    #[error("it is being created; wait for that to end")]
    BeingCreated,
    #[error("it is being attached or detached; wait for that to end")]
    BeingMoved,
    #[error("it is being resized; wait for that to end")]
    BeingResized,
    #[error("a disk only grows; ask for more than it has, or make a smaller one")]
    Smaller,
    #[error("it is attached to a VM; detach it first")]
    Attached,
    #[error("it is attached to another VM; detach it there first")]
    AttachedElsewhere,
    #[error("its VM is being started, stopped or deleted; wait for that to end")]
    VmInTransition,
    #[error("it is still held by a VM")]
    Held,
    #[error("its image is missing; restore the file, or delete the disk")]
    ImageMissing,
    #[error("it has failed; delete it, or see its state_reason")]
    Failed,
    #[error("its machine runs on a backend that this daemon was not started with")]
    OtherBackend,
}

impl Denied {
    /// The stable `code` in the API.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::BeingStarted => "being-started",
            Self::BeingStopped => "being-stopped",
            Self::BeingDeleted => "being-deleted",
            Self::BeingCreated => "being-created",
            Self::BeingMoved => "being-moved",
            Self::BeingResized => "being-resized",
            Self::Smaller => "smaller",
            Self::Attached => "attached",
            Self::AttachedElsewhere => "attached-elsewhere",
            Self::VmInTransition => "vm-in-transition",
            Self::Held => "held",
            Self::ImageMissing => "image-missing",
            Self::Failed => "failed",
            Self::OtherBackend => "other-backend",
        }
    }
}

type Decided<S> = Result<Option<Transition<S>>, Denied>;

fn to<S>(next: S, steps: Vec<Step>) -> Decided<S> {
    Ok(Some(Transition { next, steps }))
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
