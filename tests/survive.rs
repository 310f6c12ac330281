//! The daemon ends, suddenly or told to, and begins again: machines outlive it, nothing is lost,
//! and what happened meanwhile is found out. Machines are real ones.
#![cfg(test)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{Daemon, LONG, NO_BODY, Setup, pid, tally, text, wait_for};

/// Moments after a command at which the daemon is killed, in milliseconds: on both sides of every
/// step that a start and a stop have.
const MOMENTS_MS: [u64; 10] = [0, 2, 5, 10, 20, 30, 45, 60, 90, 140];

#[test]
fn a_vm_outlives_a_killed_daemon_and_obeys_the_next_one() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    let pid = daemon.start_process(&vm);
    daemon.kill9();
    daemon.restart();
    the_same_machine_obeys(&daemon, &vm, pid);
}

#[test]
fn a_vm_outlives_a_daemon_that_is_told_to_end() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    let pid = daemon.start_process(&vm);
    assert!(daemon.terminate().success());
    assert!(!daemon.storage().join("run/address").exists(), "nobody is at that address any more");
    daemon.restart();
    the_same_machine_obeys(&daemon, &vm, pid);
}

#[test]
fn a_daemon_killed_at_any_moment_ends_what_it_began_and_loses_nothing() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    for (round, moment) in MOMENTS_MS.into_iter().enumerate() {
        for action in ["start", "stop"] {
            let answer = daemon.post(&format!("/vms/{vm}/actions/{action}"), &NO_BODY);
            assert!([200, 202].contains(&answer.status), "{}", answer.text);
            thread::sleep(Duration::from_millis(moment));
            daemon.kill9();
            daemon.restart();
            all_operations_end(&daemon);
            let state = if action == "start" { "running" } else { "stopped" };
            let now = daemon.vm(&vm);
            assert_eq!(now["state"], state, "round {round}: {now}");
            host_agrees(&daemon, &now);
            if state == "running" {
                tally::started("qemu-tcg");
            }
        }
    }
    daemon.delete_all(&[format!("/vms/{vm}"), "/templates/tiny".to_owned()]);
    daemon.assert_nothing_left();
}

#[test]
fn a_vm_deleted_while_the_daemon_is_killed_is_gone_with_all_it_had() {
    let mut daemon = tiny();
    for moment in MOMENTS_MS {
        let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
        daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
        daemon.start_process(&vm);
        let prefer = [("prefer", "respond-async")];
        daemon.client().send("DELETE", &format!("/vms/{vm}"), &prefer, &[]);
        thread::sleep(Duration::from_millis(moment));
        daemon.kill9();
        daemon.restart();
        all_operations_end(&daemon);
        daemon.get(&format!("/vms/{vm}")).expect(404);
        assert_eq!(daemon.disk(&disk)["state"], "available", "after {moment} ms");
        daemon.delete_all(&[format!("/disks/{disk}")]);
        assert_eq!(daemon.machines(), [], "after {moment} ms");
    }
    daemon.delete_all(&["/templates/tiny".to_owned()]);
    daemon.assert_nothing_left();
}

#[test]
fn a_disk_whose_making_a_killed_daemon_began_is_made_by_the_next_one() {
    let mut daemon = tiny();
    let prefer = [("content-type", "application/json"), ("prefer", "respond-async")];
    for moment in MOMENTS_MS {
        let accepted = daemon.client().send("POST", "/disks", &prefer, br#"{"size": 1}"#);
        assert!([201, 202].contains(&accepted.status), "{}", accepted.text);
        thread::sleep(Duration::from_millis(moment));
        daemon.kill9();
        daemon.restart();
    }
    all_operations_end(&daemon);
    let disks = daemon.get("/disks").expect(200).body;
    let disks = disks.as_array().expect("GET /disks is a list");
    assert_eq!(disks.len(), MOMENTS_MS.len());
    for disk in disks {
        assert_eq!(disk["state"], "available", "{disk}");
        daemon.delete_all(&[format!("/disks/{}", text(disk, "id"))]);
    }
    daemon.delete_all(&["/templates/tiny".to_owned()]);
    daemon.assert_nothing_left();
}

#[test]
fn a_machine_that_died_while_no_daemon_was_there_is_an_issue_of_the_next_one() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    let pid = daemon.start_process(&vm);
    daemon.kill9();
    let machine = daemon.machines().into_iter().find(|machine| machine.pid == pid);
    machine.expect("it lives").kill();
    daemon.restart();
    let issue = daemon.issue_when("vm.process-missing", &vm, "open", |one| one["state"] == "open");
    let evidence = issue["evidence"].as_array().expect("a list").iter();
    let mut pids = evidence.filter(|fact| fact["value"] == pid);
    assert!(pids.next().is_some(), "the evidence has no {pid}: {issue}");
}

