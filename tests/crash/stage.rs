//! A scene made once and played many times: each play is a copy of the prepared storage, with a
//! daemon of the test build on it. Where machines are real, they are started in each play.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{Answer, Daemon, LONG, NO_BODY, Points, SOON, Setup, text, wait_for};

use crate::verbs::{Ask, Disk, Mishap, Verb, Vm};
use crate::world::{Cast, World, machines, operations};

pub(crate) const DRY_RUN: &str = "dry-run";
/// The answer comes at the end.
const WAIT: &str = "wait=60";
/// How long a machine takes to start that is broken off meanwhile.
const SLOW: &str = "[backends.dry-run]\nlaunch_ms = 700\n";
/// The machine that nobody has recorded.
pub(crate) const STRAY: &str = "5c8f2d8e-0000-4000-8000-000000000001";
/// Longer than the grace that things without a record have.
const GRACE: Duration = Duration::from_secs(60);

/// A scene, prepared.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) verb: Verb,
    pub(crate) backend: &'static str,
    /// Ended; its storage is what is copied.
    prepared: Daemon,
    cast: Cast,
}

/// One play, up to the moment at which the verb is asked for.
#[derive(Debug)]
pub(crate) struct Play {
    pub(crate) daemon: Daemon,
    pub(crate) cast: Cast,
    pub(crate) before: World,
    pub(crate) machines: BTreeMap<&'static str, String>,
    /// The ids of the operations that there were.
    earlier: BTreeSet<String>,
    /// How many points were passed.
    passed: usize,
}

impl Stage {
    pub(crate) fn set(verb: Verb, backend: &'static str) -> Self {
        let prepared = setup(verb.ask, backend).boot_file("tiny.rom").start();
        prepared.tiny_template();
        prepared.template("spare", &json!({"firmware": "tiny.rom"}));
        let mut cast = Cast::default();
        let (witness, its_disk) = (prepared.new_vm("tiny"), prepared.new_disk());
        attach(&prepared, &its_disk, &witness);
        cast.add(witness, "witness");
        cast.add(its_disk, "witness's disk");
        let vm = (verb.scene.vm != Vm::None).then(|| prepared.new_vm("tiny"));
        if verb.scene.disk != Disk::None {
            let disk = prepared.new_disk();
            if verb.scene.disk == Disk::Attached {
                attach(&prepared, &disk, vm.as_deref().expect("a disk is attached to a VM"));
            }
            cast.add(disk, "disk");
        }
        vm.into_iter().for_each(|vm| cast.add(vm, "vm"));
        let stage = Self { verb, backend, prepared, cast };
        if backend == DRY_RUN {
            stage.bring_to_life(&stage.prepared);
        }
        stage
    }

    /// Ends the daemon that prepared the scene.
    pub(crate) fn ready(mut self) -> Self {
        self.prepared.terminate();
        self
    }

    pub(crate) fn play(&self, points: &Points) -> Play {
        let points = Points { ahead: self.ahead(), ..points.clone() };
        let daemon = self.prepared.start_copy(Some(&points));
        if self.backend != DRY_RUN {
            self.bring_to_life(&daemon);
        }
        let cast = self.cast.clone();
        let id = |operation: &Value| text(operation, "id").to_owned();
        Play {
            before: World::of(&daemon, &cast),
            machines: machines(&daemon, &cast),
            earlier: operations(&daemon).iter().map(id).collect(),
            passed: settled_points(&daemon).len(),
            daemon,
            cast,
        }
    }

    fn bring_to_life(&self, daemon: &Daemon) {
        let runs = matches!(self.verb.scene.vm, Vm::Running | Vm::Paused).then_some("vm");
        for name in ["witness"].into_iter().chain(runs) {
            let vm = self.cast.id(name).expect("it is in the scene");
            daemon.act(vm, "start");
            if self.backend != DRY_RUN {
                guest_is_up(daemon, vm);
            }
        }
        if self.verb.scene.vm == Vm::Paused {
            let vm = self.cast.id("vm").expect("it is in the scene");
            daemon.operate(&format!("/vms/{vm}/actions/pause"), &NO_BODY);
        }
    }

    /// Starts the program that ships where the test build has ended; or again the test build, where
    /// only that one can be told what time it is.
    pub(crate) fn goes_on(&self, daemon: &mut Daemon) {
        let points = Points { ahead: self.ahead(), ..Points::default() };
        daemon.restart_with((points != Points::default()).then_some(&points));
    }

    /// What has no record must be old to be found.
    fn ahead(&self) -> Duration {
        match self.verb.ask {
            Ask::Repair(Mishap::StrayMachine | Mishap::StrayImage, _) => GRACE,
            Ask::Request(..)
            | Ask::Once(..)
            | Ask::Cancelled(_)
            | Ask::Repair(..)
            | Ask::Host(_) => Duration::ZERO,
        }
    }

