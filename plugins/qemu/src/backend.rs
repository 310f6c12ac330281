//! The backend contract carried out with QEMU: each verb, from the parts the other files have.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, BackendError, Bus, Capabilities, DiskAttachment,
    DiskGrowth, DiskRemoval, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec, LogLevel,
    Machine, MachineSighting, MachineSpec, Manifest, Probe, Survey, Unplug, deadline,
};

use crate::accelerator::Acceleration;
use crate::command_line::{self, pid_file};
use crate::confine::{Confinement, Order};
use crate::image::{self, QemuImg};
use crate::launch::Launcher;
use crate::machine::{DISK_DEADLINE, REQUEST_DEADLINE, Request, State, UNPLUG_WAIT, Watched};
use crate::process::{Found, Held};
use crate::program::{self, QEMU};
use crate::registry::Registry;
use crate::settings::Settings;
use crate::{aside, conflict, failed, failure, holder, invalid, not_found, probe, timeout};

/// From QEMU's start to its first answered command; usually 45 ms.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(30);

/// For the control socket of a machine that is found again; usually a millisecond.
const REATTACH_DEADLINE: Duration = Duration::from_secs(3);

/// From `quit` to the process's end: QEMU flushes its disks in between.
const QUIT_DEADLINE: Duration = Duration::from_secs(15);

/// From SIGKILL to the process's end; longer only while the kernel waits for a device.
const KILL_DEADLINE: Duration = Duration::from_secs(8);

/// From a process's end to nothing being left of it; usually a millisecond.
const CLEAR_DEADLINE: Duration = Duration::from_secs(1);

// The host would otherwise end a verb before it can say what it waited for.
const _: () = {
    assert!(
        CLEAR_DEADLINE.as_secs() + LAUNCH_DEADLINE.as_secs() + KILL_DEADLINE.as_secs()
            < deadline::LAUNCH.as_secs()
    );
    assert!(REATTACH_DEADLINE.as_secs() < deadline::REATTACH.as_secs());
    assert!(REQUEST_DEADLINE.as_secs() < deadline::POWER_BUTTON.as_secs());
    assert!(REQUEST_DEADLINE.as_secs() + QUIT_DEADLINE.as_secs() < deadline::QUIT.as_secs());
    assert!(REQUEST_DEADLINE.as_secs() < deadline::CONTROL.as_secs());
    assert!(DISK_DEADLINE.as_secs() < deadline::ATTACH_DISK.as_secs());
    assert!(DISK_DEADLINE.as_secs() < deadline::RESIZE_DISK.as_secs());
    assert!(REQUEST_DEADLINE.as_secs() + UNPLUG_WAIT.as_secs() < deadline::DETACH_DISK.as_secs());
    assert!(KILL_DEADLINE.as_secs() < deadline::KILL.as_secs());
    assert!(image::CREATE_DEADLINE.as_secs() < deadline::CREATE_IMAGE.as_secs());
    assert!(image::RESIZE_DEADLINE.as_secs() < deadline::RESIZE_IMAGE.as_secs());
};

/// A backend that runs machines with QEMU and makes images with `qemu-img`.
#[derive(Debug)]
pub struct Qemu<A> {
    settings: Settings,
    registry: Registry,
    confinement: Arc<Confinement>,
    launcher: Launcher,
    context: BackendContext,
    acceleration: PhantomData<fn() -> A>,
}

#[async_trait]
impl<A: Acceleration> Backend for Qemu<A> {
    fn manifest() -> Manifest {
        Manifest {
            name: A::ACCELERATOR.backend_name().to_owned(),
            version: A::VERSION.to_owned(),
            description: A::ACCELERATOR.description().to_owned(),
            capabilities: Capabilities {
                processes: true,
                power_button: true,
                image_formats: vec![ImageFormat::Qcow2, ImageFormat::Raw],
                pause: true,
                reset: true,
                hot_plug: vec![Bus::VirtioScsi, Bus::VirtioBlk],
                resize: true,
            },
            sdk: String::new(),
        }
    }

