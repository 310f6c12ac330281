//! Starts the VMs again that ran when the host went down. How many machines start at once is
//! bounded where they are launched, so all are let in here.

use tracing::{info, warn};
use uuid::Uuid;
use vman_core::ident::VmId;
use vman_core::lifecycle::VmCommand;
use vman_core::operation::Reason;
use vman_core::ports::{Change, RecordError};
use vman_core::vm::{Vm, VmState};

use crate::gate::Ask;
use crate::{Engine, EngineError};

impl Engine {
    /// Lets in the start of every VM that is to start by itself and was running or paused when the
    /// host was booted anew, and returns how many; `boot_id` names the boot of the host. To be
    /// called after [`recover`](Self::recover), and before anybody looks for what is missing.
    pub async fn autostart(&self, boot_id: Uuid) -> Result<usize, EngineError> {
        let last = self.recall().host_boot().await?;
        if last == Some(boot_id) {
            return Ok(0);
        }
        let mut count = 0;
        if last.is_some() {
            for vm in self.to_be_started().await? {
                count += usize::from(self.start_by_itself(vm).await?);
            }
            info!(%boot_id, vms = count, "the host was booted anew");
        }
        // After they were let in: a daemon killed in between goes on with the others.
        self.commit(vec![Change::HostBoot(boot_id)]).await?;
        Ok(count)
    }

    /// In the order of creation.
    async fn to_be_started(&self) -> Result<Vec<VmId>, RecordError> {
        let ran = |vm: &Vm| matches!(vm.state, VmState::Running | VmState::Paused);
        let mut vms: Vec<Vm> = self.recall().recorded().await?.vms.into_values().collect();
        vms.retain(|vm| vm.autostart && ran(vm));
        vms.sort_by_key(|vm| vm.created_at);
        Ok(vms.into_iter().map(|vm| vm.id).collect())
    }

    /// Whether it is being started; one that cannot be is told in the log, and the others are.
    async fn start_by_itself(&self, vm: VmId) -> Result<bool, EngineError> {
        let ask = Ask::seen(Reason::Boot, None);
        match self.let_in_vm(vm, VmCommand::Autostart, ask).await {
            Ok(accepted) => Ok(accepted.operation.is_some()),
            Err(error @ EngineError::Record(RecordError::Unavailable(_))) => Err(error),
            Err(error) => {
                warn!(%vm, %error, "not started by itself");
                Ok(false)
            }
        }
    }
}
