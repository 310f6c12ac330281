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
    /// As `failure`, where something was made before that and is kept.
    pub(crate) kept: Option<fn(&mut World)>,
    /// What failed may yet be done, without anybody asking again.
    pub(crate) heals: bool,
    pub(crate) machine: Fate,
    /// Killed also at every point on the way back from every failure.
    pub(crate) killed_undoing: bool,
}

/// What a verb finds. Beside it there is always a VM that runs, the witness, which has a disk; both
/// must go on as if nothing had happened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    pub(crate) vm: Vm,
    pub(crate) disk: Disk,
    pub(crate) guest: Guest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vm {
    None,
    Stopped,
    /// As `Stopped`, and its template has it boot from a root disk, which it has not.
    Rootless,
    Running,
    /// As `Running`, and it starts by itself after a boot of the host.
    Autostarted,
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    None,
    Available,
    /// To the VM.
    Attached,
    /// As `Attached`, and the guest was asked for it, an hour in the future: however long the
    /// trials take, it has time. Simulated machines only.
    AskedFor,
}

/// What simulated guests do about their power button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    Obeys,
    Ignores,
}

/// A request is its method and path, and its body; in both `{vm}` and `{disk}` stand for the ids.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Request(&'static str, &'static str),
    /// With a key; whoever got no answer asks the next daemon again, with the same key.
    Once(&'static str, &'static str),
    /// And something else while one of its effects goes on.
    Then(&'static str, &'static str, Then),
    /// Nobody asks: this happens on the host, and a policy answers with this repair.
    Repair(Mishap, &'static str),
    /// Nobody asks: this happens on the host.
    Host(Mishap),
    /// Nobody asks: the host goes down, is booted anew, and starts the daemon. Simulated only.
    Boot,
}

/// What is asked while an effect of something else goes on. A verb with it says what becomes of
/// what there was if this is not let in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Then {
    /// The effect, by its word.
    pub(crate) during: &'static str,
    pub(crate) asked: Asked,
    /// What both make of what there was.
    pub(crate) wish: fn(&mut World),
    /// By both.
    pub(crate) machine: Fate,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked {
    /// That the operation be broken off.
    Cancel,
    /// The same again, which is one operation with the first.
    Same,
    /// A request, the kind of its operation, and the commit that lets it in.
    Request(&'static str, &'static str, &'static str),
}

/// What happens on the host behind the daemon's back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mishap {
    /// The VM's machine is killed.
    MachineKilled,
    /// The guest of the VM powers itself off.
    GuestPowersOff,
    /// The guest of the VM lets go of the disk that it was asked for. Simulated machines only.
    GuestLetsGo,
    /// The guest of the VM was asked for the disk long ago.
    GuestDoesNotLetGo,
    /// The stopped VM's machine runs. Simulated machines only.
    MachineRuns,
    /// A machine runs that has no record. Simulated machines only.
    StrayMachine,
    /// An image lies there that has no record.
    StrayImage,
    /// The disk's image is taken away.
    ImageLost,
    /// Somebody edits the records: the attached disk is nobody's.
    HolderForgotten,
    /// Somebody edits the records: the attached disk is free, and the VM's.
    AttachmentForgotten,
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
            Self::Request(..) | Self::Once(..) | Self::Then(..) => true,
            Self::Repair(..) | Self::Host(_) | Self::Boot => false,
        }
    }

    /// The methods and paths of the requests that it is.
    pub(crate) fn requests(self) -> Vec<&'static str> {
        match self {
            Self::Request(request, _) | Self::Once(request, _) => vec![request],
            Self::Then(request, _, then) => match then.asked {
                Asked::Cancel => vec![request, "POST /operations/{operation}/cancel"],
                Asked::Same => vec![request],
                Asked::Request(second, ..) => vec![request, second],
            },
            Self::Repair(..) | Self::Host(_) | Self::Boot => vec![],
        }
    }

    pub(crate) fn then(self) -> Option<Then> {
        match self {
            Self::Then(_, _, then) => Some(then),
            Self::Request(..) | Self::Once(..) | Self::Repair(..) | Self::Host(_) | Self::Boot => {
                None
            }
        }
    }
}

impl Verb {
    /// Where it fails, the machine may do something else than is recorded; whoever asks again, for
    /// this or for the opposite, brings the two together.
    pub(crate) fn may_disagree(&self) -> bool {
        matches!(self.operation, Some("vm.pause" | "vm.resume"))
    }

