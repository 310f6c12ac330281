//! One machine's life and one image's, driven as the host drives them, without a host. What every
//! backend owes is held by `vman plugin check`; what only this one does belongs here.
#![cfg(test)]

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, Boot, ErrorCode, Event, ImageFormat, ImageRef,
    ImageSpec, MachineSpec, Nic,
};
use vman_plugin_example_rust::Processes;

/// Far more than a healthy host needs.
const SOON: Duration = Duration::from_secs(30);

/// An instance over this folder, and what it tells.
fn instance(machines_dir: &Path) -> (Processes, Receiver<Event>) {
    let (tell, told) = channel();
    // Nobody may listen any more.
    let context = BackendContext::new(move |event| drop(tell.send(event)));
    let config = BackendConfig { machines_dir: machines_dir.to_owned(), settings: json!({}) };
    (Processes::create(config, context).unwrap(), told)
}

fn spec(folder: &TempDir) -> MachineSpec {
    let id = Uuid::from_u128(u128::from(std::process::id()));
    let directory = folder.path().join(id.to_string());
    fs::create_dir(&directory).unwrap();
    let (boot, nic) = (Boot::RootDisk, Nic::None);
    MachineSpec { id, directory, cpu_count: 1, ram_mib: 64, boot, disks: vec![], nic }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_outlives_its_instance_and_the_next_one_finds_and_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    let (first, _told) = instance(folder.path());
    assert!(first.probe().await.unwrap().usable);
    let machine = first.launch(spec.clone()).await.unwrap();
    assert_eq!(first.launch(spec.clone()).await.unwrap(), machine, "asked for twice, started once");
    drop(first);

    let (second, told) = instance(folder.path());
    let seen = second.reattach(machine.clone()).await.unwrap();
    assert_eq!(second.survey().await.unwrap().machines, [seen]);
    second.kill(spec.id).await.unwrap();
    assert_eq!(second.sight(spec.id).await.unwrap(), None);
    let event = told.recv_timeout(SOON).unwrap();
    assert!(matches!(event, Event::MachineEnded { id, .. } if id == spec.id), "{event:?}");
    assert_eq!(second.reattach(machine).await.unwrap_err().code, ErrorCode::NotFound);
    second.kill(spec.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_made_once_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (backend, _told) = instance(folder.path());
    let path = folder.path().join("disk.raw");
    let format = ImageFormat::Raw;
    let spec = ImageSpec { path: path.clone(), format, virtual_size: 1 << 20 };
    backend.create_image(spec.clone()).await.unwrap();
    backend.create_image(spec.clone()).await.unwrap();
    let other = ImageSpec { virtual_size: 2 << 20, ..spec };
    assert_eq!(backend.create_image(other).await.unwrap_err().code, ErrorCode::Conflict);
    let image = ImageRef { path, format };
    assert_eq!(backend.inspect_image(image.clone()).await.unwrap().virtual_size, 1 << 20);
    backend.delete_image(image.clone()).await.unwrap();
    backend.delete_image(image.clone()).await.unwrap();
    assert_eq!(backend.inspect_image(image).await.unwrap_err().code, ErrorCode::NotFound);
}
