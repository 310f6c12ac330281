//! The one writer: every change of the records and of the host goes through here.
//!
//! ```text
//!  command ──▶ gate ──▶ records (new state + operation, one transaction) ──▶ 202
//!                          │ nudge
//!                          ▼
//!                  one driver per turn ──▶ effects, each idempotent, undone in reverse
//!                          │
//!                          ▼
//!                  records (end state, if nobody asked for another since)
//!
//!  look ──▶ repair ──▶ issues ──▶ judge ──▶ the chosen candidate, as a command ──▶ gate
//! ```
//!
//! The engine knows no hypervisor, no SQL, no HTTP and no WASM: it sees the ports of `vman-core`.
//! A user's command and a repair's are the same command with another reason.

mod autostart;
mod deadline;
mod driver;
mod ending;
mod error;
mod gate;
mod operation;
mod repair;
mod ruling;
mod target;
mod to_the_end;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use uuid::Uuid;
use vman_core::disk::{Bus, ImageFormat, MountPoint};
use vman_core::ident::{IdempotencyKey, Name, OperationId};
use vman_core::network::Network;
use vman_core::operation::Operation;
use vman_core::ports::{Apply, Clock, Judge, Recall, Record, RecordError};
use vman_core::template::Boot;

pub use error::EngineError;
pub use repair::RepairLoop;

/// What the engine needs of the rest of vman.
pub struct Ports {
    pub record: Arc<dyn Record>,
    /// Carries out network effects.
    pub network: Arc<dyn Apply>,
    /// Carries out every other effect.
    pub operator: Arc<dyn Apply>,
    pub judge: Arc<dyn Judge>,
    pub clock: Arc<dyn Clock>,
    /// Makes the observer look soon. A bare signal, without data.
    pub wake_observer: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ports")
    }
}

/// How the engine behaves.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Whose addresses VMs get.
    pub network: Network,
    /// The name of the backend that runs machines.
    pub backend: String,
    /// What the backend makes images of, the one it prefers first; none: it makes no images.
    pub image_formats: Vec<ImageFormat>,
    /// How long a guest may take to power itself off before its machine is ended.
    pub stop_grace: Duration,
    pub repair: RepairConfig,
}

#[derive(Debug, Clone)]
pub struct RepairConfig {
    /// Off: issues are named and judged, and nothing is done.
    pub enabled: bool,
    /// Repairs of one subject within `window`; more, and a VM fails.
    pub budget: u32,
    pub window: Duration,
}

/// A template to be.
#[derive(Debug, Clone)]
pub struct NewTemplate {
    pub name: Name,
    pub cpu_count: u32,
    /// MiB
    pub ram_mib: u64,
    pub boot: Boot,
}

/// A VM to be.
#[derive(Debug, Clone)]
pub struct NewVm {
    pub template: Name,
    pub name: Option<Name>,
    /// Start it again when the host was booted anew while it ran.
    pub autostart: bool,
}

/// A disk to be.
#[derive(Debug, Clone)]
pub struct NewDisk {
    /// GiB, 1 ..= [`vman_core::disk::SIZE_GIB_MAX`]
    pub size_gib: u64,
    /// None: the usual one that the backend makes.
    pub format: Option<ImageFormat>,
    pub bus: Bus,
    pub mount_point: Option<MountPoint>,
}

/// Names a request, so that its repetition is not carried out once more.
#[derive(Debug, Clone)]
pub struct RequestKey {
    pub key: IdempotencyKey,
    /// Of all that is asked, so that another request under the same key is told apart.
    pub fingerprint: String,
}

/// A request that was let in, now or when it came first.
#[derive(Debug, Clone)]
pub struct Accepted<T> {
    /// As recorded now.
    pub record: T,
    /// What carries it out; none if it was already so.
    pub operation: Option<OperationId>,
}

/// Machines started at the same time: after a boot of the host, many are to start at once.
const LAUNCHES_AT_ONCE: usize = 16;

/// Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    ports: Ports,
    config: EngineConfig,
    drivers: driver::Drivers,
    /// Held while an address or a device letter is chosen and recorded, so that no two requests
    /// choose the same one. The addresses that are taken; none where they are to be read anew.
    choosing: tokio::sync::Mutex<Option<BTreeSet<Ipv4Addr>>>,
    /// One for each machine that may be started at the same time.
    launches: Semaphore,
    /// Counts the operations that have ended since the start.
    ended: watch::Sender<u64>,
    /// True once nobody is to be kept waiting any more.
    closing: watch::Sender<bool>,
    /// The boot of the host, once it was told: what was started in another one is gone.
    boot_id: OnceLock<Uuid>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Engine {
    /// Makes an engine that does nothing yet: [`recover`](Self::recover) takes up what an earlier
    /// one left.
    pub fn new(ports: Ports, config: EngineConfig) -> Self {
        let drivers = driver::Drivers::default();
        let choosing = tokio::sync::Mutex::new(None);
        let launches = Semaphore::new(LAUNCHES_AT_ONCE);
        let (ended, closing) = (watch::Sender::new(0), watch::Sender::new(false));
        let boot_id = OnceLock::new();
        let inner = Inner { ports, config, drivers, choosing, launches, ended, closing, boot_id };
        Self { inner: Arc::new(inner) }
    }

    /// The records, to read.
    pub fn recall(&self) -> &dyn Recall {
        &*self.inner.ports.record
    }

    /// Drives every operation that has not ended: after a start those that an earlier daemon left,
    /// later those that were given up because the records could not be written.
    pub async fn recover(&self) -> Result<usize, EngineError> {
        let unended = self.recall().unended(None).await?;
        let count = unended.len();
        for operation in unended {
            self.nudge(operation.turn());
        }
        Ok(count)
    }

    /// The operation once it has ended, or as it is after `at_most`; none if there is no such one.
    /// That it was let in outlives a loss of power; one that comes right after its end has it
    /// carried out once more, to the same end.
    pub async fn wait(
        &self,
        id: OperationId,
        at_most: Duration,
    ) -> Result<Option<Operation>, EngineError> {
        // Subscribed before reading: an end between the two is then not missed.
        let mut ended = self.inner.ended.subscribe();
        let ending = async {
            loop {
                match self.recall().operation(id).await? {
                    Some(operation) if !operation.state.is_ended() => {}
                    known => return Ok::<_, RecordError>(known),
                }
                if ended.changed().await.is_err() {
                    return self.recall().operation(id).await;
                }
            }
        };
        let mut closing = self.inner.closing.subscribe();
        let known = tokio::select! {
            known = tokio::time::timeout(at_most, ending) => known.ok(),
            _ = closing.wait_for(|closing| *closing) => None,
        };
        match known {
            Some(known) => Ok(known?),
            None => Ok(self.recall().operation(id).await?),
        }
    }

    /// Ends every [`wait`](Self::wait), now and from now on, with the operation as it is: the
    /// daemon is about to end. Operations go on, here or after the next start.
    pub fn close(&self) {
        self.inner.closing.send_replace(true);
    }

    fn commit_port(&self) -> &dyn Record {
        &*self.inner.ports.record
    }

    /// Waits until what was committed by now outlives a loss of power.
    async fn sync(&self) -> Result<(), RecordError> {
        self.commit_port().sync().await
    }

    fn now(&self) -> vman_core::ident::Timestamp {
        self.inner.ports.clock.now()
    }
}
