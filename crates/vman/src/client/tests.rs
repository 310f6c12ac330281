//! Tests of the client commands against a scripted daemon: what is asked, and what is printed of
//! the answers. The real daemon is not run here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::cli::{Cli, Command};
use crate::failure::Failure;

const VM: &str = "5f2b6c1e-7a44-4c0e-9d2f-0c6f3c1f9a10";
const OPERATION: &str = "0e4bb0c5-6c8d-4c1c-9a83-5a2ad5a1f4d3";

/// An answer: status, further headers, body.
type Answer = (u16, &'static str, Value);

/// Answers requests one after the other, and then tells what was asked.
struct Daemon {
    storage: tempfile::TempDir,
    asked: JoinHandle<Vec<String>>,
}

impl Daemon {
    fn answering(answers: Vec<Answer>) -> Self {
        let mut answers = answers.into_iter();
        Self::replying(answers.len(), move |_| answers.next().unwrap())
    }

    /// Answers so many requests each by what it asks for.
    fn replying(count: usize, mut answer: impl FnMut(&str) -> Answer + Send + 'static) -> Self {
        let storage = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::fs::create_dir_all(storage.path().join("run")).unwrap();
        std::fs::write(storage.path().join("run/address"), address).unwrap();
        std::fs::write(storage.path().join("token"), "secret\n").unwrap();
        let asked = thread::spawn(move || {
            (0..count).map(|_| exchange(listener.accept().unwrap().0, &mut answer)).collect()
        });
        Self { storage, asked }
    }

    /// Runs a command of the client; what it printed, and what the daemon was asked.
    fn run(self, line: &str) -> (Result<String, Failure>, Vec<String>) {
        let storage = self.storage.path().to_str().unwrap();
        let printed = run(&format!("vman --storage {storage} {line}"));
        (printed, self.asked.join().unwrap())
    }
}

/// Reads one request and answers it; the request's line, token and body.
fn exchange(stream: TcpStream, answer: &mut impl FnMut(&str) -> Answer) -> String {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut asked = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let header = header.trim_end().to_lowercase();
        if let Some(given) = header.strip_prefix("content-length: ") {
            length = given.parse().unwrap();
        }
        if header.starts_with("authorization") && header != "authorization: bearer secret" {
            asked.push_str(" with a wrong token");
        }
        if header.is_empty() {
            break;
        }
    }
    let mut sent = vec![0; length];
    reader.read_exact(&mut sent).unwrap();
    if !sent.is_empty() {
        asked.push_str(&format!(" {}", String::from_utf8(sent).unwrap()));
    }
    let (status, headers, body) = answer(&asked);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}");
    let answer = format!("{head}connection: close\r\n\r\n{body}");
    reader.into_inner().write_all(answer.as_bytes()).unwrap();
    asked
}

fn run(line: &str) -> Result<String, Failure> {
    let Cli { global, command } = Cli::try_parse_from(line.split(' ')).unwrap();
    let connection = Connection::find(&global)?;
    let mut printed = Vec::new();
    let out = &mut Output::new(global.output, &mut printed);
    match command {
        Command::Template(command) => template(command, &connection, out)?,
        Command::Vm(command) => vm(command, &connection, out)?,
        Command::Disk(command) => disk(command, &connection, out)?,
        Command::Issue(command) => issue(command, &connection, out)?,
        Command::Operation(command) => operation(command, &connection, out)?,
        Command::Backend(_) => backends(&connection, out)?,
        Command::Policy(_) => policies(&connection, out)?,
        Command::Network(_) => network(&connection, out)?,
        Command::Health => health(&connection, out)?,
        Command::Serve
        | Command::Doctor
        | Command::Config(_)
        | Command::Plugin(_)
        | Command::PluginHost { .. } => panic!("{line} asks no daemon"),
    }
    Ok(String::from_utf8(printed).unwrap())
}

fn vm_in(state: &str) -> Value {
    json!({
        "id": VM, "name": "web", "vm_template": "small", "state": state, "local_ip": "10.77.0.2",
        "mac": "52:00:00:00:00:01", "autostart": true, "generation": 2, "backend": null,
        "process": null, "disks": [],
        "created_at": "2026-11-22T19:24:00.123Z", "updated_at": "2026-11-22T19:24:00.123Z",
    })
}

