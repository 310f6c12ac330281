//! Each kind of incoherence found from its evidence, and from nothing less.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use uuid::Uuid;

use super::*;
use crate::disk::{Bus, DiskState, ImageFormat};
use crate::network::{Lease, Mac};
use crate::sighting::{DeviceSeen, ExitCause, FileKind, FileSeen, Guest, Sightings, Surveyed};
use crate::vm::{FailureReason, Process, VmState};

const NOW: Timestamp = Timestamp(1_000_000);

fn vm(number: u128, state: VmState) -> Vm {
    let id = VmId(Uuid::from_u128(number));
    Vm {
        id,
        name: None,
        template: "small".parse().expect("valid"),
        state,
        autostart: false,
        generation: Generation(3),
        machine: None,
        lease: Lease { address: Ipv4Addr::new(10, 0, 0, 2), mac: Mac::of(id) },
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
    }
}

fn disk(number: u128, state: DiskState, holder: Option<VmId>) -> Disk {
    Disk {
        id: DiskId(Uuid::from_u128(number)),
        size_gib: 1,
        format: ImageFormat::Raw,
        bus: Bus::VirtioScsi,
        state,
        mount_point: None,
        vm: holder,
        generation: Generation(1),
        created_at: Timestamp(1),
        updated_at: Timestamp(1),
    }
}

fn seen(guest: Guest, started_at: Option<Timestamp>) -> MachineSeen {
    MachineSeen {
        machine: Machine { backend: "test".to_owned(), process: None },
        guest,
        started_at,
        age_ms: 0,
        disks: None,
    }
}

fn recorded(vms: Vec<Vm>, disks: Vec<Disk>) -> Recorded {
    Recorded {
        vms: vms.into_iter().map(|vm| (vm.id, vm)).collect(),
        disks: disks.into_iter().map(|disk| (disk.id, disk)).collect(),
    }
}

/// A host that was looked at, and holds nothing.
fn empty_host() -> Sightings {
    Sightings {
        backend: Some("test".to_owned()),
        machines: Surveyed::Known(BTreeMap::new()),
        files: Surveyed::Known(BTreeMap::new()),
        devices: Surveyed::Known(BTreeMap::new()),
        ended: BTreeMap::new(),
    }
}

fn with_machine(id: VmId, machine: MachineSeen) -> Sightings {
    Sightings { machines: Surveyed::Known(BTreeMap::from([(id, machine)])), ..empty_host() }
}

fn with_file(path: &str, kind: FileKind, changed_at: Timestamp) -> Sightings {
    let file = FileSeen { kind, size: 5, changed_at };
    Sightings { files: Surveyed::Known(BTreeMap::from([(path.to_owned(), file)])), ..empty_host() }
}

fn kinds(recorded: &Recorded, sightings: &Sightings) -> Vec<Kind> {
    detect(recorded, sightings, NOW).iter().map(|found| found.wrong.kind()).collect()
}

#[test]
fn a_vm_recorded_running_without_a_machine_is_named_with_its_generation() {
    let records = recorded(vec![vm(1, VmState::Running)], vec![]);
    let found = detect(&records, &empty_host(), NOW);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].wrong.kind(), Kind::VmProcessMissing);
    assert_eq!(found[0].wrong.generation(), Some(Generation(3)));
    assert_eq!(found[0].seen_at, NOW);
}

#[test]
fn a_vm_in_transition_accuses_nobody() {
    for state in [VmState::Starting, VmState::Stopping, VmState::Deleting] {
        let machine = vm(1, state.clone());
        let records = recorded(vec![machine.clone()], vec![]);
        assert_eq!(kinds(&records, &empty_host()), [], "{state:?}");
        let alive = with_machine(machine.id, seen(Guest::Running, None));
        assert_eq!(kinds(&records, &alive), [], "{state:?}");
    }
}

#[test]
fn a_vm_recorded_at_rest_with_a_living_machine_is_named() {
    for state in [VmState::Stopped, VmState::Failed(FailureReason("x".to_owned()))] {
        let machine = vm(1, state);
        let host = with_machine(machine.id, seen(Guest::Running, None));
        assert_eq!(kinds(&recorded(vec![machine], vec![]), &host), [Kind::VmProcessUnexpected]);
    }
}

#[test]
fn a_machine_without_a_record_is_an_orphan_only_after_the_grace_age() {
    let stray = VmId(Uuid::from_u128(9));
    let young = Timestamp(NOW.0 - ORPHAN_GRACE_MS + 1);
    let old = Timestamp(NOW.0 - ORPHAN_GRACE_MS);
    let none = recorded(vec![], vec![]);
    assert_eq!(kinds(&none, &with_machine(stray, seen(Guest::Running, Some(young)))), []);
    assert_eq!(
        kinds(&none, &with_machine(stray, seen(Guest::Running, Some(old)))),
        [Kind::ProcessOrphan]
    );
}

