//! The backend `example-rust`: each machine is a plain process, each image a plain file, and no
//! guest runs. This file is the contract's side of it; what a machine and an image are is told in
//! the modules.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::task::block_in_place;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, BackendError, Capabilities, Control, ErrorCode,
    ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec, LogLevel, Machine, MachineSighting,
    MachineSpec, Manifest, Probe, RunState, Survey,
};

use crate::process::{Found, Held};
use crate::settings::Settings;
use crate::watch::Watch;

mod images;
mod process;
mod settings;
mod watch;

vman_plugin::export_backend!(Processes);

/// How long `quit` waits for a process to end: less than the host waits for the verb, so that the
/// verb itself can say what it waited for.
const QUIT_WAIT: Duration = Duration::from_secs(25);
/// As above, of `kill`.
const KILL_WAIT: Duration = Duration::from_secs(8);

/// An instance. What it knows of machines it looks up anew each time.
#[derive(Debug)]
pub struct Processes {
    machines_dir: PathBuf,
    settings: Settings,
    context: BackendContext,
    watch: Watch,
}

#[async_trait]
impl Backend for Processes {
    fn manifest() -> Manifest {
        Manifest {
            name: "example-rust".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Runs each machine as a plain process; no guest runs.".to_owned(),
            capabilities: Capabilities {
                processes: true,
                power_button: true,
                image_formats: vec![ImageFormat::Raw],
                resize: true,
                ..Capabilities::default()
            },
            sdk: String::new(),
        }
    }

    fn create(config: BackendConfig, context: BackendContext) -> Result<Self, BackendError> {
        let settings = Settings::parse(config.settings)?;
        let watch = Watch::new(context.clone());
        Ok(Self { machines_dir: config.machines_dir, settings, context, watch })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        let program = self.settings.program.display();
        let (usable, reason) = match self.settings.try_out() {
            Ok(()) => (true, format!("{program} can be executed, and processes can be held")),
            Err(why) => (false, why),
        };
        let note = "Machines are plain processes: they have no processors, memory, disks or \
                    network of their own.";
        Ok(Probe { usable, reason, hypervisor: None, notes: vec![note.to_owned()] })
    }

    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        let id = spec.id;
        if spec.directory != self.machines_dir.join(id.to_string()) {
            let (theirs, ours) = (spec.directory.display(), self.machines_dir.display());
            let why = format!("machine {id}: its directory is {theirs}; it must be {ours}/{id}");
            return Err(BackendError::new(ErrorCode::Invalid, why));
        }
        let folder = self.folder()?;
        // One that is there already was launched before, and the answer got lost.
        let found = match block_in_place(|| find(&folder, Some(id)))?.pop() {
            Some(found) => found,
            None => block_in_place(|| process::start(&folder, id, &self.settings.program))
                .map_err(|why| {
                    let (program, folder) = (self.settings.program.display(), folder.display());
                    let what = format!("the machine {id} cannot be started with {program}");
                    failed(format!("{what} in {folder}/{id}: {why}"))
                })?,
        };
        self.watch.begin(&folder, &found);
        let pid = found.identity.pid;
        self.context.log(LogLevel::Debug, &format!("machine {id} runs as process {pid}"));
        Ok(machine(&found))
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        let id = machine.id;
        let Some(identity) = machine.process else {
            let why = format!("machine {id}: the host names no process; this backend's have one");
            return Err(BackendError::new(ErrorCode::Invalid, why));
        };
        let folder = self.folder()?;
        let all = block_in_place(|| find(&folder, Some(id)))?;
        let found = all.iter().find(|found| found.identity == identity).ok_or_else(|| gone(id))?;
        self.watch.begin(&folder, found);
        Ok(sighting(found))
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        match self.signal(id, Signal::TERM)?.is_empty() {
            true => Err(gone(id)),
            false => Ok(()),
        }
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        self.end(id, Signal::TERM, QUIT_WAIT).await
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.end(id, Signal::KILL, KILL_WAIT).await
    }

    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        let found = block_in_place(|| find(&self.folder()?, Some(id)))?;
        Ok(found.first().map(sighting))
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        let found = block_in_place(|| find(&self.folder()?, None))?;
        Ok(Survey { machines: found.iter().map(sighting).collect(), ended: vec![] })
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        block_in_place(|| images::create(&spec))
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        block_in_place(|| images::inspect(&image))
    }

    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        block_in_place(|| images::grow(&growth))
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        block_in_place(|| images::delete(&image))
    }
}

impl Processes {
    /// The folder of the machines as the kernel knows it: two daemons that write it in two ways
    /// thus mean the same machines.
    fn folder(&self) -> Result<PathBuf, BackendError> {
        let folder = &self.machines_dir;
        folder
            .canonicalize()
            .map_err(|why| failed(format!("the machines folder {}: {why}", folder.display())))
    }

    /// Signals every process of the machine, should there be two.
    fn signal(&self, id: Uuid, signal: Signal) -> Result<Vec<(Found, Held)>, BackendError> {
        let folder = self.folder()?;
        let mut signalled = Vec::new();
        for found in block_in_place(|| find(&folder, Some(id)))? {
            let failed = |why| {
                let pid = found.identity.pid;
                failed(format!("the process {pid} of machine {id} cannot be signalled: {why}"))
            };
            // None: it has ended meanwhile.
            let Some(held) = Held::machine(&folder, &found).map_err(failed)? else { continue };
            held.signal(signal).map_err(failed)?;
            signalled.push((found, held));
        }
        Ok(signalled)
    }

    async fn end(&self, id: Uuid, signal: Signal, wait: Duration) -> Result<(), BackendError> {
        for (found, held) in self.signal(id, signal)? {
            if tokio::time::timeout(wait, held.ended()).await.is_err() {
                let pid = found.identity.pid;
                let why = format!(
                    "the process {pid} of machine {id} has {signal:?}, and does not end within \
                     {wait:?}; `kill` ends one that does not want to"
                );
                return Err(BackendError::new(ErrorCode::Timeout, why));
            }
            self.watch.tell_ended(&found, "it was asked to end");
        }
        Ok(())
    }
}

fn find(folder: &Path, id: Option<Uuid>) -> Result<Vec<Found>, BackendError> {
    process::find(folder, id)
        .map_err(|why| failed(format!("the host's processes cannot be looked at: {why}")))
}

fn machine(found: &Found) -> Machine {
    Machine { id: found.id, process: Some(found.identity.clone()) }
}

/// A process has no control channel that could fail: whoever sees it knows what it does.
fn sighting(found: &Found) -> MachineSighting {
    let run_state = if found.is_stopped { RunState::Paused } else { RunState::Running };
    let control = Control::Connected { run_state };
    MachineSighting { machine: machine(found), control, age_ms: 0, disks: None }
}

fn gone(id: Uuid) -> BackendError {
    let why = format!("the machine {id} does not run: no process of it is there");
    BackendError::new(ErrorCode::NotFound, why)
}

fn failed(why: String) -> BackendError {
    BackendError::new(ErrorCode::Failed, why)
}
