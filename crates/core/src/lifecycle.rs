//! What a command leads to: the state machine of VMs and disks. Every state meets every command by
//! name, so a new one of either does not compile until each pair has been thought about. Nothing is
//! carried out here.
//!
//! ```text
//!            start                      (machine answers)
//!  stopped ────────▶ starting ──────────────────────────▶ running
//!     ▲                  │ failed                            │ stop, guest ended
//!     │                  ▼                                   ▼
//!     └──────────── failed(reason) ◀──── failed ──────── stopping ──▶ stopped
//!
//!  any ── delete ──▶ deleting ──▶ (no record)
//! ```

use thiserror::Error;

use crate::disk::DiskState;
use crate::ident::VmId;
use crate::operation::{Effect, Step, Verb};
use crate::vm::VmState;

/// What can be asked of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmCommand {
    Start,
    Stop,
    Restart,
    Kill,
    Delete,
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
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Kill,
        Self::Delete,
        Self::MarkStopped,
        Self::MarkRunning,
        Self::StopStray,
        Self::GuestEnded,
    ];

    /// The verb of the operation that carries this command out.
    pub fn verb(self) -> Verb {
        match self {
            Self::Start => Verb::VmStart,
            Self::Stop => Verb::VmStop,
            Self::Restart => Verb::VmRestart,
            Self::Kill => Verb::VmKill,
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
    Delete,
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
            Self::Delete => Verb::DiskDelete,
            Self::MarkMissing => Verb::DiskMarkMissing,
            Self::MarkAvailable => Verb::DiskMarkAvailable,
        }
    }
}

/// An accepted command: the state from now on, what is to be done, and the state after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition<S> {
    pub next: S,
    pub steps: Vec<Step>,
    pub done: Done<S>,
}

/// What is left when every step is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done<S> {
    State(S),
    /// The record goes.
    Gone,
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
    #[error("it is attached to a VM; detach it first")]
    Attached,
    #[error("it is attached to another VM; detach it there first")]
    AttachedElsewhere,
    #[error("the VM is not stopped; stop it first")]
    VmNotStopped,
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
            Self::Attached => "attached",
            Self::AttachedElsewhere => "attached-elsewhere",
            Self::VmNotStopped => "vm-not-stopped",
            Self::ImageMissing => "image-missing",
            Self::Failed => "failed",
            Self::OtherBackend => "other-backend",
        }
    }
}

/// What a VM is once an operation of this verb has ended well; `None` for another subject's verb.
pub fn vm_end(verb: Verb) -> Option<Done<VmState>> {
    match verb {
        Verb::VmStart | Verb::VmRestart | Verb::VmMarkRunning => {
            Some(Done::State(VmState::Running))
        }
        Verb::VmStop
        | Verb::VmKill
        | Verb::VmMarkStopped
        | Verb::VmStopStray
        | Verb::VmGuestEnded => Some(Done::State(VmState::Stopped)),
        Verb::VmDelete => Some(Done::Gone),
        Verb::DiskCreate
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskDelete
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable
        | Verb::ProcessKill
        | Verb::FileQuarantine => None,
    }
}

/// What a disk is once an operation of this verb, one that has steps, has ended well.
pub fn disk_end(verb: Verb) -> Option<Done<DiskState>> {
    match verb {
        Verb::DiskCreate => Some(Done::State(DiskState::Available)),
        Verb::DiskDelete => Some(Done::Gone),
        Verb::VmStart
        | Verb::VmStop
        | Verb::VmRestart
        | Verb::VmKill
        | Verb::VmDelete
        | Verb::VmMarkStopped
        | Verb::VmMarkRunning
        | Verb::VmStopStray
        | Verb::VmGuestEnded
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable
        | Verb::ProcessKill
        | Verb::FileQuarantine => None,
    }
}

/// Whether an operation of `verb`, let in while `effect` goes on, takes its place: who kills or
/// deletes a machine does not wait until its guest has obeyed the power button.
pub fn cuts_short(verb: Verb, effect: Effect) -> bool {
    effect == Effect::PowerOff && [Verb::VmKill, Verb::VmDelete].contains(&verb)
}

type Decided<S> = Result<Option<Transition<S>>, Denied>;

fn to<S>(next: S, steps: Vec<Step>, done: S) -> Decided<S> {
    Ok(Some(Transition { next, steps, done: Done::State(done) }))
}

/// What `command` leads to for a VM in `state`; `None` means that it is already so.
pub fn decide_vm(state: &VmState, command: VmCommand) -> Decided<VmState> {
    match state {
        VmState::Stopped => from_stopped(command),
        VmState::Starting => from_starting(command),
        VmState::Running => from_running(command),
        VmState::Paused => from_paused(command),
        VmState::Stopping => from_stopping(command),
        VmState::Failed(_) => from_failed(command),
        VmState::Deleting => from_deleting(command),
    }
}

