//! The backend `faulty`, for tests: `dry-run` under another name, which goes wrong in the verb and
//! in the way that its settings say. Machines and images are files, so they outlive whatever
//! becomes of it, and each verb there is is asked for. Until then it is as sound as the other, and
//! nothing of that is done here.

use async_trait::async_trait;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, BackendError, DiskAttachment, DiskGrowth, DiskRemoval,
    ImageGrowth, ImageInfo, ImageRef, ImageSpec, Machine, MachineSighting, MachineSpec, Manifest,
    Probe, Survey, Unplug,
};
use vman_plugin_dry_run::DryRun;

use crate::fault::Settings;

mod fault;

vman_plugin::export_backend!(Faulty);

/// An instance.
#[derive(Debug)]
pub struct Faulty {
    settings: Settings,
    sound: DryRun,
}

#[async_trait]
impl Backend for Faulty {
    fn manifest() -> Manifest {
        Manifest {
            name: "faulty".to_owned(),
            description: "Goes wrong where its settings say; no guest runs.".to_owned(),
            ..DryRun::manifest()
        }
    }

    fn create(config: BackendConfig, context: BackendContext) -> Result<Self, BackendError> {
        let BackendConfig { machines_dir, settings } = config;
        let settings = Settings::parse(settings)?;
        settings.strike_at_once("create")?;
        let config = BackendConfig { machines_dir, settings: serde_json::json!({}) };
        Ok(Self { settings, sound: DryRun::create(config, context)? })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        self.settings.strike("probe").await?;
        self.sound.probe().await
    }

    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        self.settings.strike("launch").await?;
        self.sound.launch(spec).await
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        self.settings.strike("reattach").await?;
        self.sound.reattach(machine).await
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("power-button").await?;
        self.sound.power_button(id).await
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("quit").await?;
        self.sound.quit(id).await
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("kill").await?;
        self.sound.kill(id).await
    }

    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        self.settings.strike("sight").await?;
        self.sound.sight(id).await
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        self.settings.strike("survey").await?;
        self.sound.survey().await
    }

    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("pause").await?;
        self.sound.pause(id).await
    }

    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("resume").await?;
        self.sound.resume(id).await
    }

    async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        self.settings.strike("reset").await?;
        self.sound.reset(id).await
    }

    async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        self.settings.strike("attach-disk").await?;
        self.sound.attach_disk(attachment).await
    }

    async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        self.settings.strike("detach-disk").await?;
        self.sound.detach_disk(removal).await
    }

    async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        self.settings.strike("resize-disk").await?;
        self.sound.resize_disk(growth).await
    }

    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        self.settings.strike("resize-image").await?;
        self.sound.resize_image(growth).await
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        self.settings.strike("create-image").await?;
        self.sound.create_image(spec).await
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        self.settings.strike("inspect-image").await?;
        self.sound.inspect_image(image).await
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        self.settings.strike("delete-image").await?;
        self.sound.delete_image(image).await
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        // It fails in its own way or not at all.
        let _ = self.settings.strike_at_once("destroy");
    }
}
