//! What is asked of the daemon in a play, and what happens behind its back.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use rusqlite::Connection;
use serde_json::{Value, json};
use vman_tests::{Answer, Daemon, SOON, wait_for};

use crate::stage::{DRY_RUN, Play, Stage};
use crate::verbs::{Ask, Asked, Mishap, Then};

/// The answer comes at the end.
const WAIT: (&str, &str) = ("prefer", "wait=60");
/// The answer comes at once.
const AT_ONCE: (&str, &str) = ("prefer", "respond-async");
/// The machine that nobody has recorded.
pub(crate) const STRAY: &str = "5c8f2d8e-0000-4000-8000-000000000001";

impl Stage {
    /// None if no answer came, or none was to come.
    pub(crate) fn ask(&self, play: &mut Play) -> Option<Answer> {
        match self.verb.ask {
            Ask::Request(request, body) => self.send(play, request, body, &[WAIT]),
            Ask::Once(request, body) => {
                self.send(play, request, body, &[WAIT, ("idempotency-key", "once")])
            }
            Ask::Then(request, body, then) => self.ask_twice(play, request, body, then),
            Ask::Repair(mishap, _) | Ask::Host(mishap) => {
                self.happens(mishap, &play.daemon);
                None
            }
            Ask::Boot => {
                play.daemon.kill9();
                self.end_machine(&play.daemon);
                play.daemon.try_restart_with(&play.points);
                None
            }
        }
    }

    fn ask_twice(&self, play: &Play, request: &str, body: &str, then: Then) -> Option<Answer> {
        let begun = self.send(play, request, body, &[AT_ONCE])?;
        if begun.status != 202 {
            return Some(begun);
        }
        let operation = begun.header("location").to_owned();
        under_way(&play.daemon, &operation, then.during)?;
        match then.asked {
            Asked::Cancel => self.send(play, &format!("POST {operation}/cancel"), "", &[WAIT]),
            Asked::Same => {
                let again = self.send(play, request, body, &[WAIT])?;
                let ended = play.daemon.client().try_send("GET", &operation, &[], b"").ok()?;
                if ended.body["state"] == "succeeded" {
                    assert_eq!(again.header("location"), operation, "two are one");
                }
                Some(again)
            }
            Asked::Request(second, ..) => self.send(play, second, "", &[WAIT]),
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
            Mishap::MachineKilled => self.end_machine(daemon),
            Mishap::GuestPowersOff if is_simulated => {
                let file = daemon.machine_folder(id("vm")).join("machine.shutdown");
                fs::write(file, "0").expect("the simulated machine runs");
            }
            Mishap::GuestPowersOff => {
                let socket = daemon.machine_folder(id("vm")).join("console.sock");
                let mut console = UnixStream::connect(socket).expect("QEMU listens");
                console.write_all(b"q").expect("QEMU reads");
            }
            Mishap::GuestLetsGo => {
                let file = daemon.machine_folder(id("vm")).join("machine.json");
                let text = fs::read_to_string(file).expect("the simulated machine runs");
                let mut machine: Value = serde_json::from_str(&text).expect("it is JSON");
                machine["disks"] = json!([]);
                write_machine(daemon, id("vm"), &machine);
            }
            Mishap::GuestDoesNotLetGo => {
                // As if it had been asked a minute before, and not an hour later as in the scene.
                let long_ago = "UPDATE disks SET updated_at = updated_at - 3660000 WHERE id = ?1";
                edit(daemon, long_ago, id("disk"));
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
            Mishap::HolderForgotten => {
                edit(daemon, "UPDATE disks SET vm = NULL WHERE id = ?1", id("disk"));
            }
            Mishap::AttachmentForgotten => {
                let freed = "UPDATE disks SET state = 'available' WHERE id = ?1";
                edit(daemon, freed, id("disk"));
            }
        }
    }

    /// The VM's machine ends at once.
    fn end_machine(&self, daemon: &Daemon) {
        let vm = self.cast.id("vm").expect("it is in the scene");
        if self.backend == DRY_RUN {
            let file = daemon.machine_folder(vm).join("machine.json");
            fs::remove_file(file).expect("the simulated machine runs");
        } else {
            let mut its = daemon.machines().into_iter().filter(|process| process.names(vm));
            its.next().expect("the machine runs").kill();
        }
    }
}

/// Waits until `effect` of the operation goes on; none if nobody answers any more.
fn under_way(daemon: &Daemon, operation: &str, effect: &str) -> Option<()> {
    wait_for("the effect goes on", SOON, || {
        let Ok(answer) = daemon.client().try_send("GET", operation, &[], b"") else {
            return Some(None);
        };
        let steps = answer.body["steps"].as_array().cloned().unwrap_or_default();
        let is_it = |step: &Value| step["name"] == effect && step["state"] == "running";
        (steps.iter().any(is_it) || !answer.body["ended_at"].is_null()).then_some(Some(()))
    })
}

/// Somebody who has more courage than sense edits the record of the disk.
pub(crate) fn edit(daemon: &Daemon, statement: &str, disk: &str) {
    let records = Connection::open(daemon.storage().join("vman.db")).expect("it is a database");
    records.busy_timeout(SOON).expect("it can be waited for");
    let edited = records.execute(statement, [disk]).expect("the record can be edited");
    assert_eq!(edited, 1, "{statement}");
}

/// A simulated machine that the daemon has not started.
fn simulate(daemon: &Daemon, id: &str) {
    let folder = daemon.machine_folder(id);
    fs::create_dir_all(&folder).expect("the folder of machines is there");
    fs::write(folder.join("machine.starts"), "1").expect("the folder is ours");
    write_machine(daemon, id, &json!({"id": id, "state": "running", "starts": 1}));
}

/// There wholly or not at all, as the backend does it.
fn write_machine(daemon: &Daemon, id: &str, machine: &Value) {
    let folder = daemon.machine_folder(id);
    let beside = folder.join("machine.new");
    fs::write(&beside, machine.to_string()).expect("the folder is ours");
    fs::rename(&beside, folder.join("machine.json")).expect("the folder is ours");
}