#[test]
fn a_recorded_image_that_is_not_there_is_named() {
    let records = recorded(vec![], vec![disk(4, DiskState::Available, None)]);
    assert_eq!(kinds(&records, &empty_host()), [Kind::DiskFileMissing]);
    let path = format!("disks/{}", records.disks.values().next().expect("one").file_name());
    assert_eq!(kinds(&records, &with_file(&path, FileKind::Image, Timestamp(0))), []);
}

#[test]
fn a_disk_whose_state_and_holder_disagree_is_named() {
    let owner = vm(1, VmState::Stopped);
    for wrong in [disk(4, DiskState::Attached, None), disk(4, DiskState::Available, Some(owner.id))]
    {
        let path = format!("disks/{}", wrong.file_name());
        let host = with_file(&path, FileKind::Image, Timestamp(0));
        let records = recorded(vec![owner.clone()], vec![wrong]);
        assert_eq!(kinds(&records, &host), [Kind::DiskAttachmentMismatch]);
    }
}

#[test]
fn a_file_without_a_record_is_an_orphan_only_after_the_grace_age() {
    let none = recorded(vec![], vec![]);
    for (path, kind) in
        [("disks/stray.raw", FileKind::Image), ("machines/not-an-id", FileKind::MachineDirectory)]
    {
        assert_eq!(kinds(&none, &with_file(path, kind, Timestamp(0))), [Kind::FileOrphan]);
        assert_eq!(kinds(&none, &with_file(path, kind, NOW)), []);
    }
    let owner = vm(1, VmState::Stopped);
    let directory = format!("machines/{}", owner.id);
    let host = with_file(&directory, FileKind::MachineDirectory, Timestamp(0));
    assert_eq!(kinds(&recorded(vec![owner], vec![]), &host), []);
}

#[test]
fn the_directory_of_a_machine_is_no_orphan_while_the_machine_may_live() {
    let stray = VmId(Uuid::from_u128(9));
    let none = recorded(vec![], vec![]);
    let directory = format!("machines/{stray}");
    let gone = with_file(&directory, FileKind::MachineDirectory, Timestamp(0));
    assert_eq!(kinds(&none, &gone), [Kind::FileOrphan]);
    let machines = with_machine(stray, seen(Guest::Running, Some(Timestamp(0)))).machines;
    assert_eq!(kinds(&none, &Sightings { machines, ..gone.clone() }), [Kind::ProcessOrphan]);
    let unseen = Sightings { machines: Surveyed::Unknown("x".to_owned()), ..gone };
    assert_eq!(kinds(&none, &unseen), []);
    assert!(look(&none, &unseen, NOW).undecided.contains(&Kind::FileOrphan));
}

#[test]
fn a_device_marked_for_an_unknown_vm_is_named() {
    let seen = DeviceSeen { owner: VmId(Uuid::from_u128(8)) };
    let host = Sightings {
        devices: Surveyed::Known(BTreeMap::from([("tap0".to_owned(), seen)])),
        ..empty_host()
    };
    assert_eq!(kinds(&recorded(vec![], vec![]), &host), [Kind::DeviceOrphan]);
}

#[test]
fn what_could_not_be_looked_at_accuses_nobody() {
    let owner = vm(1, VmState::Running);
    let records = recorded(
        vec![owner.clone(), vm(2, VmState::Stopped)],
        vec![disk(4, DiskState::Attached, Some(owner.id))],
    );
    assert_eq!(kinds(&records, &Sightings::default()), []);
}

#[test]
fn a_guest_that_powered_off_is_reported_and_is_no_incoherence() {
    let owner = vm(1, VmState::Running);
    let host = with_machine(owner.id, seen(Guest::ShutDown, None));
    let records = recorded(vec![owner.clone()], vec![]);
    assert_eq!(kinds(&records, &host), []);
    assert_eq!(
        guests_ended(&records, &host),
        [GuestEnded { vm: owner.id, generation: owner.generation }]
    );
}

#[test]
fn one_problem_keeps_its_fingerprint_and_two_have_two() {
    let records = recorded(vec![vm(1, VmState::Running), vm(2, VmState::Running)], vec![]);
    let first: Vec<String> = detect(&records, &empty_host(), NOW)
        .iter()
        .map(|found| found.wrong.fingerprint())
        .collect();
    let later: Vec<String> = detect(&records, &empty_host(), Timestamp(NOW.0 + 5000))
        .iter()
        .map(|found| found.wrong.fingerprint())
        .collect();
    assert_eq!(first, later);
    assert_ne!(first[0], first[1]);
}

