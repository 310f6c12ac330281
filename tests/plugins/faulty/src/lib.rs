//! The backend `faulty`, for tests: its machines and images are small files, so that they outlive
//! whatever becomes of it, and it goes wrong in the verb and in the way that its settings name. It
//! has every capability but processes, so that each verb is asked for. What it does until then is
//! right, and so small that a fault is the only thing to find in it.

use std::path::PathBuf;

use async_trait::async_trait;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, BackendError, Bus, Capabilities, DiskAttachment,
    DiskGrowth, DiskRemoval, ErrorCode, Event, ImageFormat, ImageGrowth, ImageInfo, ImageRef,
    ImageSpec, Machine, MachineSighting, MachineSpec, Manifest, Probe, RunState, Survey, Unplug,
};

use crate::fault::Settings;

mod fault;
mod files;

vman_plugin::export_backend!(Faulty);

/// An instance; all that lasts is in files.
#[derive(Debug)]
pub struct Faulty {
    machines_dir: PathBuf,
    settings: Settings,
    context: BackendContext,
}

#[async_trait]
impl Backend for Faulty {
    fn manifest() -> Manifest {
        Manifest {
            name: "faulty".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Goes wrong where its settings say.".to_owned(),
            capabilities: Capabilities {
                processes: false,
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
        let settings = Settings::parse(config.settings)?;
        settings.strike_at_once("create")?;
        Ok(Self { machines_dir: config.machines_dir, settings, context })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        self.settings.strike("probe").await?;
        let reason = "machines are files, which works everywhere".to_owned();
        Ok(Probe { usable: true, reason, hypervisor: None, notes: vec![] })
    }

    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        self.settings.strike("launch").await?;
        let disks = spec.disks.iter().map(|disk| disk.id).collect();
        files::launch(&self.machines_dir, spec.id, disks)
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        self.settings.strike("reattach").await?;
        files::sight(&self.machines_dir, machine.id)?.ok_or_else(|| gone(machine.id))
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("power-button").await?;
        if files::sight(&self.machines_dir, id)?.is_none() {
            return Err(gone(id));
        }
        self.end(id)
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("quit").await?;
        self.end(id)
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("kill").await?;
        self.end(id)
    }

    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        self.settings.strike("sight").await?;
        files::sight(&self.machines_dir, id)
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        self.settings.strike("survey").await?;
        files::survey(&self.machines_dir)
    }

    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("pause").await?;
        self.change(id, |machine| machine.run_state = RunState::Paused)
    }

    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("resume").await?;
        self.change(id, |machine| machine.run_state = RunState::Running)
    }

    async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("reset").await?;
        self.change(id, |machine| machine.run_state = RunState::Running)
    }

    async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        self.settings.strike("attach-disk").await?;
        let disk = attachment.disk.id;
        self.change(attachment.id, |machine| {
            machine.disks.retain(|other| *other != disk);
            machine.disks.push(disk);
        })
    }

    async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        self.settings.strike("detach-disk").await?;
        let without = |machine: &mut files::Content| {
            machine.disks.retain(|other| *other != removal.disk);
        };
        match self.change(removal.id, without) {
            Err(error) if error.code != ErrorCode::NotFound => Err(error),
            // A machine that is gone has no disks.
            Ok(()) | Err(_) => Ok(Unplug::Done),
        }
    }

    /// The image of a disk is not known here, and nobody reads its size but `inspect-image`.
    async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        self.settings.strike("resize-disk").await?;
        self.change(growth.id, |_| {})
    }

    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        self.settings.strike("resize-image").await?;
        files::grow_image(&growth)
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        self.settings.strike("create-image").await?;
        files::create_image(&spec)
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        self.settings.strike("inspect-image").await?;
        files::inspect_image(&image)
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        self.settings.strike("delete-image").await?;
        files::remove(&image.path)
    }
}

impl Faulty {
    fn change(&self, id: Uuid, how: impl FnOnce(&mut files::Content)) -> Result<(), BackendError> {
        if files::change(&self.machines_dir, id, how)? { Ok(()) } else { Err(gone(id)) }
    }

    fn end(&self, id: Uuid) -> Result<(), BackendError> {
        files::end(&self.machines_dir, id)?;
        let reason = "it was asked to end".to_owned();
        self.context.emit(Event::MachineEnded { id, reason });
        Ok(())
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        // It can only fail by going wrong.
        let _ = self.settings.strike_at_once("destroy");
    }
}

fn gone(id: Uuid) -> BackendError {
    BackendError::new(ErrorCode::NotFound, format!("machine {id}: there is no such file"))
}
