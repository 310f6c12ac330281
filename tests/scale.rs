//! Many simulated machines in one daemon: all are started, some crash at once, and are repaired.
//! How long it takes is for `cargo xtask bench scale` to tell.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{Daemon, NO_BODY, Setup, text, wait_for};

const MACHINES: usize = 300;
const CRASHED: usize = 30;
const CLIENTS: usize = 8;
/// On a host that is busy with much else.
const WITHIN: Duration = Duration::from_secs(120);

#[test]
fn three_hundred_machines_are_started_and_thirty_that_crash_at_once_are_all_repaired() {
    let setup = Setup::backend("dry-run").fewest_backends().policy("restart-crashed", "{}");
    let daemon = setup.with("[network]\nsubnet = \"10.64.0.0/16\"").start();
    fs::write(daemon.storage().join("boot/none.rom"), "simulated").expect("a boot file");
    daemon.template("small", &json!({"firmware": "none.rom"}));
    let ids: Vec<String> = (0..MACHINES).map(|_| daemon.new_vm("small")).collect();
    start_all(&daemon, &ids);
    assert_eq!(running(&daemon), ids.iter().cloned().collect());

    let crashed: BTreeSet<String> = ids.iter().step_by(MACHINES / CRASHED).cloned().collect();
    assert_eq!(crashed.len(), CRASHED);
    for id in &crashed {
        fs::remove_file(daemon.machine_folder(id).join("machine.json")).expect("it runs");
    }
    let resolved = wait_for("every crash is repaired", WITHIN, || {
        let issues = list(&daemon, "/issues", "&state=resolved");
        (issues.len() == CRASHED).then_some(issues)
    });
    let repaired: BTreeSet<String> =
        resolved.iter().map(|issue| text(&issue["subject"], "id").to_owned()).collect();
    assert_eq!(repaired, crashed, "each once, and nobody else");
    assert!(resolved.iter().all(|issue| issue["resolution"] == "by-repair"), "{resolved:?}");
    assert_eq!(list(&daemon, "/issues", "").len(), CRASHED);
    assert_eq!(running(&daemon), ids.iter().cloned().collect());
    for id in &ids {
        let starts = fs::read_to_string(daemon.machine_folder(id).join("machine.starts"));
        let expected = if crashed.contains(id) { "2" } else { "1" };
        assert_eq!(starts.expect("it was started"), expected, "{id}");
    }
}

/// Several clients at once, each with its part.
fn start_all(daemon: &Daemon, ids: &[String]) {
    thread::scope(|scope| {
        for part in ids.chunks(ids.len().div_ceil(CLIENTS)) {
            scope.spawn(move || {
                for id in part {
                    daemon.operate(&format!("/vms/{id}/actions/start"), &NO_BODY);
                }
            });
        }
    });
}

/// The ids of the VMs that are recorded to run, and whose machines do.
fn running(daemon: &Daemon) -> BTreeSet<String> {
    let vms = list(daemon, "/vms", "&state=running");
    let ids = vms.iter().map(|vm| text(vm, "id").to_owned());
    ids.filter(|id| daemon.machine_folder(id).join("machine.json").exists()).collect()
}

/// Of all pages.
fn list(daemon: &Daemon, path: &str, filter: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = daemon.get(&format!("{path}?limit=100{filter}{after}")).expect(200).body;
        let page = page.as_array().expect("a list");
        all.extend(page.iter().cloned());
        let Some(last) = page.last().filter(|_| page.len() == 100) else { return all };
        after = format!("&after={}", text(last, "id"));
    }
}
