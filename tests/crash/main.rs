//! The law of being killed and of failing, on the whole program: every verb is carried out once to
//! see at which points it passes, and then killed at each of them and restarted, and made to fail
//! at each that can fail. Nothing may be lost, left over or ended that was to go on, and every
//! operation must end truthfully. The points are in the test build alone.
#![cfg(test)]

mod deeds;
mod judge;
mod report;
mod stage;
mod trial;
mod verbs;
mod world;

use std::collections::BTreeSet;

use vman_tests::Setup;
use vman_tests::source::sources;

/// A test for each verb on each of its backends.
macro_rules! verbs {
    ($($name:ident: $verb:ident on $($backend:ident),+;)+) => {
        const VERBS: &[verbs::Verb] = &[$(verbs::$verb),+];
        $(mod $name {
            $(#[test]
            fn $backend() {
                crate::trial::prove(stringify!($name), crate::$backend, crate::verbs::$verb);
            })+
        })+
    };
}

#[allow(non_upper_case_globals, reason = "they are the names of tests")]
const dry_run: &str = stage::DRY_RUN;
#[allow(non_upper_case_globals, reason = "they are the names of tests")]
const qemu_tcg: &str = "qemu-tcg";

verbs! {
    create_template: CREATE_TEMPLATE on dry_run;
    delete_template: DELETE_TEMPLATE on dry_run;
    create_vm: CREATE_VM on dry_run;
    create_vm_once: CREATE_VM_ONCE on dry_run;
    update_vm: UPDATE_VM on dry_run;
    start: START on dry_run, qemu_tcg;
    start_once: START_ONCE on dry_run;
    start_twice: START_TWICE on dry_run;
    start_rootless: START_ROOTLESS on dry_run;
    start_at_boot: START_AT_BOOT on dry_run;
    start_then_stop: START_THEN_STOP on dry_run;
    cancel_start: CANCEL_START on dry_run;
    stop: STOP on dry_run, qemu_tcg;
    stop_paused: STOP_PAUSED on dry_run;
    cancel_stop: CANCEL_STOP on dry_run;
    kill: KILL on dry_run, qemu_tcg;
    restart: RESTART on dry_run, qemu_tcg;
    cancel_restart: CANCEL_RESTART on dry_run;
    cancel_restart_late: CANCEL_RESTART_LATE on dry_run;
    pause: PAUSE on dry_run, qemu_tcg;
    resume: RESUME on dry_run, qemu_tcg;
    reset: RESET on dry_run;
    delete_stopped_vm: DELETE_STOPPED_VM on dry_run;
    delete_running_vm: DELETE_RUNNING_VM on dry_run, qemu_tcg;
    cancel_delete_vm: CANCEL_DELETE_VM on dry_run;
    create_disk: CREATE_DISK on dry_run;
    cancel_create_disk: CANCEL_CREATE_DISK on dry_run;
    attach: ATTACH on dry_run;
    attach_running: ATTACH_RUNNING on dry_run, qemu_tcg;
    detach: DETACH on dry_run;
    detach_running: DETACH_RUNNING on dry_run, qemu_tcg;
    disk_released: DISK_RELEASED on dry_run;
    resize: RESIZE on dry_run;
    resize_running: RESIZE_RUNNING on dry_run, qemu_tcg;
    delete_disk: DELETE_DISK on dry_run;
    guest_ended: GUEST_ENDED on dry_run, qemu_tcg;
    repair_restart: REPAIR_RESTART on dry_run;
    repair_mark_stopped: REPAIR_MARK_STOPPED on dry_run;
    repair_mark_running: REPAIR_MARK_RUNNING on dry_run;
    repair_stop: REPAIR_STOP on dry_run;
    repair_kill_process: REPAIR_KILL_PROCESS on dry_run;
    repair_quarantine: REPAIR_QUARANTINE on dry_run;
    repair_mark_missing: REPAIR_MARK_MISSING on dry_run;
    repair_mark_available: REPAIR_MARK_AVAILABLE on dry_run;
    repair_detach: REPAIR_DETACH on dry_run;
    repair_ask_again: REPAIR_ASK_AGAIN on dry_run;
}

/// What changes neither records nor machines.
const HARMLESS: &[&str] = &["POST /observer/run"];

#[test]
fn every_request_that_changes_something_is_in_the_table() {
    let daemon = Setup::backend(dry_run).start();
    let paths = daemon.get("/openapi.json").expect(200).body["paths"].clone();
    let mut served = BTreeSet::new();
    for (path, methods) in paths.as_object().expect("paths are a table") {
        for method in methods.as_object().expect("methods are a table").keys() {
            if method != "get" {
                served.insert(plain(&format!("{} {path}", method.to_uppercase())));
            }
        }
    }
    for harmless in HARMLESS {
        assert!(served.remove(*harmless), "there is no {harmless} any more");
    }
    let tried: BTreeSet<String> =
        VERBS.iter().flat_map(|verb| verb.ask.requests()).map(plain).collect();
    assert_eq!(served, tried);
}

#[test]
fn every_verb_of_an_operation_is_in_the_table() {
    let there = words_of("Verb");
    assert!(there.contains("vm.start") && there.contains("file.quarantine"), "{there:?}");
    let tried = VERBS.iter().flat_map(verbs::Verb::operations).map(str::to_owned).collect();
    assert_eq!(there, tried);
}

#[test]
fn every_repair_is_in_the_table() {
    let repair = |verb: &verbs::Verb| match verb.ask {
        verbs::Ask::Repair(_, candidate) => Some(candidate.to_owned()),
        verbs::Ask::Request(..)
        | verbs::Ask::Once(..)
        | verbs::Ask::Then(..)
        | verbs::Ask::Host(_)
        | verbs::Ask::Boot => None,
    };
    assert_eq!(words_of("CandidateKind"), VERBS.iter().filter_map(repair).collect());
}

/// The words of an enum of `vman-core`, which is told in its source alone: kinds of operations are
/// an open set in the API.
fn words_of(name: &str) -> BTreeSet<String> {
    let sources = sources();
    let of_core = sources.iter().filter(|source| source.path.starts_with("crates/core/src/"));
    let begin = format!("    {name} {{\n");
    let mut bodies = of_core.filter_map(|source| source.text.split_once(&begin));
    let (_, body) = bodies.next().expect("it is an enum of words");
    let body = body.split("\n    }").next().expect("what comes first is there");
    let word = |line: &str| {
        let (_, word) = line.split_once(" = \"")?;
        Some(word.trim_end_matches("\",").to_owned())
    };
    body.lines().filter_map(word).collect()
}

/// Without what stands in a path for a name, whatever it is called.
fn plain(request: &str) -> String {
    let part =
        |part: &str| if part.starts_with('{') || part == "spare" { "{}" } else { part }.to_owned();
    request.split('/').map(part).collect::<Vec<_>>().join("/")
}
