//! A backend that has every verb: each arrives with what it was told, and brings back what it
//! answered. What the verbs do is tested where real backends live.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{SOON, config};
use crate::host::{Client, Registry};
use crate::{
    Backend, BackendConfig, BackendContext, BackendError, Boot, Bus, Capabilities, Control,
    DiskAttachment, DiskGrowth, DiskRemoval, DiskSpec, ErrorCode, Event, ExitCause, ImageFormat,
    ImageGrowth, ImageInfo, ImageRef, ImageSpec, Machine, MachineEnd, MachineSighting, MachineSpec,
    Manifest, Nic, Probe, RunState, Survey, Unplug,
};

/// Every unit verb is refused, in words that repeat what it was told.
#[derive(Debug)]
struct Whole {
    context: BackendContext,
    killing: Sender<()>,
    killed: Mutex<Receiver<()>>,
}

crate::export_backend!(Whole);

#[async_trait]
impl Backend for Whole {
    fn manifest() -> Manifest {
        Manifest {
            name: "whole".to_owned(),
            version: "0.0.0".to_owned(),
            description: String::new(),
            capabilities: Capabilities {
                pause: true,
                reset: true,
                hot_plug: vec![Bus::VirtioScsi, Bus::VirtioBlk],
                resize: true,
                ..Capabilities::default()
            },
            sdk: String::new(),
        }
    }

    fn create(_config: BackendConfig, context: BackendContext) -> Result<Self, BackendError> {
        let (killing, killed) = channel();
        Ok(Self { context, killing, killed: Mutex::new(killed) })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        refused("probe", ())
    }

    /// Never ends, and hears that it should only after `ram_mib` milliseconds or a `kill`: as one
    /// does that has just forked.
    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        let _told = Told(&self.context, spec.id);
        self.tell(spec.id, "launch");
        loop {
            {
                let killed = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
                // Either way it goes on.
                let _ = killed.recv_timeout(Duration::from_millis(spec.ram_mib));
            }
            tokio::task::yield_now().await;
        }
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        refused("reattach", machine)
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        refused("power_button", id)
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        refused("quit", id)
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.tell(id, "kill");
        self.killing.send(()).unwrap();
        Ok(())
    }

    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        Ok((!id.is_nil()).then(|| sighting(id)))
    }

    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        refused("pause", id)
    }

    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        refused("resume", id)
    }

    async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        refused("reset", id)
    }

    async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        refused("attach_disk", attachment)
    }

    async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        match removal.disk.as_u128() {
            1 => Ok(Unplug::Done),
            2 => {
                let DiskRemoval { id, disk, path: _ } = removal;
                self.context.emit(Event::DiskDetached { id, disk });
                Ok(Unplug::Waiting)
            }
            _ => refused("detach_disk", removal),
        }
    }

    async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        refused("resize_disk", growth)
    }

    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        refused("resize_image", growth)
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        refused("create_image", spec)
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        refused("inspect_image", image)
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        refused("delete_image", image)
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        Ok(Survey { machines: vec![sighting(Uuid::from_u128(1))], ended: vec![end()] })
    }
}

impl Whole {
    fn tell(&self, id: Uuid, what: &str) {
        self.context.emit(Event::MachineEnded { id, reason: what.to_owned() });
    }
}

/// Tells when it is dropped.
struct Told<'a>(&'a BackendContext, Uuid);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.emit(Event::MachineEnded { id: self.1, reason: "launch dropped".to_owned() });
    }
}

fn refused<T>(verb: &str, told: impl Debug) -> Result<T, BackendError> {
    Err(BackendError::new(ErrorCode::Refused, format!("{verb} {told:?}")))
}

fn sighting(id: Uuid) -> MachineSighting {
    MachineSighting {
        machine: Machine { id, process: None },
        control: Control::Connected { run_state: RunState::Paused },
        age_ms: 7,
        disks: Some(vec![Uuid::from_u128(8)]),
    }
}

fn end() -> MachineEnd {
    MachineEnd {
        machine: Machine { id: Uuid::from_u128(9), process: None },
        cause: ExitCause::OutOfMemory,
        detail: "signal 9".to_owned(),
    }
}

fn start() -> (Client, mpsc::Receiver<Event>) {
    let offers = Registry::linked();
    let whole = offers.iter().find(|offer| offer.manifest().name == "whole").unwrap();
    assert_eq!(whole.manifest().capabilities, Whole::manifest().capabilities);
    whole.start(config(json!({}))).unwrap()
}

fn disk(bus: Bus) -> DiskSpec {
    DiskSpec {
        id: Uuid::from_u128(5),
        path: PathBuf::from("/d/ä \"5\".qcow2"),
        format: ImageFormat::Qcow2,
        serial: "d5".to_owned(),
        bus,
    }
}

fn spec(id: Uuid, deaf_ms: u64) -> MachineSpec {
    MachineSpec {
        id,
        directory: PathBuf::from("/m"),
        cpu_count: 1,
        ram_mib: deaf_ms,
        boot: Boot::RootDisk,
        disks: vec![disk(Bus::VirtioBlk)],
        nic: Nic::None,
    }
}

