//! What is seen of machines beyond their lives: how they ended, how long ago they last answered,
//! and which disks they have. When each is wrong is tested in `vman-core`.

use vman_core::coherence::{CONTROL_SILENT_MS, UNPLUG_MS, Wrong};
use vman_core::disk::{Disk, DiskState};
use vman_core::sighting::{ExitCause, Guest, MachineEnded, MachineSeen};
use vman_core::vm::{Machine, Vm};

use super::*;

/// A host that is seen so.
struct Seen(Sightings);

#[async_trait]
impl Survey for Seen {
    async fn survey(&self) -> Sightings {
        self.0.clone()
    }
}

fn machine() -> Machine {
    Machine { backend: "fake".to_owned(), process: None }
}

/// The machine of VM 1, well.
fn well() -> MachineSeen {
    MachineSeen {
        machine: machine(),
        guest: Guest::Running,
        started_at: None,
        age_ms: 0,
        disks: Some(BTreeSet::new()),
    }
}

/// What is seen where the machine of VM 1 is seen so, or not at all.
fn seen(machine: Option<MachineSeen>) -> Sightings {
    let machines = machine.map(|machine| (samples::vm_id(1), machine)).into_iter().collect();
    Sightings {
        backend: Some("fake".to_owned()),
        machines: Surveyed::Known(machines),
        ..Sightings::default()
    }
}

/// VM 1, recorded running, and its disk 1, for which its guest was asked.
async fn records() -> Arc<MemoryRecords> {
    let records = Arc::new(MemoryRecords::default());
    let vm = Vm { machine: Some(machine()), ..samples::vm(1, VmState::Running) };
    let asked = Disk { state: DiskState::Detaching, ..samples::attached(1, 1, "/dev/sdb") };
    let template = Change::AddTemplate(samples::template("small"));
    let changes = vec![template, Change::AddVm(vm), Change::AddDisk(asked)];
    records.commit(changes).await.expect("the records take it");
    records
}

/// The first look at [`records`] and a host that is seen so, this long after the guest was asked.
async fn look(sightings: Vec<Sightings>, after_ms: u64) -> Look {
    let surveys = sightings.into_iter().map(|seen| Arc::new(Seen(seen)) as Arc<dyn Survey>);
    let asked_at = samples::disk(1, DiskState::Detaching).updated_at;
    let ports = Ports {
        recall: records().await,
        surveys: surveys.collect(),
        clock: Arc::new(FixedClock::at(asked_at.plus(after_ms))),
        wake: Arc::default(),
    };
    next(&mut start(ports, INTERVAL)).await.0
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_was_asked_for_is_told_once_the_machine_is_without_it() {
    let has = MachineSeen { disks: Some([samples::disk_id(1)].into()), ..well() };
    let unknown = MachineSeen { disks: None, ..well() };
    for (machine, released) in [
        (Some(well()), vec![samples::disk_id(1)]),
        (Some(has), vec![]),
        (Some(unknown), vec![]),
        (None, vec![samples::disk_id(1)]),
    ] {
        let look = look(vec![seen(machine.clone())], 1).await;
        let told: Vec<_> = look.disks_released.iter().map(|disk| disk.disk).collect();
        assert_eq!(told, released, "{machine:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_has_not_let_go_is_told_after_its_time() {
    let has = MachineSeen { disks: Some([samples::disk_id(1)].into()), ..well() };
    for (after_ms, found) in
        [(UNPLUG_MS, vec![]), (UNPLUG_MS + 1, vec![Kind::DiskUnplugUnanswered])]
    {
        let look = look(vec![seen(Some(has.clone()))], after_ms).await;
        assert_eq!(kinds(&look), found);
        assert_eq!(look.disks_released, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_does_not_answer_is_told_once_it_was_silent_for_long() {
    let silent = |age_ms| {
        let guest = Guest::Unknown("no answer".to_owned());
        Some(MachineSeen { guest, age_ms, disks: None, ..well() })
    };
    for (age_ms, found) in
        [(CONTROL_SILENT_MS - 1, vec![]), (CONTROL_SILENT_MS, vec![Kind::VmControlLost])]
    {
        assert_eq!(kinds(&look(vec![seen(silent(age_ms))], 1).await), found);
    }
}

#[tokio::test(start_paused = true)]
async fn how_a_machine_ended_is_told_with_its_absence_whoever_else_looks() {
    let ended = MachineEnded {
        machine: machine(),
        cause: ExitCause::OutOfMemory,
        detail: "the kernel took its memory".to_owned(),
    };
    let gone =
        Sightings { ended: BTreeMap::from([(samples::vm_id(1), ended.clone())]), ..seen(None) };
    let network = Network.survey().await;
    for surveys in [vec![gone.clone(), network.clone()], vec![network, gone]] {
        let look = look(surveys, 1).await;
        let [found] = &look.incoherences[..] else { panic!("{look:?}") };
        let Wrong::VmProcessMissing { ended: told, .. } = &found.wrong else { panic!("{found:?}") };
        assert_eq!(told.as_ref(), Some(&ended));
    }
}

#[tokio::test(start_paused = true)]
async fn of_machines_that_cannot_be_seen_nothing_is_said() {
    let look = look(vec![Sightings::default()], UNPLUG_MS).await;
    assert_eq!((look.incoherences, look.disks_released), (vec![], vec![]));
    for kind in [Kind::VmControlLost, Kind::VmGuestPanicked, Kind::DiskUnplugUnanswered] {
        assert!(look.undecided.contains(&kind), "{kind:?}");
    }
}