    /// None if no answer came.
    pub(crate) fn ask(&self, play: &Play) -> Option<Answer> {
        match self.verb.ask {
            Ask::Request(request, body) => self.send(play, request, body, &[("prefer", WAIT)]),
            Ask::Once(request, body) => {
                self.send(play, request, body, &[("prefer", WAIT), ("idempotency-key", "once")])
            }
            Ask::Cancelled(request) => {
                let begun = self.send(play, request, "", &[])?;
                if begun.status != 202 {
                    return Some(begun);
                }
                let operation = begun.header("location").to_owned();
                being_launched(&play.daemon, &operation)?;
                let cancel = format!("POST {operation}/cancel");
                self.send(play, &cancel, "", &[("prefer", WAIT)])
            }
            Ask::Repair(mishap, _) | Ask::Host(mishap) => {
                self.happens(mishap, &play.daemon);
                None
            }
        }
    }

    fn send(
        &self,
        play: &Play,
        request: &str,
        body: &str,
        headers: &[(&str, &str)],
    ) -> Option<Answer> {
        let fill = |text: &str| {
            let id = |name| self.cast.id(name).unwrap_or_default();
            text.replace("{vm}", id("vm")).replace("{disk}", id("disk"))
        };
        let (method, path) = request.split_once(' ').expect("a method and a path");
        let mut headers = headers.to_vec();
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        let sent =
            play.daemon.client().try_send(method, &fill(path), &headers, fill(body).as_bytes());
        sent.ok()
    }

    fn happens(&self, mishap: Mishap, daemon: &Daemon) {
        let id = |name| self.cast.id(name).expect("it is in the scene");
        let is_simulated = self.backend == DRY_RUN;
        match mishap {
            Mishap::MachineKilled if is_simulated => {
                let file = daemon.machine_folder(id("vm")).join("machine.json");
                fs::remove_file(file).expect("the simulated machine runs");
            }
            Mishap::MachineKilled => {
                let of_vm = |word: &String| word.contains(id("vm"));
                let all = daemon.machines().into_iter();
                let mut its = all.filter(|process| process.command.iter().any(of_vm));
                its.next().expect("the machine runs").kill();
            }
            Mishap::GuestPowersOff if is_simulated => {
                let file = daemon.machine_folder(id("vm")).join("machine.shutdown");
                fs::write(file, "0").expect("the simulated machine runs");
            }
            Mishap::GuestPowersOff => {
                let socket = daemon.machine_folder(id("vm")).join("console.sock");
                let mut console = UnixStream::connect(socket).expect("QEMU listens");
                console.write_all(b"q").expect("QEMU reads");
            }
            Mishap::MachineRuns => simulate(daemon, id("vm")),
            Mishap::StrayMachine => simulate(daemon, STRAY),
            Mishap::StrayImage => {
                let path = daemon.storage().join("disks/nobodys.raw");
                fs::write(path, "x").expect("the folder of images is there");
            }
            Mishap::ImageLost => {
                let path = daemon.storage().join("disks").join(format!("{}.qcow2", id("disk")));
                fs::remove_file(path).expect("the image is there");
            }
        }
    }
}

impl Play {
    /// Those that the verb's operation has passed, once none of them is being passed.
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

/// Looks often, so that what a refused commit has left undone is soon taken up again.
fn setup(ask: Ask, backend: &str) -> Setup {
    let setup = Setup::backend(backend).interval("100ms").fewest_backends();
    let nobody = "[[policy]]\nname = \"log-only\"\nmode = \"off\"";
    match ask {
        Ask::Repair(_, candidate) => {
            setup.policy("obedient", &format!("{{ candidate = \"{candidate}\" }}"))
        }
        Ask::Cancelled(_) => setup.with(SLOW).with(nobody),
        Ask::Request(..) | Ask::Once(..) | Ask::Host(_) => setup.with(nobody),
    }
}

/// Waits until the operation starts a machine; none if nobody answers any more.
fn being_launched(daemon: &Daemon, operation: &str) -> Option<()> {
    wait_for("the machine is being started", SOON, || {
        let Ok(answer) = daemon.client().try_send("GET", operation, &[], b"") else {
            return Some(None);
        };
        let steps = answer.body["steps"].as_array().cloned().unwrap_or_default();
        let is_it = |step: &Value| step["name"] == "launch" && step["state"] == "running";
        (steps.iter().any(is_it) || !answer.body["ended_at"].is_null()).then_some(Some(()))
    })
}

fn attach(daemon: &Daemon, disk: &str, vm: &str) {
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    assert_eq!(daemon.get(&format!("/disks/{disk}")).expect(200).body["vm_id"], vm);
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

/// A simulated machine that the daemon has not started.
fn simulate(daemon: &Daemon, id: &str) {
    let folder = daemon.machine_folder(id);
    fs::create_dir_all(&folder).expect("the folder of machines is there");
    fs::write(folder.join("machine.starts"), "1").expect("the folder is ours");
    let machine = json!({"id": id, "state": "running", "starts": 1});
    // There wholly or not at all, as the backend does it.
    let beside = folder.join("machine.new");
    fs::write(&beside, machine.to_string()).expect("the folder is ours");
    fs::rename(&beside, folder.join("machine.json")).expect("the folder is ours");
}
