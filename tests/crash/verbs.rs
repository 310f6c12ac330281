//! The table of verbs: what is there before each, how it is asked for, and what must have come of
//! it. Adding a verb is adding an entry here and its line in the list of tests.

use crate::world::World;

/// A verb as the crash tests know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verb {
    pub(crate) scene: Scene,
    pub(crate) ask: Ask,
    /// The kind of its operation; none for what is only recorded.
    pub(crate) operation: Option<&'static str>,
    /// What it makes of what there was.
    pub(crate) wish: fn(&mut World),
    /// What is left of what there was if one of its effects fails.
    pub(crate) failure: fn(&mut World),
    pub(crate) machine: Fate,
}

/// What a verb finds. Beside it there is always a VM that runs, the witness, which has a disk; both
/// must go on as if nothing had happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    pub(crate) vm: Vm,
    pub(crate) disk: Disk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vm {
    None,
    Stopped,
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    None,
    Available,
    /// To the VM.
    Attached,
}

/// In paths and bodies `{vm}` and `{disk}` stand for the ids.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Post(&'static str, &'static str),
    Delete(&'static str),
    /// Nobody asks: this happens on the host, and a policy answers with this repair.
    Repair(Mishap, &'static str),
    /// Nobody asks: this happens on the host.
    Host(Mishap),
}

/// What happens on the host behind the daemon's back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mishap {
    /// The VM's machine is killed.
    MachineKilled,
    /// The guest of the VM powers itself off.
    GuestPowersOff,
    /// The stopped VM's machine runs. Simulated machines only.
    MachineRuns,
    /// A machine runs that has no record. Simulated machines only.
    StrayMachine,
    /// An image lies there that has no record.
    StrayImage,
    /// The disk's image is taken away.
    ImageLost,
}

/// What becomes of the VM's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on, or there is none.
    Stays,
    /// There is one, and there was none.
    Begins,
    /// There is another one.
    Changes,
    Ends,
}

const NOTHING: Scene = Scene { vm: Vm::None, disk: Disk::None };
const STOPPED: Scene = Scene { vm: Vm::Stopped, disk: Disk::Attached };
const RUNNING: Scene = Scene { vm: Vm::Running, disk: Disk::Attached };

const fn action(scene: Scene, path: &'static str, operation: &'static str) -> Verb {
    Verb {
        scene,
        ask: Ask::Post(path, ""),
        operation: Some(operation),
        wish: |_| {},
        failure: |world| world.vm("vm", "failed"),
        machine: Fate::Stays,
    }
}

const fn recorded(scene: Scene, ask: Ask, wish: fn(&mut World)) -> Verb {
    Verb { scene, ask, operation: None, wish, failure: |_| {}, machine: Fate::Stays }
}

const fn repair(scene: Scene, mishap: Mishap, candidate: &'static str) -> Verb {
    Verb {
        scene,
        ask: Ask::Repair(mishap, candidate),
        operation: Some(candidate),
        wish: |_| {},
        failure: |world| world.vm("vm", "failed"),
        machine: Fate::Stays,
    }
}

pub(crate) const CREATE_TEMPLATE: Verb = recorded(
    NOTHING,
    Ask::Post("/templates", r#"{"name": "other", "cpu_count": 1, "ram_amount": 32}"#),
    |world| world.template("other"),
);
pub(crate) const DELETE_TEMPLATE: Verb =
    recorded(NOTHING, Ask::Delete("/templates/spare"), |world| world.gone("spare"));
pub(crate) const CREATE_VM: Verb =
    recorded(NOTHING, Ask::Post("/vms", r#"{"vm_template": "tiny"}"#), |world| {
        world.vm("new", "stopped");
    });
pub(crate) const START: Verb = Verb {
    wish: |world| world.vm("vm", "running"),
    machine: Fate::Begins,
    ..action(STOPPED, "/vms/{vm}/actions/start", "vm.start")
};
pub(crate) const STOP: Verb = Verb {
    wish: |world| world.vm("vm", "stopped"),
    machine: Fate::Ends,
    ..action(RUNNING, "/vms/{vm}/actions/stop", "vm.stop")
};
pub(crate) const RESTART: Verb =
    Verb { machine: Fate::Changes, ..action(RUNNING, "/vms/{vm}/actions/restart", "vm.restart") };
pub(crate) const DELETE_STOPPED_VM: Verb = Verb {
    ask: Ask::Delete("/vms/{vm}"),
    wish: |world| {
        world.gone("vm");
        world.disk("disk", "available");
    },
    ..action(STOPPED, "", "vm.delete")
};
pub(crate) const DELETE_RUNNING_VM: Verb =
    Verb { scene: RUNNING, machine: Fate::Ends, ..DELETE_STOPPED_VM };

pub(crate) const CREATE_DISK: Verb = Verb {
    ask: Ask::Post("/disks", r#"{"size": 1}"#),
    wish: |world| world.disk("new", "available"),
    failure: |world| world.disk("new", "failed"),
    ..action(NOTHING, "", "disk.create")
};
pub(crate) const ATTACH: Verb = Verb {
    ask: Ask::Post("/disks/{disk}/attach", r#"{"vm_id": "{vm}"}"#),
    wish: |world| world.disk("disk", "attached to vm"),
    ..action(Scene { vm: Vm::Stopped, disk: Disk::Available }, "", "disk.attach")
};
pub(crate) const DETACH: Verb = Verb {
    wish: |world| world.disk("disk", "available"),
    ..action(STOPPED, "/disks/{disk}/detach", "disk.detach")
};
pub(crate) const DELETE_DISK: Verb = Verb {
    ask: Ask::Delete("/disks/{disk}"),
    wish: |world| world.gone("disk"),
    failure: |world| world.disk("disk", "failed"),
    ..action(Scene { vm: Vm::None, disk: Disk::Available }, "", "disk.delete")
};

pub(crate) const GUEST_ENDED: Verb =
    Verb { ask: Ask::Host(Mishap::GuestPowersOff), operation: Some("vm.guest-ended"), ..STOP };
pub(crate) const REPAIR_RESTART: Verb =
    Verb { machine: Fate::Changes, ..repair(RUNNING, Mishap::MachineKilled, "vm.restart") };
pub(crate) const REPAIR_MARK_STOPPED: Verb = Verb {
    wish: |world| world.vm("vm", "stopped"),
    machine: Fate::Ends,
    ..repair(RUNNING, Mishap::MachineKilled, "vm.mark-stopped")
};
pub(crate) const REPAIR_MARK_RUNNING: Verb = Verb {
    wish: |world| world.vm("vm", "running"),
    machine: Fate::Begins,
    ..repair(STOPPED, Mishap::MachineRuns, "vm.mark-running")
};
pub(crate) const REPAIR_STOP: Verb =
    Verb { operation: Some("vm.stop-stray"), ..repair(STOPPED, Mishap::MachineRuns, "vm.stop") };
pub(crate) const REPAIR_KILL_PROCESS: Verb = Verb {
    // It is still there, so that it is tried again.
    failure: |_| {},
    ..repair(NOTHING, Mishap::StrayMachine, "process.kill")
};
pub(crate) const REPAIR_QUARANTINE: Verb =
    Verb { failure: |_| {}, ..repair(NOTHING, Mishap::StrayImage, "file.quarantine") };
pub(crate) const REPAIR_MARK_MISSING: Verb = Verb {
    wish: |world| world.disk("disk", "missing"),
    ..repair(Scene { vm: Vm::None, disk: Disk::Available }, Mishap::ImageLost, "disk.mark-missing")
};