    fn create(config: BackendConfig, context: BackendContext) -> Result<Self, BackendError> {
        if !config.machines_dir.is_absolute() {
            return Err(invalid(format!(
                "the machines' folder {:?} is not an absolute path",
                config.machines_dir
            )));
        }
        let settings = Settings::parse(A::ACCELERATOR.backend_name(), &config.settings)?;
        let registry = Registry::new(config.machines_dir, context.clone());
        let machines_dir = registry.machines_dir();
        let confinement = Arc::new(Confinement::new(A::ACCELERATOR, &settings, machines_dir));
        let launcher = Launcher::new(Arc::clone(&confinement), context.clone());
        Ok(Self { settings, registry, confinement, launcher, context, acceleration: PhantomData })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        let mut probe = probe::probe(A::ACCELERATOR, &self.settings).await;
        if let Ok(qemu) = program::find(QEMU, self.settings.binary.as_deref()) {
            let confinement = Arc::clone(&self.confinement);
            probe.notes = aside(move || confinement.notes(&qemu)).await?;
        }
        Ok(probe)
    }

    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        let (id, directory) = (spec.id, self.directory(&spec)?);
        if let Some(watched) = self.registry.find(id).await? {
            return already_lives(&watched).await;
        }
        self.registry.cleared_within(id, CLEAR_DEADLINE).await;
        let order = self.order(spec, directory)?;
        let watched = self.launcher.start(&self.registry, order.clone()).await?;
        match watched.settled(LAUNCH_DEADLINE).await {
            State::Connected(_) => Ok(watched.machine()),
            State::Ended(why) => Err(self.launcher.failed(&order, why).await),
            State::Unreachable(why) => {
                self.kill(id).await?;
                let why = format!("it did not answer in {LAUNCH_DEADLINE:?} ({why}) and was ended");
                Err(timeout(self.launcher.failed(&order, why).await.message))
            }
        }
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        let id = machine.id;
        let gone = || not_found(format!("machine {id}: its process is gone"));
        let watched = match machine.process {
            Some(identity) => {
                let found = Found { id, identity };
                self.registry.take_up(&found)?.filter(|watched| watched.found() == &found)
            }
            None => self.registry.find(id).await?,
        };
        let watched = watched.ok_or_else(gone)?;
        watched.settled(REATTACH_DEADLINE).await;
        watched.sighting().ok_or_else(gone)
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        self.request(id, Request::PowerButton).await
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        let Some(watched) = self.registry.find(id).await? else {
            return self.clear(id).await;
        };
        watched.witness().ask();
        let asked = watched.request(Request::Quit).await;
        match asked {
            // QEMU may end before its answer is read: only its end tells.
            Ok(_) if watched.ended_within(QUIT_DEADLINE).await => Ok(()),
            Ok(_) => Err(timeout(format!(
                "machine {id} was asked to quit and has not in {QUIT_DEADLINE:?}: kill it"
            ))),
            Err(_) if watched.is_ended() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        Ok(self.registry.find(id).await?.and_then(|watched| watched.sighting()))
    }

    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        self.request(id, Request::Pause).await
    }

    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        self.request(id, Request::Resume).await
    }

    async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        self.request(id, Request::Reset).await
    }

    async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        let DiskAttachment { id, disk } = attachment;
        let (lender, image) = (Arc::clone(&self.confinement), disk.clone());
        aside(move || lender.lend(id, &image)).await??;
        let (path, machines_dir) = (disk.path.clone(), self.registry.machines_dir());
        let attached = self.request(id, Request::Attach(disk)).await;
        if attached.is_err() {
            self.take_back(id, path.clone()).await;
        }
        match attached {
            Err(error) if failure::is_locked(&error.message) => {
                let in_use = aside(move || holder::in_use(&path, &machines_dir)).await?;
                Err(conflict(format!("machine {id}: {in_use}")))
            }
            done => done,
        }
    }

    async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        let DiskRemoval { id, disk, path } = removal;
        let Some(watched) = self.registry.find(id).await? else { return Ok(Unplug::Done) };
        match (watched.detach(disk).await, path) {
            (Err(_), _) if watched.is_ended() => Ok(Unplug::Done),
            (Ok(Unplug::Done), Some(path)) => {
                self.take_back(id, path).await;
                Ok(Unplug::Done)
            }
            (answer, _) => answer,
        }
    }

    async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        let DiskGrowth { id, disk, virtual_size } = growth;
        self.request(id, Request::Resize { disk, virtual_size }).await
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        let Some(watched) = self.registry.watched(id) else {
            self.kill_others(id, None).await?;
            return self.clear(id).await;
        };
        watched.witness().ask();
        let (found, held) = (watched.found(), watched.held());
        // Looking for others takes as long as its end.
        let (known, others) = tokio::join!(kill(found, held), self.kill_others(id, Some(found)));
        known.and(others)
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        QemuImg::find(self.settings.qemu_img.as_deref())?.create(&spec).await
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        image::inspect(image).await
    }

    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        let qemu_img = QemuImg::find(self.settings.qemu_img.as_deref())?;
        qemu_img.grow(&growth, &self.registry.machines_dir()).await
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        image::delete(image).await
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        let confinement = Arc::clone(&self.confinement);
        aside(move || confinement.sweep()).await?;
        self.registry.survey().await
    }
}

