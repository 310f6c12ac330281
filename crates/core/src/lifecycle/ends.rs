//! What is left when an operation has ended, well or not; what may be broken off, and what breaks
//! off something else. Which effects a command has is decided in `vm` and `disk`.

use thiserror::Error;

use crate::disk::{Disk, DiskState};
use crate::ident::VmId;
use crate::operation::{Effect, Operation, Step, StepState, Verb};
use crate::vm::{FailureReason, Vm, VmState};

/// How an operation came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    /// Undone as far as it could be; the text says what failed, on what, and why.
    Failed(String),
    /// As `Failed`, because the guest said no.
    Refused(String),
    /// It is under way in the guest, and its end will be seen by looking.
    LeftToTheGuest(String),
    /// Undone as far as it could be, because somebody broke it off.
    Cancelled(String),
}

/// What becomes of the record of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmEnd {
    State(VmState),
    /// It is as it was before.
    Kept,
    /// The record goes.
    Gone,
}

/// What a VM is once an operation of this verb has ended; `None` for another subject's verb. `vm`
/// is its record then.
pub fn vm_end(vm: &Vm, verb: Verb, outcome: &Outcome) -> Option<VmEnd> {
    match outcome {
        Outcome::Succeeded => when_done(verb),
        Outcome::Failed(error) | Outcome::Refused(error) | Outcome::LeftToTheGuest(error) => {
            when_failed(verb, error)
        }
        Outcome::Cancelled(_) => when_done(verb).map(|_| match vm.machine {
            Some(_) => VmEnd::State(VmState::Running),
            None => VmEnd::State(VmState::Stopped),
        }),
    }
}

fn when_done(verb: Verb) -> Option<VmEnd> {
    match verb {
        Verb::VmStart | Verb::VmRestart | Verb::VmMarkRunning | Verb::VmResume => {
            Some(VmEnd::State(VmState::Running))
        }
        Verb::VmPause => Some(VmEnd::State(VmState::Paused)),
        Verb::VmReset => Some(VmEnd::Kept),
        Verb::VmStop
        | Verb::VmKill
        | Verb::VmMarkStopped
        | Verb::VmStopStray
        | Verb::VmGuestEnded => Some(VmEnd::State(VmState::Stopped)),
        Verb::VmDelete => Some(VmEnd::Gone),
        Verb::DiskCreate
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskResize
        | Verb::DiskReleased
        | Verb::DiskDelete
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable
        | Verb::ProcessKill
        | Verb::FileQuarantine => None,
    }
}

/// A machine that would not be paused, resumed or reset is what it was.
fn when_failed(verb: Verb, error: &str) -> Option<VmEnd> {
    match verb {
        Verb::VmPause | Verb::VmResume | Verb::VmReset => Some(VmEnd::Kept),
        Verb::VmStart
        | Verb::VmRestart
        | Verb::VmMarkRunning
        | Verb::VmStop
        | Verb::VmKill
        | Verb::VmMarkStopped
        | Verb::VmStopStray
        | Verb::VmGuestEnded
        | Verb::VmDelete
        | Verb::DiskCreate
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskResize
        | Verb::DiskReleased
        | Verb::DiskDelete
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable
        | Verb::ProcessKill
        | Verb::FileQuarantine => when_done(verb).map(|_| VmEnd::State(failed_vm(verb, error))),
    }
}

fn failed_vm(verb: Verb, error: &str) -> VmState {
    VmState::Failed(FailureReason(format!("{}: {error}", verb.word())))
}

/// What becomes of the record of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskEnd {
    Is {
        state: DiskState,
        vm: Option<VmId>,
        size_gib: u64,
    },
    /// The record goes.
    Gone,
}

/// What a disk is once an operation of this verb, one that has steps, has ended; `None` for another
/// subject's verb, or for one without steps. `disk` is its record then.
pub fn disk_end(disk: &Disk, verb: Verb, outcome: &Outcome) -> Option<DiskEnd> {
    let is = |state, vm| Some(DiskEnd::Is { state, vm, size_gib: disk.size_gib });
    let failed = |error: &String| {
        let reason = FailureReason(format!("{}: {error}", verb.word()));
        is(DiskState::Failed(reason), disk.vm)
    };
    let as_before = match disk.vm {
        Some(_) => DiskState::Attached,
        None => DiskState::Available,
    };
    match (verb, outcome) {
        (Verb::DiskCreate, Outcome::Succeeded) => is(as_before, disk.vm),
        // Nothing was made, and nobody wants it any more.
        (Verb::DiskCreate, Outcome::Cancelled(_)) => Some(DiskEnd::Gone),
        (Verb::DiskAttach, Outcome::Succeeded) => is(DiskState::Attached, disk.vm),
        (Verb::DiskAttach, _) => is(DiskState::Available, None),
        (Verb::DiskDetach, Outcome::Succeeded) => is(DiskState::Available, None),
        (Verb::DiskDetach, Outcome::Refused(_)) => is(DiskState::Attached, disk.vm),
        // Whether the guest was asked is not known, so it may still let go.
        (
            Verb::DiskDetach,
            Outcome::Failed(_) | Outcome::LeftToTheGuest(_) | Outcome::Cancelled(_),
        ) => is(DiskState::Detaching, disk.vm),
        (Verb::DiskResize, Outcome::Succeeded) => {
            let size_gib = disk.state.wanted_gib().unwrap_or(disk.size_gib);
            Some(DiskEnd::Is { state: as_before, vm: disk.vm, size_gib })
        }
        (Verb::DiskResize, _) => is(as_before, disk.vm),
        (Verb::DiskDelete, Outcome::Succeeded) => Some(DiskEnd::Gone),
        (
            Verb::DiskCreate | Verb::DiskDelete,
            Outcome::Failed(error) | Outcome::Refused(error) | Outcome::LeftToTheGuest(error),
        )
        | (Verb::DiskDelete, Outcome::Cancelled(error)) => failed(error),
        (
            Verb::VmStart
            | Verb::VmStop
            | Verb::VmRestart
            | Verb::VmKill
            | Verb::VmPause
            | Verb::VmResume
            | Verb::VmReset
            | Verb::VmDelete
            | Verb::VmMarkStopped
            | Verb::VmMarkRunning
            | Verb::VmStopStray
            | Verb::VmGuestEnded
            | Verb::DiskReleased
            | Verb::DiskMarkMissing
            | Verb::DiskMarkAvailable
            | Verb::ProcessKill
            | Verb::FileQuarantine,
            _,
        ) => None,
    }
}

