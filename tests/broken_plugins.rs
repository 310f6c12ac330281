//! Plugins that are broken in one way each, in the folder of a daemon that runs a machine with
//! another backend: each is named with its fault, the daemon answers throughout, and the machine
//! notices nothing. What is broken in each is told in `tests/plugins/README.md`.
#![cfg(test)]

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{
    Daemon, PluginFolder, Setup, broken_plugin, broken_plugins, pid, program, text, unusual_plugin,
    wait_for,
};

/// A file, its state in `GET /backends`, and what is said of it there.
type Expected = (&'static str, &'static str, &'static [&'static str]);

/// Those that are known at once for what they are.
const QUICK: &[Expected] = &[
    ("wrong-magic.so", "declared", &["refused", "begins with 0x766d616e706c7568", "6c7567"]),
    ("wrong-major.so", "declared", &["refused", "ABI version 2", "this host 1"]),
    ("truncated-table.so", "declared", &["refused", "24 bytes", "80"]),
    ("missing-function.so", "declared", &["refused", "lacks the function `cancel`"]),
    ("null-table.so", "declared", &["refused", "no table"]),
    ("null-manifest.so", "declared", &["refused", "manifest", "null"]),
    ("manifest-not-json.so", "declared", &["refused", "manifest is not one"]),
    ("manifest-bad-name.so", "declared", &["refused", "\"No such name\"", "a-z, 0-9"]),
    ("no-entry.so", "declared", &["refused", "`vman_plugin_entry`"]),
    ("aborts-at-load.so", "declared", &["refused", "ended the process that opened it", "signal 6"]),
    ("exits-at-load.so", "declared", &["refused", "ended the process that opened it"]),
    ("create-fails-silently.so", "declared", &["its reason does not parse"]),
    ("create-crashes.so", "declared", &["`create` ended its process", "signal 6"]),
    ("submit-refuses.so", "declared", &["refused the operation with status 7"]),
    ("submit-crashes.so", "declared", &["it crashed", "signal"]),
    ("answers-garbage.so", "declared", &["`probe`", "the answer does not parse"]),
    ("answers-too-long.so", "declared", &["`probe`", "longer than 16777216 bytes"]),
    ("answers-with-a-strange-status.so", "declared", &["it is strange"]),
    ("answers-twice.so", "loaded", &["it runs nothing"]),
    ("answers-strangers.so", "loaded", &["it runs nothing"]),
    ("answers-after-destroy.so", "loaded", &["it runs nothing"]),
    ("floods-events.so", "loaded", &["it runs nothing"]),
    ("floods-the-log.so", "loaded", &["it runs nothing"]),
];

/// Those that are known only when a deadline has passed.
const SLOW: &[Expected] = &[
    ("hangs-at-load.so", "declared", &["refused"]),
    ("create-blocks.so", "declared", &["`create` did not return within 10s"]),
    ("submit-blocks.so", "declared", &["`submit` has not returned for 5s"]),
    ("never-answers.so", "declared", &["`probe`", "did not end within 30s"]),
    ("answers-late.so", "declared", &["`probe`", "did not end within 30s"]),
];

/// Sound ones, which were built with options that nothing else is built with.
const UNUSUAL: [&str; 5] = [
    "example-c-at-link-time.so",
    "example-c-checked.so",
    "example-c-unoptimised.so",
    "libvman_plugin_example_rust.so",
    "libvman_plugin_faulty.so",
];

/// More than all the deadlines together, one after the other.
const ALL_DEADLINES: Duration = Duration::from_secs(300);

/// A daemon with this folder of plugins, and a machine of QEMU that runs.
fn daemon_with_machine(plugins: &PluginFolder) -> (Daemon, String, i32) {
    let daemon = Setup::backend("qemu-tcg").plugins(plugins.path()).boot_file("tiny.rom").start();
    daemon.tiny_template();
    let vm = daemon.new_vm("tiny");
    let process = daemon.start_process(&vm);
    (daemon, vm, process)
}

/// The machine is the one it was, and still does as it is told.
fn assert_untouched(daemon: &Daemon, vm: &str, process: i32) {
    daemon.look_again();
    let now = daemon.vm(vm);
    assert_eq!((text(&now, "state"), pid(&now)), ("running", Some(process)), "{now}");
    assert_eq!(daemon.issues_of(vm), [Value::Null; 0]);
    daemon.act(vm, "stop");
}

/// What the daemon says of a file, if it knows of it yet.
fn backend(daemon: &Daemon, file: &str) -> Option<Value> {
    daemon.get("/health").expect(200);
    let backends = daemon.get("/backends").expect(200).body;
    let mut backends = backends.as_array().expect("a list").iter();
    backends.find(|one| text(one, "source").ends_with(file)).cloned()
}