#[test]
fn a_guest_that_powered_itself_off_while_no_daemon_was_there_is_stopped_without_an_issue() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    daemon.start_process(&vm);
    let folder = daemon.machine_folder(&vm);
    up(&daemon, &vm);
    daemon.kill9();
    let mut console = UnixStream::connect(folder.join("console.sock")).expect("QEMU listens");
    console.write_all(b"q").expect("QEMU reads");
    daemon.restart();
    daemon.vm_becomes(&vm, "stopped");
    wait_for("the machine is gone", LONG, || daemon.machines().is_empty().then_some(()));
    assert_eq!(daemon.issues_of(&vm), [Value::Null; 0]);
}

#[test]
fn a_machine_of_another_backend_is_left_alone_and_named() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    let pid = daemon.start_process(&vm);
    daemon.terminate();
    daemon.restart_as(&Setup::backend("dry-run").policy("restart-crashed", "{}"));
    daemon.look_again();
    assert_eq!(daemon.vm(&vm)["state"], "running", "it cannot be seen, which is not gone");
    assert_eq!(daemon.issues_of(&vm), [Value::Null; 0]);
    let refused = daemon.post(&format!("/vms/{vm}/actions/stop"), &NO_BODY).expect(409).body;
    assert_eq!(refused["code"], "other-backend");
    assert!(text(&refused, "hint").contains("[backend] use"), "{refused}");
    assert_eq!(daemon.vm(&vm)["state"], "running", "a refusal changes nothing");
    assert!(daemon.machines().iter().any(|machine| machine.pid == pid), "it was not touched");
    daemon.terminate();
    daemon.restart_as(&Setup::backend("qemu-tcg"));
    daemon.operate(&format!("/vms/{vm}/actions/stop"), &NO_BODY);
    assert_eq!(daemon.machines(), []);
}

#[test]
fn a_client_that_waits_hears_how_far_it_is_when_the_daemon_ends() {
    let hangs = "[backends.dry-run]\nhang_launch = true\n";
    let mut daemon = Setup::backend("dry-run").boot_file("tiny.rom").with(hangs).start();
    daemon.tiny_template();
    let vm = daemon.new_vm("tiny");
    let start = format!("/vms/{vm}/actions/start");
    let client = daemon.client().clone();
    let waiting =
        std::thread::spawn(move || client.send("POST", &start, &[("prefer", "wait=60")], b""));
    daemon.vm_becomes(&vm, "starting");
    daemon.terminate();
    let answer = waiting.join().expect("no panic").expect(202);
    assert!(answer.header("location").starts_with("/operations/"));
}

#[test]
fn a_second_daemon_on_the_same_storage_is_refused_and_the_first_goes_on() {
    let daemon = tiny();
    let (status, said) = daemon.second();
    assert!(!status.success(), "{said}");
    assert!(said.contains(&daemon.storage().display().to_string()), "{said}");
    daemon.get("/vms").expect(200);
}

fn tiny() -> Daemon {
    let daemon = Setup::backend("qemu-tcg").boot_file("tiny.rom").start();
    daemon.tiny_template();
    daemon
}

fn up(daemon: &Daemon, vm: &str) {
    let console = daemon.machine_folder(vm).join("console.log");
    wait_for("the guest is up", LONG, || {
        let text = std::fs::read_to_string(&console).unwrap_or_default();
        text.contains("TINY-UP").then_some(())
    });
}

fn the_same_machine_obeys(daemon: &Daemon, vm: &str, expected: i32) {
    let now = daemon.vm(vm);
    assert_eq!(now["state"], "running");
    assert_eq!(pid(&now), Some(expected));
    host_agrees(daemon, &now);
    daemon.look_again();
    assert_eq!(pid(&daemon.vm(vm)), Some(expected));
    assert_eq!(daemon.issues_of(vm), [Value::Null; 0]);
    up(daemon, vm);
    let stop = daemon.operate(&format!("/vms/{vm}/actions/stop"), &NO_BODY);
    let note = text(&stop["steps"][0], "note");
    assert!(note.contains("the guest powered off"), "it was not graceful: {stop}");
    assert_eq!(daemon.vm(vm)["state"], "stopped");
    daemon.delete_all(&[format!("/vms/{vm}"), "/templates/tiny".to_owned()]);
    daemon.assert_nothing_left();
}

fn all_operations_end(daemon: &Daemon) {
    let operations = daemon.get("/operations?limit=1000").expect(200).body;
    for operation in operations.as_array().expect("GET /operations is a list") {
        let ended = daemon.operation(&format!("/operations/{}", text(operation, "id")));
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
}

/// Exactly the recorded process is there, or none where none is recorded.
fn host_agrees(daemon: &Daemon, vm: &Value) {
    let seen: Vec<i32> = daemon.machines().iter().map(|machine| machine.pid).collect();
    assert_eq!(seen, pid(vm).into_iter().collect::<Vec<_>>(), "{vm}");
}
