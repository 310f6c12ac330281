//! What can be wrong between the records and the host: one enum of wrongs, each with its evidence.
//! How each is found is in `detect`. Pure; nothing is judged or repaired here.

mod detect;

use std::collections::BTreeMap;

use crate::disk::Disk;
use crate::evidence::{Fact, Value};
use crate::ident::{DiskId, Generation, Timestamp, VmId};
use crate::operation::Subject;
use crate::sighting::{MachineEnded, MachineSeen};
use crate::vm::{Machine, Vm};
use crate::words::words;

pub use detect::{DiskReleased, GuestEnded, Look, detect, disks_released, guests_ended, look};

/// Milliseconds that something without a record must have been there to be called an orphan: its
/// record may be on the way.
pub const ORPHAN_GRACE_MS: u64 = 30_000;

/// Milliseconds that a machine's control channel may be silent before that is told: longer than a
/// hypervisor that is merely busy.
pub const CONTROL_SILENT_MS: u64 = 10_000;

/// Milliseconds a guest has to let go of a disk before that is told; more than the operation waits
/// that asked for it.
pub const UNPLUG_MS: u64 = 10_000;

/// The records as they were just before the host was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    pub vms: BTreeMap<VmId, Vm>,
    pub disks: BTreeMap<DiskId, Disk>,
}

words!(
    /// The kinds of incoherence; the words are the `kind` a policy sees.
    Kind {
        VmProcessMissing = "vm.process-missing",
        VmProcessUnexpected = "vm.process-unexpected",
        VmControlLost = "vm.control-lost",
        VmGuestPanicked = "vm.guest-panicked",
        ProcessOrphan = "process.orphan",
        DiskFileMissing = "disk.file-missing",
        DiskAttachmentMismatch = "disk.attachment-mismatch",
        DiskUnplugUnanswered = "disk.unplug-unanswered",
        FileOrphan = "file.orphan",
        DeviceOrphan = "device.orphan",
    }
);

words!(
    /// How bad it is; frozen, since policies know exactly these.
    Severity {
        Info = "info",
        Warning = "warning",
        Error = "error",
        Critical = "critical",
    }
);

/// One disagreement, with its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoherence {
    pub wrong: Wrong,
    pub seen_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// Recorded running or paused, and no machine of it lives.
    VmProcessMissing {
        vm: VmId,
        generation: Generation,
        machine: Option<Machine>,
        /// How it ended, if that was seen.
        ended: Option<MachineEnded>,
    },
    /// Recorded stopped or failed, and a machine of it lives.
    VmProcessUnexpected { vm: VmId, generation: Generation, recorded: String, seen: MachineSeen },
    /// Recorded running or paused, its machine lives, and nothing is heard of it.
    VmControlLost { vm: VmId, generation: Generation, seen: MachineSeen, reason: String },
    /// Recorded running, and its guest has panicked.
    VmGuestPanicked { vm: VmId, generation: Generation, seen: MachineSeen },
    /// A machine in our folder that no VM owns.
    ProcessOrphan { machine: VmId, seen: MachineSeen },
    /// A record of an image, and no such file.
    DiskFileMissing { disk: DiskId, generation: Generation, path: String, holder: Option<VmId> },
    /// `attached` to nothing, or `available` and held by a VM.
    DiskAttachmentMismatch {
        disk: DiskId,
        generation: Generation,
        recorded: String,
        holder: Option<VmId>,
    },
    /// The guest was asked for a disk long ago, and its machine still has it.
    DiskUnplugUnanswered { disk: DiskId, generation: Generation, holder: VmId, since: Timestamp },
    /// A file where only ours are, and no record of it.
    FileOrphan { path: String, size: u64, changed_at: Timestamp },
    /// A network device marked for a VM that is not recorded.
    DeviceOrphan { name: String, owner: VmId },
}

