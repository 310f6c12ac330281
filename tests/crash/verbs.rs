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
    /// What failed may yet be done, without anybody asking again.
    pub(crate) heals: bool,
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
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    None,
    Available,
    /// To the VM.
    Attached,
}

/// A request is its method and path, and its body; in both `{vm}` and `{disk}` stand for the ids.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Request(&'static str, &'static str),
    /// With a key; whoever got no answer asks the next daemon again, with the same key.
    Once(&'static str, &'static str),
    /// What the request has begun is broken off while a machine is being started.
    Cancelled(&'static str),
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

impl Ask {
    /// Whether the request and its answer are all there is: what was not let in is not done.
    pub(crate) fn is_request(self) -> bool {
        match self {
            Self::Request(..) | Self::Once(..) | Self::Cancelled(_) => true,
            Self::Repair(..) | Self::Host(_) => false,
        }
    }

    /// The method and path of the request that it is.
    pub(crate) fn request(self) -> Option<&'static str> {
        match self {
            Self::Request(request, _) | Self::Once(request, _) => Some(request),
            Self::Cancelled(_) => Some("POST /operations/{operation}/cancel"),
            Self::Repair(..) | Self::Host(_) => None,
        }
    }
}

const NOTHING: Scene = Scene { vm: Vm::None, disk: Disk::None };
const DISK: Scene = Scene { vm: Vm::None, disk: Disk::Available };
const STOPPED: Scene = Scene { vm: Vm::Stopped, disk: Disk::Attached };
const RUNNING: Scene = Scene { vm: Vm::Running, disk: Disk::Attached };
const PAUSED: Scene = Scene { vm: Vm::Paused, disk: Disk::Attached };

/// Of the VM, which fails with it.
const fn on_vm(scene: Scene, request: &'static str, operation: &'static str) -> Verb {
    Verb {
        scene,
        ask: Ask::Request(request, ""),
        operation: Some(operation),
        wish: |_| {},
        failure: |world| world.vm("vm", "failed"),
        heals: false,
        machine: Fate::Stays,
    }
}

/// Of a disk, which is as it was if it fails.
const fn on_disk(
    scene: Scene,
    request: &'static str,
    body: &'static str,
    operation: &'static str,
) -> Verb {
    let ask = Ask::Request(request, body);
    Verb { ask, failure: |_| {}, ..on_vm(scene, request, operation) }
}

const fn recorded(
    scene: Scene,
    request: &'static str,
    body: &'static str,
    wish: fn(&mut World),
) -> Verb {
    Verb { operation: None, wish, ..on_disk(scene, request, body, "") }
}

const fn repair(scene: Scene, mishap: Mishap, candidate: &'static str) -> Verb {
    Verb { ask: Ask::Repair(mishap, candidate), heals: true, ..on_vm(scene, "", candidate) }
}

pub(crate) const CREATE_TEMPLATE: Verb = recorded(
    NOTHING,
    "POST /templates",
    r#"{"name": "other", "cpu_count": 1, "ram_amount": 32, "boot": {"firmware": "tiny.rom"}}"#,
    |world| world.template("other"),
);
pub(crate) const DELETE_TEMPLATE: Verb =
    recorded(NOTHING, "DELETE /templates/spare", "", |world| world.gone("spare"));

pub(crate) const CREATE_VM: Verb =
    recorded(NOTHING, "POST /vms", r#"{"vm_template": "tiny"}"#, |world| {
        world.vm("new", "stopped");
    });
