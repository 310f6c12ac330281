//! Starting a machine: made ready, started confined as far as the host allows it, and what is said
//! when it did not start. What it is confined to is `confine`'s; what it is told, `command_line`'s.

use std::os::fd::AsFd;
use std::sync::Arc;

use vman_plugin::{BackendContext, BackendError, LogLevel, MachineSpec};

use crate::command_line::QEMU_LOG;
use crate::confine::{Confinement, Order, Prepared, Refusal, Whom};
use crate::machine::Watched;
use crate::registry::Registry;
use crate::spawn::{SpawnError, spawn};
use crate::{aside, failure, log};

/// What starts machines.
#[derive(Debug)]
pub(crate) struct Launcher {
    confinement: Arc<Confinement>,
    context: BackendContext,
}

impl Launcher {
    pub(crate) fn new(confinement: Arc<Confinement>, context: BackendContext) -> Self {
        Self { confinement, context }
    }

    /// Returns once QEMU was executed. As a user of its own where that is possible; else as the
    /// daemon's, which is logged.
    pub(crate) async fn start(
        &self,
        registry: &Registry,
        order: Order,
    ) -> Result<Arc<Watched>, BackendError> {
        if self.confinement.whom() == Ok(Whom::Own) {
            match self.attempt(registry, &order, Whom::Own).await {
                Ok(watched) => return Ok(watched),
                Err(Refusal::Failed(error)) => return Err(error),
                Err(Refusal::NotAsOwn(why)) => self.warn(
                    &order.spec,
                    &format!("it runs as the daemon's own user, not as one of its own: {why}"),
                ),
            }
        }
        match self.attempt(registry, &order, Whom::Daemon).await {
            Ok(watched) => Ok(watched),
            Err(Refusal::Failed(error)) => Err(error),
            Err(Refusal::NotAsOwn(why)) => Err(crate::failed(why)),
        }
    }

    async fn attempt(
        &self,
        registry: &Registry,
        order: &Order,
        whom: Whom,
    ) -> Result<Arc<Watched>, Refusal> {
        let (confinement, cloned) = (Arc::clone(&self.confinement), order.clone());
        let prepared = aside(move || confinement.prepare(&cloned, whom)).await;
        let prepared = prepared.map_err(Refusal::Failed)??;
        if let Some(why) = &prepared.without_cgroup {
            self.warn(&order.spec, &format!("it has no cgroup and no limits: {why}"));
        }
        self.execute(registry, order, prepared).await.inspect_err(|_| {
            if let Some(cgroup) = self.confinement.cgroup(order.spec.id) {
                cgroup.remove();
            }
        })
    }

    async fn execute(
        &self,
        registry: &Registry,
        order: &Order,
        mut prepared: Prepared,
    ) -> Result<Arc<Watched>, Refusal> {
        let mut started = start(registry, order, &prepared);
        if let Err(SpawnError::Cgroup(_)) = started {
            // The end of its last run removes a cgroup of this name, and may have met the new one.
            let (confinement, spec) = (Arc::clone(&self.confinement), order.spec.clone());
            let anew = aside(move || confinement.make_cgroup(&spec)).await;
            prepared.cgroup = anew.ok().and_then(Result::ok).flatten();
            started = start(registry, order, &prepared);
        }
        if let Err(SpawnError::Cgroup(error)) = &started {
            self.warn(&order.spec, &format!("it runs outside of its cgroup: {error}"));
            if let Some(cgroup) = self.confinement.cgroup(order.spec.id) {
                cgroup.remove();
            }
            prepared.cgroup = None;
            started = start(registry, order, &prepared);
        }
        started.map_err(|error| self.confinement.refusal(order, &prepared, error))
    }

    /// The error for a machine whose process ended, or was ended, before it answered.
    pub(crate) async fn failed(&self, order: &Order, why: String) -> BackendError {
        let (order, confinement) = (order.clone(), Arc::clone(&self.confinement));
        let explained = aside(move || {
            let file = order.directory.join(QEMU_LOG);
            let words = log::tail(&file);
            let said =
                if words.is_empty() { format!("nothing (see {})", file.display()) } else { words };
            failure::start_failed(&order.spec, confinement.machines_dir(), &why, &said)
        });
        explained.await.unwrap_or_else(|error| error)
    }

    fn warn(&self, spec: &MachineSpec, what: &str) {
        self.context.log(LogLevel::Warn, &format!("machine {}: {what}", spec.id));
    }
}

fn start(
    registry: &Registry,
    order: &Order,
    prepared: &Prepared,
) -> Result<Arc<Watched>, SpawnError> {
    let cgroup = prepared.cgroup.as_ref().map(AsFd::as_fd);
    registry.start(&order.spec, || spawn(&prepared.plan, cgroup))
}
