//! What there is, in words that are the same in every copy of a scene: the daemon's records by what
//! they are in it, and the machines on the host with what tells one from its successor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;
use vman_tests::{Daemon, text};

/// What a thing is called that the scene did not have.
const NEW: &str = "new";

/// Who is who: what a scene's things are called, by their ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cast(BTreeMap<String, &'static str>);

impl Cast {
    pub(crate) fn add(&mut self, id: String, name: &'static str) {
        self.0.insert(id, name);
    }

    pub(crate) fn id(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(_, other)| **other == name).map(|(id, _)| id.as_str())
    }

    fn name(&self, id: &str) -> &'static str {
        self.0.get(id).copied().unwrap_or(NEW)
    }
}

/// The records, by what they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct World {
    /// Their states.
    vms: BTreeMap<&'static str, String>,
    /// Their states, and of which VM they are.
    disks: BTreeMap<&'static str, String>,
    templates: BTreeSet<String>,
}

impl World {
    pub(crate) fn of(daemon: &Daemon, cast: &Cast) -> Self {
        let vm = |vm: &Value| {
            let by_itself = if vm["autostart"] == true { ", autostart" } else { "" };
            (cast.name(text(vm, "id")), text(vm, "state").to_owned() + by_itself)
        };
        let disk = |disk: &Value| {
            let holder = disk["vm_id"].as_str().map(|vm| format!(" to {}", cast.name(vm)));
            let (state, size) = (text(disk, "state"), &disk["size"]);
            let state = format!("{state}{}, {size} GiB", holder.unwrap_or_default());
            (cast.name(text(disk, "id")), state)
        };
        Self {
            vms: list(daemon, "/vms").iter().map(vm).collect(),
            disks: list(daemon, "/disks").iter().map(disk).collect(),
            templates: list(daemon, "/templates").iter().map(|t| text(t, "name").into()).collect(),
        }
    }

    /// Adds or changes it.
    pub(crate) fn vm(&mut self, name: &'static str, state: &str) {
        self.vms.insert(name, state.to_owned());
    }

    /// `state` with its holder and its size, e.g. `attached to vm, 1 GiB`.
    pub(crate) fn disk(&mut self, name: &'static str, state: &str) {
        self.disks.insert(name, state.to_owned());
    }

    pub(crate) fn template(&mut self, name: &str) {
        self.templates.insert(name.to_owned());
    }

    /// Nothing is called so any more.
    pub(crate) fn gone(&mut self, name: &str) {
        self.vms.remove(name);
        self.disks.remove(name);
        self.templates.remove(name);
    }

    /// The VMs that are recorded to have a machine, and what that does.
    pub(crate) fn run_states(&self) -> BTreeMap<&'static str, String> {
        let states = self.vms.iter().map(|(name, state)| (*name, first_word(state).to_owned()));
        states.filter(|(_, state)| ["running", "paused"].contains(&state.as_str())).collect()
    }

    pub(crate) fn has_failed(&self, vm: &str) -> bool {
        self.vms.get(vm).is_some_and(|state| first_word(state) == "failed")
    }

    /// Something that `other` has not, in whatever state.
    pub(crate) fn has_more_than(&self, other: &Self) -> bool {
        self.vms.keys().any(|name| !other.vms.contains_key(name))
            || self.disks.keys().any(|name| !other.disks.contains_key(name))
            || !self.templates.is_subset(&other.templates)
    }
}

fn first_word(state: &str) -> &str {
    state.split(',').next().unwrap_or_default()
}

/// What the simulated machines do, for what is recorded running or paused.
pub(crate) fn run_states(daemon: &Daemon, cast: &Cast) -> BTreeMap<&'static str, String> {
    let vms = list(daemon, "/vms");
    let states = vms.iter().filter_map(|vm| {
        let file = daemon.machine_folder(text(vm, "id")).join("machine.json");
        let machine: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        Some((cast.name(text(vm, "id")), machine["state"].as_str()?.to_owned()))
    });
    states.collect()
}

/// The operations, newest first.
pub(crate) fn operations(daemon: &Daemon) -> Vec<Value> {
    list(daemon, "/operations?limit=1000")
}

pub(crate) fn list(daemon: &Daemon, path: &str) -> Vec<Value> {
    let body = daemon.get(path).expect(200).body;
    body.as_array().expect("it is a list").clone()
}

/// The machines that live, each with what its successor would not have: its process, or, where it
/// is simulated, how often it was started.
pub(crate) fn machines(daemon: &Daemon, cast: &Cast) -> BTreeMap<&'static str, String> {
    let folder = daemon.storage().join("machines");
    let simulated = fs::read_dir(&folder).into_iter().flatten().filter_map(|entry| {
        let (path, name) = entry.ok().map(|entry| (entry.path(), entry.file_name()))?;
        let starts = fs::read_to_string(path.join("machine.starts"));
        path.join("machine.json").exists().then_some(())?;
        Some((cast.name(name.to_str()?), starts.unwrap_or_default()))
    });
    let real = daemon.machines().into_iter().map(|process| {
        let of = |word: &String| {
            let (_, rest) = word.split_once("/machines/")?;
            Some(cast.name(rest.split('/').next()?))
        };
        let name = process.command.iter().find_map(of).unwrap_or("a process of nobody");
        (name, process.pid.to_string())
    });
    simulated.chain(real).collect()
}