impl Wrong {
    pub fn kind(&self) -> Kind {
        match self {
            Self::VmProcessMissing { .. } => Kind::VmProcessMissing,
            Self::VmProcessUnexpected { .. } => Kind::VmProcessUnexpected,
            Self::VmControlLost { .. } => Kind::VmControlLost,
            Self::VmGuestPanicked { .. } => Kind::VmGuestPanicked,
            Self::ProcessOrphan { .. } => Kind::ProcessOrphan,
            Self::DiskFileMissing { .. } => Kind::DiskFileMissing,
            Self::DiskAttachmentMismatch { .. } => Kind::DiskAttachmentMismatch,
            Self::DiskUnplugUnanswered { .. } => Kind::DiskUnplugUnanswered,
            Self::FileOrphan { .. } => Kind::FileOrphan,
            Self::DeviceOrphan { .. } => Kind::DeviceOrphan,
        }
    }

    pub fn severity(&self) -> Severity {
        match self {
            Self::VmProcessMissing { .. }
            | Self::VmGuestPanicked { .. }
            | Self::DiskFileMissing { .. } => Severity::Error,
            Self::VmProcessUnexpected { .. }
            | Self::VmControlLost { .. }
            | Self::DiskUnplugUnanswered { .. }
            | Self::ProcessOrphan { .. }
            | Self::DiskAttachmentMismatch { .. } => Severity::Warning,
            Self::FileOrphan { .. } | Self::DeviceOrphan { .. } => Severity::Info,
        }
    }

    pub fn subject(&self) -> Subject {
        match self {
            Self::VmProcessMissing { vm, .. }
            | Self::VmProcessUnexpected { vm, .. }
            | Self::VmControlLost { vm, .. }
            | Self::VmGuestPanicked { vm, .. } => Subject::Vm(*vm),
            Self::ProcessOrphan { machine, .. } => Subject::Machine(*machine),
            Self::DiskFileMissing { disk, .. }
            | Self::DiskAttachmentMismatch { disk, .. }
            | Self::DiskUnplugUnanswered { disk, .. } => Subject::Disk(*disk),
            Self::FileOrphan { path, .. } => Subject::File(path.clone()),
            Self::DeviceOrphan { owner, .. } => Subject::Machine(*owner),
        }
    }

