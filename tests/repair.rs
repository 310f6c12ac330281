//! From a crash to a repair, or to none: what a policy answers is done, recorded with its reasons,
//! and no policy, however broken, brings the daemon down. Repairs on QEMU are on real machines;
//! what is about policies alone runs on simulated ones.
#![cfg(test)]

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use vman_tests::{Daemon, LONG, Setup, pid, tally, text, wait_for};

const CRASHED: &str = "vm.process-missing";

#[test]
fn a_killed_machine_is_restarted_and_the_issue_tells_the_whole_story() {
    // No look is due for long: the end of the process itself is what wakes the observer.
    let setup = Setup::backend("qemu-tcg").interval("5s").policy("restart-crashed", "{}");
    let daemon = tiny(setup);
    let vm = daemon.new_vm("tiny");
    let before = daemon.start_process(&vm);
    guest_says_up(&daemon, &vm, 1);
    kill(&daemon, before);
    let issue = daemon.issue_when(CRASHED, &vm, "resolved", |one| one["state"] == "resolved");
    tally::started("qemu-tcg");
    let now = daemon.vm(&vm);
    assert_eq!(now["state"], "running");
    assert_ne!(pid(&now).expect("it has a process"), before);
    guest_says_up(&daemon, &vm, 2);
    assert_eq!(issue["resolution"], "by-repair");
    assert!(has_fact(&issue, &json!(before)), "the evidence has no {before}: {issue}");
    decided_by_restart_crashed(&daemon, &issue);
    let repair = &issue["operations"][0];
    assert_eq!(issue["repairs"], json!([repair["id"]]));
    assert_eq!(repair["kind"], "vm.restart");
    assert_eq!(repair["state"], "succeeded");
    let reason = json!({"kind": "repair", "issue_id": issue["id"], "policy": "restart-crashed"});
    assert_eq!(repair["reason"], reason);
    for step in repair["steps"].as_array().expect("a list") {
        assert_eq!(step["state"], "done", "{repair}");
        assert!(step["duration_ms"].is_u64(), "{repair}");
    }
    assert_eq!(daemon.issues_of(&vm).len(), 1);
}

#[test]
fn log_only_leaves_a_killed_machine_and_its_issue_as_they_are() {
    let daemon = tiny(Setup::backend("qemu-tcg").policy("log-only", "{}"));
    let vm = daemon.new_vm("tiny");
    let process = daemon.start_process(&vm);
    kill(&daemon, process);
    let issue = judged(&daemon, &vm);
    daemon.look_again();
    let later = daemon.get(&format!("/issues/{}", text(&issue, "id"))).expect(200).body;
    assert_eq!(later["state"], "open");
    assert_eq!(later["repairs"], json!([]));
    assert!(later["occurrences"].as_u64() > Some(1), "{later}");
    assert_eq!(later["decisions"][0]["policy"], "log-only");
    assert_eq!(daemon.machines(), []);
    assert_eq!(daemon.issues_of(&vm).len(), 1, "one problem is one issue, however often seen");
    // The user is not bound by it: what is known to be gone can simply be started.
    daemon.act(&vm, "start");
    assert_eq!(daemon.machines().len(), 1);
    daemon.issue_when(CRASHED, &vm, "resolved", |one| one["state"] == "resolved");
}

#[test]
fn a_guest_that_powers_itself_off_is_stopped_and_no_issue() {
    let daemon = tiny(Setup::backend("qemu-tcg").policy("restart-crashed", "{}"));
    let vm = daemon.new_vm("tiny");
    daemon.start_process(&vm);
    guest_says_up(&daemon, &vm, 1);
    let socket = daemon.machine_folder(&vm).join("console.sock");
    let mut console = UnixStream::connect(socket).expect("QEMU listens");
    console.write_all(b"q").expect("QEMU reads");
    let stopped = daemon.vm_becomes(&vm, "stopped");
    assert!(stopped["process"].is_null(), "{stopped}");
    wait_for("its process is gone", LONG, || daemon.machines().is_empty().then_some(()));
    daemon.look_again();
    assert_eq!(daemon.issues_of(&vm), [Value::Null; 0]);
    let operations = daemon.get("/operations").expect(200).body;
    assert_eq!(operations[0]["kind"], "vm.guest-ended");
    assert_eq!(operations[0]["reason"]["kind"], "guest");
}

