//! A backend that goes wrong while it is used, in each verb and in each way: what was asked for
//! fails and says why, the daemon answers throughout, another instance takes over, and the
//! machines, which are files, are the same ones afterwards. What `faulty` does is told in
//! `tests/plugins/README.md`.
#![cfg(test)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{
    Answer, Daemon, LONG, NO_BODY, PluginFolder, Setup, broken_plugin, text, wait_for,
};

const FILE: &str = "libvman_plugin_faulty.so";
/// Every verb that a request leads to, and whether the request must then fail.
const ASKED_FOR: [(&str, bool); 15] = [
    ("launch", true),
    ("inspect-image", true),
    ("power-button", false),
    ("sight", false),
    ("quit", false),
    ("kill", false),
    ("pause", true),
    ("resume", true),
    ("reset", true),
    ("attach-disk", true),
    ("detach-disk", true),
    ("resize-disk", true),
    ("resize-image", true),
    ("create-image", true),
    ("delete-image", false),
];
/// What the log says of every instance that goes wrong.
const GIVEN_UP: &str = "the instance is used no longer";
/// What ends a process, and how that is told.
const CRASHES: [(&str, &str); 4] =
    [("abort", "signal 6"), ("segfault", "signal 11"), ("overflow", "signal"), ("exit", "0")];
/// More than the deadline of a verb, and the pauses before new instances.
const DEADLINES: Duration = Duration::from_secs(120);

/// A daemon that uses `faulty`, with a VM that runs and that nobody does anything with.
struct World {
    daemon: Daemon,
    /// Where it is read what is to go wrong.
    order: PathBuf,
    bystander: Value,
    _plugins: PluginFolder,
}

impl World {
    fn new(in_plugins: &str) -> Self {
        let plugins = PluginFolder::new();
        plugins.install(&broken_plugin(FILE));
        let order = plugins.path().join("order.json");
        let told_in = format!("[backends.faulty]\ntold_in = {order:?}\n");
        let setup = Setup::backend("faulty").fewest_backends().plugins(plugins.path());
        // A guest that is not seen any more has no more than this.
        let setup = setup.in_plugins(in_plugins).stop_grace("3s").with(&told_in);
        let daemon = setup.boot_file("tiny.rom").start();
        daemon.tiny_template();
        let id = daemon.new_vm("tiny");
        let bystander = daemon.act(&id, "start");
        Self { daemon, order, bystander, _plugins: plugins }
    }

    /// From now on this goes wrong.
    fn order(&self, fault: &str, verb: &str) {
        self.order_all(&json!([{"fault": fault, "verb": verb}]));
    }

    fn order_all(&self, orders: &Value) {
        let beside = self.order.with_extension("new");
        let written = fs::write(&beside, orders.to_string());
        written.and_then(|()| fs::rename(beside, &self.order)).expect("the folder is ours");
    }

    fn lift(&self) {
        fs::remove_file(&self.order).expect("it was ordered");
    }

    /// What is said of the backend.
    fn backend(&self) -> Value {
        self.daemon.get("/health").expect(200);
        let backends = self.daemon.get("/backends").expect(200).body;
        let mut backends = backends.as_array().expect("a list").iter();
        backends.find(|one| one["selected"] == true).expect("one is selected").clone()
    }

    /// Waits until the daemon has said this of `verb` in its log since that was so long.
    fn told(&self, what: &str, verb: &str, since: usize) {
        wait_for(&format!("{verb}: the log tells of {what:?}"), DEADLINES, || {
            self.daemon.get("/health").expect(200);
            self.daemon.log()[since..].contains(what).then_some(())
        });
    }

    /// Nothing goes wrong any more: the backend is in use again, and the bystander is as it was.
    fn assert_recovered(&self) {
        wait_for("an instance takes over", DEADLINES, || {
            (self.backend()["state"] == "started").then_some(())
        });
        let id = text(&self.bystander, "id");
        let now = wait_for("the bystander is seen", LONG, || {
            Some(self.daemon.vm(id)).filter(|vm| vm["state"] == "running")
        });
        assert_eq!(now["generation"], self.bystander["generation"], "nothing was done with it");
        let file = self.daemon.machine_folder(id).join("machine.json");
        assert!(file.is_file(), "its machine is gone");
        assert_eq!(self.daemon.issues_of(id), [Value::Null; 0]);
    }

