//! A scene made once and played many times: each play is a copy of the prepared storage, with a
//! daemon of the test build on it. Where machines are real, they are started in each play. What is
//! asked of it, and what happens to it, is told in `deeds`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{Daemon, LONG, NO_BODY, Points, SOON, Setup, text, wait_for};

use crate::deeds::edit;
use crate::verbs::{Ask, Disk, Guest, Mishap, Verb, Vm};
use crate::world::{Cast, World, machines, operations};

pub(crate) const DRY_RUN: &str = "dry-run";
/// Longer than the grace that things without a record have.
const GRACE: Duration = Duration::from_secs(60);
/// The host's boot after the one in which the scene was prepared.
const NEXT_BOOT: &str = "b007b007-0000-4000-8000-000000000001";

/// A scene, prepared.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) verb: Verb,
    pub(crate) backend: &'static str,
    /// Ended; its storage is what is copied.
    prepared: Daemon,
    pub(crate) cast: Cast,
}

/// One play, up to the moment at which the verb is asked for.
#[derive(Debug)]
pub(crate) struct Play {
    pub(crate) daemon: Daemon,
    pub(crate) cast: Cast,
    pub(crate) before: World,
    pub(crate) machines: BTreeMap<&'static str, String>,
    /// What happens at the points, where the daemon is yet to be started for the verb.
    pub(crate) points: Points,
    /// The ids of the operations that there were.
    earlier: BTreeSet<String>,
    /// How many points were passed.
    passed: usize,
}

impl Stage {
    pub(crate) fn set(verb: Verb, backend: &'static str) -> Self {
        let mut prepared = setup(verb, backend, Unplugging::Ignored).start();
        prepared.tiny_template();
        prepared.template("spare", &json!({"firmware": "tiny.rom"}));
        let mut cast = Cast::default();
        let (witness, its_disk) = (prepared.new_vm("tiny"), prepared.new_disk());
        attach(&prepared, &its_disk, &witness);
        cast.add(witness, "witness");
        cast.add(its_disk, "witness's disk");
        let vm = new_vm(&prepared, verb.scene.vm);
        if verb.scene.disk != Disk::None {
            let disk = prepared.new_disk();
            if verb.scene.disk != Disk::Available {
                attach(&prepared, &disk, vm.as_deref().expect("a disk is attached to a VM"));
            }
            cast.add(disk, "disk");
        }
        vm.into_iter().for_each(|vm| cast.add(vm, "vm"));
        if backend == DRY_RUN {
            bring_to_life(&prepared, &cast, verb.scene.vm, backend);
        }
        if verb.scene.disk == Disk::AskedFor {
            let disk = cast.id("disk").expect("it is in the scene");
            let asked = prepared.post(&format!("/disks/{disk}/detach"), &NO_BODY).expect(202);
            prepared.operation(asked.header("location"));
            assert_eq!(prepared.disk(disk)["state"], "detaching");
        }
        prepared.terminate();
        if verb.scene.disk == Disk::AskedFor {
            let disk = cast.id("disk").expect("it is in the scene");
            edit(
                &prepared,
                "UPDATE disks SET updated_at = updated_at + 3600000 WHERE id = ?1",
                disk,
            );
        }
        prepared.configure(&setup(verb, backend, Unplugging::Obeyed));
        Self { verb, backend, prepared, cast }
    }

    pub(crate) fn play(&self, points: &Points) -> Play {
        let points = self.surroundings(points.clone());
        let boots = matches!(self.verb.ask, Ask::Boot);
        let now = if boots { Points::default() } else { points.clone() };
        let daemon = self.prepared.start_copy(Some(&now));
        if self.backend != DRY_RUN {
            bring_to_life(&daemon, &self.cast, self.verb.scene.vm, self.backend);
        }
        let cast = self.cast.clone();
        let id = |operation: &Value| text(operation, "id").to_owned();
        Play {
            before: World::of(&daemon, &cast),
            machines: machines(&daemon, &cast),
            earlier: operations(&daemon).iter().map(id).collect(),
            passed: settled_points(&daemon).len(),
            points,
            daemon,
            cast,
        }
    }

    /// Starts the program that ships where the test build has ended; or again the test build, where
    /// only that one can be told what it takes the host to be.
    pub(crate) fn goes_on(&self, daemon: &mut Daemon) {
        let points = self.surroundings(Points::default());
        daemon.restart_with((points != Points::default()).then_some(&points));
    }