#[test]
fn what_could_not_be_looked_at_decides_nothing() {
    let records = recorded(vec![], vec![]);
    assert_eq!(look(&records, &empty_host(), NOW).undecided, []);
    let blind = look(&records, &Sightings::default(), NOW).undecided;
    assert!(blind.contains(&Kind::VmProcessMissing) && blind.contains(&Kind::FileOrphan));
    assert!(!blind.contains(&Kind::DiskAttachmentMismatch));
}

#[test]
fn a_machine_of_another_backend_is_not_called_gone() {
    let mut owner = vm(1, VmState::Running);
    owner.machine = Some(Machine { backend: "other".to_owned(), process: None });
    assert_eq!(kinds(&recorded(vec![owner.clone()], vec![]), &empty_host()), []);
    owner.machine = Some(Machine { backend: "test".to_owned(), process: None });
    assert_eq!(kinds(&recorded(vec![owner], vec![]), &empty_host()), [Kind::VmProcessMissing]);
}

#[test]
fn how_a_machine_ended_is_told_with_its_loss_but_not_an_earlier_end() {
    let machine = |pid| Machine {
        backend: "test".to_owned(),
        process: Some(Process { pid, start_time: 1, boot_id: Uuid::nil() }),
    };
    let mut owner = vm(1, VmState::Running);
    owner.machine = Some(machine(7));
    let records = recorded(vec![owner.clone()], vec![]);
    let facts = |pid| {
        let (cause, detail) = (ExitCause::OutOfMemory, "the kernel ended it".to_owned());
        let ended = MachineEnded { machine: machine(pid), cause, detail };
        let host = Sightings { ended: BTreeMap::from([(owner.id, ended)]), ..empty_host() };
        detect(&records, &host, NOW).remove(0).wrong.facts()
    };
    let cause = Fact::text("exit.cause", "out-of-memory");
    assert!(facts(7).contains(&cause));
    assert!(!facts(6).contains(&cause));
}

#[test]
fn a_machine_that_is_silent_for_long_is_named_and_one_that_is_busy_is_not() {
    let owner = vm(1, VmState::Running);
    let records = recorded(vec![owner.clone()], vec![]);
    let host = |age_ms, guest| with_machine(owner.id, MachineSeen { age_ms, ..seen(guest, None) });
    let silent = || Guest::Unknown("no answer".to_owned());
    assert_eq!(kinds(&records, &host(CONTROL_SILENT_MS, silent())), [Kind::VmControlLost]);
    assert_eq!(kinds(&records, &host(CONTROL_SILENT_MS - 1, silent())), []);
    assert_eq!(kinds(&records, &host(CONTROL_SILENT_MS, Guest::Running)), []);
}

#[test]
fn a_guest_that_panicked_is_named() {
    let owner = vm(1, VmState::Running);
    let host = with_machine(owner.id, seen(Guest::Panicked, None));
    assert_eq!(kinds(&recorded(vec![owner], vec![]), &host), [Kind::VmGuestPanicked]);
}

/// A disk that was asked for at 1, its VM, and what its machine has of it.
fn asked_for(has: Option<bool>) -> (Recorded, Sightings, Disk) {
    let owner = vm(1, VmState::Running);
    let asked = disk(4, DiskState::Detaching, Some(owner.id));
    let disks = has.map(|has| BTreeSet::from_iter(has.then_some(asked.id)));
    let host = with_machine(owner.id, MachineSeen { disks, ..seen(Guest::Running, None) });
    (recorded(vec![owner], vec![asked.clone()]), host, asked)
}

#[test]
fn a_disk_the_guest_does_not_let_go_of_is_named_after_its_time() {
    let (records, host, asked) = asked_for(Some(true));
    assert_eq!(kinds(&records, &host), [Kind::DiskUnplugUnanswered]);
    let soon = Timestamp(asked.updated_at.0 + UNPLUG_MS - 1);
    assert_eq!(detect(&records, &host, soon), []);
    assert_eq!(disks_released(&records, &host), []);
}

#[test]
fn a_disk_is_released_once_its_machine_is_seen_without_it() {
    let (records, host, asked) = asked_for(Some(false));
    let released = [DiskReleased { disk: asked.id, generation: asked.generation }];
    assert_eq!(disks_released(&records, &host), released);
    assert_eq!(disks_released(&records, &empty_host()), released, "its machine is gone");
    assert_eq!(kinds(&records, &host), []);
}

#[test]
fn a_disk_of_a_machine_that_cannot_be_asked_is_neither_released_nor_accused() {
    let (records, host, _) = asked_for(None);
    for host in [host, Sightings::default()] {
        assert_eq!(disks_released(&records, &host), []);
        assert!(!kinds(&records, &host).contains(&Kind::DiskUnplugUnanswered));
    }
}
