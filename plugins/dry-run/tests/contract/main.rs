//! The backend contract over the dry-run, linked in and as a file: the same tests, through the
//! same client, over both.

#![cfg(test)]

mod images;
mod life;
mod offers;
mod survival;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;
use vman_plugin::host::{Client, Offer};
use vman_plugin::{
    BackendConfig, Boot, Control, Event, MachineSighting, MachineSpec, Nic, RunState,
};

/// Longer than anything here takes, on any machine.
const SOON: Duration = Duration::from_secs(20);

/// Makes two tests of each function: one that gets the linked-in backend, one that gets the file.
macro_rules! over_both {
    ($($name:ident),+ $(,)?) => {
        mod linked {
            $(#[tokio::test] async fn $name() { super::$name(crate::offers::linked()).await; })+
        }
        mod file {
            $(#[tokio::test] async fn $name() { super::$name(crate::offers::file()).await; })+
        }
    };
}
pub(crate) use over_both;

/// A folder of machines, and instances over it.
struct Host {
    offer: Offer,
    machines: TempDir,
}

impl Host {
    fn new(offer: Offer) -> Self {
        Self { offer, machines: tempfile::tempdir().unwrap() }
    }

    fn start(&self, settings: Value) -> (Client, mpsc::Receiver<Event>) {
        self.offer.start(self.config(settings)).unwrap()
    }

    fn config(&self, settings: Value) -> BackendConfig {
        BackendConfig { machines_dir: self.path().to_owned(), settings }
    }

    fn path(&self) -> &Path {
        self.machines.path()
    }

    fn directory(&self, id: Uuid) -> PathBuf {
        self.path().join(id.to_string())
    }

    fn machine_file(&self, id: Uuid) -> PathBuf {
        self.directory(id).join("machine.json")
    }

    /// A machine with its directory, not launched yet.
    fn spec(&self) -> MachineSpec {
        let id = Uuid::new_v4();
        std::fs::create_dir(self.directory(id)).unwrap();
        MachineSpec {
            id,
            directory: self.directory(id),
            cpu_count: 1,
            ram_mib: 64,
            boot: Boot::RootDisk,
            disks: Vec::new(),
            nic: Nic::None,
        }
    }
}

fn in_state(id: Uuid, run_state: RunState) -> MachineSighting {
    MachineSighting {
        machine: vman_plugin::Machine { id, process: None },
        control: Control::Connected { run_state },
        age_ms: 0,
        disks: None,
    }
}

fn plain() -> Value {
    json!({})
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    let event = tokio::time::timeout(SOON, events.recv()).await;
    event.expect("an event comes").expect("the instance lives")
}
