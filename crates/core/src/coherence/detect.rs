//! Finds what is wrong, one function per kind, and what is only news: a guest that ended itself, a
//! disk that was let go of. Pure; what each wrong is, and its evidence, is told in `coherence`.

use std::collections::BTreeSet;

use super::{CONTROL_SILENT_MS, Incoherence, Kind, ORPHAN_GRACE_MS, Recorded, UNPLUG_MS, Wrong};
use crate::disk::{Disk, DiskState};
use crate::ident::{DiskId, Generation, Timestamp, VmId};
use crate::sighting::{FileKind, Guest, MachineEnded, MachineSeen, Sighting, Sightings};
use crate::vm::{Vm, VmState};

/// Every incoherence between `recorded` and `sightings`, a kind at a time. What is unknown is never
/// incoherent; what is in a transition is the engine's business until it ends.
pub fn detect(recorded: &Recorded, sightings: &Sightings, now: Timestamp) -> Vec<Incoherence> {
    let kinds = [
        vm_process_missing,
        vm_process_unexpected,
        vm_control_lost,
        vm_guest_panicked,
        process_orphan,
        disk_file_missing,
        disk_attachment_mismatch,
        disk_unplug_unanswered,
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
    pub disks_released: Vec<DiskReleased>,
    /// Kinds that could not be decided, so that their absence proves nothing.
    pub undecided: Vec<Kind>,
}

/// One whole look: everything found, and what could not be decided.
pub fn look(recorded: &Recorded, sightings: &Sightings, now: Timestamp) -> Look {
    Look {
        at: now,
        incoherences: detect(recorded, sightings, now),
        guests_ended: guests_ended(recorded, sightings),
        disks_released: disks_released(recorded, sightings),
        undecided: undecided(sightings),
    }
}

/// The kinds that need something which could not be looked at.
fn undecided(sightings: &Sightings) -> Vec<Kind> {
    let unknown = |kind: &Kind| match kind {
        Kind::VmProcessMissing
        | Kind::VmProcessUnexpected
        | Kind::VmControlLost
        | Kind::VmGuestPanicked
        | Kind::DiskUnplugUnanswered
        | Kind::ProcessOrphan => sightings.machines.known().is_none(),
        Kind::DiskFileMissing => sightings.files.known().is_none(),
        Kind::FileOrphan => {
            sightings.files.known().is_none() || sightings.machines.known().is_none()
        }
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
            ended: sightings.ended.get(&vm.id).filter(|it| is_of(it, vm)).cloned(),
        })
        .collect()
}

/// An end may be that of an earlier machine of the same VM.
fn is_of(ended: &MachineEnded, vm: &Vm) -> bool {
    vm.machine.as_ref() == Some(&ended.machine)
}

/// The VMs that are recorded to have a machine, and have one.
fn living<'a>(
    recorded: &'a Recorded,
    sightings: &'a Sightings,
) -> impl Iterator<Item = (&'a Vm, &'a MachineSeen)> {
    let on = recorded.vms.values();
    on.filter(|vm| matches!(vm.state, VmState::Running | VmState::Paused)).filter_map(|vm| {
        match sightings.recorded_machine(vm) {
            Sighting::Present(seen) => Some((vm, seen)),
            Sighting::Absent | Sighting::Unknown(_) => None,
        }
    })
}

fn vm_control_lost(recorded: &Recorded, sightings: &Sightings, _: Timestamp) -> Vec<Wrong> {
    living(recorded, sightings)
        .filter(|(_, seen)| seen.age_ms >= CONTROL_SILENT_MS)
        .filter_map(|(vm, seen)| match &seen.guest {
            Guest::Unknown(reason) => Some(Wrong::VmControlLost {
                vm: vm.id,
                generation: vm.generation,
                seen: seen.clone(),
                reason: reason.clone(),
            }),
            Guest::Running
            | Guest::Paused
            | Guest::ShutDown
            | Guest::Panicked
            | Guest::IoError
            | Guest::InternalError => None,
        })
        .collect()
}

fn vm_guest_panicked(recorded: &Recorded, sightings: &Sightings, _: Timestamp) -> Vec<Wrong> {
    living(recorded, sightings)
        .filter(|(_, seen)| seen.guest == Guest::Panicked)
        .map(|(vm, seen)| Wrong::VmGuestPanicked {
            vm: vm.id,
            generation: vm.generation,
            seen: seen.clone(),
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
            | DiskState::Resizing(_)
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

/// The disks that guests were asked for, and whether their machines still have them; one whose
/// machine is gone is not had by it. Not among them where that is not known.
fn asked_for<'a>(
    recorded: &'a Recorded,
    sightings: &'a Sightings,
) -> impl Iterator<Item = (&'a Disk, Option<VmId>)> {
    let asked = recorded.disks.values().filter(|disk| disk.state == DiskState::Detaching);
    asked.filter_map(|disk| {
        let Some(vm) = disk.vm.and_then(|vm| recorded.vms.get(&vm)) else {
            return Some((disk, None));
        };
        match sightings.recorded_machine(vm) {
            Sighting::Present(MachineSeen { disks: Some(disks), .. }) => {
                Some((disk, disks.contains(&disk.id).then_some(vm.id)))
            }
            Sighting::Absent => Some((disk, None)),
            Sighting::Present(_) | Sighting::Unknown(_) => None,
        }
    })
}

fn disk_unplug_unanswered(
    recorded: &Recorded,
    sightings: &Sightings,
    now: Timestamp,
) -> Vec<Wrong> {
    asked_for(recorded, sightings)
        .filter(|(disk, _)| now.since(disk.updated_at) >= UNPLUG_MS)
        .filter_map(|(disk, holder)| {
            holder.map(|holder| Wrong::DiskUnplugUnanswered {
                disk: disk.id,
                generation: disk.generation,
                holder,
                since: disk.updated_at,
            })
        })
        .collect()
}

/// A disk that was asked for, and that its machine does not have any more. Not an incoherence: it
/// is what was wanted, and it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskReleased {
    pub disk: DiskId,
    pub generation: Generation,
}

/// The disks that guests have let go of, also long after they were asked.
pub fn disks_released(recorded: &Recorded, sightings: &Sightings) -> Vec<DiskReleased> {
    asked_for(recorded, sightings)
        .filter(|(_, holder)| holder.is_none())
        .map(|(disk, _)| DiskReleased { disk: disk.id, generation: disk.generation })
        .collect()
}

fn file_orphan(recorded: &Recorded, sightings: &Sightings, now: Timestamp) -> Vec<Wrong> {
    let images: BTreeSet<String> = recorded.disks.values().map(image_path).collect();
    // By its directory a machine is known, and spoken with: while it may live, that one is named.
    let owned = |path: &String, kind: FileKind| match kind {
        FileKind::Image => images.contains(path),
        FileKind::MachineDirectory => {
            path.strip_prefix("machines/").and_then(|name| name.parse().ok().map(VmId)).is_some_and(
                |id| recorded.vms.contains_key(&id) || sightings.machine(id) != Sighting::Absent,
            )
        }
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
