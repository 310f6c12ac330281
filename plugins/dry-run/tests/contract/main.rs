//! The backend contract over the dry-run, linked in and as a file: the same tests, through the
//! same client, over both.

#![cfg(test)]

mod disks;
mod faults;
mod images;
mod life;
mod offers;
mod pause;
mod resize;
mod survival;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;
use vman_plugin::host::{Client, Offer};
use vman_plugin::{
    BackendConfig, Boot, Bus, Control, DiskSpec, Event, ImageFormat, ImageSpec, MachineSighting,
    MachineSpec, Nic, RunState,
};

/// Longer than anything here takes, on any machine.
const SOON: Duration = Duration::from_secs(20);

/// Bytes of a disk made for a test.
const DISK_SIZE: u64 = 1 << 30;
/// How often what is idempotent is repeated.
const REPEATS: usize = 10;

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

    /// The instance is gone when this returns; its machines are not.
    async fn stop(&self, (client, mut events): (Client, mpsc::Receiver<Event>)) {
        drop(client);
        let ended = async { while events.recv().await.is_some() {} };
        tokio::time::timeout(SOON, ended).await.expect("the instance ends");
    }

    /// A machine that runs.
    async fn launched(&self, client: &Client) -> Uuid {
        let spec = self.spec();
        let id = spec.id;
        client.launch(spec).await.unwrap();
        id
    }

    /// A disk with its image, of [`DISK_SIZE`], in no machine.
    async fn disk(&self, client: &Client, bus: Bus) -> DiskSpec {
        let id = Uuid::new_v4();
        let path = self.path().join(format!("{id}.img"));
        let format = ImageFormat::Qcow2;
        let image = ImageSpec { path: path.clone(), format, virtual_size: DISK_SIZE };
        client.create_image(image).await.unwrap();
        DiskSpec { id, path, format, serial: "d".to_owned(), bus }
    }

    /// What `machine.json` says.
    fn machine(&self, id: Uuid) -> Value {
        serde_json::from_slice(&std::fs::read(self.machine_file(id)).unwrap()).unwrap()
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
        disks: Some(vec![]),
    }
}

fn plain() -> Value {
    json!({})
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    let event = tokio::time::timeout(SOON, events.recv()).await;
    event.expect("an event comes").expect("the instance lives")
}
