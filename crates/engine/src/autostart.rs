//! Starts the VMs again that ran when the host went down. How many machines start at the same time
//! is bounded where they are launched, so all are let in here, at once.

use tracing::{info, warn};
use uuid::Uuid;
use vman_core::lifecycle::{VmCommand, decide_vm};
use vman_core::operation::{Reason, Subject};
use vman_core::ports::{Change, RecordError};
use vman_core::vm::{Vm, VmState};

use crate::gate::{Ask, Prepared, TRIES_MAX};
use crate::{Engine, EngineError};

impl Engine {
    /// Lets in the start of every VM that is to start by itself and was running or paused when the
    /// host was booted anew, and returns how many; `boot_id` names the boot of the host. To be
    /// called after [`recover`](Self::recover), and before anybody looks for what is missing.
    pub async fn autostart(&self, boot_id: Uuid) -> Result<usize, EngineError> {
        self.inner.boot_id.get_or_init(|| boot_id);
        match self.recall().host_boot().await? {
            Some(last) if last == boot_id => return Ok(0),
            Some(_) => {}
            None => {
                self.commit(vec![Change::HostBoot(boot_id)]).await?;
                return Ok(0);
            }
        }
        for _ in 0..TRIES_MAX {
            match self.start_all(boot_id).await {
                // What goes on since an earlier daemon has ended just now.
                Err(EngineError::Record(RecordError::Stale(_))) => {}
                started => return started,
            }
        }
        Err(RecordError::Stale("what is to start by itself".to_owned()).into())
    }

    /// All in one transaction, with the boot: none is started twice, whenever the daemon is killed.
    async fn start_all(&self, boot_id: Uuid) -> Result<usize, EngineError> {
        let ran = |vm: &Vm| matches!(vm.state, VmState::Running | VmState::Paused);
        let mut vms: Vec<Vm> = self.recall().recorded().await?.vms.into_values().collect();
        vms.retain(|vm| vm.autostart && ran(vm));
        vms.sort_by_key(|vm| vm.created_at);
        let _choosing = self.inner.choosing.lock().await;
        let (mut changes, mut turns) = (vec![Change::HostBoot(boot_id)], Vec::new());
        for vm in vms {
            let id = vm.id;
            match self.prepare_start(vm).await {
                Ok(Some(prepared)) => {
                    changes.extend(prepared.changes);
                    turns.push(prepared.turn);
                }
                Ok(None) => {}
                Err(EngineError::Record(error)) => return Err(error.into()),
                Err(error) => warn!(vm = %id, %error, "not started by itself"),
            }
        }
        self.commit(changes).await?;
        let count = turns.len();
        info!(%boot_id, vms = count, "the host was booted anew");
        turns.into_iter().for_each(|turn| self.nudge(turn));
        Ok(count)
    }

    async fn prepare_start(&self, vm: Vm) -> Result<Option<Prepared>, EngineError> {
        let (subject, state) = (Subject::Vm(vm.id), vm.state.word());
        let transition = decide_vm(&vm.state, VmCommand::Autostart)
            .map_err(|denied| EngineError::Denied { subject, state, denied })?;
        let Some(transition) = transition else { return Ok(None) };
        self.refuse_foreign(&vm)?;
        let (verb, ask) = (VmCommand::Autostart.verb(), Ask::seen(Reason::Boot, None));
        let root_gib = self.root_disk_gib(&vm).await?;
        self.prepare_vm(vm, verb, &ask, transition, root_gib).await.map(Some)
    }
}
