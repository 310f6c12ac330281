//! Machines that do not answer, and processes that only look like machines: a wedged machine wedges
//! only itself, and a stranger is never signalled. Machines are real ones.
#![cfg(test)]
#![allow(clippy::print_stderr, reason = "the measured times are the result")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use vman_tests::{Daemon, LONG, NO_BODY, Setup, pid, tally, text, wait_for};

/// Reads of each list, whose median is compared.
const READS: usize = 25;
/// A wedged machine may make reading no slower than this many times what it was.
const SLOWER_AT_MOST: u32 = 3;
/// Below this two medians are noise.
const NOISE: Duration = Duration::from_millis(5);
/// proc_sys_kernel(5): the last pid that was given out.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
/// Others start processes, too: attempts to get one pid.
const TRIES_MAX: usize = 200;

#[test]
fn a_machine_that_is_frozen_wedges_only_itself_and_is_well_again_after() {
    let daemon = tiny(&Setup::backend("qemu-tcg").stop_grace("2s"));
    let (frozen, other) = (daemon.new_vm("tiny"), daemon.new_vm("tiny"));
    let frozen_pid = daemon.start_process(&frozen);
    daemon.start_process(&other);
    let before = reading_takes(&daemon, &frozen);
    signal(frozen_pid, Signal::STOP);

    let pause = daemon.post(&format!("/vms/{frozen}/actions/pause"), &NO_BODY).expect(202);
    // While that one waits: everything else goes on as ever.
    let after = reading_takes(&daemon, &frozen);
    eprintln!("median of a list: {before:?} before, {after:?} with a frozen machine");
    assert!(after <= before * SLOWER_AT_MOST + NOISE, "{before:?} became {after:?}");
    daemon.act(&other, "stop");
    daemon.act(&other, "start");
    let unended = daemon.get(pause.header("location")).expect(200).body;
    eprintln!("the frozen machine's verb meanwhile: {}", unended["state"]);

    let ended = daemon.operation(pause.header("location"));
    assert_eq!(ended["state"], "failed", "{ended}");
    let error = text(&ended, "error");
    assert!(error.contains("answer") && error.contains("kill"), "{error}");
    assert_eq!(daemon.vm(&frozen)["state"], "running", "a pause that failed changes nothing");
    let is_open = |issue: &Value| issue["state"] == "open";
    daemon.issue_when("vm.control-lost", &frozen, "open", is_open);

    signal(frozen_pid, Signal::CONT);
    let is_resolved = |issue: &Value| issue["state"] == "resolved";
    daemon.issue_when("vm.control-lost", &frozen, "resolved", is_resolved);
    assert_eq!(daemon.vm(&frozen)["state"], "running");
    assert_eq!(pid(&daemon.vm(&frozen)), Some(frozen_pid), "it is the same machine");
    daemon.operate(&format!("/vms/{frozen}/actions/pause"), &NO_BODY);
    assert_eq!(daemon.vm(&frozen)["state"], "paused");
    daemon.operate(&format!("/vms/{frozen}/actions/resume"), &NO_BODY);
    daemon.act(&frozen, "stop");
}

#[test]
fn a_machine_that_is_frozen_is_stopped_firmly_once_its_grace_is_over() {
    let daemon = tiny(&Setup::backend("qemu-tcg").stop_grace("1s"));
    let vm = daemon.new_vm("tiny");
    let frozen = daemon.start_process(&vm);
    signal(frozen, Signal::STOP);
    let stop = daemon.operate(&format!("/vms/{vm}/actions/stop"), &NO_BODY);
    let note = text(&stop["steps"][0], "note");
    assert!(note.contains("killed"), "each stage is told: {note}");
    assert_eq!(daemon.vm(&vm)["state"], "stopped");
    assert_eq!(daemon.machines(), []);
}

#[test]
fn a_kill_does_not_wait_until_a_frozen_machine_has_answered() {
    let daemon = tiny(&Setup::backend("qemu-tcg").stop_grace("60s"));
    let vm = daemon.new_vm("tiny");
    let frozen = daemon.start_process(&vm);
    signal(frozen, Signal::STOP);
    let stop = daemon.post(&format!("/vms/{vm}/actions/stop"), &NO_BODY).expect(202);
    let begun = Instant::now();
    daemon.operate(&format!("/vms/{vm}/actions/kill"), &NO_BODY);
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for the grace of the stop");
    assert_eq!(daemon.operation(stop.header("location"))["state"], "cancelled");
    assert_eq!(daemon.vm(&vm)["state"], "stopped");
    assert_eq!(daemon.machines(), []);
}

