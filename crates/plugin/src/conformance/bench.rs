//! What the cases work on: a folder of machines and images, instances of the backend over it, and
//! machines and disks in there. What must be true of them is told by the cases.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::fault::{Fault, Outcome, SOON, Works, ensure, until};
use super::runner::Program;
use super::subject::Subject;
use crate::host::{Client, Offer};
use crate::{
    BackendConfig, Boot, Bus, Capabilities, Control, DiskSpec, Event, ImageFormat, ImageRef,
    ImageSpec, Machine, MachineSighting, MachineSpec, Nic, RunState,
};

/// How often what is idempotent is repeated.
pub(super) const REPEATS: usize = 10;
/// Bytes of an image made by a case.
pub(super) const IMAGE_SIZE: u64 = 64 << 20;
/// MiB of a machine.
const RAM_MIB: u64 = 64;
/// Others may go through it and list nothing: a backend may run machines as another user.
const FOLDER_MODE: u32 = 0o711;
/// Where a case notes what it is at, for whoever finds it crashed.
const PROGRESS: &str = "progress";
/// Where the process of a case works, and leaves nothing.
const WORKING: &str = "working";
/// Characters of a disk's serial.
const SERIAL_LENGTH: usize = 20;

/// One case's folder, and the backend.
#[derive(Debug)]
pub struct Bench {
    subject: Subject,
    offer: Offer,
    folder: PathBuf,
    program: Option<Program>,
    notes: Mutex<Vec<String>>,
}

/// A backend at work.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) client: Client,
    pub(super) events: mpsc::Receiver<Event>,
}

impl Instance {
    /// When this returns the instance is gone, and its machines are not.
    pub(super) async fn end(self) -> Outcome {
        let Self { client, mut events } = self;
        drop(client);
        let ended = async { while events.recv().await.is_some() {} };
        let in_time = tokio::time::timeout(SOON, ended).await.is_ok();
        ensure!(in_time, "`destroy` has not returned within {SOON:?}");
        Ok(())
    }
}

/// Makes what is in a case's folder before it begins.
pub(super) fn lay_out(folder: &Path) -> std::io::Result<()> {
    for name in ["machines", "images", "other", WORKING] {
        let path = folder.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(FOLDER_MODE))?;
    }
    fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))
}

pub(super) fn working_folder(folder: &Path) -> PathBuf {
    folder.join(WORKING)
}

/// What the case in this folder noted last.
pub(super) fn progress(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join(PROGRESS)).ok()
}

impl Bench {
    /// Opens the backend, which runs its code.
    pub(super) fn new(
        subject: Subject,
        folder: PathBuf,
        program: Option<Program>,
    ) -> Result<Self, Fault> {
        let offer = subject.opening.open()?;
        Ok(Self { subject, offer, folder, program, notes: Mutex::default() })
    }

    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(super) fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(super) fn capabilities(&self) -> &Capabilities {
        &self.offer.manifest().capabilities
    }

    pub(super) fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn machines_dir(&self) -> PathBuf {
        self.folder.join("machines")
    }

    /// A folder of machines that are none of the case's own.
    pub(super) fn other_dir(&self) -> PathBuf {
        self.folder.join("other")
    }

