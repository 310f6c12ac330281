//! Images: made, deleted, made larger, and held against their records. Which machine has one open
//! is the backend's to know.

use vman_core::disk::Disk;
use vman_core::ident::VmId;
use vman_core::ports::{Applied, ApplyError};
use vman_plugin::{
    BackendError, DiskGrowth, ErrorCode, ImageGrowth, ImageInfo, ImageRef, ImageSpec,
};

use crate::spec::{plugin_bus, plugin_format};
use crate::{Operator, told};

const BYTES_PER_GIB: u64 = 1 << 30;

impl Operator {
    pub(crate) async fn create_image(&self, disk: &Disk) -> Result<Applied, ApplyError> {
        let ImageRef { path, format } = self.image(disk);
        let spec = ImageSpec { path, format, virtual_size: disk.virtual_size() };
        match self.client().await?.create_image(spec).await {
            Ok(()) => Ok(Applied::default()),
            Err(error) => Err(self.told_with_room(&error).await),
        }
    }

    /// What the backend said, and that there is no room for an image, if that is so.
    async fn told_with_room(&self, error: &BackendError) -> ApplyError {
        ApplyError::failed(format!("{error}{}", self.storage.images_full().await))
    }

    pub(crate) async fn delete_image(&self, disk: &Disk) -> Result<Applied, ApplyError> {
        self.client().await?.delete_image(self.image(disk)).await.map_err(told)?;
        Ok(Applied::default())
    }

    /// Through the machine that has it open, if there is one.
    pub(crate) async fn resize_image(
        &self,
        disk: &Disk,
        holder: Option<VmId>,
    ) -> Result<Applied, ApplyError> {
        let wanted_gib = disk.state.wanted_gib().ok_or_else(|| {
            ApplyError::failed(format!(
                "disk {} is to be resized, and no size is recorded; this is a fault in vman: \
                 please report it",
                disk.id
            ))
        })?;
        let virtual_size = wanted_gib * BYTES_PER_GIB;
        if let Some(vm) = holder
            && self.resize_in_machine(vm, disk, virtual_size).await?
        {
            return Ok(Applied {
                note: Some("the guest sees it".to_owned()),
                ..Applied::default()
            });
        }
        let client = self.client().await?;
        if !client.manifest().capabilities.resize {
            return Err(self.lacks("resize images", "make a larger disk and copy what it holds"));
        }
        let ImageRef { path, format } = self.image(disk);
        match client.resize_image(ImageGrowth { path, format, virtual_size }).await {
            Ok(()) => Ok(Applied::default()),
            Err(error) => Err(self.told_with_room(&error).await),
        }
    }

    /// `false` if the machine is gone. One that lives and says that it does not have the disk is
    /// not believed: it may still have the image open.
    async fn resize_in_machine(
        &self,
        vm: VmId,
        disk: &Disk,
        virtual_size: u64,
    ) -> Result<bool, ApplyError> {
        let client = self.client().await?;
        if !client.manifest().capabilities.hot_plug.contains(&plugin_bus(disk.bus)) {
            return match client.sight(vm.0).await.map_err(told)? {
                None => Ok(false),
                Some(_) => Err(self.lacks("resize disks of a running machine", "stop the VM")),
            };
        }
        let growth = DiskGrowth { id: vm.0, disk: disk.id.0, virtual_size };
        match client.resize_disk(growth).await {
            Ok(()) => Ok(true),
            Err(error) if error.code == ErrorCode::NotFound => {
                match client.sight(vm.0).await.map_err(told)? {
                    None => Ok(false),
                    Some(_) => Err(ApplyError::failed(format!(
                        "VM {vm} lives and says that it does not have disk {}: detach the disk, or \
                         stop the VM, and resize it then",
                        disk.id
                    ))),
                }
            }
            Err(error) => Err(told(error)),
        }
    }

    /// Whether the image is what the record says. The record says what to read it as: what a guest
    /// has written into it is not asked.
    pub(crate) async fn check_image(&self, disk: &Disk) -> Result<(), ApplyError> {
        match self.client().await?.inspect_image(self.image(disk)).await {
            Ok(info) => self.compare(disk, &info),
            Err(error) if error.code == ErrorCode::NotFound => Err(ApplyError::failed(format!(
                "the image of disk {} is missing: restore {} or detach it",
                disk.id,
                self.storage.image(disk).display()
            ))),
            Err(error) => Err(self.wrong_image(
                disk,
                &error.message,
                "restore the image that is recorded, or detach the disk",
            )),
        }
    }

    fn compare(&self, disk: &Disk, found: &ImageInfo) -> Result<(), ApplyError> {
        if found.format != plugin_format(disk.format) {
            let what = format!("it is {}", found.format.name());
            let hint = "restore the image that is recorded, or detach the disk";
            return Err(self.wrong_image(disk, &what, hint));
        }
        let expected = disk.virtual_size();
        let wanted = disk.state.wanted_gib().map(|gib| gib * BYTES_PER_GIB);
        // It may have been made larger, and the answer was lost.
        if found.virtual_size == expected || Some(found.virtual_size) == wanted {
            return Ok(());
        }
        let what = format!("it is of {}", size(found.virtual_size));
        let whole = found.virtual_size.is_multiple_of(BYTES_PER_GIB);
        let hint = if found.virtual_size > expected && whole {
            let gib = found.virtual_size / BYTES_PER_GIB;
            format!(
                "if it was made larger on purpose resize the disk to {gib} GiB; else restore the \
                 image, or detach the disk"
            )
        } else {
            "restore the image that is recorded, or detach the disk".to_owned()
        };
        Err(self.wrong_image(disk, &what, &hint))
    }

    fn wrong_image(&self, disk: &Disk, found: &str, hint: &str) -> ApplyError {
        ApplyError::failed(format!(
            "the image of disk {}, {}, is recorded as {} of {}: {found}; {hint}",
            disk.id,
            self.storage.image(disk).display(),
            disk.format.word(),
            size(disk.virtual_size())
        ))
    }

    fn image(&self, disk: &Disk) -> ImageRef {
        ImageRef { path: self.storage.image(disk), format: plugin_format(disk.format) }
    }
}

/// For people: in GiB where it is a whole number of them, else in bytes.
fn size(bytes: u64) -> String {
    if bytes.is_multiple_of(BYTES_PER_GIB) {
        format!("{} GiB", bytes / BYTES_PER_GIB)
    } else {
        format!("{bytes} bytes")
    }
}
