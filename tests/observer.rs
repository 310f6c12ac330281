//! Each kind of disagreement between records and host, caused on the host behind the daemon's back:
//! found, told with its evidence, left as it is by the default policy, and gone once it is mended.
//! `disk.attachment-mismatch` is not here: only two records can disagree about it.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{Daemon, NO_BODY, Process, Setup, text, wait_for};

/// Something without a record is an orphan only after 30 s; and time to find it.
const ORPHAN_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn a_machine_that_is_gone_is_missed() {
    let daemon = daemon("dry-run");
    let vm = daemon.new_vm("tiny");
    daemon.act(&vm, "start");
    let file = daemon.machine_folder(&vm).join("machine.json");
    let machine = fs::read(&file).expect("the simulated machine's file");
    fs::remove_file(&file).expect("it is there");
    let issue = open_issue(&daemon, "vm.process-missing", &vm);
    assert_eq!(issue["severity"], "error");
    assert_eq!(kinds(&issue), ["vm.restart", "vm.mark-stopped"]);
    assert_eq!(daemon.vm(&vm)["state"], "running", "log-only changes nothing");
    assert_eq!(count(&daemon, "vm.process-missing"), 1);
    fs::write(&file, machine).expect("the folder is there");
    resolves_by_itself(&daemon, &issue);
}

#[test]
fn a_machine_that_lives_although_its_vm_is_stopped_is_found() {
    let daemon = daemon("qemu-tcg");
    let vm = daemon.new_vm("tiny");
    let machine = run_and_stop(&daemon, &vm);
    let by_hand = ByHand::start(&machine, &daemon.machine_folder(&vm));
    let issue = open_issue(&daemon, "vm.process-unexpected", &vm);
    assert_eq!(kinds(&issue), ["vm.mark-running", "vm.stop"]);
    assert!(has_fact(&issue, &json!(by_hand.0.id())), "{issue}");
    assert_eq!(daemon.vm(&vm)["state"], "stopped", "log-only changes nothing");
    drop(by_hand);
    resolves_by_itself(&daemon, &issue);
}

#[test]
fn an_image_that_is_gone_is_missed() {
    let daemon = daemon("dry-run");
    let disk = daemon.new_disk();
    let path = daemon.storage().join("disks").join(format!("{disk}.qcow2"));
    let aside = daemon.storage().join("boot/aside");
    fs::rename(&path, &aside).expect("the image is there");
    let issue = open_issue(&daemon, "disk.file-missing", &disk);
    assert_eq!(issue["subject"], json!({"kind": "disk", "id": disk}));
    assert_eq!(kinds(&issue), ["disk.mark-missing"]);
    assert!(text(&issue, "message").contains(&disk), "{issue}");
    fs::rename(&aside, &path).expect("the folder is there");
    resolves_by_itself(&daemon, &issue);
}

#[test]
fn processes_folders_and_images_of_nobody_are_orphans_after_a_grace() {
    let daemon = daemon("qemu-tcg");
    let vm = daemon.new_vm("tiny");
    let machine = run_and_stop(&daemon, &vm);
    daemon.delete_all(&[format!("/vms/{vm}")]);
    let folder = daemon.machine_folder(&vm);
    fs::create_dir(&folder).expect("the folder of machines is there");
    let image = daemon.storage().join("disks/nobodys.raw");
    fs::write(&image, "x").expect("the folder of images is there");
    let by_hand = ByHand::start(&machine, &folder);
    daemon.look_again();
    assert_eq!(daemon.get("/issues").expect(200).text, "[]", "their records may be on the way");
    let orphan = |kind: &str, subject: &str| {
        wait_for(&format!("an issue {kind} of {subject}"), ORPHAN_WITHIN, || {
            let issues = daemon.issues_of(subject);
            issues.into_iter().find(|issue| issue["kind"] == kind && issue["state"] == "open")
        })
    };
    let process = orphan("process.orphan", &vm);
    assert_eq!(process["subject"]["kind"], "machine");
    assert_eq!(kinds(&process), ["process.kill"]);
    assert_eq!(process["candidates"][0]["destructive"], true);
    let file = orphan("file.orphan", "disks/nobodys.raw");
    assert_eq!(kinds(&file), ["file.quarantine"]);
    assert_eq!(daemon.machines().len(), 1, "log-only changes nothing");
    drop(by_hand);
    fs::remove_file(&image).expect("log-only changes nothing");
    resolves_by_itself(&daemon, &process);
    resolves_by_itself(&daemon, &file);
}