impl<A: Acceleration> Qemu<A> {
    /// `NotFound` if the machine is gone.
    async fn request(&self, id: Uuid, request: Request) -> Result<(), BackendError> {
        let watched = self.registry.find(id).await?;
        let watched = watched.ok_or_else(|| not_found(format!("machine {id} is not running")))?;
        watched.request(request).await.map(drop)
    }

    /// A machine does not have this image any more, and is not to open it again.
    async fn take_back(&self, id: Uuid, image: PathBuf) {
        let (lender, path) = (Arc::clone(&self.confinement), image.clone());
        let taken = aside(move || lender.take_back(id, &path)).await;
        let why = match taken {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.message,
        };
        let path = image.display();
        let line = format!("machine {id}: image {path} still belongs to its user: {why}");
        self.context.log(LogLevel::Warn, &line);
    }

    /// Also kills what runs this machine beside the process that is `known`.
    async fn kill_others(&self, id: Uuid, known: Option<&Found>) -> Result<(), BackendError> {
        for (found, held) in self.registry.others(id, known).await? {
            kill(&found, Arc::new(held)).await?;
        }
        Ok(())
    }

    /// The machine's directory, which must be the one it is found by again.
    fn directory(&self, spec: &MachineSpec) -> Result<PathBuf, BackendError> {
        let given = &spec.directory;
        let canonical = std::fs::canonicalize(given).map_err(|error| {
            invalid(format!("machine {}: its directory {given:?}: {error}", spec.id))
        })?;
        let expected = self.registry.machines_dir().join(spec.id.to_string());
        if canonical == expected {
            Ok(canonical)
        } else {
            Err(invalid(format!(
                "machine {}: its directory is {canonical:?} and must be {expected:?}",
                spec.id
            )))
        }
    }

    fn order(&self, spec: MachineSpec, directory: PathBuf) -> Result<Order, BackendError> {
        let program = program::find(QEMU, self.settings.binary.as_deref()).map_err(failed)?;
        let default = A::ACCELERATOR.default_cpu();
        let cpu = self.settings.cpu.as_deref().unwrap_or(default);
        let pid_file = pid_file(&self.registry.machines_dir(), spec.id);
        let arguments = command_line::build(
            A::ACCELERATOR,
            cpu,
            &spec,
            &pid_file,
            self.settings.hotplug_ports,
        )?;
        Ok(Order { program, arguments, spec, directory })
    }

    /// Leaves nothing of a machine whose processes have ended but its directory.
    async fn clear(&self, id: Uuid) -> Result<(), BackendError> {
        let Some(cgroup) = self.confinement.cgroup(id) else { return Ok(()) };
        aside(move || {
            // Whoever is left in there was started by the machine.
            cgroup.kill();
            cgroup.remove();
        })
        .await
    }
}

/// It was launched before and the answer was lost.
async fn already_lives(watched: &Watched) -> Result<Machine, BackendError> {
    let machine = watched.machine();
    match watched.settled(LAUNCH_DEADLINE).await {
        State::Connected(_) => Ok(machine),
        State::Ended(why) => Err(failed(format!(
            "machine {} was found living and ended meanwhile ({why}): launch it again",
            machine.id
        ))),
        State::Unreachable(why) => Err(timeout(format!(
            "machine {} already lives, as process {}, and does not answer ({why}): kill it, or \
             wait",
            machine.id,
            watched.found().identity.pid
        ))),
    }
}

async fn kill(found: &Found, held: Arc<Held>) -> Result<(), BackendError> {
    let pid = found.identity.pid;
    let trouble = |error| failed(format!("machine {}: process {pid}: {error}", found.id));
    held.kill().map_err(trouble)?;
    let killed = Arc::clone(&held);
    // Not waited for: the process's end is what counts.
    drop(tokio::task::spawn_blocking(move || killed.release_memory()));
    match tokio::time::timeout(KILL_DEADLINE, held.ended()).await {
        Ok(ended) => ended.map_err(trouble),
        Err(_) => Err(timeout(format!(
            "machine {}: process {pid} got SIGKILL and has not ended in {KILL_DEADLINE:?}: it \
             waits in the kernel, probably for its storage",
            found.id
        ))),
    }
}