#[test]
fn a_switched_off_repair_is_decided_and_not_done() {
    let setup = Setup::backend("dry-run").policy("restart-crashed", "{}");
    let daemon = tiny(setup.with("[repair]\nenabled = false"));
    let vm = crashed_vm(&daemon);
    let issue = judged(&daemon, &vm);
    decided_by_restart_crashed(&daemon, &issue);
    daemon.look_again();
    let later = daemon.get(&format!("/issues/{}", text(&issue, "id"))).expect(200).body;
    assert_eq!(later["state"], "open");
    assert_eq!(later["repairs"], json!([]));
    assert_eq!(starts(&daemon, &vm), 1);
}

#[test]
fn a_crash_loop_ends_when_the_budget_is_spent_and_the_user_can_start_again() {
    let config = "{ first_delay_ms = 1, max_delay_ms = 1, max_attempts = 1000 }";
    let setup = Setup::backend("dry-run").policy("restart-crashed", config);
    let daemon = tiny(setup.with("[repair]\nbudget = 2\nwindow = \"10m\""));
    let vm = crashed_vm(&daemon);
    for repaired in 1..=2 {
        wait_for("it is repaired", LONG, || (starts(&daemon, &vm) == repaired + 1).then_some(()));
        daemon.vm_becomes(&vm, "running");
        crash(&daemon, &vm);
    }
    let failed = daemon.vm_becomes(&vm, "failed");
    assert!(text(&failed, "state_reason").contains("repair budget"), "{failed}");
    assert_eq!(starts(&daemon, &vm), 3, "the first start and two repairs");
    assert_eq!(daemon.act(&vm, "start")["state"], "running");
}

#[test]
fn a_shadowed_policy_is_asked_and_not_followed() {
    let tables = "[[policy]]\nname = \"restart-crashed\"\nmode = \"shadow\"";
    let daemon = tiny(Setup::backend("dry-run").with(tables).policy("log-only", "{}"));
    let vm = crashed_vm(&daemon);
    let issue = judged(&daemon, &vm);
    let told = |name: &str| {
        let decisions = issue["decisions"].as_array().expect("a list").iter();
        decisions.clone().find(|decision| decision["policy"] == name).expect("it was asked").clone()
    };
    let shadow = told("restart-crashed");
    assert_eq!((&shadow["mode"], &shadow["enforced"]), (&json!("shadow"), &json!(false)));
    assert_eq!(shadow["verdict"], "repair");
    assert_eq!(told("log-only")["enforced"], true);
    daemon.look_again();
    assert_eq!(starts(&daemon, &vm), 1);
}

#[test]
fn a_policy_that_loops_is_stopped() {
    survives("loop", &["fuel", "deadline"]);
}

#[test]
fn a_policy_that_traps_is_survived() {
    survives("trap", &["trap"]);
}

#[test]
fn a_policy_that_allocates_without_end_is_stopped() {
    survives("allocate", &["memory"]);
}

#[test]
fn a_policy_that_logs_without_end_is_stopped() {
    survives("log-forever", &["fuel", "deadline"]);
}

#[test]
fn a_choice_that_was_not_offered_is_not_taken() {
    survives("invent", &["invalid"]);
}

#[test]
fn an_answer_that_is_too_large_is_not_taken() {
    survives("flood", &["oversized", "memory"]);
}

#[test]
fn a_policy_that_answers_with_an_error_is_recorded() {
    survives("fail", &["declined"]);
}