fn assert_named(daemon: &Daemon, (file, state, parts): Expected, within: Duration) {
    let named = wait_for(&format!("{file} is told of"), within, || backend(daemon, file));
    assert_eq!(text(&named, "state"), state, "{named}");
    assert_eq!(named["selected"], false, "{named}");
    let reason = text(&named, "reason");
    for part in parts {
        assert!(reason.contains(part), "{part:?} in {file}: {reason}");
    }
    if reason.starts_with("refused: ") {
        assert!(reason.contains(file), "{file} is not named: {reason}");
    }
}

#[test]
fn every_plugin_that_is_built_broken_is_tried() {
    let mut tried: Vec<&str> = QUICK.iter().chain(SLOW).map(|(file, ..)| *file).collect();
    // It has tests of its own.
    tried.push("libvman_plugin_faulty.so");
    tried.sort_unstable();
    assert_eq!(broken_plugins(), tried);
}

#[test]
fn a_daemon_starts_beside_broken_plugins_and_names_each_with_its_fault() {
    let plugins = PluginFolder::new();
    for (file, ..) in QUICK {
        plugins.install(&broken_plugin(file));
    }
    let (daemon, vm, process) = daemon_with_machine(&plugins);
    for expected in QUICK {
        assert_named(&daemon, *expected, Duration::ZERO);
    }
    assert_untouched(&daemon, &vm, process);
}

#[test]
fn a_daemon_goes_on_while_it_waits_for_plugins_that_hang_and_names_each_with_its_fault() {
    let plugins = PluginFolder::new();
    let (daemon, vm, process) = daemon_with_machine(&plugins);
    for (file, ..) in SLOW {
        plugins.install(&broken_plugin(file));
    }
    for expected in SLOW {
        assert_named(&daemon, *expected, ALL_DEADLINES);
    }
    assert_untouched(&daemon, &vm, process);
}

#[test]
fn a_broken_plugin_that_is_to_be_used_keeps_the_daemon_from_starting_and_says_why() {
    let plugins = PluginFolder::new();
    let mut daemon = Setup::backend("dry-run").plugins(plugins.path()).start();
    daemon.terminate();
    for (file, part) in [
        ("wrong-major.so", "ABI version 2"),
        ("create-crashes.so", "`create` ended its process"),
        ("aborts-at-load.so", "ended the process that opened it"),
    ] {
        plugins.install(&broken_plugin(file));
        let (status, said) = daemon.refused_as(&Setup::backend(file).plugins(plugins.path()));
        assert!(!status.success(), "{file}: {said}");
        assert!(said.contains(part) && said.contains(file.trim_end_matches(".so")), "{said}");
    }
    daemon.restart_as(&Setup::backend("dry-run").plugins(plugins.path()));
    daemon.get("/health").expect(200);
}

#[test]
fn a_plugin_of_a_later_abi_is_loaded_and_asked_only_for_what_this_host_knows() {
    let plugins = PluginFolder::new();
    let file = plugins.install(&unusual_plugin("later-abi.so"));
    let daemon = Setup::backend("dry-run").plugins(plugins.path()).start();
    let loaded = backend(&daemon, &file).expect("it was there at the start");
    assert_eq!((&loaded["state"], &loaded["usable"]), (&json!("loaded"), &json!(true)), "{loaded}");
}

#[test]
fn a_plugin_that_was_built_with_other_options_runs_machines_like_any() {
    for file in UNUSUAL {
        let plugins = PluginFolder::new();
        plugins.install(&unusual_plugin(file));
        let daemon = Setup::backend(file).plugins(plugins.path()).boot_file("tiny.rom").start();
        daemon.tiny_template();
        let vm = daemon.new_vm("tiny");
        assert_eq!(daemon.act(&vm, "start")["state"], "running", "{file}");
        let disk = daemon.new_disk();
        daemon.look_again();
        assert_eq!(daemon.act(&vm, "stop")["state"], "stopped", "{file}");
        let paths = [format!("/vms/{vm}"), format!("/disks/{disk}"), "/templates/tiny".to_owned()];
        daemon.delete_all(&paths);
        daemon.assert_nothing_left();
    }
}

#[test]
fn a_plugin_that_was_built_with_other_options_holds_the_contract_like_any() {
    for file in UNUSUAL {
        let mut check = Command::new(program());
        check.args(["plugin", "check", "--guest-obeys"]).arg(unusual_plugin(file));
        let output = check.output().expect("the program can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{file}: {said}");
    }
}
