//! What can be wrong between the records and the host: one enum of wrongs, each with its evidence,
//! and one function per kind that finds it. Pure; nothing is judged or repaired here.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{Disk, DiskState};
use crate::evidence::{Fact, Value};
use crate::ident::{DiskId, Generation, Timestamp, VmId};
use crate::operation::Subject;
use crate::sighting::{FileKind, Guest, MachineSeen, Sighting, Sightings};
use crate::vm::{Machine, Vm, VmState};
use crate::words::words;

/// Milliseconds that something without a record must have been there to be called an orphan: its
/// record may be on the way.
pub const ORPHAN_GRACE_MS: u64 = 30_000;

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
        ProcessOrphan = "process.orphan",
        DiskFileMissing = "disk.file-missing",
        DiskAttachmentMismatch = "disk.attachment-mismatch",
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
    VmProcessMissing { vm: VmId, generation: Generation, machine: Option<Machine> },
    /// Recorded stopped or failed, and a machine of it lives.
    VmProcessUnexpected { vm: VmId, generation: Generation, recorded: String, seen: MachineSeen },
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
            Self::ProcessOrphan { .. } => Kind::ProcessOrphan,
            Self::DiskFileMissing { .. } => Kind::DiskFileMissing,
            Self::DiskAttachmentMismatch { .. } => Kind::DiskAttachmentMismatch,
            Self::FileOrphan { .. } => Kind::FileOrphan,
            Self::DeviceOrphan { .. } => Kind::DeviceOrphan,
        }
    }

    pub fn severity(&self) -> Severity {
        match self {
            Self::VmProcessMissing { .. } | Self::DiskFileMissing { .. } => Severity::Error,
            Self::VmProcessUnexpected { .. }
            | Self::ProcessOrphan { .. }
            | Self::DiskAttachmentMismatch { .. } => Severity::Warning,
            Self::FileOrphan { .. } | Self::DeviceOrphan { .. } => Severity::Info,
        }
    }

    pub fn subject(&self) -> Subject {
        match self {
            Self::VmProcessMissing { vm, .. } | Self::VmProcessUnexpected { vm, .. } => {
                Subject::Vm(*vm)
            }
            Self::ProcessOrphan { machine, .. } => Subject::Machine(*machine),
            Self::DiskFileMissing { disk, .. } | Self::DiskAttachmentMismatch { disk, .. } => {
                Subject::Disk(*disk)
            }
            Self::FileOrphan { path, .. } => Subject::File(path.clone()),
            Self::DeviceOrphan { owner, .. } => Subject::Machine(*owner),
        }
    }

    /// The generation of the record this was computed from; none where there is no record.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::VmProcessMissing { generation, .. }
            | Self::VmProcessUnexpected { generation, .. }
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
            | Self::ProcessOrphan { .. }
            | Self::DiskFileMissing { .. }
            | Self::DiskAttachmentMismatch { .. }
            | Self::FileOrphan { .. } => format!("{}:{}", self.kind().word(), self.subject().id()),
        }
    }

    /// One sentence for people.
    pub fn message(&self) -> String {
        match self {
            Self::VmProcessMissing { vm, .. } => {
                format!("VM {vm} is recorded running, and its machine is gone")
            }
            Self::VmProcessUnexpected { vm, recorded, .. } => {
                format!("VM {vm} is recorded {recorded}, and its machine lives")
            }
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
            Self::VmProcessMissing { machine, .. } => machine_facts("recorded", machine.as_ref()),
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

fn seen_facts(seen: &MachineSeen) -> Vec<Fact> {
    let mut facts = machine_facts("seen", Some(&seen.machine));
    facts.push(Fact {
        key: "seen.guest".to_owned(),
        value: Value::Text(seen.guest.word().to_owned()),
    });
    facts
}

/// Every incoherence between `recorded` and `sightings`, a kind at a time. What is unknown is never
/// incoherent; what is in a transition is the engine's business until it ends.
pub fn detect(recorded: &Recorded, sightings: &Sightings, now: Timestamp) -> Vec<Incoherence> {
    let kinds = [
        vm_process_missing,
        vm_process_unexpected,
        process_orphan,
        disk_file_missing,
        disk_attachment_mismatch,
        file_orphan,
        device_orphan,
    ];
    kinds
        .iter()
        .flat_map(|find| find(recorded, sightings, now))
        .map(|wrong| Incoherence { wrong, seen_at: now })
        .collect()
}

/// What one look came to: all the engine learns from the observer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    pub at: Timestamp,
    pub incoherences: Vec<Incoherence>,
    pub guests_ended: Vec<GuestEnded>,
    /// Kinds that could not be decided, so that their absence proves nothing.
    pub undecided: Vec<Kind>,
}

/// One whole look: everything found, and what could not be decided.
pub fn look(recorded: &Recorded, sightings: &Sightings, now: Timestamp) -> Look {
    Look {
        at: now,
        incoherences: detect(recorded, sightings, now),
        guests_ended: guests_ended(recorded, sightings),
        undecided: undecided(sightings),
    }
}

/// The kinds that need something which could not be looked at.
fn undecided(sightings: &Sightings) -> Vec<Kind> {
    let unknown = |kind: &Kind| match kind {
        Kind::VmProcessMissing | Kind::VmProcessUnexpected | Kind::ProcessOrphan => {
            sightings.machines.known().is_none()
        }
        Kind::DiskFileMissing | Kind::FileOrphan => sightings.files.known().is_none(),
        Kind::DiskAttachmentMismatch => false,
        Kind::DeviceOrphan => sightings.devices.known().is_none(),
    };
    Kind::ALL.iter().copied().filter(unknown).collect()
}

fn vm_process_missing(recorded: &Recorded, sightings: &Sightings, _: Timestamp) -> Vec<Wrong> {
    recorded
        .vms
        .values()
        .filter(|vm| matches!(vm.state, VmState::Running | VmState::Paused))
        .filter(|vm| sightings.recorded_machine(vm) == Sighting::Absent)
        .map(|vm| Wrong::VmProcessMissing {
            vm: vm.id,
            generation: vm.generation,
            machine: vm.machine.clone(),
        })
        .collect()
}

fn vm_process_unexpected(recorded: &Recorded, sightings: &Sightings, _: Timestamp) -> Vec<Wrong> {
    recorded
        .vms
        .values()
        .filter(|vm| matches!(vm.state, VmState::Stopped | VmState::Failed(_)))
        .filter_map(|vm| match sightings.machine(vm.id) {
            Sighting::Present(seen) => Some(Wrong::VmProcessUnexpected {
                vm: vm.id,
                generation: vm.generation,
                recorded: vm.state.word().to_owned(),
                seen: seen.clone(),
            }),
            Sighting::Absent | Sighting::Unknown(_) => None,
        })
        .collect()
}

fn process_orphan(recorded: &Recorded, sightings: &Sightings, now: Timestamp) -> Vec<Wrong> {
    let machines = sightings.machines.known().into_iter().flatten();
    machines
        .filter(|(id, _)| !recorded.vms.contains_key(id))
        .filter(|(_, seen)| {
            seen.started_at.is_none_or(|started| now.since(started) >= ORPHAN_GRACE_MS)
        })
        .map(|(id, seen)| Wrong::ProcessOrphan { machine: *id, seen: seen.clone() })
        .collect()
}

fn image_path(disk: &Disk) -> String {
    format!("disks/{}", disk.file_name())
}

fn disk_file_missing(recorded: &Recorded, sightings: &Sightings, _: Timestamp) -> Vec<Wrong> {
    recorded
        .disks
        .values()
        .filter(|disk| matches!(disk.state, DiskState::Available | DiskState::Attached))
        .filter(|disk| sightings.file(&image_path(disk)) == Sighting::Absent)
        .map(|disk| Wrong::DiskFileMissing {
            disk: disk.id,
            generation: disk.generation,
            path: image_path(disk),
            holder: disk.vm,
        })
        .collect()
}

fn disk_attachment_mismatch(recorded: &Recorded, _: &Sightings, _: Timestamp) -> Vec<Wrong> {
    recorded
        .disks
        .values()
        .filter(|disk| match disk.state {
            DiskState::Attached => disk.vm.is_none(),
            DiskState::Available => disk.vm.is_some(),
            DiskState::Creating
            | DiskState::Attaching
            | DiskState::Detaching
            | DiskState::Missing
            | DiskState::Failed(_)
            | DiskState::Deleting => false,
        })
        .map(|disk| Wrong::DiskAttachmentMismatch {
            disk: disk.id,
            generation: disk.generation,
            recorded: disk.state.word().to_owned(),
            holder: disk.vm,
        })
        .collect()
}

fn file_orphan(recorded: &Recorded, sightings: &Sightings, now: Timestamp) -> Vec<Wrong> {
    let images: BTreeSet<String> = recorded.disks.values().map(image_path).collect();
    let owned = |path: &String, kind: FileKind| match kind {
        FileKind::Image => images.contains(path),
        FileKind::MachineDirectory => path
            .strip_prefix("machines/")
            .and_then(|name| name.parse().ok())
            .is_some_and(|id| recorded.vms.contains_key(&VmId(id))),
    };
    let files = sightings.files.known().into_iter().flatten();
    files
        .filter(|(path, seen)| !owned(path, seen.kind))
        .filter(|(_, seen)| now.since(seen.changed_at) >= ORPHAN_GRACE_MS)
        .map(|(path, seen)| Wrong::FileOrphan {
            path: path.clone(),
            size: seen.size,
            changed_at: seen.changed_at,
        })
        .collect()
}

fn device_orphan(recorded: &Recorded, sightings: &Sightings, _: Timestamp) -> Vec<Wrong> {
    let devices = sightings.devices.known().into_iter().flatten();
    devices
        .filter(|(_, seen)| !recorded.vms.contains_key(&seen.owner))
        .map(|(name, seen)| Wrong::DeviceOrphan { name: name.clone(), owner: seen.owner })
        .collect()
}

/// A guest that powered itself off. Not an incoherence: the backend says so, and it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestEnded {
    pub vm: VmId,
    pub generation: Generation,
}

/// The running VMs whose guests have powered themselves off.
pub fn guests_ended(recorded: &Recorded, sightings: &Sightings) -> Vec<GuestEnded> {
    recorded
        .vms
        .values()
        .filter(|vm| matches!(vm.state, VmState::Running | VmState::Paused))
        .filter(|vm| match sightings.machine(vm.id) {
            Sighting::Present(seen) => seen.guest == Guest::ShutDown,
            Sighting::Absent | Sighting::Unknown(_) => false,
        })
        .map(|vm| GuestEnded { vm: vm.id, generation: vm.generation })
        .collect()
}

#[cfg(test)]
#[path = "coherence_tests.rs"]
mod tests;
