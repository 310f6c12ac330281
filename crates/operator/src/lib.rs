//! The hands: runs machines and makes images through one backend, keeps the files they need below
//! the storage folder, and surveys both. What is to be done, and in which order, comes from the
//! engine, an effect at a time; nothing is decided or recorded here.

mod backends;
mod disks;
mod files;
mod images;
mod instance;
mod machines;
mod plugins;
mod rescan;
mod spec;
mod survey;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use vman_core::ident::VmId;
use vman_core::operation::{DiskEffect, Effect, MachineEffect, Part};
use vman_core::ports::{Applied, Apply, ApplyError, DiskTarget, Survey, Target};
use vman_core::sighting::Sightings;
use vman_plugin::BackendError;
use vman_plugin::host::Client;

pub use backends::{
    BackendReport, BackendState, Choice, ChooseError, Chosen, Wanted, choose, examine,
};
pub use files::Storage;
pub use instance::Backend;
pub use plugins::Plugins;

use crate::instance::{Absent, Instance};
use crate::rescan::Catalogue;
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
    instance: Instance,
    catalogue: Catalogue,
    storage: Storage,
    stop_grace: Duration,
    watch: Watch,
}

impl Operator {
    /// Must be called inside a tokio runtime: it listens to the backend's events from here on.
    pub fn new(config: OperatorConfig, wanted: Wanted, chosen: Chosen) -> Self {
        let OperatorConfig { storage, stop_grace, wake } = config;
        let watch = Watch::new(wake);
        let (backend, catalogue) = chosen.split(wanted);
        let (instance, events) = Instance::new(backend);
        watch.listen(events);
        Self { instance, catalogue, storage, stop_grace, watch }
    }

    /// The backend's name.
    fn backend(&self) -> &str {
        self.instance.name()
    }

    async fn client(&self) -> Result<Client, ApplyError> {
        self.instance.client(|events| self.watch.listen(events)).await.map_err(told)
    }

    /// As [`client`](Self::client), without waiting: one that is not there is looked for again when
    /// it is due.
    async fn present_client(&self) -> Result<Client, ApplyError> {
        let present = self.instance.present(|events| self.watch.listen(events)).await;
        present.map_err(|Absent { error, left }| {
            if let Some(left) = left {
                self.watch.wake_after(left);
            }
            told(error)
        })
    }

    /// What the backend cannot do at all, and what to do instead.
    fn lacks(&self, power: &str, instead: &str) -> ApplyError {
        ApplyError::failed(format!("backend {} cannot {power}; {instead}", self.backend()))
    }

    async fn apply_to_disk(
        &self,
        effect: DiskEffect,
        target: &DiskTarget,
    ) -> Result<Applied, ApplyError> {
        let DiskTarget { disk, vm } = target;
        match effect {
            DiskEffect::Create => self.create_image(disk).await,
            DiskEffect::Delete => self.delete_image(disk).await,
            DiskEffect::Resize => {
                if let Some(vm) = vm {
                    self.refuse_foreign(vm)?;
                }
                self.resize_image(disk, vm.as_ref().map(|vm| vm.id)).await
            }
            DiskEffect::Attach => self.attach_disk(target).await,
            DiskEffect::Detach => self.detach_disk(target).await,
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
        let ends = matches!(effect, Effect::PowerOff | Effect::End | Effect::Kill);
        let _during = machine_of(target).map(|machine| self.watch.during_effect(machine, ends));
        match (effect.part(), target) {
            (Part::Machine(effect), Target::Vm(target)) => self.apply_to_vm(effect, target).await,
            (Part::Machine(MachineEffect::Kill), Target::Machine(id)) => self.kill(*id).await,
            (Part::Disk(effect), Target::Disk(target)) => self.apply_to_disk(effect, target).await,
            (Part::QuarantineFile, Target::File(path)) => self.storage.quarantine(path).await,
            (
                Part::Network(_) | Part::Machine(_) | Part::Disk(_) | Part::QuarantineFile,
                Target::Vm(_) | Target::Disk(_) | Target::Machine(_) | Target::File(_),
            ) => Err(mismatch(effect)),
        }
    }
}

fn machine_of(target: &Target) -> Option<VmId> {
    match target {
        Target::Vm(target) => Some(target.vm.id),
        Target::Disk(target) => target.vm.as_ref().map(|vm| vm.id),
        Target::Machine(id) => Some(*id),
        Target::File(_) => None,
    }
}

/// The engine asked for an effect on something it cannot be applied to.
fn mismatch(effect: Effect) -> ApplyError {
    ApplyError::failed(format!("{} is not an effect on this subject", effect.word()))
}

/// What the backend said of a failure.
fn told(error: BackendError) -> ApplyError {
    ApplyError::Failed(error.message)
}