fn disk_in(state: &str) -> Value {
    json!({
        "id": VM, "size": 2, "mount_point": null, "state": state, "vm_id": null, "format": "qcow2",
        "bus": "virtio-blk", "serial": "s", "device_path": "/dev/disk/by-id/virtio-s",
        "generation": 1, "created_at": "2026-11-22T19:24:00.123Z",
        "updated_at": "2026-11-22T19:24:00.123Z",
    })
}

fn operation_in(state: &str, error: Option<&str>) -> Value {
    let ended = (state != "running").then_some("2026-11-22T19:24:00.123Z");
    json!({
        "id": OPERATION, "kind": "vm.start", "subject": {"kind": "vm", "id": VM}, "state": state,
        "cancel_requested": error == Some("asked"),
        "reason": {"kind": "user"}, "error": error, "created_at": "2026-11-22T19:24:00.123Z",
        "ended_at": ended, "duration_ms": null,
        "steps": [{"name": "launch", "state": "done", "started_at": null, "ended_at": null,
            "duration_ms": 39, "note": "pid 7"}],
    })
}

fn started() -> Answer {
    (202, "location: /operations/0e4bb0c5-6c8d-4c1c-9a83-5a2ad5a1f4d3\r\n", vm_in("starting"))
}

fn problem(code: &str, detail: &str) -> Value {
    json!({
        "type": "about:blank", "title": "Conflict", "status": 409, "code": code, "detail": detail,
    })
}

#[test]
fn a_list_is_asked_for_page_by_page_and_printed_as_one_table() {
    let next = "link: </vms?limit=1000&after=x>; rel=\"next\"\r\n";
    let daemon = Daemon::answering(vec![
        (200, next, json!([vm_in("running")])),
        (200, "", json!([vm_in("stopped")])),
    ]);
    let (printed, asked) = daemon.run("vm list");
    assert_eq!(asked, ["GET /vms?limit=1000", "GET /vms?limit=1000&after=x"]);
    let printed = printed.unwrap();
    let states: Vec<_> = printed.lines().filter_map(|l| l.split_whitespace().nth(3)).collect();
    assert_eq!(states, ["STATE", "running", "stopped"]);
}

#[test]
fn json_is_what_the_daemon_answered_whatever_it_means() {
    let daemon = Daemon::answering(vec![(200, "", json!([{"id": 1, "new": true}]))]);
    let (printed, _) = daemon.run("-o json vm list");
    let printed: Value = serde_json::from_str(&printed.unwrap()).unwrap();
    assert_eq!(printed, json!([{"id": 1, "new": true}]));
}

#[test]
fn starting_by_name_and_waiting_ends_with_the_vm_as_it_is_then() {
    let daemon = Daemon::answering(vec![
        (200, "", json!([vm_in("stopped")])),
        started(),
        (200, "", operation_in("running", None)),
        (200, "", operation_in("succeeded", None)),
        (200, "", vm_in("running")),
    ]);
    let (printed, asked) = daemon.run("vm start web --wait 30");
    assert!(printed.unwrap().contains("state      running"));
    assert_eq!(asked[1], format!("POST /vms/{VM}/actions/start"));
    assert!(asked[2].starts_with(&format!("GET /operations/{OPERATION}?wait=")), "{asked:?}");
    assert_eq!(asked[4], format!("GET /vms/{VM}"));
}

#[test]
fn an_operation_that_failed_is_a_failure_with_its_reason_and_steps() {
    let failed = operation_in("failed", Some("no memory"));
    let daemon = Daemon::answering(vec![started(), (200, "", failed)]);
    let (printed, _) = daemon.run(&format!("vm start {VM} --wait"));
    let told = printed.unwrap_err().to_string();
    assert!(told.starts_with(&format!("vm.start of vm {VM} failed: no memory")), "{told}");
    assert!(told.contains("launch: done pid 7"), "{told}");
}

#[test]
fn an_operation_that_has_not_ended_in_time_is_a_failure_that_says_how_to_go_on() {
    let daemon = Daemon::answering(vec![(200, "", operation_in("running", None))]);
    let storage = daemon.storage.path().to_str().unwrap();
    let global = Cli::try_parse_from(["vman", "--storage", storage, "health"]).unwrap().global;
    let connection = Connection::find(&global).unwrap();
    let path = format!("/operations/{OPERATION}");
    let (operation, _) = follow::follow(&connection, &path, Duration::ZERO).unwrap();
    let told = follow::succeeded(operation, Duration::from_secs(3)).unwrap_err().to_string();
    assert!(told.starts_with("vm.start is still running after 3 s"), "{told}");
    assert!(told.contains(&format!("vman operation show {OPERATION} --wait")), "{told}");
    assert_eq!(daemon.asked.join().unwrap(), [format!("GET {path}?wait=0ms")]);
}

