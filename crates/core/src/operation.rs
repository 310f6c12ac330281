//! An operation: one accepted command, its effects, its progress and its end. Which effects a
//! command has is decided in [`crate::lifecycle`]; carrying them out is the engine's work.

use std::fmt;

use crate::ident::{DiskId, IssueId, OperationId, Timestamp, VmId};
use crate::words::words;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    pub id: OperationId,
    pub subject: Subject,
    pub verb: Verb,
    pub reason: Reason,
    pub state: OperationState,
    /// The VM whose machine it touches, where that is not its subject: it is carried out in the
    /// turn of that VM.
    pub turn_of: Option<VmId>,
    /// Somebody asked that it be broken off; see [`crate::lifecycle::may_cancel`].
    pub cancel_requested: bool,
    /// In the order they are carried out.
    pub steps: Vec<Step>,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

impl Operation {
    /// Those of one turn are carried out one after the other.
    pub fn turn(&self) -> Subject {
        self.turn_of.map_or_else(|| self.subject.clone(), Subject::Vm)
    }
}

/// What an operation, an issue or a repair is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Vm(VmId),
    Disk(DiskId),
    /// A machine on the host that has no VM record; the id is the one it carries.
    Machine(VmId),
    /// A file below the storage folder that has no record; the path is relative to it.
    File(String),
}

impl Subject {
    /// The stable word for this kind of subject.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Vm(_) => "vm",
            Self::Disk(_) => "disk",
            Self::Machine(_) => "machine",
            Self::File(_) => "file",
        }
    }

    /// The id or path, as text.
    pub fn id(&self) -> String {
        match self {
            Self::Vm(id) | Self::Machine(id) => id.to_string(),
            Self::Disk(id) => id.to_string(),
            Self::File(path) => path.clone(),
        }
    }

    /// The inverse of [`kind`](Self::kind) and [`id`](Self::id).
    pub fn from_words(kind: &str, id: &str) -> Option<Self> {
        let uuid = || id.parse().ok();
        match kind {
            "vm" => uuid().map(|id| Self::Vm(VmId(id))),
            "disk" => uuid().map(|id| Self::Disk(DiskId(id))),
            "machine" => uuid().map(|id| Self::Machine(VmId(id))),
            "file" => Some(Self::File(id.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.id())
    }
}

words!(
    /// What an operation does; the gate has already agreed to it.
    Verb {
        VmStart = "vm.start",
        VmStop = "vm.stop",
        VmRestart = "vm.restart",
        VmKill = "vm.kill",
        VmPause = "vm.pause",
        VmResume = "vm.resume",
        VmReset = "vm.reset",
        VmDelete = "vm.delete",
        VmMarkStopped = "vm.mark-stopped",
        VmMarkRunning = "vm.mark-running",
        VmStopStray = "vm.stop-stray",
        VmGuestEnded = "vm.guest-ended",
        DiskCreate = "disk.create",
        DiskAttach = "disk.attach",
        DiskDetach = "disk.detach",
        DiskResize = "disk.resize",
        /// The guest has let go of a disk it was asked for.
        DiskReleased = "disk.released",
        DiskDelete = "disk.delete",
        DiskMarkMissing = "disk.mark-missing",
        DiskMarkAvailable = "disk.mark-available",
        ProcessKill = "process.kill",
        FileQuarantine = "file.quarantine",
    }
);

words!(
    /// One thing done to the host. Each is idempotent: done twice is done once.
    Effect {
        /// Make the machine's directory.
        PrepareDirectory = "prepare-directory",
        /// Hold every image against its record, and make those that were never made.
        PrepareDisks = "prepare-disks",
        /// Delete the images that [`Effect::PrepareDisks`] was to make.
        DiscardNewDisks = "discard-new-disks",
        /// Take up the network for the machine.
        ConnectNetwork = "connect-network",
        DisconnectNetwork = "disconnect-network",
        /// Start the machine, or find it if it already lives.
        Launch = "launch",
        /// Find the machine that lives, and take up its control channel.
        Adopt = "adopt",
        /// Power button, grace, then as [`Effect::End`].
        PowerOff = "power-off",
        /// Quit through the control channel, then as [`Effect::Kill`].
        End = "end",
        /// SIGKILL to the verified process, or the backend's equal.
        Kill = "kill",
        /// Halt the guest's processors.
        Pause = "pause",
        Resume = "resume",
        /// As the reset button does.
        Reset = "reset",
        RemoveDirectory = "remove-directory",
        CreateImage = "create-image",
        /// Make the image larger, also below a running machine.
        ResizeImage = "resize-image",
        /// Give the disk to the machine that runs.
        AttachDisk = "attach-disk",
        /// Ask the machine that runs for the disk, and wait a little until the guest lets go.
        DetachDisk = "detach-disk",
        DeleteImage = "delete-image",
        /// Move a file out of the way, below `<storage>/quarantine/`.
        QuarantineFile = "quarantine-file",
    }
);

/// An effect by what it works on, so that who carries one part out need not know the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Network(NetworkEffect),
    Machine(MachineEffect),
    Disk(DiskEffect),
    QuarantineFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkEffect {
    Connect,
    Disconnect,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineEffect {
    PrepareDirectory,
    PrepareDisks,
    DiscardNewDisks,
    Launch,
    Adopt,
    PowerOff,
    End,
    Kill,
    Pause,
    Resume,
    Reset,
    RemoveDirectory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskEffect {
    Create,
    Delete,
    Resize,
    Attach,
    Detach,
}

impl Effect {
    pub fn part(self) -> Part {
        match self {
            Self::PrepareDirectory => Part::Machine(MachineEffect::PrepareDirectory),
            Self::PrepareDisks => Part::Machine(MachineEffect::PrepareDisks),
            Self::DiscardNewDisks => Part::Machine(MachineEffect::DiscardNewDisks),
            Self::ConnectNetwork => Part::Network(NetworkEffect::Connect),
            Self::DisconnectNetwork => Part::Network(NetworkEffect::Disconnect),
            Self::Launch => Part::Machine(MachineEffect::Launch),
            Self::Adopt => Part::Machine(MachineEffect::Adopt),
            Self::PowerOff => Part::Machine(MachineEffect::PowerOff),
            Self::End => Part::Machine(MachineEffect::End),
            Self::Kill => Part::Machine(MachineEffect::Kill),
            Self::Pause => Part::Machine(MachineEffect::Pause),
            Self::Resume => Part::Machine(MachineEffect::Resume),
            Self::Reset => Part::Machine(MachineEffect::Reset),
            Self::RemoveDirectory => Part::Machine(MachineEffect::RemoveDirectory),
            Self::CreateImage => Part::Disk(DiskEffect::Create),
            Self::DeleteImage => Part::Disk(DiskEffect::Delete),
            Self::ResizeImage => Part::Disk(DiskEffect::Resize),
            Self::AttachDisk => Part::Disk(DiskEffect::Attach),
            Self::DetachDisk => Part::Disk(DiskEffect::Detach),
            Self::QuarantineFile => Part::QuarantineFile,
        }
    }
}

/// Why an operation was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    User,
    /// Chosen for an issue by a policy.
    Repair {
        issue: IssueId,
        policy: String,
    },
    /// The guest did it: it ended itself, or let go of a disk.
    Guest,
    /// The host was booted anew, and the VM is to start by itself.
    Boot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationState {
    Pending,
    Running,
    Succeeded,
    /// What failed, on what, why; after its effects were undone.
    Failed(String),
    /// Broken off because somebody asked for it, or for something else; after its effects were
    /// undone. Says who.
    Cancelled(String),
}

impl OperationState {
    /// The stable word in the API and the store.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Cancelled(_) => "cancelled",
        }
    }

    /// The inverse of [`word`](Self::word); `error` is used by `failed` and `cancelled` alone.
    pub fn from_word(word: &str, error: Option<&str>) -> Option<Self> {
        Some(match word {
            "pending" => Self::Pending,
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            "failed" => Self::Failed(error.unwrap_or_default().to_owned()),
            "cancelled" => Self::Cancelled(error.unwrap_or_default().to_owned()),
            _ => return None,
        })
    }

    /// What failed, or who broke it off, if it ended so.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Pending | Self::Running | Self::Succeeded => None,
            Self::Failed(error) | Self::Cancelled(error) => Some(error),
        }
    }

    pub fn is_ended(&self) -> bool {
        match self {
            Self::Pending | Self::Running => false,
            Self::Succeeded | Self::Failed(_) | Self::Cancelled(_) => true,
        }
    }
}