/// Whether an operation of `verb`, let in while `effect` goes on, takes its place: who kills or
/// deletes a machine does not wait until its guest has obeyed, or its hypervisor has answered.
pub fn cuts_short(verb: Verb, effect: Effect) -> bool {
    [Verb::VmKill, Verb::VmDelete].contains(&verb) && waits_for_a_machine(effect)
}

fn waits_for_a_machine(effect: Effect) -> bool {
    match effect {
        Effect::Launch
        | Effect::Adopt
        | Effect::PowerOff
        | Effect::Pause
        | Effect::Resume
        | Effect::Reset
        | Effect::AttachDisk
        | Effect::DetachDisk => true,
        Effect::PrepareDirectory
        | Effect::PrepareDisks
        | Effect::DiscardNewDisks
        | Effect::ConnectNetwork
        | Effect::DisconnectNetwork
        | Effect::End
        | Effect::Kill
        | Effect::RemoveDirectory
        | Effect::CreateImage
        | Effect::ResizeImage
        | Effect::DeleteImage
        | Effect::QuarantineFile => false,
    }
}

/// Why an operation cannot be broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotCancellable {
    #[error("it has ended")]
    Ended,
    #[error("{} cannot be taken back once it has begun; wait for its end", .0.word())]
    Begun(Verb),
    #[error("{} ends by itself at once, so it cannot be broken off", .0.word())]
    Short(Verb),
}

impl NotCancellable {
    /// The stable `code` in the API.
    pub fn code(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Begun(_) | Self::Short(_) => "not-cancellable",
        }
    }
}

/// Whether an operation can be broken off as far as it has come: while a machine is being started,
/// while a guest is waited for, while an image is being made.
pub fn may_cancel(operation: &Operation) -> Result<(), NotCancellable> {
    if operation.state.is_ended() {
        return Err(NotCancellable::Ended);
    }
    match operation.verb {
        Verb::VmStart | Verb::VmRestart | Verb::VmStop | Verb::VmDelete | Verb::DiskCreate => {}
        Verb::VmKill
        | Verb::VmPause
        | Verb::VmResume
        | Verb::VmReset
        | Verb::VmMarkStopped
        | Verb::VmMarkRunning
        | Verb::VmStopStray
        | Verb::VmGuestEnded
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskResize
        | Verb::DiskReleased
        | Verb::DiskDelete
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable
        | Verb::ProcessKill
        | Verb::FileQuarantine => return Err(NotCancellable::Short(operation.verb)),
    }
    let begun = Err(NotCancellable::Begun(operation.verb));
    if operation.steps.iter().any(|step| step.state.is_failure()) {
        // It is being undone as it is.
        return begun;
    }
    let next = operation.steps.iter().find(|step| step.state != StepState::Done);
    match next {
        Some(step) if breaks_off(step.effect) => Ok(()),
        Some(_) | None => begun,
    }
}

/// Whether an operation may be broken off before or during this effect: what it has made by then
/// can be taken back, or it only waits.
fn breaks_off(effect: Effect) -> bool {
    match effect {
        Effect::PrepareDirectory
        | Effect::PrepareDisks
        | Effect::ConnectNetwork
        | Effect::Launch
        | Effect::PowerOff
        | Effect::CreateImage => true,
        Effect::DiscardNewDisks
        | Effect::DisconnectNetwork
        | Effect::Adopt
        | Effect::End
        | Effect::Kill
        | Effect::Pause
        | Effect::Resume
        | Effect::Reset
        | Effect::RemoveDirectory
        | Effect::ResizeImage
        | Effect::AttachDisk
        | Effect::DetachDisk
        | Effect::DeleteImage
        | Effect::QuarantineFile => false,
    }
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
        | Verb::VmPause
        | Verb::VmResume
        | Verb::VmReset
        | Verb::VmDelete
        | Verb::VmMarkStopped
        | Verb::VmMarkRunning
        | Verb::VmStopStray
        | Verb::VmGuestEnded
        | Verb::DiskCreate
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskResize
        | Verb::DiskReleased
        | Verb::DiskDelete
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable => None,
    }
}