    /// The generation of the record this was computed from; none where there is no record.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::VmProcessMissing { generation, .. }
            | Self::VmProcessUnexpected { generation, .. }
            | Self::VmControlLost { generation, .. }
            | Self::VmGuestPanicked { generation, .. }
            | Self::DiskUnplugUnanswered { generation, .. }
            | Self::DiskFileMissing { generation, .. }
            | Self::DiskAttachmentMismatch { generation, .. } => Some(*generation),
            Self::ProcessOrphan { .. } | Self::FileOrphan { .. } | Self::DeviceOrphan { .. } => {
                None
            }
        }
    }

    /// The same problem of the same thing has the same fingerprint, however often it recurs.
    pub fn fingerprint(&self) -> String {
        match self {
            Self::DeviceOrphan { name, .. } => format!("{}:{name}", self.kind().word()),
            Self::VmProcessMissing { .. }
            | Self::VmProcessUnexpected { .. }
            | Self::VmControlLost { .. }
            | Self::VmGuestPanicked { .. }
            | Self::ProcessOrphan { .. }
            | Self::DiskFileMissing { .. }
            | Self::DiskAttachmentMismatch { .. }
            | Self::DiskUnplugUnanswered { .. }
            | Self::FileOrphan { .. } => format!("{}:{}", self.kind().word(), self.subject().id()),
        }
    }

    /// One sentence for people.
    pub fn message(&self) -> String {
        match self {
            Self::VmProcessMissing { vm, ended: None, .. } => {
                format!("VM {vm} is recorded running, and its machine is gone")
            }
            Self::VmProcessMissing { vm, ended: Some(ended), .. } => {
                let detail = &ended.detail;
                format!("VM {vm} is recorded running, and its machine is gone: {detail}")
            }
            Self::VmProcessUnexpected { vm, recorded, .. } => {
                format!("VM {vm} is recorded {recorded}, and its machine lives")
            }
            Self::VmControlLost { vm, reason, .. } => {
                format!("the machine of VM {vm} lives and does not answer: {reason}")
            }
            Self::VmGuestPanicked { vm, .. } => format!("the guest of VM {vm} has panicked"),
            Self::ProcessOrphan { machine, .. } => {
                format!("machine {machine} lives, and no VM of that id is recorded")
            }
            Self::DiskFileMissing { disk, path, .. } => {
                format!("disk {disk} is recorded, and its file {path} is not there")
            }
            Self::DiskAttachmentMismatch { disk, recorded, holder: Some(vm), .. } => {
                format!("disk {disk} is recorded {recorded}, and also as held by VM {vm}")
            }
            Self::DiskAttachmentMismatch { disk, recorded, holder: None, .. } => {
                format!("disk {disk} is recorded {recorded}, and no VM holds it")
            }
            Self::DiskUnplugUnanswered { disk, holder, .. } => {
                format!("the guest of VM {holder} was asked for disk {disk} and has not let go")
            }
            Self::FileOrphan { path, .. } => {
                format!("{path} lies in the storage folder, and no record owns it")
            }
            Self::DeviceOrphan { name, owner } => {
                format!("network device {name} is marked for VM {owner}, which is not recorded")
            }
        }
    }

    /// The evidence, as a policy sees it.
    pub fn facts(&self) -> Vec<Fact> {
        match self {
            Self::VmProcessMissing { machine, ended, .. } => {
                let mut facts = machine_facts("recorded", machine.as_ref());
                facts.extend(ended.iter().flat_map(end_facts));
                facts
            }
            Self::VmControlLost { seen, reason, .. } => {
                let mut facts = seen_facts(seen);
                facts.push(Fact::integer("seen.age-ms", seen.age_ms));
                facts.push(Fact::text("seen.reason", reason));
                facts
            }
            Self::VmGuestPanicked { seen, .. } => seen_facts(seen),
            Self::DiskUnplugUnanswered { holder, since, .. } => vec![
                Fact::text("disk.vm", holder.to_string()),
                Fact::integer("disk.asked-at-ms", since.0),
            ],
            Self::VmProcessUnexpected { recorded, seen, .. } => {
                let mut facts = vec![Fact::text("record.state", recorded)];
                facts.extend(seen_facts(seen));
                facts
            }
            Self::ProcessOrphan { seen, .. } => seen_facts(seen),
            Self::DiskFileMissing { path, holder, .. } => {
                let mut facts = vec![Fact::text("file.path", path)];
                facts.extend(holder.map(|vm| Fact::text("disk.vm", vm.to_string())));
                facts
            }
            Self::DiskAttachmentMismatch { recorded, holder, .. } => {
                let mut facts = vec![Fact::text("record.state", recorded)];
                facts.extend(holder.map(|vm| Fact::text("disk.vm", vm.to_string())));
                facts
            }
            Self::FileOrphan { path, size, changed_at } => vec![
                Fact::text("file.path", path),
                Fact::integer("file.size-bytes", *size),
                Fact::integer("file.changed-at-ms", changed_at.0),
            ],
            Self::DeviceOrphan { name, owner } => {
                vec![Fact::text("device.name", name), Fact::text("device.vm", owner.to_string())]
            }
        }
    }
}

fn machine_facts(prefix: &str, machine: Option<&Machine>) -> Vec<Fact> {
    let Some(machine) = machine else {
        return Vec::new();
    };
    let mut facts = vec![Fact::text(format!("{prefix}.backend"), &machine.backend)];
    if let Some(process) = machine.process {
        facts.push(Fact::integer(format!("{prefix}.pid"), u64::from(process.pid)));
        facts.push(Fact::integer(format!("{prefix}.start-time"), process.start_time));
        facts.push(Fact::text(format!("{prefix}.boot-id"), process.boot_id.to_string()));
    }
    facts
}

fn end_facts(ended: &MachineEnded) -> [Fact; 2] {
    [Fact::text("exit.cause", ended.cause.word()), Fact::text("exit.detail", &ended.detail)]
}

fn seen_facts(seen: &MachineSeen) -> Vec<Fact> {
    let mut facts = machine_facts("seen", Some(&seen.machine));
    facts.push(Fact {
        key: "seen.guest".to_owned(),
        value: Value::Text(seen.guest.word().to_owned()),
    });
    facts
}

#[cfg(test)]
#[path = "coherence_tests.rs"]
mod tests;
