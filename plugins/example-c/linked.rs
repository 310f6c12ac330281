//! The example in C, linked into a program: a host finds it without a file, and drives it through
//! the same table as any other. What it does as a file is tested with the host.
#![cfg(test)]

use std::fs;

use serde_json::json;
use uuid::Uuid;
use vman_plugin::host::{Mode, Registry};
use vman_plugin::{BackendConfig, Boot, MachineSpec, Nic};
// A crate that is never named is not linked.
use vman_plugin_example_c as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_in_c_is_linked_in_checked_and_runs_machines() {
    let mut linked = Registry::linked();
    assert_eq!(linked.len(), 1);
    let offer = linked.pop().expect("there is one");
    assert_eq!(offer.manifest().name, "example-c");
    assert_eq!(offer.mode(), Mode::Static);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let config = BackendConfig { machines_dir: folder.path().to_owned(), settings: json!({}) };
    let (client, _events) = offer.start(config).expect("its settings are right");
    assert!(client.probe().await.expect("it can be asked").usable);

    let id = Uuid::new_v4();
    let directory = folder.path().join(id.to_string());
    fs::create_dir(&directory).expect("the folder is ours");
    let (boot, nic) = (Boot::RootDisk, Nic::None);
    let spec = MachineSpec { id, directory, cpu_count: 1, ram_mib: 64, boot, disks: vec![], nic };
    let machine = client.launch(spec).await.expect("it starts a process");
    let seen = client.sight(id).await.expect("it can be looked at");
    assert_eq!(seen.map(|sighting| sighting.machine), Some(machine));
    client.kill(id).await.expect("it ends its own process");
    assert_eq!(client.sight(id).await.expect("it can be looked at"), None);
}