fn from_stopped(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Start => to(VmState::Starting, boot(), VmState::Running),
        VmCommand::Stop | VmCommand::Kill | VmCommand::MarkStopped | VmCommand::GuestEnded => {
            Ok(None)
        }
        VmCommand::Restart => Err(Denied::NotRunning),
        // A machine nobody recorded must not outlive the record either.
        VmCommand::Delete => delete(vec![Step::new(Effect::End, None)]),
        VmCommand::MarkRunning => adopt(),
        VmCommand::StopStray => stop(Effect::PowerOff),
    }
}

fn from_starting(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Start => Ok(None),
        VmCommand::Stop => stop(Effect::PowerOff),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Delete => delete(vec![Step::new(Effect::PowerOff, None)]),
        VmCommand::Restart
        | VmCommand::MarkStopped
        | VmCommand::MarkRunning
        | VmCommand::StopStray
        | VmCommand::GuestEnded => Err(Denied::BeingStarted),
    }
}

fn from_running(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Start | VmCommand::MarkRunning => Ok(None),
        VmCommand::Stop => stop(Effect::PowerOff),
        VmCommand::Restart => restart(Effect::PowerOff),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Delete => delete(vec![Step::new(Effect::PowerOff, None)]),
        VmCommand::MarkStopped => to(VmState::Stopping, release(), VmState::Stopped),
        VmCommand::StopStray => Err(Denied::Running),
        VmCommand::GuestEnded => stop(Effect::End),
    }
}

fn from_paused(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Start => Err(Denied::Paused),
        // A paused guest cannot answer a power button.
        VmCommand::Stop => stop(Effect::End),
        VmCommand::Restart => restart(Effect::End),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Delete => delete(vec![Step::new(Effect::End, None)]),
        VmCommand::MarkStopped => to(VmState::Stopping, release(), VmState::Stopped),
        VmCommand::MarkRunning => adopt(),
        VmCommand::StopStray => Err(Denied::Paused),
        VmCommand::GuestEnded => stop(Effect::End),
    }
}

fn from_stopping(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Stop | VmCommand::GuestEnded => Ok(None),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Delete => delete(vec![Step::new(Effect::End, None)]),
        VmCommand::Start
        | VmCommand::Restart
        | VmCommand::MarkStopped
        | VmCommand::MarkRunning
        | VmCommand::StopStray => Err(Denied::BeingStopped),
    }
}

fn from_failed(command: VmCommand) -> Decided<VmState> {
    match command {
        // Whatever the failure left behind goes first.
        VmCommand::Start | VmCommand::Restart => restart(Effect::End),
        VmCommand::Stop => stop(Effect::PowerOff),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Delete => delete(vec![Step::new(Effect::End, None)]),
        VmCommand::MarkStopped => to(VmState::Stopping, release(), VmState::Stopped),
        VmCommand::MarkRunning => adopt(),
        VmCommand::StopStray | VmCommand::GuestEnded => stop(Effect::End),
    }
}

fn from_deleting(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Delete => Ok(None),
        VmCommand::Start
        | VmCommand::Stop
        | VmCommand::Restart
        | VmCommand::Kill
        | VmCommand::MarkStopped
        | VmCommand::MarkRunning
        | VmCommand::StopStray
        | VmCommand::GuestEnded => Err(Denied::BeingDeleted),
    }
}

fn boot() -> Vec<Step> {
    vec![
        Step::new(Effect::PrepareDirectory, None),
        Step::new(Effect::ConnectNetwork, Some(Effect::DisconnectNetwork)),
        Step::new(Effect::Launch, Some(Effect::End)),
    ]
}

fn release() -> Vec<Step> {
    vec![Step::new(Effect::DisconnectNetwork, None)]
}

fn stop(how: Effect) -> Decided<VmState> {
    let mut steps = vec![Step::new(how, None)];
    steps.extend(release());
    to(VmState::Stopping, steps, VmState::Stopped)
}

fn restart(how: Effect) -> Decided<VmState> {
    let mut steps = vec![Step::new(how, None)];
    steps.extend(boot());
    to(VmState::Starting, steps, VmState::Running)
}

fn adopt() -> Decided<VmState> {
    to(VmState::Starting, vec![Step::new(Effect::Adopt, None)], VmState::Running)
}

fn delete(mut steps: Vec<Step>) -> Decided<VmState> {
    steps.extend(release());
    steps.push(Step::new(Effect::RemoveDirectory, None));
    Ok(Some(Transition { next: VmState::Deleting, steps, done: Done::Gone }))
}