pub(crate) const CREATE_VM_ONCE: Verb =
    Verb { ask: Ask::Once("POST /vms", r#"{"vm_template": "tiny"}"#), ..CREATE_VM };
pub(crate) const UPDATE_VM: Verb =
    recorded(STOPPED, "PATCH /vms/{vm}", r#"{"autostart": true}"#, |world| {
        world.vm("vm", "stopped, autostart");
    });
pub(crate) const START: Verb = Verb {
    wish: |world| world.vm("vm", "running"),
    machine: Fate::Begins,
    ..on_vm(STOPPED, "POST /vms/{vm}/actions/start", "vm.start")
};
pub(crate) const START_ONCE: Verb =
    Verb { ask: Ask::Once("POST /vms/{vm}/actions/start", ""), ..START };
pub(crate) const CANCEL_START: Verb =
    Verb { ask: Ask::Cancelled("POST /vms/{vm}/actions/start"), ..START };
pub(crate) const STOP: Verb = Verb {
    wish: |world| world.vm("vm", "stopped"),
    machine: Fate::Ends,
    ..on_vm(RUNNING, "POST /vms/{vm}/actions/stop", "vm.stop")
};
pub(crate) const STOP_PAUSED: Verb = Verb { scene: PAUSED, ..STOP };
pub(crate) const KILL: Verb = Verb {
    ask: Ask::Request("POST /vms/{vm}/actions/kill", ""),
    operation: Some("vm.kill"),
    ..STOP
};
pub(crate) const RESTART: Verb = Verb {
    machine: Fate::Changes,
    ..on_vm(RUNNING, "POST /vms/{vm}/actions/restart", "vm.restart")
};
pub(crate) const PAUSE: Verb = Verb {
    wish: |world| world.vm("vm", "paused"),
    failure: |_| {},
    ..on_vm(RUNNING, "POST /vms/{vm}/actions/pause", "vm.pause")
};
pub(crate) const RESUME: Verb = Verb {
    wish: |world| world.vm("vm", "running"),
    failure: |_| {},
    ..on_vm(PAUSED, "POST /vms/{vm}/actions/resume", "vm.resume")
};
pub(crate) const RESET: Verb =
    Verb { failure: |_| {}, ..on_vm(RUNNING, "POST /vms/{vm}/actions/reset", "vm.reset") };
pub(crate) const DELETE_STOPPED_VM: Verb = Verb {
    wish: |world| {
        world.gone("vm");
        world.disk("disk", "available, 1 GiB");
    },
    ..on_vm(STOPPED, "DELETE /vms/{vm}", "vm.delete")
};
pub(crate) const DELETE_RUNNING_VM: Verb =
    Verb { scene: RUNNING, machine: Fate::Ends, ..DELETE_STOPPED_VM };

pub(crate) const CREATE_DISK: Verb = Verb {
    wish: |world| world.disk("new", "available, 1 GiB"),
    failure: |world| world.disk("new", "failed, 1 GiB"),
    ..on_disk(NOTHING, "POST /disks", r#"{"size": 1}"#, "disk.create")
};
pub(crate) const ATTACH: Verb = Verb {
    scene: Scene { vm: Vm::Stopped, disk: Disk::Available },
    wish: |world| world.disk("disk", "attached to vm, 1 GiB"),
    ..on_disk(NOTHING, "POST /disks/{disk}/attach", r#"{"vm_id": "{vm}"}"#, "disk.attach")
};
pub(crate) const ATTACH_RUNNING: Verb =
    Verb { scene: Scene { vm: Vm::Running, disk: Disk::Available }, ..ATTACH };
pub(crate) const DETACH: Verb = Verb {
    wish: |world| world.disk("disk", "available, 1 GiB"),
    failure: |world| world.disk("disk", "detaching to vm, 1 GiB"),
    ..on_disk(STOPPED, "POST /disks/{disk}/detach", "", "disk.detach")
};
/// A guest that was asked may let go of it later, and that is then seen.
pub(crate) const DETACH_RUNNING: Verb = Verb { scene: RUNNING, heals: true, ..DETACH };
pub(crate) const RESIZE: Verb = Verb {
    wish: |world| world.disk("disk", "available, 2 GiB"),
    ..on_disk(DISK, "POST /disks/{disk}/resize", r#"{"size": 2}"#, "disk.resize")
};
pub(crate) const RESIZE_RUNNING: Verb =
    Verb { scene: RUNNING, wish: |world| world.disk("disk", "attached to vm, 2 GiB"), ..RESIZE };
pub(crate) const DELETE_DISK: Verb = Verb {
    wish: |world| world.gone("disk"),
    failure: |world| world.disk("disk", "failed, 1 GiB"),
    ..on_disk(DISK, "DELETE /disks/{disk}", "", "disk.delete")
};

pub(crate) const GUEST_ENDED: Verb = Verb {
    ask: Ask::Host(Mishap::GuestPowersOff),
    operation: Some("vm.guest-ended"),
    heals: true,
    ..STOP
};
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
pub(crate) const REPAIR_KILL_PROCESS: Verb =
    Verb { failure: |_| {}, ..repair(NOTHING, Mishap::StrayMachine, "process.kill") };
pub(crate) const REPAIR_QUARANTINE: Verb =
    Verb { failure: |_| {}, ..repair(NOTHING, Mishap::StrayImage, "file.quarantine") };
pub(crate) const REPAIR_MARK_MISSING: Verb = Verb {
    wish: |world| world.disk("disk", "missing, 1 GiB"),
    ..repair(DISK, Mishap::ImageLost, "disk.mark-missing")
};