/// A look may fall between any two steps of a command; none of it is a disagreement.
#[test]
fn what_the_daemon_does_itself_is_never_an_issue() {
    let setup = Setup::backend("qemu-tcg").interval("100ms").policy("restart-crashed", "{}");
    let daemon = setup.boot_file("tiny.rom").start();
    daemon.tiny_template();
    let vm = daemon.new_vm("tiny");
    for _ in 0..8 {
        daemon.act(&vm, "start");
        daemon.act(&vm, "restart");
        daemon.act(&vm, "stop");
    }
    daemon.look_again();
    assert_eq!(daemon.get("/issues").expect(200).text, "[]");
    let operations = daemon.get("/operations").expect(200).body;
    assert_eq!(operations.as_array().map(Vec::len), Some(24), "no others than asked for");
}

#[test]
fn the_observer_tells_how_it_is_doing_and_looks_when_it_is_asked() {
    let daemon = Setup::backend("dry-run").interval("5s").boot_file("tiny.rom").start();
    let status = wait_for("the first look", Duration::from_secs(20), || {
        let status = daemon.get("/observer/status").expect(200).body;
        (status["health"] == "healthy").then_some(status)
    });
    assert_eq!(status["interval_ms"], 5000);
    assert_eq!(status["incoherences"], json!({}));
    let looks = status["looks"].as_u64().expect("a count");
    daemon.post("/observer/run", &NO_BODY).expect(202);
    // Well before the next look is due by itself.
    wait_for("a look was asked for", Duration::from_secs(3), || {
        (daemon.looks() > looks).then_some(())
    });
}

fn daemon(backend: &str) -> Daemon {
    let daemon = Setup::backend(backend).boot_file("tiny.rom").start();
    daemon.tiny_template();
    daemon
}

fn open_issue(daemon: &Daemon, kind: &str, subject: &str) -> Value {
    let judged = |issue: &Value| {
        let decisions = issue["decisions"].as_array();
        issue["state"] == "open" && decisions.is_some_and(|decisions| !decisions.is_empty())
    };
    let issue = daemon.issue_when(kind, subject, "open and judged", judged);
    assert_eq!(issue["decisions"][0]["policy"], "log-only");
    assert_ne!(issue["evidence"], json!([]), "{issue}");
    issue
}

fn resolves_by_itself(daemon: &Daemon, issue: &Value) {
    let (kind, subject) = (text(issue, "kind"), text(&issue["subject"], "id"));
    let resolved = daemon.issue_when(kind, subject, "resolved", |one| {
        one["id"] == issue["id"] && one["state"] == "resolved"
    });
    assert_eq!(resolved["resolution"], "by-itself");
    assert!(resolved["resolved_at"].is_string(), "{resolved}");
}

/// What the status says of this kind.
fn count(daemon: &Daemon, kind: &str) -> u64 {
    let status = daemon.get("/observer/status").expect(200).body;
    status["incoherences"][kind].as_u64().unwrap_or(0)
}

fn kinds(issue: &Value) -> Vec<&str> {
    let candidates = issue["candidates"].as_array().expect("a list");
    candidates.iter().map(|candidate| text(candidate, "kind")).collect()
}

fn has_fact(issue: &Value, value: &Value) -> bool {
    issue["evidence"].as_array().expect("a list").iter().any(|fact| fact["value"] == *value)
}

/// The process that the VM's machine was.
fn run_and_stop(daemon: &Daemon, vm: &str) -> Process {
    let pid = daemon.start_process(vm);
    let machine = daemon.machines().into_iter().find(|machine| machine.pid == pid);
    daemon.act(vm, "stop");
    machine.expect("the recorded process was there")
}

/// A machine that somebody started without the daemon. Ends when it is dropped.
struct ByHand(Child);

impl ByHand {
    fn start(machine: &Process, folder: &Path) -> Self {
        let (program, arguments) = machine.command.split_first().expect("a command has words");
        let mut command = Command::new(PathBuf::from(program));
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("QEMU starts by hand too"))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