/// The verb's error repeats what the backend was told, which is what the host was told.
fn echoed<T: Debug>(result: Result<T, BackendError>, verb: &str, told: impl Debug) {
    let error = result.unwrap_err();
    assert_eq!(error, BackendError::new(ErrorCode::Refused, format!("{verb} {told:?}")));
}

#[tokio::test]
async fn each_verb_arrives_under_its_name_with_what_it_was_told() {
    let (client, _events) = start();
    let id = Uuid::from_u128(4);
    echoed(client.probe().await, "probe", ());
    let machine = Machine { id, process: None };
    echoed(client.reattach(machine.clone()).await, "reattach", machine);
    echoed(client.power_button(id).await, "power_button", id);
    echoed(client.quit(id).await, "quit", id);
    echoed(client.pause(id).await, "pause", id);
    echoed(client.resume(id).await, "resume", id);
    echoed(client.reset(id).await, "reset", id);
    for bus in [Bus::VirtioScsi, Bus::VirtioBlk] {
        let attachment = DiskAttachment { id, disk: disk(bus) };
        echoed(client.attach_disk(attachment.clone()).await, "attach_disk", attachment);
    }
    let removal = DiskRemoval { id, disk: Uuid::from_u128(5), path: Some("/d/5".into()) };
    echoed(client.detach_disk(removal.clone()).await, "detach_disk", removal);
    let growth = DiskGrowth { id, disk: Uuid::from_u128(5), virtual_size: u64::MAX };
    echoed(client.resize_disk(growth.clone()).await, "resize_disk", growth);

    let DiskSpec { path, format, .. } = disk(Bus::VirtioScsi);
    let virtual_size = 1 << 40;
    let growth = ImageGrowth { path: path.clone(), format, virtual_size };
    echoed(client.resize_image(growth.clone()).await, "resize_image", growth);
    let spec = ImageSpec { path: path.clone(), format, virtual_size };
    echoed(client.create_image(spec.clone()).await, "create_image", spec);
    let image = ImageRef { path, format };
    echoed(client.inspect_image(image.clone()).await, "inspect_image", image.clone());
    echoed(client.delete_image(image.clone()).await, "delete_image", image);
}

#[tokio::test]
async fn what_verbs_and_events_tell_comes_back_whole() {
    let (client, mut events) = start();
    let id = Uuid::from_u128(4);
    assert_eq!(client.sight(id).await.unwrap(), Some(sighting(id)));
    assert_eq!(client.sight(Uuid::nil()).await.unwrap(), None);
    let survey = client.survey().await.unwrap();
    assert_eq!(survey.machines, [sighting(Uuid::from_u128(1))]);
    assert_eq!(survey.ended, [end()]);

    let [done, waits] = [1, 2].map(Uuid::from_u128);
    let unplug = client.detach_disk(DiskRemoval { id, disk: done, path: None }).await;
    assert_eq!(unplug.unwrap(), Unplug::Done);
    let unplug = client.detach_disk(DiskRemoval { id, disk: waits, path: None }).await;
    assert_eq!(unplug.unwrap(), Unplug::Waiting);
    assert_eq!(events.recv().await.unwrap(), Event::DiskDetached { id, disk: waits });
}

/// Whoever gave a launch up, between fork and answer, finds nothing of it running on beside the
/// next verb of that machine.
#[tokio::test]
async fn a_launch_that_was_given_up_has_ended_before_the_next_verb_of_its_machine_begins() {
    let (client, mut events) = start();
    let id = Uuid::from_u128(6);
    let launch = tokio::spawn({
        let client = client.clone();
        async move { client.launch(spec(id, 100)).await }
    });
    assert_eq!(told(&mut events).await, (id, "launch".to_owned()));
    launch.abort();
    assert!(launch.await.unwrap_err().is_cancelled());
    client.kill(id).await.unwrap();
    assert_eq!(told(&mut events).await, (id, "launch dropped".to_owned()));
    assert_eq!(told(&mut events).await, (id, "kill".to_owned()));
}

#[tokio::test]
async fn a_launch_that_is_being_given_up_holds_up_no_other_machine_and_no_look() {
    let (client, mut events) = start();
    let [id, other] = [6, 7].map(Uuid::from_u128);
    let launch = tokio::time::timeout(Duration::from_millis(20), client.launch(spec(id, 20_000)));
    launch.await.unwrap_err();
    assert_eq!(told(&mut events).await, (id, "launch".to_owned()));
    assert!(client.sight(id).await.unwrap().is_some());
    client.kill(other).await.unwrap();
    assert_eq!(told(&mut events).await, (other, "kill".to_owned()));
    assert_eq!(told(&mut events).await, (id, "launch dropped".to_owned()));
}

async fn told(events: &mut mpsc::Receiver<Event>) -> (Uuid, String) {
    let event = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
    let Event::MachineEnded { id, reason } = event else { panic!("{event:?}") };
    (id, reason)
}
