//! Plugin files in the daemon: run in processes of their own, which may die while machines run, and
//! replaced by newer ones. Machines are real, and none is touched by any of it.
#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use vman_tests::{Daemon, NO_BODY, Process, SOON, Setup, paths, pid, processes, text, wait_for};

const TCG: &str = "libvman_plugin_qemu_tcg.so";
const EXAMPLE: &str = "example-c.so";
/// Stands in its manifest.
const VERSION: &str = "\"version\": \"0.1.0\"";

/// A folder of plugins of the test's own.
struct Plugins(TempDir);

impl Plugins {
    fn with(files: &[&str]) -> Self {
        let plugins = Self(tempfile::tempdir().expect("a folder"));
        files.iter().for_each(|file| plugins.put(file, &built(file)));
        plugins
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// In the place of what is there, as install(1) does it.
    fn put(&self, file: &str, content: &[u8]) {
        let new = self.path("new");
        fs::write(&new, content).expect("written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        fs::rename(&new, self.path(file)).expect("put in its place");
    }

    fn daemon(&self, used: &str) -> Daemon {
        let setup = Setup::backend(used).plugins(self.0.path()).boot_file("tiny.rom");
        let daemon = setup.policy("restart-crashed", "{}").start();
        daemon.tiny_template();
        daemon
    }

    /// The processes that run a file.
    fn helpers(&self, file: &str) -> Vec<Process> {
        let mut helpers = processes(self.path(file).to_str().expect("the path is text"));
        helpers.retain(|process| process.names("plugin-host"));
        helpers
    }

    /// The one that runs the machines: those that only look at a file are soon gone.
    fn helper(&self, file: &str) -> Process {
        wait_for("one process runs the plugin", SOON, || {
            let helpers = self.helpers(file);
            <[Process; 1]>::try_from(helpers).ok().map(|[helper]| helper)
        })
    }
}

fn built(file: &str) -> Vec<u8> {
    let path = paths::plugins().join(file);
    fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The plugin of this file, with another version in its manifest.
fn of_version(file: &str, version: &str) -> Vec<u8> {
    let (before, mut content) = (VERSION.as_bytes(), built(file));
    let after = VERSION.replace("0.1.0", version).into_bytes();
    assert_eq!(before.len(), after.len());
    let places: Vec<usize> = (0..content.len() - before.len())
        .filter(|place| content[*place..].starts_with(before))
        .collect();
    assert!(!places.is_empty(), "{file} has no version in it");
    for place in places {
        content[place..place + after.len()].copy_from_slice(&after);
    }
    content
}

/// What `GET /backends` says of this file.
fn backend(daemon: &Daemon, file: &Path) -> Value {
    let all = daemon.get("/backends").expect(200).body;
    let all = all.as_array().expect("a list");
    let source = file.display().to_string();
    all.iter().find(|one| one["source"] == source).cloned().unwrap_or(Value::Null)
}

fn backend_when(daemon: &Daemon, file: &Path, is: impl Fn(&Value) -> bool) -> Value {
    wait_for(&format!("{} is as wanted", file.display()), SOON, || {
        Some(backend(daemon, file)).filter(&is)
    })
}

fn health(daemon: &Daemon) -> Value {
    daemon.get("/observer/status").expect(200).body
}

fn is_known_again(daemon: &Daemon) {
    wait_for("machines are known again", SOON, || {
        (health(daemon)["health"] == "healthy").then_some(())
    });
}

/// VMs that run, each with its process.
fn running(daemon: &Daemon, count: usize) -> Vec<(String, i32)> {
    let start = |_| {
        let vm = daemon.new_vm("tiny");
        daemon.act(&vm, "start");
        let process = pid(&daemon.vm(&vm)).expect("it has a process");
        (vm, process)
    };
    (0..count).map(start).collect()
}

/// The same processes, no issue, and no operation but those that the test asked for.
fn assert_untouched(daemon: &Daemon, machines: &[(String, i32)]) {
    daemon.look_again();
    for (vm, process) in machines {
        let now = daemon.vm(vm);
        assert_eq!((text(&now, "state"), pid(&now)), ("running", Some(*process)));
        assert!(Path::new(&format!("/proc/{process}")).exists(), "machine {process} has ended");
    }
    assert_eq!(daemon.get("/issues").expect(200).text, "[]");
    let operations = daemon.get("/operations").expect(200).body;
    assert_eq!(operations.as_array().map(Vec::len), Some(machines.len()), "{operations}");
}

#[test]
fn machines_run_on_when_the_process_of_their_plugin_is_killed_and_are_found_again() {
    let plugins = Plugins::with(&[TCG]);
    let daemon = plugins.daemon(TCG);
    let machines = running(&daemon, 3);
    for _ in 0..3 {
        let helper = plugins.helper(TCG);
        helper.kill();
        wait_for("another process runs the plugin", SOON, || {
            let helpers = plugins.helpers(TCG);
            (helpers.len() == 1 && helpers[0].pid != helper.pid).then_some(())
        });
        is_known_again(&daemon);
        assert_untouched(&daemon, &machines);
    }
    for (vm, _) in &machines {
        daemon.act(vm, "stop");
    }
    assert_eq!(plugins.helpers(TCG).len(), 1);
}

#[test]
fn machines_are_unknown_as_long_as_their_plugin_cannot_be_started_and_nothing_is_done_to_them() {
    let plugins = Plugins::with(&[TCG]);
    let daemon = plugins.daemon(TCG);
    let machines = running(&daemon, 2);
    let (file, helper) = (plugins.path(TCG), plugins.helper(TCG));
    fs::rename(&file, plugins.path("away")).expect("the file is ours");
    helper.kill();
    let status = wait_for("machines are unknown", SOON, || {
        Some(health(&daemon)).filter(|status| status["health"] == "degraded")
    });
    assert!(text(&status, "health_reason").contains("qemu-tcg"), "{status}");
    let told = backend_when(&daemon, &file, |told| told["state"] == "quarantined");
    for part in [&format!("pid {}", helper.pid), "signal 9"] {
        assert!(text(&told, "reason").contains(part), "{part} in {told}");
    }
    for (vm, process) in &machines {
        let recorded = daemon.vm(vm);
        assert_eq!((text(&recorded, "state"), pid(&recorded)), ("running", Some(*process)));
        assert!(Path::new(&format!("/proc/{process}")).exists());
    }
    let pause = format!("/vms/{}/actions/pause", machines[0].0);
    let pause = daemon.post(&pause, &NO_BODY).expect(202);
    let failed = daemon.operation(pause.header("location"));
    assert_eq!(failed["state"], "failed");
    assert!(text(&failed, "error").contains(TCG), "{failed}");
    assert_eq!(health(&daemon)["health"], "degraded");
    assert_eq!(daemon.get("/issues").expect(200).text, "[]");

    fs::rename(plugins.path("away"), &file).expect("the file is ours");
    is_known_again(&daemon);
    backend_when(&daemon, &file, |told| told["state"] == "started");
    for (vm, process) in &machines {
        assert_eq!(pid(&daemon.vm(vm)), Some(*process));
        daemon.act(vm, "stop");
    }
}

#[test]
fn a_plugin_that_is_replaced_takes_over_and_its_machines_run_on() {
    let plugins = Plugins::with(&[EXAMPLE]);
    let daemon = plugins.daemon("example-c");
    let machines = running(&daemon, 2);
    let (file, helper) = (plugins.path(EXAMPLE), plugins.helper(EXAMPLE));
    let before = backend(&daemon, &file);
    let told = [&before["version"], &before["mode"], &before["state"], &before["selected"]];
    assert_eq!(told, [&json!("0.1.0"), &json!("isolated"), &json!("started"), &json!(true)]);

    plugins.put(EXAMPLE, &of_version(EXAMPLE, "0.2.0"));
    let after = backend_when(&daemon, &file, |told| told["version"] == "0.2.0");
    assert_eq!((&after["state"], &after["selected"]), (&json!("started"), &json!(true)));
    assert_ne!(plugins.helper(EXAMPLE).pid, helper.pid, "the old one has ended");
    assert_untouched(&daemon, &machines);

    // Beside it, and newer.
    plugins.put("example-c-3.so", &of_version(EXAMPLE, "0.3.0"));
    let newest = plugins.path("example-c-3.so");
    backend_when(&daemon, &newest, |told| told["selected"] == true);
    assert_eq!(backend(&daemon, &file)["selected"], false);
    assert_untouched(&daemon, &machines);
    assert_eq!(plugins.helpers(EXAMPLE), []);

    // Beside it, and older.
    plugins.put("example-c-0.so", &of_version(EXAMPLE, "0.0.9"));
    let older = plugins.path("example-c-0.so");
    backend_when(&daemon, &older, |told| told["state"] == "loaded");
    assert_eq!(backend(&daemon, &newest)["selected"], true);
    for (vm, _) in &machines {
        daemon.act(vm, "stop");
    }
}

#[test]
fn a_new_file_that_cannot_be_used_is_told_and_the_one_in_use_goes_on() {
    let plugins = Plugins::with(&[EXAMPLE]);
    let daemon = plugins.daemon("example-c");
    let machines = running(&daemon, 1);
    let (file, helper) = (plugins.path(EXAMPLE), plugins.helper(EXAMPLE));
    plugins.put("junk.so", b"no library");
    let junk = plugins.path("junk.so");
    let told = backend_when(&daemon, &junk, |told| told["state"] == "declared");
    assert!(text(&told, "reason").contains("cannot be opened"), "{told}");
    plugins.put(EXAMPLE, b"no library");
    let told = backend_when(&daemon, &file, |told| {
        told["notes"].as_array().is_some_and(|notes| {
            notes.iter().any(|note| note.as_str().is_some_and(|note| note.contains("replaced")))
        })
    });
    assert_eq!((&told["state"], &told["version"]), (&json!("started"), &json!("0.1.0")));
    fs::remove_file(&junk).expect("the file is ours");
    wait_for("a file that is gone is told of no more", SOON, || {
        backend(&daemon, &junk).is_null().then_some(())
    });
    assert_eq!(plugins.helper(EXAMPLE).pid, helper.pid);
    assert_untouched(&daemon, &machines);
    daemon.act(&machines[0].0, "stop");
}

#[test]
fn a_plugin_runs_in_the_daemon_where_it_is_said_and_is_refused_with_another_hash() {
    let plugins = Plugins::with(&[EXAMPLE, TCG]);
    let other = "00".repeat(32);
    let tables = format!("in_process = [\"{EXAMPLE}\"]\nsha256 = {{ \"{TCG}\" = \"{other}\" }}");
    let setup = Setup::backend("example-c").plugins(plugins.0.path()).in_plugins(&tables);
    let daemon = setup.boot_file("tiny.rom").start();
    let told = backend(&daemon, &plugins.path(EXAMPLE));
    assert_eq!((&told["mode"], &told["state"]), (&json!("in-process"), &json!("started")));
    assert_eq!(plugins.helpers(EXAMPLE), []);
    let refused = backend(&daemon, &plugins.path(TCG));
    assert_eq!((&refused["state"], &refused["mode"]), (&json!("declared"), &Value::Null));
    for part in ["pinned", &other, TCG] {
        assert!(text(&refused, "reason").contains(part), "{part} in {refused}");
    }
    daemon.tiny_template();
    let machines = running(&daemon, 1);
    daemon.act(&machines[0].0, "stop");
}

#[test]
fn the_process_of_a_plugin_ends_with_the_daemon_however_that_ends_and_machines_do_not() {
    let plugins = Plugins::with(&[TCG]);
    let mut daemon = plugins.daemon(TCG);
    let machines = running(&daemon, 1);
    for killed in [false, true] {
        if killed {
            daemon.kill9();
        } else {
            daemon.terminate();
        }
        wait_for("the plugin's process ends", SOON, || {
            plugins.helpers(TCG).is_empty().then_some(())
        });
        assert!(Path::new(&format!("/proc/{}", machines[0].1)).exists());
        daemon.restart();
        is_known_again(&daemon);
        assert_untouched(&daemon, &machines);
    }
    daemon.act(&machines[0].0, "stop");
}
