//! One VM in every state, with a host that fits, and every command that is let in there: what the
//! laws are tried on.

use vman_core::disk::DiskState;
use vman_core::lifecycle::{Done, decide_vm, vm_end};
use vman_core::operation::{Effect, Step, Subject};
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

    /// The VM of number 1 with one disk, on a host as the command expects it.
    pub(super) async fn scene(&self) -> World {
        let world = World::new().await;
        let mut vm = samples::vm(1, self.state.clone());
        if self.machine_lives() || self.command == VmCommand::MarkStopped {
            let target = samples::target(vm.clone());
            for effect in [Effect::PrepareDirectory, Effect::ConnectNetwork, Effect::Launch] {
                world.host.apply(effect, &target).await.expect("the host is in order");
            }
            vm.machine = world.host.machine(vm.id);
        }
        if self.command == VmCommand::MarkStopped {
            assert!(world.host.crash(vm.id));
        }
        let disk = samples::attached(1, 1, "/dev/sdb");
        world.host.stray_file(&format!("disks/{}", disk.file_name()));
        world.put(vec![Change::AddVm(vm), Change::AddDisk(disk)]).await;
        world.put(self.under_way().map(Change::AddOperation).into_iter().collect()).await;
        world
    }

    fn machine_lives(&self) -> bool {
        match self.command {
            VmCommand::MarkStopped => false,
            VmCommand::MarkRunning | VmCommand::StopStray => true,
            VmCommand::Start
            | VmCommand::Stop
            | VmCommand::Restart
            | VmCommand::Kill
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

    /// The operation that has brought the VM into its state.
    fn under_way(&self) -> Option<Operation> {
        let (from, command) = match self.state {
            VmState::Stopped | VmState::Running | VmState::Paused | VmState::Failed(_) => {
                return None;
            }
            VmState::Starting => (VmState::Stopped, VmCommand::Start),
            VmState::Stopping => (VmState::Running, VmCommand::Stop),
            VmState::Deleting => (VmState::Running, VmCommand::Delete),
        };
        let transition = decide_vm(&from, command).expect("allowed").expect("something to do");
        let (verb, steps) = (command.verb(), transition.steps);
        Some(Operation { verb, steps, ..samples::operation(1) })
    }

    /// Holds what is recorded against what the command promises and against the host.
    pub(super) async fn assert_fulfilled(&self, world: &World, story: &str) {
        let vm = samples::vm_id(1);
        match vm_end(self.command.verb()).expect("a VM's verb") {
            Done::State(state) => {
                let recorded = world.vm(vm).await;
                assert_eq!(recorded.state, state, "{story}");
                let machine = world.host.machine(vm);
                assert_eq!(machine.is_some(), state == VmState::Running, "{story}");
                assert_eq!(recorded.machine, machine, "{story}");
            }
            Done::Gone => assert_gone(world, story).await,
        }
        assert_eq!(world.incoherences().await, Vec::<String>::new(), "{story}");
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
    let disk = world.disk(samples::disk_id(1)).await;
    assert_eq!((&disk.state, disk.vm), (&DiskState::Available, None), "{story}");
    let file = format!("file disks/{}", disk.file_name());
    assert_eq!(world.host.leftovers(), [file], "{story}");
}

/// The operations of the VM in a scene, newest first.
pub(super) async fn operations_of_vm(world: &World) -> Vec<Operation> {
    let mut operations = world.operations().await;
    operations.retain(|operation| operation.subject == Subject::Vm(samples::vm_id(1)));
    operations
}
