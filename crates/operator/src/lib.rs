//! The hands: runs machines and makes images through one backend, keeps the files they need below
//! the storage folder, and surveys both. What is to be done, and in which order, comes from the
//! engine, an effect at a time; nothing is decided or recorded here.

mod backends;
mod files;
mod images;
mod machines;
mod spec;
mod survey;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use vman_core::operation::{Effect, MachineEffect, Part};
use vman_core::ports::{Applied, Apply, ApplyError, Survey, Target};
use vman_core::sighting::Sightings;
use vman_plugin::Event;
use vman_plugin::host::Client;

pub use backends::{BackendReport, Choice, ChooseError, Chosen, choose};
pub use files::Storage;

use crate::watch::Watch;

/// What the operator works with.
pub struct OperatorConfig {
    pub storage: Storage,
    /// How long a guest may take to power itself off before it is ended.
    pub stop_grace: Duration,
    /// Called whenever a machine may have changed; must not block.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for OperatorConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorConfig")
            .field("storage", &self.storage)
            .field("stop_grace", &self.stop_grace)
            .finish_non_exhaustive()
    }
}

/// Carries effects out on this host.
#[derive(Debug)]
pub struct Operator {
    backend: String,
    client: Client,
    storage: Storage,
    stop_grace: Duration,
    watch: Watch,
}

impl Operator {
    /// Must be called inside a tokio runtime: it listens to the backend's events from here on.
    pub fn new(config: OperatorConfig, client: Client, events: mpsc::Receiver<Event>) -> Self {
        let watch = Watch::new(config.wake);
        watch.listen(events);
        Self {
            backend: client.manifest().name.clone(),
            client,
            storage: config.storage,
            stop_grace: config.stop_grace,
            watch,
        }
    }
}

#[async_trait]
impl Survey for Operator {
    async fn survey(&self) -> Sightings {
        self.look().await
    }
}

#[async_trait]
impl Apply for Operator {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        match (effect.part(), target) {
            (Part::Machine(effect), Target::Vm(target)) => self.apply_to_vm(effect, target).await,
            (Part::Machine(MachineEffect::Kill), Target::Machine(id)) => self.kill(*id).await,
            (Part::Image(effect), Target::Disk(disk)) => self.apply_to_disk(effect, disk).await,
            (Part::QuarantineFile, Target::File(path)) => self.storage.quarantine(path).await,
            (
                Part::Network(_) | Part::Machine(_) | Part::Image(_) | Part::QuarantineFile,
                Target::Vm(_) | Target::Disk(_) | Target::Machine(_) | Target::File(_),
            ) => Err(mismatch(effect)),
        }
    }
}

/// The engine asked for an effect on something it cannot be applied to.
fn mismatch(effect: Effect) -> ApplyError {
    ApplyError(format!("{} is not an effect on this subject", effect.word()))
}