#[test]
fn a_stranger_that_has_the_pid_of_a_dead_machine_is_never_signalled() {
    if let Err(error) = fs::read_to_string(LAST_PID).and_then(|last| fs::write(LAST_PID, last)) {
        return tally::skipped(&format!("{LAST_PID}: {error}"));
    }
    for action in ["stop", "kill", "restart", "start", "delete", "repair"] {
        stranger_survives(action);
    }
}

fn stranger_survives(action: &str) {
    let setup = Setup::backend("qemu-tcg");
    let setup = if action == "repair" { setup.policy("restart-crashed", "{}") } else { setup };
    let mut daemon = tiny(&setup);
    let vm = daemon.new_vm("tiny");
    let old = daemon.start_process(&vm);
    daemon.kill9();
    let machine = daemon.machines().into_iter().find(|machine| machine.pid == old);
    machine.expect("it lives").kill();
    // It stays a zombie, and keeps its pid, until the first process of the host has looked.
    wait_for("the pid is free", LONG, || {
        (!std::path::Path::new(&format!("/proc/{old}")).exists()).then_some(())
    });
    let mut stranger = Stranger::with(old);
    daemon.restart();
    if action != "repair" {
        assert_eq!(daemon.vm(&vm)["process"]["pid"], old, "the record is stale as it was to be");
    }
    match action {
        "repair" => {
            daemon.vm_when(&vm, "repaired", LONG, |vm| {
                vm["state"] == "running" && vm["process"]["pid"] != old
            });
        }
        "delete" => drop(daemon.delete(&format!("/vms/{vm}")).expect(204)),
        // The record says that it runs: what is missing has to be seen before it is started.
        "start" => {
            daemon.issue_when("vm.process-missing", &vm, "open", |one| one["state"] == "open");
            daemon.act(&vm, "start");
        }
        verb => drop(daemon.operate(&format!("/vms/{vm}/actions/{verb}"), &NO_BODY)),
    }
    daemon.look_again();
    let status = fs::read_to_string(format!("/proc/{old}/status")).expect("the stranger lives");
    assert!(status.contains("State:\tS"), "{action}: it was stopped or killed: {status}");
    let ended = stranger.0.try_wait().expect("it is our child");
    assert_eq!(ended, None, "{action} ended a stranger");
}

/// A process that dies of any signal that it could get.
struct Stranger(Child);

impl Stranger {
    /// Under this very pid.
    fn with(wanted: i32) -> Self {
        for _ in 0..TRIES_MAX {
            fs::write(LAST_PID, (wanted - 1).to_string()).expect("it was writable before");
            let spawned = Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn();
            let stranger = Self(spawned.expect("coreutils has sleep"));
            if i32::try_from(stranger.0.id()) == Ok(wanted) {
                return stranger;
            }
        }
        panic!("pid {wanted} was not to be had in {TRIES_MAX} tries");
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // Our own child, which may have been ended by what the test looks for.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn tiny(setup: &Setup) -> Daemon {
    let daemon = setup.clone().boot_file("tiny.rom").start();
    daemon.tiny_template();
    daemon
}

/// The median of reading each list, and one VM.
fn reading_takes(daemon: &Daemon, vm: &str) -> Duration {
    let mut times = Vec::new();
    for _ in 0..READS {
        let one = format!("/vms/{vm}");
        for path in ["/vms", "/disks", "/operations?limit=10", "/observer/status", one.as_str()] {
            let begun = Instant::now();
            daemon.get(path).expect(200);
            times.push(begun.elapsed());
        }
    }
    times.sort_unstable();
    times[times.len() / 2]
}

fn signal(process: i32, signal: Signal) {
    let process = Pid::from_raw(process).expect("process ids begin at 1");
    kill_process(process, signal).expect("a machine of the test may be signalled");
    if signal == Signal::STOP {
        wait_for("it is stopped", LONG, || {
            let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()));
            status.is_ok_and(|status| status.contains("State:\tT")).then_some(())
        });
    }
}

#[test]
fn a_disk_verb_of_a_frozen_machine_ends_and_is_taken_back() {
    let daemon = tiny(&Setup::backend("qemu-tcg").stop_grace("1s"));
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    let frozen = daemon.start_process(&vm);
    signal(frozen, Signal::STOP);
    let attach = daemon.post(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm})).expect(202);
    let ended = daemon.operation(attach.header("location"));
    assert_eq!(ended["state"], "failed", "{ended}");
    // It was asked for the disk and could not be asked to give it back: it may take it still.
    assert_eq!(daemon.disk(&disk)["state"], "detaching");
    daemon.operate(&format!("/vms/{vm}/actions/kill"), &NO_BODY);
    wait_for("the disk is free", LONG, || {
        (daemon.disk(&disk)["state"] == "available").then_some(())
    });
    daemon.delete_all(&[format!("/disks/{disk}")]);
}
