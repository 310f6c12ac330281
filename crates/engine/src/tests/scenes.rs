//! One VM in every state, with a host that fits, and every command that is let in there: what the
//! laws are tried on.

use vman_core::disk::{DiskState, MountPoint};
use vman_core::lifecycle::{Outcome, VmEnd, decide_vm, vm_end};
use vman_core::operation::{Step, Subject};
use vman_core::sighting::Guest;
use vman_core::testing::samples;
use vman_core::vm::FailureReason;

use super::*;

/// What may be asked of the VM in a scene.
pub(super) struct Play {
    pub(super) state: VmState,
    pub(super) command: VmCommand,
    /// What the command is to do.
    pub(super) steps: Vec<Step>,
}

/// Every state with every command that is let in there.
pub(super) fn plays() -> Vec<Play> {
    let states = [
        VmState::Stopped,
        VmState::Starting,
        VmState::Running,
        VmState::Paused,
        VmState::Stopping,
        VmState::Failed(FailureReason("an earlier failure".to_owned())),
        VmState::Deleting,
    ];
    let mut plays = Vec::new();
    for state in states {
        for command in VmCommand::ALL {
            if let Ok(Some(transition)) = decide_vm(&state, command) {
                plays.push(Play { state: state.clone(), command, steps: transition.steps });
            }
        }
    }
    assert!(plays.len() > 30, "only {} plays", plays.len());
    plays
}