    pub(super) fn images_dir(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// Tells whoever reads the verdict.
    pub(super) fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    pub(super) fn notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what comes next, in case nothing comes after it.
    pub(super) fn is_at(&self, what: &str) {
        // Without the note a crash is told without it.
        let _ = fs::write(self.folder.join(PROGRESS), what);
    }

    pub(super) fn start(&self) -> Result<Instance, Fault> {
        self.start_in(self.machines_dir())
    }

    pub(super) fn start_in(&self, machines_dir: PathBuf) -> Result<Instance, Fault> {
        let settings = self.subject.settings.clone();
        let config = BackendConfig { machines_dir, settings };
        let (client, events) = self.offer.start(config).works("making an instance")?;
        Ok(Instance { client, events })
    }

    /// A machine with its directory, not launched yet.
    pub(super) async fn spec(&self, client: &Client) -> Result<MachineSpec, Fault> {
        self.spec_in(client, &self.machines_dir()).await
    }

    pub(super) async fn spec_in(&self, client: &Client, dir: &Path) -> Result<MachineSpec, Fault> {
        let id = Uuid::new_v4();
        let directory = dir.join(id.to_string());
        fs::create_dir(&directory).map_err(|error| ours("a machine's directory", &error))?;
        let boot = self.subject.guest.clone().unwrap_or(Boot::RootDisk);
        let disks = match (&self.subject.guest, self.capabilities().image_formats.first()) {
            (None, Some(format)) => vec![self.disk_of(client, Bus::default(), *format).await?],
            (Some(_), _) | (None, None) => vec![],
        };
        let (cpu_count, ram_mib, nic) = (1, RAM_MIB, Nic::None);
        Ok(MachineSpec { id, directory, cpu_count, ram_mib, boot, disks, nic })
    }

    /// A machine that runs.
    pub(super) async fn launched(&self, client: &Client) -> Result<(MachineSpec, Machine), Fault> {
        let spec = self.spec(client).await?;
        let machine = client.launch(spec.clone()).await.works("a launch")?;
        ensure!(machine.id == spec.id, "the machine {} was launched as {}", spec.id, machine.id);
        in_state(client, spec.id, RunState::Running).await?;
        Ok((spec, machine))
    }

    /// A place for an image where nothing is.
    pub(super) fn image(&self, format: ImageFormat) -> ImageSpec {
        let path = self.images_dir().join(format!("{}.{}", Uuid::new_v4(), format.name()));
        ImageSpec { path, format, virtual_size: IMAGE_SIZE }
    }

    /// A disk with its image, in no machine.
    pub(super) async fn disk(&self, client: &Client, bus: Bus) -> Result<DiskSpec, Fault> {
        let format = self.capabilities().image_formats.first().copied();
        self.disk_of(client, bus, format.unwrap_or(ImageFormat::Raw)).await
    }

    async fn disk_of(
        &self,
        client: &Client,
        bus: Bus,
        format: ImageFormat,
    ) -> Result<DiskSpec, Fault> {
        let image = self.image(format);
        client.create_image(image.clone()).await.works("making an image")?;
        let id = Uuid::new_v4();
        let serial = id.simple().to_string()[..SERIAL_LENGTH].to_owned();
        Ok(DiskSpec { id, path: image.path, format, serial, bus })
    }
}

/// Something of the suite's own could not be done.
pub(super) fn ours(what: &str, error: &std::io::Error) -> Fault {
    Fault(format!("the suite could not make {what}: {error}"))
}

pub(super) fn reference(image: &ImageSpec) -> ImageRef {
    ImageRef { path: image.path.clone(), format: image.format }
}

/// What is told of a machine once its guest is in this state and the machine answers.
pub(super) async fn in_state(
    client: &Client,
    id: Uuid,
    state: RunState,
) -> Result<MachineSighting, Fault> {
    until(&format!("machine {id} is told to be {state:?}"), async || {
        let seen = client.sight(id).await.works("looking at a machine")?;
        let Some(seen) = seen else {
            return Err(Fault(format!("machine {id} lives, and `sight` says that it does not")));
        };
        let told = Control::Connected { run_state: state };
        Ok((seen.control == told).then_some(seen))
    })
    .await
}

/// Ends machines, and looks that they are gone.
pub(super) async fn end_all(client: &Client, ids: &[Uuid]) -> Outcome {
    for &id in ids {
        client.kill(id).await.works("a kill")?;
        is_gone(client, id).await?;
    }
    Ok(())
}

/// The machine is neither seen nor listed, now.
pub(super) async fn is_gone(client: &Client, id: Uuid) -> Outcome {
    let seen = client.sight(id).await.works("looking at a machine that is gone")?;
    ensure!(seen.is_none(), "machine {id} was ended, and `sight` still tells {seen:?}");
    let listed = listed(client).await?;
    ensure!(!listed.contains(&id), "machine {id} was ended, and `survey` still lists it");
    Ok(())
}

/// The machines that a survey lists, in the order of their ids; none twice.
pub(super) async fn listed(client: &Client) -> Result<Vec<Uuid>, Fault> {
    let survey = client.survey().await.works("a survey")?;
    let mut ids: Vec<Uuid> = survey.machines.iter().map(|seen| seen.machine.id).collect();
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    ensure!(ids.len() == count, "a survey lists a machine twice: {:?}", survey.machines);
    Ok(ids)
}

/// A deadline that passes while a verb is under way.
pub(super) fn hurried(client: &Client, milliseconds: u64) -> Client {
    client.with_deadline(Duration::from_millis(milliseconds))
}