    /// The kinds of the operations that it is.
    pub(crate) fn operations(&self) -> Vec<&'static str> {
        let second = self.ask.then().and_then(|then| match then.asked {
            Asked::Request(_, kind, _) => Some(kind),
            Asked::Cancel | Asked::Same => None,
        });
        self.operation.into_iter().chain(second).collect()
    }
}

const fn scene(vm: Vm, disk: Disk) -> Scene {
    Scene { vm, disk, guest: Guest::Obeys }
}

const NOTHING: Scene = scene(Vm::None, Disk::None);
const DISK: Scene = scene(Vm::None, Disk::Available);
const STOPPED: Scene = scene(Vm::Stopped, Disk::Attached);
const RUNNING: Scene = scene(Vm::Running, Disk::Attached);
const PAUSED: Scene = scene(Vm::Paused, Disk::Attached);
/// The guest does nothing about its power button.
const DEAF: Scene = Scene { guest: Guest::Ignores, ..RUNNING };

/// Of the VM, which fails with it.
const fn on_vm(scene: Scene, request: &'static str, operation: &'static str) -> Verb {
    Verb {
        scene,
        ask: Ask::Request(request, ""),
        operation: Some(operation),
        wish: |_| {},
        failure: |world| world.vm("vm", "failed"),
        kept: None,
        heals: false,
        machine: Fate::Stays,
        killed_undoing: false,
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

/// Broken off during this effect, after which everything is as it was.
const fn cancelled(verb: Verb, scene: Scene, request: &'static str, during: &'static str) -> Verb {
    let then = Then { during, asked: Asked::Cancel, wish: |_| {}, machine: Fate::Stays };
    Verb { scene, ask: Ask::Then(request, "", then), killed_undoing: false, ..verb }
}

const fn repair(scene: Scene, mishap: Mishap, candidate: &'static str) -> Verb {
    Verb { ask: Ask::Repair(mishap, candidate), heals: true, ..on_vm(scene, "", candidate) }
}

const START_VM: &str = "POST /vms/{vm}/actions/start";
const STOP_VM: &str = "POST /vms/{vm}/actions/stop";
const RESTART_VM: &str = "POST /vms/{vm}/actions/restart";
const DELETE_VM: &str = "DELETE /vms/{vm}";

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
    killed_undoing: true,
    ..on_vm(STOPPED, START_VM, "vm.start")
};
pub(crate) const START_ONCE: Verb =
    Verb { ask: Ask::Once(START_VM, ""), killed_undoing: false, ..START };
pub(crate) const START_TWICE: Verb = Verb {
    ask: Ask::Then(
        START_VM,
        "",
        Then { during: "launch", asked: Asked::Same, wish: START.wish, machine: START.machine },
    ),
    // Whoever asks again after the failure has it tried again.
    heals: true,
    killed_undoing: false,
    ..START
};
/// It makes its root disk by itself.
pub(crate) const START_ROOTLESS: Verb = Verb {
    scene: scene(Vm::Rootless, Disk::None),
    wish: |world| {
        world.vm("vm", "running");
        world.disk("new", "attached to vm, 3 GiB");
    },
    kept: Some(|world| {
        world.vm("vm", "failed");
        world.disk("new", "attached to vm, 3 GiB");
    }),
    ..START
};
pub(crate) const START_AT_BOOT: Verb = Verb {
    ask: Ask::Boot,
    scene: scene(Vm::Autostarted, Disk::Attached),
    wish: |world| world.vm("vm", "running, autostart"),
    failure: |world| world.vm("vm", "failed, autostart"),
    machine: Fate::Changes,
    killed_undoing: false,
    ..START
};
pub(crate) const START_THEN_STOP: Verb = Verb {
    ask: Ask::Then(
        START_VM,
        "",
        Then {
            during: "launch",
            asked: Asked::Request(STOP_VM, "vm.stop", "vm stopping, add vm.stop"),
            wish: |world| world.vm("vm", "stopped"),
            machine: Fate::Stays,
        },
    ),
    killed_undoing: false,
    ..START
};
pub(crate) const CANCEL_START: Verb = cancelled(START, STOPPED, START_VM, "launch");
pub(crate) const STOP: Verb = Verb {
    wish: |world| world.vm("vm", "stopped"),
    machine: Fate::Ends,
    ..on_vm(RUNNING, STOP_VM, "vm.stop")
};
pub(crate) const STOP_PAUSED: Verb = Verb { scene: PAUSED, ..STOP };
pub(crate) const CANCEL_STOP: Verb = cancelled(STOP, DEAF, STOP_VM, "power-off");
pub(crate) const KILL: Verb = Verb {
    ask: Ask::Request("POST /vms/{vm}/actions/kill", ""),
    operation: Some("vm.kill"),
    ..STOP
};
pub(crate) const RESTART: Verb = Verb {
    machine: Fate::Changes,
    killed_undoing: true,
    ..on_vm(RUNNING, RESTART_VM, "vm.restart")
};
pub(crate) const CANCEL_RESTART: Verb = cancelled(RESTART, DEAF, RESTART_VM, "power-off");
/// When the old machine has ended, and the new one is being started.
pub(crate) const CANCEL_RESTART_LATE: Verb = Verb {
    ask: Ask::Then(
        RESTART_VM,
        "",
        Then {
            during: "launch",
            asked: Asked::Cancel,
            wish: |world| world.vm("vm", "stopped"),
            machine: Fate::Ends,
        },
    ),
    killed_undoing: false,
    ..RESTART
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
    ..on_vm(STOPPED, DELETE_VM, "vm.delete")
};
pub(crate) const DELETE_RUNNING_VM: Verb =
    Verb { scene: RUNNING, machine: Fate::Ends, ..DELETE_STOPPED_VM };

pub(crate) const CANCEL_DELETE_VM: Verb =
    cancelled(DELETE_RUNNING_VM, DEAF, DELETE_VM, "power-off");

pub(crate) const CREATE_DISK: Verb = Verb {
    wish: |world| world.disk("new", "available, 1 GiB"),
    failure: |world| world.disk("new", "failed, 1 GiB"),
    ..on_disk(NOTHING, "POST /disks", r#"{"size": 1}"#, "disk.create")
};
/// Nothing is left of it.
pub(crate) const CANCEL_CREATE_DISK: Verb = Verb {
    ask: Ask::Then(
        "POST /disks",
        r#"{"size": 1}"#,
        Then { during: "create-image", asked: Asked::Cancel, wish: |_| {}, machine: Fate::Stays },
    ),
    ..CREATE_DISK
};
pub(crate) const ATTACH: Verb = Verb {
    scene: scene(Vm::Stopped, Disk::Available),
    wish: |world| world.disk("disk", "attached to vm, 1 GiB"),
    ..on_disk(NOTHING, "POST /disks/{disk}/attach", r#"{"vm_id": "{vm}"}"#, "disk.attach")
};
pub(crate) const ATTACH_RUNNING: Verb =
    Verb { scene: scene(Vm::Running, Disk::Available), killed_undoing: true, ..ATTACH };
pub(crate) const DETACH: Verb = Verb {
    wish: |world| world.disk("disk", "available, 1 GiB"),
    failure: |world| world.disk("disk", "detaching to vm, 1 GiB"),
    ..on_disk(STOPPED, "POST /disks/{disk}/detach", "", "disk.detach")
};
/// A guest that was asked may let go of it later, and that is then seen.
pub(crate) const DETACH_RUNNING: Verb = Verb { scene: RUNNING, heals: true, ..DETACH };
/// A guest that was asked for a disk lets go of it late.
pub(crate) const DISK_RELEASED: Verb = Verb {
    ask: Ask::Host(Mishap::GuestLetsGo),
    scene: scene(Vm::Running, Disk::AskedFor),
    operation: Some("disk.released"),
    heals: true,
    ..DETACH
};
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
pub(crate) const REPAIR_MARK_AVAILABLE: Verb = Verb {
    wish: |world| world.disk("disk", "available, 1 GiB"),
    ..repair(STOPPED, Mishap::HolderForgotten, "disk.mark-available")
};
pub(crate) const REPAIR_DETACH: Verb = Verb {
    wish: |world| world.disk("disk", "available, 1 GiB"),
    ..repair(STOPPED, Mishap::AttachmentForgotten, "disk.detach")
};
pub(crate) const REPAIR_ASK_AGAIN: Verb = Verb {
    wish: |world| world.disk("disk", "available, 1 GiB"),
    failure: |_| {},
    ..repair(scene(Vm::Running, Disk::AskedFor), Mishap::GuestDoesNotLetGo, "disk.detach")
};
