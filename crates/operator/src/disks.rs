//! Disks of a machine: all of them before it starts, one at a time while it runs. What an image is
//! held against is told in `images`.

use std::time::Instant;

use futures_util::{StreamExt, stream};
use vman_core::disk::{Disk, DiskState};
use vman_core::ident::VmId;
use vman_core::ports::{Applied, ApplyError, DiskTarget, VmTarget};
use vman_plugin::{DiskAttachment, DiskRemoval, ErrorCode, Unplug};

use crate::machines::since;
use crate::spec::{disk_spec, plugin_bus, starts_with};
use crate::{Operator, told};

/// Images of one VM that are worked on at the same time: each may be a process of its own.
const IMAGES_AT_ONCE: usize = 4;

impl Operator {
    /// Makes the images that are still to be made and holds the others against their records; all
    /// that is wrong is told at once. An image that was believed to be missing and is there again
    /// is taken as any other.
    pub(crate) async fn prepare_disks(&self, target: &VmTarget) -> Result<Applied, ApplyError> {
        let disks = target.disks.iter().filter(|disk| starts_with(disk));
        let prepared: Vec<_> = disks.map(|disk| self.prepare_disk(disk)).collect();
        let prepared: Vec<_> = stream::iter(prepared).buffered(IMAGES_AT_ONCE).collect().await;
        told_together(prepared)
    }

    async fn prepare_disk(&self, disk: &Disk) -> Result<Option<String>, ApplyError> {
        match &disk.state {
            DiskState::Creating => {
                self.create_image(disk).await?;
                let path = self.storage.image(disk);
                Ok(Some(format!("made {} of {} GiB", path.display(), disk.size_gib)))
            }
            // Its image may be half made.
            DiskState::Failed(reason) => Err(ApplyError::failed(format!(
                "disk {} has failed ({reason}): detach it from the VM, and delete it",
                disk.id
            ))),
            DiskState::Available
            | DiskState::Attaching
            | DiskState::Attached
            | DiskState::Detaching
            | DiskState::Resizing(_)
            | DiskState::Missing
            | DiskState::Deleting => self.check_image(disk).await.map(|()| None),
        }
    }

    /// Deletes the images that [`prepare_disks`](Self::prepare_disks) was to make.
    pub(crate) async fn discard_new_disks(&self, target: &VmTarget) -> Result<Applied, ApplyError> {
        let new = target.disks.iter().filter(|disk| disk.state == DiskState::Creating);
        let discarded: Vec<_> = new.map(|disk| self.discard(disk)).collect();
        let discarded: Vec<_> = stream::iter(discarded).buffered(IMAGES_AT_ONCE).collect().await;
        told_together(discarded)
    }

    async fn discard(&self, disk: &Disk) -> Result<Option<String>, ApplyError> {
        self.delete_image(disk).await.map(|_| None)
    }

    pub(crate) async fn attach_disk(&self, target: &DiskTarget) -> Result<Applied, ApplyError> {
        let DiskTarget { disk, vm: Some(vm) } = target else {
            return Err(held_by_none(&target.disk));
        };
        self.refuse_foreign(vm)?;
        let client = self.client().await?;
        if !client.manifest().capabilities.hot_plug.contains(&plugin_bus(disk.bus)) {
            return Err(self.lacks(&hot_plug(disk), "stop the VM and attach the disk then"));
        }
        self.check_image(disk).await?;
        let attachment = DiskAttachment { id: vm.id.0, disk: disk_spec(&self.storage, disk) };
        match client.attach_disk(attachment).await {
            Ok(()) => Ok(Applied::default()),
            // The image was there a moment ago.
            Err(error) if error.code == ErrorCode::NotFound => Err(ApplyError::failed(format!(
                "disk {} cannot be attached, for the machine of VM {} is gone: {error}; start the \
                 VM and attach the disk again",
                disk.id, vm.id
            ))),
            Err(error) => Err(told(error)),
        }
    }

    /// A disk that the machine does not have, or a machine that is gone, is a success.
    pub(crate) async fn detach_disk(&self, target: &DiskTarget) -> Result<Applied, ApplyError> {
        let DiskTarget { disk, vm: Some(vm) } = target else {
            return Ok(Applied::default());
        };
        // Nobody was asked, so the disk stays where it is.
        self.refuse_foreign(vm).map_err(|error| ApplyError::Refused(error.to_string()))?;
        let client = self.client().await?;
        if !client.manifest().capabilities.hot_plug.contains(&plugin_bus(disk.bus)) {
            return match client.sight(vm.id.0).await.map_err(told)? {
                None => Ok(Applied::default()),
                Some(_) => {
                    let error = self.lacks(&hot_plug(disk), "stop the VM and detach the disk then");
                    Err(ApplyError::Refused(error.to_string()))
                }
            };
        }
        let begun = Instant::now();
        let path = Some(self.storage.image(disk));
        match client.detach_disk(DiskRemoval { id: vm.id.0, disk: disk.id.0, path }).await {
            Ok(Unplug::Done) => Ok(Applied {
                note: Some(format!(
                    "the machine does not have it any more, after {}",
                    since(begun)
                )),
                ..Applied::default()
            }),
            Ok(Unplug::Waiting) => Err(ApplyError::LeftToTheGuest(waiting(disk, vm.id))),
            Err(error) if error.code == ErrorCode::NotFound => Ok(Applied::default()),
            Err(error) if error.code == ErrorCode::Refused => {
                Err(ApplyError::Refused(error.message))
            }
            Err(error) => Err(told(error)),
        }
    }
}

/// One note of all, or one error of all.
fn told_together(outcomes: Vec<Result<Option<String>, ApplyError>>) -> Result<Applied, ApplyError> {
    let (mut notes, mut errors) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(note) => notes.extend(note),
            Err(error) => errors.push(error.to_string()),
        }
    }
    if !errors.is_empty() {
        return Err(ApplyError::failed(errors.join("; ")));
    }
    Ok(Applied { note: (!notes.is_empty()).then(|| notes.join("; ")), ..Applied::default() })
}

fn held_by_none(disk: &Disk) -> ApplyError {
    ApplyError::failed(format!(
        "disk {} is to be attached, and no VM is recorded to hold it; this is a fault in vman: \
         please report it",
        disk.id
    ))
}

fn hot_plug(disk: &Disk) -> String {
    format!("give or take {} disks of a running machine", disk.bus.word())
}

fn waiting(disk: &Disk, vm: VmId) -> String {
    format!(
        "the guest of VM {vm} was asked for disk {} and has not let go: it stays `detaching`, and \
         its image in use, until the guest does; unmount it in the guest, or detach it again, or \
         reset or stop the VM",
        disk.id
    )
}