impl Play {
    /// Nothing else is under way on the VM when the command comes.
    pub(super) fn is_alone(&self) -> bool {
        match self.state {
            VmState::Stopped | VmState::Running | VmState::Paused | VmState::Failed(_) => true,
            VmState::Starting | VmState::Stopping | VmState::Deleting => false,
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{} in {}", self.command.verb().word(), self.state.word())
    }

    /// The VM of number 1 with one disk, and none to boot from, on a host as the command expects.
    pub(super) async fn scene(&self) -> World {
        let world = World::new().await;
        let mut vm = samples::vm(1, self.state.clone());
        let disk = samples::attached(1, 1, "/dev/sdb");
        world.host.stray_file(&format!("disks/{}", disk.file_name()));
        if self.machine_lives() || self.machine_has_gone() {
            world.launch(&vm, vec![disk.clone()]).await;
            vm.machine = world.host.machine(vm.id);
        }
        if self.machine_has_gone() {
            assert!(world.host.crash(vm.id));
        }
        if self.state == VmState::Paused {
            world.host.set_guest(vm.id, Guest::Paused);
        }
        world.put(vec![Change::AddVm(vm), Change::AddDisk(disk)]).await;
        world.put(self.under_way()).await;
        world
    }

    fn machine_has_gone(&self) -> bool {
        matches!(self.command, VmCommand::MarkStopped | VmCommand::Autostart)
    }

    fn machine_lives(&self) -> bool {
        match self.command {
            VmCommand::MarkStopped | VmCommand::Autostart => false,
            VmCommand::MarkRunning | VmCommand::StopStray => true,
            VmCommand::Start
            | VmCommand::Stop
            | VmCommand::Restart
            | VmCommand::Kill
            | VmCommand::Pause
            | VmCommand::Resume
            | VmCommand::Reset
            | VmCommand::Delete
            | VmCommand::GuestEnded => match self.state {
                VmState::Stopped | VmState::Starting => false,
                VmState::Running
                | VmState::Paused
                | VmState::Stopping
                | VmState::Failed(_)
                | VmState::Deleting => true,
            },
        }
    }

    /// The operation that has brought the VM into its state, and what came with it.
    fn under_way(&self) -> Vec<Change> {
        let (from, command) = match self.state {
            VmState::Stopped | VmState::Running | VmState::Paused | VmState::Failed(_) => {
                return vec![];
            }
            VmState::Starting => (VmState::Stopped, VmCommand::Start),
            VmState::Stopping => (VmState::Running, VmCommand::Stop),
            VmState::Deleting => (VmState::Running, VmCommand::Delete),
        };
        let transition = decide_vm(&from, command).expect("allowed").expect("something to do");
        let (verb, steps) = (command.verb(), transition.steps);
        let operation = Operation { verb, steps, ..samples::operation(1) };
        let root = (command == VmCommand::Start).then(|| Disk {
            vm: Some(samples::vm_id(1)),
            mount_point: Some(MountPoint::root()),
            ..samples::disk(2, DiskState::Creating)
        });
        root.map(Change::AddDisk).into_iter().chain([Change::AddOperation(operation)]).collect()
    }

    /// What the VM is once the command has ended so; none if it is gone.
    pub(super) fn state_after(&self, outcome: &Outcome) -> Option<VmState> {
        let before = samples::vm(1, self.state.clone());
        match vm_end(&before, self.command.verb(), outcome).expect("a VM's verb") {
            VmEnd::State(state) => Some(state),
            VmEnd::Kept => Some(self.state.clone()),
            VmEnd::Gone => None,
        }
    }

    /// Holds what is recorded against what the command promises and against the host.
    pub(super) async fn assert_fulfilled(&self, world: &World, story: &str) {
        let vm = samples::vm_id(1);
        match self.state_after(&Outcome::Succeeded) {
            Some(state) => {
                let recorded = world.vm(vm).await;
                assert_eq!(recorded.state, state, "{story}");
                let guest = world.guest(vm).await;
                let expected = match state {
                    VmState::Running => Some(Guest::Running),
                    VmState::Paused => Some(Guest::Paused),
                    VmState::Stopped
                    | VmState::Starting
                    | VmState::Stopping
                    | VmState::Failed(_)
                    | VmState::Deleting => None,
                };
                // Whoever believes that it runs has not looked whether its guest is halted.
                if self.command != VmCommand::MarkRunning || self.state != VmState::Paused {
                    assert_eq!(guest, expected, "{story}");
                }
                assert_eq!(recorded.machine, world.host.machine(vm), "{story}");
                assert_disks_settled(world, story).await;
            }
            None => assert_gone(world, story).await,
        }
        assert_eq!(world.incoherences().await, Vec::<String>::new(), "{story}");
    }
}

/// Every disk has its image, and none is on its way anywhere.
pub(super) async fn assert_disks_settled(world: &World, story: &str) {
    for disk in world.disks().await {
        let expected = if disk.vm.is_some() { DiskState::Attached } else { DiskState::Available };
        assert_eq!(disk.state, expected, "{story}: {disk:?}");
        let image = world.host.image_size(&format!("disks/{}", disk.file_name()));
        assert!(image.is_some(), "{story}: {disk:?}");
    }
}

/// Deletes the VM; nothing may be left of it.
pub(super) async fn assert_deletable(world: &World, engine: &Engine, story: &str) {
    let delete = ask(engine, samples::vm_id(1), VmCommand::Delete).await;
    succeeded(engine, delete).await;
    assert_gone(world, story).await;
}

async fn assert_gone(world: &World, story: &str) {
    assert_eq!(world.find_vm(samples::vm_id(1)).await, None, "{story}");
    assert_disks_settled(world, story).await;
    let disks = world.disks().await;
    let mut files: Vec<String> =
        disks.iter().map(|disk| format!("file disks/{}", disk.file_name())).collect();
    files.sort();
    assert!(disks.iter().any(|disk| disk.id == samples::disk_id(1)), "{story}");
    assert_eq!(world.host.leftovers(), files, "{story}");
}

/// The operations of the VM in a scene, newest first.
pub(super) async fn operations_of_vm(world: &World) -> Vec<Operation> {
    let mut operations = world.operations().await;
    operations.retain(|operation| operation.subject == Subject::Vm(samples::vm_id(1)));
    operations
}