#[test]
fn a_refusal_says_what_failed_why_and_what_to_do() {
    let problem = json!({
        "type": "about:blank", "title": "Bad Request", "status": 400, "code": "invalid",
        "detail": "the body is invalid", "hint": "correct it",
        "problems": [{"field": "cpu_count", "problem": "must be from 1 to 255"}],
    });
    let daemon = Daemon::answering(vec![(400, "", problem)]);
    let (printed, asked) = daemon.run("template create t --cpus 0 --ram 64");
    assert_eq!(asked, [r#"POST /templates {"name":"t","cpu_count":0,"ram_amount":64}"#]);
    assert_eq!(
        printed.unwrap_err().to_string(),
        "cannot create template t: the body is invalid (invalid)\n  \
         cpu_count: must be from 1 to 255\n  next: correct it"
    );
}

#[test]
fn a_kernel_is_copied_to_the_local_daemon_and_asked_for_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let kernel: PathBuf = folder.path().join("vmlinuz-1");
    std::fs::write(&kernel, "kernel").unwrap();
    let template = json!({
        "name": "t", "cpu_count": 1, "ram_amount": 64, "created_at": "2026-11-22T19:24:00.123Z",
        "boot": {"kernel": "vmlinuz-1", "cmdline": "quiet"},
    });
    let daemon = Daemon::answering(vec![(201, "", template)]);
    let boot = daemon.storage.path().join("boot/vmlinuz-1");
    let storage = daemon.storage.path().to_str().unwrap().to_owned();
    let line = format!(
        "vman --storage {storage} template create t --cpus 1 --ram 64 --kernel {} --cmdline quiet",
        kernel.display()
    );
    assert!(run(&line).unwrap().contains("kernel vmlinuz-1 cmdline \"quiet\""));
    assert_eq!(std::fs::read_to_string(boot).unwrap(), "kernel");
    let asked = daemon.asked.join().unwrap();
    assert!(asked[0].ends_with(r#""boot":{"kernel":"vmlinuz-1","cmdline":"quiet"}}"#), "{asked:?}");
}

#[test]
fn what_the_commands_ask_for_is_what_they_were_told() {
    let disk = |state| (202, "", disk_in(state));
    let vm = |state| (202, "", vm_in(state));
    for (line, answer, asked) in [
        (format!("vm pause {VM}"), vm("paused"), format!("POST /vms/{VM}/actions/pause")),
        (format!("vm resume {VM}"), vm("running"), format!("POST /vms/{VM}/actions/resume")),
        (format!("vm reset {VM}"), vm("running"), format!("POST /vms/{VM}/actions/reset")),
        (format!("vm kill {VM}"), vm("stopping"), format!("POST /vms/{VM}/actions/kill")),
        (
            "vm create small --autostart".to_owned(),
            vm("stopped"),
            r#"POST /vms {"vm_template":"small","autostart":true}"#.to_owned(),
        ),
        (
            format!("vm set {VM} --autostart false"),
            vm("stopped"),
            format!(r#"PATCH /vms/{VM} {{"autostart":false}}"#),
        ),
        (
            "disk create --size 2 --bus virtio-blk".to_owned(),
            disk("available"),
            r#"POST /disks {"size":2,"bus":"virtio-blk"}"#.to_owned(),
        ),
        (
            format!("disk resize {VM} 3"),
            disk("resizing"),
            format!(r#"POST /disks/{VM}/resize {{"size":3}}"#),
        ),
    ] {
        let (printed, all_asked) = Daemon::answering(vec![answer]).run(&line);
        printed.unwrap();
        assert_eq!(all_asked, [asked], "{line}");
    }
}

#[test]
fn several_vms_are_dealt_with_and_one_that_fails_does_not_keep_the_others() {
    let ids = ["5f2b6c1e-7a44-4c0e-9d2f-0c6f3c1f9a11", "5f2b6c1e-7a44-4c0e-9d2f-0c6f3c1f9a12"];
    let daemon = Daemon::replying(2, move |asked| {
        if asked.contains(ids[0]) {
            return (409, "", problem("not-running", "it is not running"));
        }
        (200, "", vm_in("paused"))
    });
    let (printed, asked) = daemon.run(&format!("-o json vm pause {} {}", ids[0], ids[1]));
    assert_eq!(asked.len(), 2);
    assert_eq!(printed.unwrap_err().to_string(), "cannot pause 1 of 2 vms");
}

#[test]
fn all_vms_are_stopped_but_those_that_are_stopped_or_being_deleted() {
    let vm_with = |id: &str, state: &str| {
        let mut vm = vm_in(state);
        vm["id"] = json!(id);
        vm
    };
    let id = |n: u32| format!("00000000-0000-4000-8000-00000000000{n}");
    let vms = json!([
        vm_with(&id(1), "running"),
        vm_with(&id(2), "stopped"),
        vm_with(&id(3), "failed"),
        vm_with(&id(4), "deleting"),
    ]);
    let daemon = Daemon::replying(1 + 2 * 3, move |asked| {
        if asked.starts_with("GET /vms?") {
            return (200, "", vms.clone());
        }
        if asked.starts_with("POST") {
            return (202, started().1, vm_in("stopping"));
        }
        if asked.starts_with("GET /operations") {
            return (200, "", operation_in("succeeded", None));
        }
        (200, "", vm_in("stopped"))
    });
    let (printed, mut asked) = daemon.run("vm stop --all");
    let printed = printed.unwrap();
    assert_eq!(printed.lines().filter(|line| line.ends_with("is stopped")).count(), 2, "{printed}");
    asked.retain(|line| line.starts_with("POST"));
    asked.sort();
    assert_eq!(asked, [1, 3].map(|n| format!("POST /vms/{}/actions/stop", id(n))));
}

#[test]
fn a_cancelled_operation_is_shown_and_one_that_ended_before_is_a_failure() {
    let cancel = format!("operation cancel {OPERATION} --wait");
    let asked = || (202, "", operation_in("running", Some("asked")));
    let cancelled = operation_in("cancelled", Some("asked"));
    let daemon = Daemon::answering(vec![asked(), (200, "", cancelled)]);
    let (printed, all_asked) = daemon.run(&cancel);
    assert!(printed.unwrap().contains("cancelled"));
    assert_eq!(all_asked[0], format!("POST /operations/{OPERATION}/cancel"));

    let daemon = Daemon::answering(vec![asked(), (200, "", operation_in("succeeded", None))]);
    let told = daemon.run(&cancel).0.unwrap_err().to_string();
    assert!(told.contains("it succeeded before"), "{told}");
}

#[test]
fn whoever_waits_for_what_is_cancelled_hears_who_did_it() {
    let cancelled = operation_in("cancelled", Some("asked"));
    let daemon = Daemon::answering(vec![started(), (200, "", cancelled)]);
    let (printed, _) = daemon.run(&format!("vm start {VM} --wait"));
    let told = printed.unwrap_err().to_string();
    assert!(told.starts_with(&format!("vm.start of vm {VM} cancelled: asked")), "{told}");
}

#[test]
fn a_deletion_that_goes_on_is_waited_for() {
    let location = "location: /operations/0e4bb0c5-6c8d-4c1c-9a83-5a2ad5a1f4d3\r\n";
    let daemon = Daemon::answering(vec![
        (202, location, operation_in("running", None)),
        (200, "", operation_in("succeeded", None)),
    ]);
    let (printed, asked) = daemon.run(&format!("vm delete {VM}"));
    assert_eq!(printed.unwrap(), format!("vm {VM} is deleted\n"));
    assert_eq!(asked[0], format!("DELETE /vms/{VM}"));
}

#[test]
fn a_daemon_that_is_not_there_cannot_be_reached() {
    let storage = tempfile::tempdir().unwrap();
    let path = storage.path().to_str().unwrap();
    let told = run(&format!("vman --storage {path} health")).unwrap_err();
    assert!(matches!(told, Failure::Unreachable { .. }));
    assert!(told.to_string().contains("vman serve"), "{told}");

    // A port that nobody listens on: it was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let told = run(&format!("vman --storage {path} --url http://127.0.0.1:{port} health"));
    assert!(matches!(told.unwrap_err(), Failure::Unreachable { .. }));
}

#[test]
fn a_refused_token_is_told_with_the_reason_why_there_was_none() {
    let problem = json!({
        "type": "about:blank", "title": "Unauthorized", "status": 401, "code": "unauthorized",
        "detail": "a token is needed",
    });
    let daemon = Daemon::answering(vec![(401, "", problem)]);
    std::fs::remove_file(daemon.storage.path().join("token")).unwrap();
    let (printed, _) = daemon.run("policy list");
    let told = printed.unwrap_err().to_string();
    assert!(told.contains("cannot read the token") && told.contains("--token-file"), "{told}");
}
