//! One disk in every place it can be in, with a host that fits, and every command that touches the
//! host there: what the laws are tried on for disks.

use vman_core::disk::DiskState;
use vman_core::lifecycle::{DiskEnd, Outcome, decide_disk, disk_end};
use vman_core::operation::{Step, StepState, Verb};
use vman_core::sighting::Guest;
use vman_core::testing::samples;
use vman_core::vm::FailureReason;

use super::*;

/// What may be asked of the disk of number 1.
pub(super) struct DiskPlay {
    /// Of the VM of number 1, which has a machine unless it is stopped.
    pub(super) vm: VmState,
    pub(super) disk: Disk,
    pub(super) command: DiskCommand,
    pub(super) steps: Vec<Step>,
}

pub(super) fn disk_plays() -> Vec<DiskPlay> {
    let failed = VmState::Failed(FailureReason("an earlier failure".to_owned()));
    let vms = [VmState::Stopped, VmState::Running, VmState::Paused, failed];
    let attached = samples::attached(1, 1, "/dev/sdb");
    let detaching = Disk { state: DiskState::Detaching, ..attached.clone() };
    let disks = [samples::disk(1, DiskState::Available), attached, detaching];
    let commands = [
        DiskCommand::Attach(samples::vm_id(1)),
        DiskCommand::Detach,
        DiskCommand::Resize(4),
        DiskCommand::Delete,
    ];
    let mut plays = Vec::new();
    for vm in &vms {
        for disk in &disks {
            for command in commands {
                let Ok(Some(transition)) = decide_disk(disk, Some(vm), command) else { continue };
                if transition.steps.is_empty() {
                    continue;
                }
                let (vm, disk, steps) = (vm.clone(), disk.clone(), transition.steps);
                plays.push(DiskPlay { vm, disk, command, steps });
            }
        }
    }
    assert!(plays.len() > 15, "only {} plays", plays.len());
    plays
}

impl DiskPlay {
    pub(super) fn name(&self) -> String {
        let (verb, disk, vm) = (self.command.verb(), self.disk.state.word(), self.vm.word());
        format!("{} of one {disk} with a VM {vm}", verb.word())
    }

    pub(super) fn machine_lives(&self) -> bool {
        self.vm != VmState::Stopped
    }

    pub(super) async fn scene(&self) -> World {
        let world = World::new().await;
        let mut vm = samples::vm(1, self.vm.clone());
        let disks = [self.disk.clone(), samples::attached(9, 1, "/dev/sda")];
        for disk in &disks {
            world.host.stray_file(&format!("disks/{}", disk.file_name()));
        }
        if self.machine_lives() {
            let held = disks.iter().filter(|disk| disk.vm.is_some());
            // A launch leaves out what the guest was asked for; it was asked later.
            let held = held.map(|disk| Disk { state: DiskState::Attached, ..disk.clone() });
            world.launch(&vm, held.collect()).await;
            vm.machine = world.host.machine(vm.id);
        }
        if self.vm == VmState::Paused {
            world.host.set_guest(vm.id, Guest::Paused);
        }
        world.put(vec![Change::AddVm(vm)]).await;
        world.put(disks.map(Change::AddDisk).into()).await;
        world
    }

    pub(super) async fn ask(&self, engine: &Engine) -> OperationId {
        ask_disk(engine, samples::disk_id(1), self.command).await
    }

    /// Holds what is recorded, and the host, against what is promised for such an end.
    pub(super) async fn assert_left(
        &self,
        world: &World,
        operation: &Operation,
        outcome: &Outcome,
        story: &str,
    ) {
        let recorded = world.records.disk(samples::disk_id(1)).await.expect("readable");
        let undo_failed = operation.steps.iter().any(|step| step.state == StepState::UndoFailed);
        let verb = self.command.verb();
        // What could not be taken back may be with the machine still.
        let detaches = verb == Verb::DiskAttach && undo_failed;
        let verb = if detaches { Verb::DiskDetach } else { verb };
        match disk_end(&self.during(), verb, outcome).expect("a disk's verb") {
            DiskEnd::Gone => assert_eq!(recorded, None, "{story}"),
            DiskEnd::Is { state, vm, size_gib } => {
                let disk = recorded.expect("it is recorded");
                assert_eq!((&disk.state, disk.vm), (&state, vm), "{story}");
                assert_eq!(disk.size_gib, size_gib, "{story}");
            }
        }
        assert_eq!(world.vm(samples::vm_id(1)).await.state, self.vm, "{story}");
    }

    /// The disk while the command is carried out.
    fn during(&self) -> Disk {
        let state = decide_disk(&self.disk, Some(&self.vm), self.command);
        let state = state.expect("allowed").expect("something to do").next;
        let vm = match self.command {
            DiskCommand::Attach(vm) => Some(vm),
            DiskCommand::Detach
            | DiskCommand::Resize(_)
            | DiskCommand::Delete
            | DiskCommand::Released
            | DiskCommand::MarkMissing
            | DiskCommand::MarkAvailable => self.disk.vm,
        };
        Disk { state, vm, ..self.disk.clone() }
    }

    /// As after success, with the host as the records say.
    pub(super) async fn assert_fulfilled(&self, world: &World, operation: &Operation, story: &str) {
        assert_eq!(operation.state, OperationState::Succeeded, "{story}");
        self.assert_left(world, operation, &Outcome::Succeeded, story).await;
        assert_host_agrees(world, story).await;
    }
}

/// The machine has the disks that are attached, and each image has the size that is recorded.
pub(super) async fn assert_host_agrees(world: &World, story: &str) {
    let vm = samples::vm_id(1);
    let disks = world.disks().await;
    let attached = disks.iter().filter(|disk| disk.vm == Some(vm));
    if world.host.machine(vm).is_some() {
        let ids = attached.map(|disk| disk.id).collect();
        assert_eq!(world.host.disks(vm), ids, "{story}");
    }
    for disk in &disks {
        let size = world.host.image_size(&format!("disks/{}", disk.file_name()));
        let size = size.unwrap_or_else(|| panic!("{story}: no image of {disk:?}"));
        // The scene's own images have no size.
        assert!(size == 0 || size == disk.virtual_size(), "{story}: {disk:?} has {size}");
    }
    let images = world.host.leftovers().into_iter().filter(|line| line.starts_with("file "));
    assert_eq!(images.count(), disks.len(), "{story}");
}