/// The safe default applies, the issue says how the policy failed, and the daemon goes on. A bolder
/// policy behind a broken one is not asked to decide.
fn survives(way: &str, kinds: &[&str]) {
    let config = format!("{{ do = \"{way}\" }}");
    let setup = Setup::backend("dry-run").policy("misbehaving", &config);
    let daemon = tiny(setup.policy("restart-crashed", "{}"));
    let vm = crashed_vm(&daemon);
    let issue = judged(&daemon, &vm);
    let decision = &issue["decisions"][0];
    assert_eq!(decision["policy"], "misbehaving");
    assert!(decision["verdict"].is_null(), "{decision}");
    assert!(kinds.contains(&text(&decision["error"], "kind")), "not of {kinds:?}: {decision}");
    assert!(!text(&decision["error"], "message").is_empty());
    assert_eq!(issue["state"], "open");
    assert_eq!(issue["repairs"], json!([]));
    assert_eq!(starts(&daemon, &vm), 1, "the safe default leaves the host alone");
    let other = daemon.new_vm("tiny");
    assert_eq!(daemon.act(&other, "start")["state"], "running");
    daemon.look_again();
}

fn tiny(setup: Setup) -> Daemon {
    let daemon = setup.boot_file("tiny.rom").start();
    daemon.tiny_template();
    daemon
}

/// The issue of the VM's crash, once policies have answered.
fn judged(daemon: &Daemon, vm: &str) -> Value {
    daemon.issue_when(CRASHED, vm, "judged", |one| one["decisions"] != json!([]))
}

fn decided_by_restart_crashed(daemon: &Daemon, issue: &Value) {
    let decision = &issue["decisions"][0];
    assert_eq!(decision["policy"], "restart-crashed");
    assert_eq!(decision["mode"], "enforce");
    assert_eq!(decision["verdict"], "repair");
    assert_eq!(decision["enforced"], true);
    let chosen = decision["chosen"][0].as_u64().expect("an id");
    let candidates = issue["candidates"].as_array().expect("a list");
    let candidate = candidates.iter().find(|one| one["id"] == chosen).expect("it was offered");
    assert_eq!(candidate["kind"], "vm.restart");
    assert!(decision["fuel"].as_u64() > Some(0), "{decision}");
    assert!(decision["duration_us"].as_u64() > Some(0), "{decision}");
    let policies = daemon.get("/policies").expect(200).body;
    assert_eq!(policies[0]["name"], "restart-crashed");
    assert_eq!(decision["policy_hash"], policies[0]["hash"]);
    assert_eq!(text(decision, "policy_hash").len(), 64, "SHA-256 in hexadecimal");
}

fn has_fact(issue: &Value, value: &Value) -> bool {
    issue["evidence"].as_array().expect("a list").iter().any(|fact| fact["value"] == *value)
}

fn kill(daemon: &Daemon, pid: i32) {
    let machine = daemon.machines().into_iter().find(|machine| machine.pid == pid);
    machine.expect("the recorded process is there").kill();
}

fn guest_says_up(daemon: &Daemon, vm: &str, times: usize) {
    let console = daemon.machine_folder(vm).join("console.log");
    wait_for(&format!("TINY-UP for the {times}. time"), LONG, || {
        let text = fs::read_to_string(&console).unwrap_or_default();
        (text.matches("TINY-UP").count() == times).then_some(())
    });
}

/// A simulated machine that ran, and ended without anybody having asked for it.
fn crashed_vm(daemon: &Daemon) -> String {
    let vm = daemon.new_vm("tiny");
    daemon.act(&vm, "start");
    crash(daemon, &vm);
    vm
}

fn crash(daemon: &Daemon, vm: &str) {
    let file = daemon.machine_folder(vm).join("machine.json");
    fs::remove_file(file).expect("the simulated machine runs");
}

/// How often a simulated machine was started.
fn starts(daemon: &Daemon, vm: &str) -> u64 {
    let file = daemon.machine_folder(vm).join("machine.starts");
    let text = fs::read_to_string(file).expect("the simulated machine counts");
    text.trim().parse().expect("it counts in digits")
}
