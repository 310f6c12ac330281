//! Gathers what an effect needs to know of its subject from the records.

use vman_core::ident::Generation;
use vman_core::operation::Subject;
use vman_core::ports::{DiskTarget, RecordError, Target, VmTarget};

use crate::Engine;

impl Engine {
    /// None where there is no record.
    pub(crate) async fn generation(
        &self,
        subject: &Subject,
    ) -> Result<Option<Generation>, RecordError> {
        match subject {
            Subject::Vm(id) => Ok(self.recall().vm(*id).await?.map(|vm| vm.generation)),
            Subject::Disk(id) => Ok(self.recall().disk(*id).await?.map(|disk| disk.generation)),
            Subject::Machine(_) | Subject::File(_) => Ok(None),
        }
    }

    /// None if the subject's record is gone.
    pub(crate) async fn target(&self, subject: &Subject) -> Result<Option<Target>, RecordError> {
        match subject {
            Subject::Vm(id) => {
                let Some(vm) = self.recall().vm(*id).await? else { return Ok(None) };
                let Some(template) = self.recall().template(&vm.template).await? else {
                    return Ok(None);
                };
                let disks = self.recall().disks_of(*id).await?;
                let nic = self.inner.config.network.nic(vm.lease);
                Ok(Some(Target::Vm(Box::new(VmTarget { vm, template, disks, nic }))))
            }
            Subject::Disk(id) => {
                let Some(disk) = self.recall().disk(*id).await? else { return Ok(None) };
                let vm = match disk.vm {
                    Some(vm) => self.recall().vm(vm).await?,
                    None => None,
                };
                Ok(Some(Target::Disk(Box::new(DiskTarget { disk, vm }))))
            }
            Subject::Machine(id) => Ok(Some(Target::Machine(*id))),
            Subject::File(path) => Ok(Some(Target::File(path.clone()))),
        }
    }
}