    /// With what the daemon takes the host to be, and with what is slow there.
    fn surroundings(&self, points: Points) -> Points {
        let obeys = self.verb.scene.guest == Guest::Obeys;
        // What has no record must be old to be found.
        let is_stray =
            matches!(self.verb.ask, Ask::Repair(Mishap::StrayMachine | Mishap::StrayImage, _));
        Points {
            // A guest that does not obey is slow enough.
            hold: self.verb.ask.then().filter(|_| obeys).map(|then| then.during),
            ahead: if is_stray { GRACE } else { Duration::ZERO },
            boot: matches!(self.verb.ask, Ask::Boot).then_some(NEXT_BOOT),
            ..points
        }
    }
}

impl Play {
    /// Those that the verb's operations have passed, once none of them is being passed.
    pub(crate) fn points(&self) -> Vec<String> {
        settled_points(&self.daemon).split_off(self.passed)
    }

    /// The operations that came in since.
    pub(crate) fn operations(&self) -> Vec<Value> {
        let mut all = operations(&self.daemon);
        all.retain(|operation| !self.earlier.contains(text(operation, "id")));
        all
    }
}

/// What simulated guests do that are asked for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unplugging {
    Obeyed,
    Ignored,
}

/// Looks often, so that what a refused commit has left undone is soon taken up again.
fn setup(verb: Verb, backend: &str, unplugging: Unplugging) -> Setup {
    let setup = Setup::backend(backend).boot_file("tiny.rom").interval("100ms").fewest_backends();
    let setup = match verb.scene.guest {
        Guest::Obeys => setup,
        // Longer than it takes to think better of it.
        Guest::Ignores => setup.stop_grace("500ms"),
    };
    let setup = setup.with(&format!(
        "[backends.dry-run]\nshutdown_ms = 0\nignore_power_button = {}\nignore_unplug = {}",
        verb.scene.guest == Guest::Ignores,
        unplugging == Unplugging::Ignored,
    ));
    match verb.ask {
        Ask::Repair(_, candidate) => {
            setup.policy("obedient", &format!("{{ candidate = \"{candidate}\" }}"))
        }
        Ask::Request(..) | Ask::Once(..) | Ask::Then(..) | Ask::Host(_) | Ask::Boot => {
            setup.with("[[policy]]\nname = \"log-only\"\nmode = \"off\"")
        }
    }
}

fn new_vm(daemon: &Daemon, kind: Vm) -> Option<String> {
    match kind {
        Vm::None => None,
        Vm::Stopped | Vm::Running | Vm::Paused => Some(daemon.new_vm("tiny")),
        Vm::Rootless => {
            let size = json!({"cpu_count": 1, "ram_amount": 32, "root_disk_size": 3});
            let mut template = size;
            template["name"] = "rooted".into();
            daemon.post("/templates", &template).expect(201);
            Some(daemon.new_vm("rooted"))
        }
        Vm::Autostarted => {
            let body = json!({"vm_template": "tiny", "autostart": true});
            let vm = daemon.post("/vms", &body).expect(201).body;
            Some(text(&vm, "id").to_owned())
        }
    }
}

fn bring_to_life(daemon: &Daemon, cast: &Cast, kind: Vm, backend: &str) {
    let runs = match kind {
        Vm::None | Vm::Stopped | Vm::Rootless => None,
        Vm::Running | Vm::Autostarted | Vm::Paused => Some("vm"),
    };
    for name in ["witness"].into_iter().chain(runs) {
        let vm = cast.id(name).expect("it is in the scene");
        daemon.act(vm, "start");
        if backend != DRY_RUN {
            guest_is_up(daemon, vm);
        }
    }
    if kind == Vm::Paused {
        let vm = cast.id("vm").expect("it is in the scene");
        daemon.operate(&format!("/vms/{vm}/actions/pause"), &NO_BODY);
    }
}

fn attach(daemon: &Daemon, disk: &str, vm: &str) {
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    assert_eq!(daemon.disk(disk)["vm_id"], vm);
}

fn guest_is_up(daemon: &Daemon, vm: &str) {
    let console = daemon.machine_folder(vm).join("console.log");
    wait_for("the guest is up", LONG, || {
        let text = fs::read_to_string(&console).unwrap_or_default();
        text.contains("TINY-UP").then_some(())
    });
}

/// The point after a commit is passed a moment after its changes can be seen.
fn settled_points(daemon: &Daemon) -> Vec<String> {
    wait_for("no point is being passed", SOON, || {
        let points = daemon.points();
        let count = |when: &str| points.iter().filter(|point| point.starts_with(when)).count();
        (count("before commit ") == count("after commit ")).then_some(points)
    })
}