    /// A new daemon counts new instances anew, and so has no pause before the next one.
    fn begin_anew(&mut self) {
        self.daemon.terminate();
        self.daemon.restart();
    }
}

/// What a request came to in the end: what it failed with, if it did.
fn failed_with(daemon: &Daemon, answer: &Answer) -> Option<String> {
    let location = answer.header("location");
    if location.starts_with("/operations/") {
        let operation = daemon.operation(location);
        return (operation["state"] != "succeeded").then(|| operation.to_string());
    }
    (answer.status >= 400).then(|| answer.text.clone())
}

/// A VM and a disk, brought to where the verb can be asked for; then asked for it, and what that
/// failed with, if it did.
fn ask_for(world: &World, fault: &str, verb: &str) -> Option<String> {
    let daemon = &world.daemon;
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    let attach = json!({"vm_id": vm});
    let (vm_path, disk_path) = (format!("/vms/{vm}"), format!("/disks/{disk}"));
    let action = |name: &str| (format!("{vm_path}/actions/{name}"), NO_BODY);
    if matches!(verb, "detach-disk" | "resize-disk" | "inspect-image") {
        daemon.operate(&format!("{disk_path}/attach"), &attach);
    }
    if !matches!(verb, "launch" | "inspect-image") {
        daemon.act(&vm, "start");
    }
    if verb == "resume" {
        daemon.act(&vm, "pause");
    }
    let (path, body) = match verb {
        "launch" | "inspect-image" => action("start"),
        // Whose guest is looked at until it is off, and whose machine then ended.
        "power-button" | "sight" | "quit" => action("stop"),
        "kill" | "pause" | "resume" | "reset" => action(verb),
        "attach-disk" => (format!("{disk_path}/attach"), attach),
        "detach-disk" => (format!("{disk_path}/detach"), NO_BODY),
        "resize-disk" | "resize-image" => (format!("{disk_path}/resize"), json!({"size": 2})),
        "create-image" => ("/disks".to_owned(), json!({"size": 1})),
        "delete-image" => (disk_path, NO_BODY),
        other => panic!("no request leads to {other}"),
    };
    world.order(fault, verb);
    let answer =
        if verb == "delete-image" { daemon.delete(&path) } else { daemon.post(&path, &body) };
    failed_with(daemon, &answer)
}

/// The error of an operation whose process has ended.
fn is_crash(failed: &str, how: &str) -> bool {
    failed.contains("crashed") && failed.contains(how)
}

/// Each verb goes wrong once, which the log tells with the words `told`; what was asked for must
/// fail as `is_so` has it of the verb and the error.
fn each_verb(fault: &str, told: &str, is_so: impl Fn(&str, &str) -> bool) {
    let mut world = World::new("");
    for (verb, must_fail) in ASKED_FOR {
        let since = world.daemon.log().len();
        let failed = ask_for(&world, fault, verb);
        assert!(failed.is_some() || !must_fail, "{fault} in {verb} was a success");
        let failed = failed.filter(|_| must_fail);
        assert!(failed.iter().all(|failed| is_so(verb, failed)), "{fault} in {verb}: {failed:?}");
        world.told(&told.replace("VERB", verb), verb, since);
        world.lift();
        world.assert_recovered();
        world.begin_anew();
        world.assert_recovered();
    }
}

#[test]
fn a_panic_in_any_verb_that_is_asked_for_fails_that_alone_and_is_told_in_its_words() {
    each_verb("panic", "told to panic in `VERB`", |verb, failed| {
        failed.contains("panicked") && failed.contains(&format!("told to panic in `{verb}`"))
    });
}

#[test]
fn a_crash_in_any_verb_that_is_asked_for_fails_that_alone_and_is_told_by_its_signal() {
    each_verb("abort", GIVEN_UP, |_, failed| is_crash(failed, "signal 6"));
}

#[test]
fn a_look_that_goes_wrong_leaves_the_machines_unknown_and_they_are_seen_again_afterwards() {
    let mut world = World::new("");
    for (fault, told) in [("panic", "told to panic in `survey`"), ("abort", GIVEN_UP)] {
        let since = world.daemon.log().len();
        world.order(fault, "survey");
        world.told(told, "survey", since);
        let id = text(&world.bystander, "id");
        assert_eq!(world.daemon.vm(id)["generation"], world.bystander["generation"]);
        world.lift();
        world.assert_recovered();
        world.begin_anew();
    }
    world.assert_recovered();
}