/// One effect of an operation, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub effect: Effect,
    /// Takes the effect back, whether it was done wholly, in part or not at all.
    pub undo: Option<Effect>,
    pub state: StepState,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// What was seen on the way, for people: e.g. which stage ended the machine.
    pub note: Option<String>,
}

impl Step {
    /// Not yet begun.
    pub fn new(effect: Effect, undo: Option<Effect>) -> Self {
        Self {
            effect,
            undo,
            state: StepState::Pending,
            started_at: None,
            ended_at: None,
            note: None,
        }
    }
}

words!(
    StepState {
        Pending = "pending",
        Running = "running",
        Done = "done",
        Failed = "failed",
        Undone = "undone",
        /// It was to be undone, and that failed.
        UndoFailed = "undo-failed",
    }
);

impl StepState {
    /// The step failed, or it was to be undone because a later one did.
    pub fn is_failure(self) -> bool {
        match self {
            Self::Failed | Self::Undone | Self::UndoFailed => true,
            Self::Pending | Self::Running | Self::Done => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn every_word_reads_back_as_what_it_was_written_for() {
        for verb in Verb::ALL {
            assert_eq!(Verb::from_word(verb.word()), Some(*verb));
        }
        for effect in Effect::ALL {
            assert_eq!(Effect::from_word(effect.word()), Some(*effect));
        }
        for state in StepState::ALL {
            assert_eq!(StepState::from_word(state.word()), Some(*state));
        }
    }

    #[test]
    fn every_subject_reads_back_as_what_it_was_written_for() {
        let id = Uuid::from_u128(7);
        for subject in [
            Subject::Vm(VmId(id)),
            Subject::Disk(DiskId(id)),
            Subject::Machine(VmId(id)),
            Subject::File("disks/stray.raw".to_owned()),
        ] {
            assert_eq!(Subject::from_words(subject.kind(), &subject.id()), Some(subject));
        }
        assert_eq!(Subject::from_words("vm", "not-an-id"), None);
        assert_eq!(Subject::from_words("moon", "x"), None);
    }
}