/// What `command` leads to for a disk in `state`. `holder` is the VM the disk is recorded to belong
/// to, `vm_state` the state of the VM the command concerns (the one named, or the holder).
pub fn decide_disk(
    state: &DiskState,
    holder: Option<VmId>,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match state {
        DiskState::Creating => Err(Denied::BeingCreated),
        DiskState::Attaching | DiskState::Detaching => Err(Denied::BeingMoved),
        DiskState::Deleting => match command {
            DiskCommand::Delete => Ok(None),
            DiskCommand::Attach(_)
            | DiskCommand::Detach
            | DiskCommand::MarkMissing
            | DiskCommand::MarkAvailable => Err(Denied::BeingDeleted),
        },
        DiskState::Available => from_available(holder, vm_state, command),
        DiskState::Attached => from_attached(holder, vm_state, command),
        DiskState::Missing => from_missing(holder, vm_state, command),
        DiskState::Failed(_) => match command {
            DiskCommand::Delete => delete_image(holder, vm_state),
            DiskCommand::Detach => let_go(vm_state, state.clone()),
            DiskCommand::Attach(_) | DiskCommand::MarkMissing | DiskCommand::MarkAvailable => {
                Err(Denied::Failed)
            }
        },
    }
}

fn from_available(
    holder: Option<VmId>,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match command {
        DiskCommand::Attach(_) => {
            at_rest(vm_state)?;
            to(DiskState::Attached, vec![], DiskState::Attached)
        }
        // A holder beside `available` is a disagreement that detaching mends.
        DiskCommand::Detach => match holder {
            Some(_) => let_go(vm_state, DiskState::Available),
            None => Ok(None),
        },
        DiskCommand::Delete => delete_image(holder, vm_state),
        DiskCommand::MarkMissing => to(DiskState::Missing, vec![], DiskState::Missing),
        DiskCommand::MarkAvailable => match holder {
            Some(_) => to(DiskState::Available, vec![], DiskState::Available),
            None => Ok(None),
        },
    }
}

fn from_attached(
    holder: Option<VmId>,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match command {
        DiskCommand::Attach(vm) if holder == Some(vm) => Ok(None),
        DiskCommand::Attach(_) => Err(Denied::AttachedElsewhere),
        DiskCommand::Detach => let_go(vm_state, DiskState::Available),
        DiskCommand::Delete => Err(Denied::Attached),
        DiskCommand::MarkMissing => to(DiskState::Missing, vec![], DiskState::Missing),
        DiskCommand::MarkAvailable => let_go(vm_state, DiskState::Available),
    }
}

fn from_missing(
    holder: Option<VmId>,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match command {
        DiskCommand::Attach(_) => Err(Denied::ImageMissing),
        DiskCommand::Detach => let_go(vm_state, DiskState::Missing),
        DiskCommand::Delete => delete_image(holder, vm_state),
        DiskCommand::MarkMissing => Ok(None),
        DiskCommand::MarkAvailable => match holder {
            Some(_) => to(DiskState::Attached, vec![], DiskState::Attached),
            None => to(DiskState::Available, vec![], DiskState::Available),
        },
    }
}

/// Only a VM at rest can gain or lose a disk.
fn at_rest(vm_state: Option<&VmState>) -> Result<(), Denied> {
    match vm_state {
        None | Some(VmState::Stopped | VmState::Failed(_)) => Ok(()),
        Some(VmState::Deleting) => Err(Denied::BeingDeleted),
        Some(VmState::Starting | VmState::Running | VmState::Paused | VmState::Stopping) => {
            Err(Denied::VmNotStopped)
        }
    }
}

fn let_go(vm_state: Option<&VmState>, next: DiskState) -> Decided<DiskState> {
    at_rest(vm_state)?;
    to(next.clone(), vec![], next)
}

fn delete_image(holder: Option<VmId>, vm_state: Option<&VmState>) -> Decided<DiskState> {
    if holder.is_some() {
        at_rest(vm_state)?;
        return Err(Denied::Attached);
    }
    Ok(Some(Transition {
        next: DiskState::Deleting,
        steps: vec![Step::new(Effect::DeleteImage, None)],
        done: Done::Gone,
    }))
}

/// The steps of an operation that makes a disk.
pub fn disk_creation() -> Vec<Step> {
    vec![Step::new(Effect::CreateImage, Some(Effect::DeleteImage))]
}

/// The steps of an operation on something that has no record; `None` for any other verb.
pub fn stray_steps(verb: Verb) -> Option<Vec<Step>> {
    match verb {
        Verb::ProcessKill => Some(vec![Step::new(Effect::Kill, None)]),
        Verb::FileQuarantine => Some(vec![Step::new(Effect::QuarantineFile, None)]),
        Verb::VmStart
        | Verb::VmStop
        | Verb::VmRestart
        | Verb::VmKill
        | Verb::VmDelete
        | Verb::VmMarkStopped
        | Verb::VmMarkRunning
        | Verb::VmStopStray
        | Verb::VmGuestEnded
        | Verb::DiskCreate
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskDelete
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable => None,
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