#[test]
fn every_way_to_end_the_process_is_told_and_survived() {
    let mut world = World::new("");
    for (fault, told) in CRASHES {
        let failed = ask_for(&world, fault, "pause").expect("it cannot succeed");
        assert!(is_crash(&failed, told), "{fault}: {failed}");
        world.lift();
        world.assert_recovered();
        world.begin_anew();
    }
}

#[test]
fn a_verb_that_never_ends_fails_at_its_deadline_and_another_machine_does_not_wait_for_it() {
    for (fault, in_plugins) in [
        ("hang", ""),
        ("block", ""),
        ("hang", "in_process = [\"libvman_plugin_faulty.so\"]"),
        ("block", "in_process = [\"libvman_plugin_faulty.so\"]"),
    ] {
        let world = World::new(in_plugins);
        let failed = ask_for(&world, fault, "pause").expect("it cannot succeed");
        assert!(failed.contains("`pause`") && failed.contains("within 10s"), "{fault}: {failed}");
        world.lift();
        world.assert_recovered();
        let vm = world.daemon.new_vm("tiny");
        world.daemon.act(&vm, "start");
        world.daemon.act(&vm, "pause");
    }
}

#[test]
fn a_verb_that_fails_or_is_slow_is_no_fault_of_the_backend() {
    let world = World::new("");
    let failed = ask_for(&world, "error", "pause").expect("it cannot succeed");
    assert!(failed.contains("`pause` fails, as it was told to"), "{failed}");
    world.lift();
    assert_eq!(ask_for(&world, "slow", "pause"), None);
    world.assert_recovered();
    assert!(!world.daemon.log().contains("a new instance takes over"));
}

#[test]
fn a_panic_in_a_plugin_that_runs_in_the_daemons_process_ends_no_more_than_its_verb() {
    let world = World::new("in_process = [\"libvman_plugin_faulty.so\"]");
    for verb in ["pause", "launch", "create-image"] {
        let failed = ask_for(&world, "panic", verb).expect("it cannot succeed");
        assert!(failed.contains(&format!("told to panic in `{verb}`")), "{failed}");
        world.lift();
        world.assert_recovered();
    }
}

#[test]
fn a_backend_that_cannot_be_made_keeps_the_daemon_from_starting_and_its_machines_are_found_later() {
    let mut world = World::new("");
    for (fault, told) in
        [("panic", "told to panic in `create`"), ("abort", "signal 6"), ("block", "within 10s")]
    {
        world.daemon.terminate();
        world.order(fault, "create");
        let (status, said) = world.daemon.second();
        assert!(!status.success(), "{fault}: {said}");
        assert!(said.contains("faulty") && said.contains(told), "{fault}: {said}");
        world.lift();
        world.daemon.restart();
        world.assert_recovered();
    }
}

#[test]
fn an_end_that_goes_wrong_keeps_no_daemon_from_ending() {
    let mut world = World::new("");
    for fault in ["panic", "block", "abort"] {
        world.order(fault, "destroy");
        let status = world.daemon.terminate();
        assert!(status.success(), "{fault}: {status}");
        world.lift();
        world.daemon.restart();
        world.assert_recovered();
    }
}

#[test]
fn a_new_instance_that_goes_wrong_as_it_finds_machines_again_is_followed_by_one_that_does_not() {
    let world = World::new("");
    let vm = world.daemon.new_vm("tiny");
    world.daemon.act(&vm, "start");
    let since = world.daemon.log().len();
    let order = |fault, verb| json!({"fault": fault, "verb": verb});
    world.order_all(&json!([order("abort", "pause"), order("panic", "reattach")]));
    let paused = world.daemon.post(&format!("/vms/{vm}/actions/pause"), &NO_BODY);
    failed_with(&world.daemon, &paused).expect("it cannot succeed");
    world.told("told to panic in `reattach`", "reattach", since);
    world.lift();
    world.assert_recovered();
    world.daemon.act(&vm, "pause");
}

#[test]
fn a_backend_that_cannot_be_probed_is_used_all_the_same_where_it_is_asked_for() {
    let mut world = World::new("");
    for (fault, told) in [("panic", "told to panic in `probe`"), ("error", "`probe` fails")] {
        world.daemon.terminate();
        world.order(fault, "probe");
        world.daemon.restart();
        let backend = world.backend();
        assert_eq!(backend["usable"], false, "{backend}");
        assert!(text(&backend, "reason").contains(told), "{backend}");
        world.lift();
        world.assert_recovered();
    }
}
