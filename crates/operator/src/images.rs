//! Effects on disks: making and deleting images through the backend.

use vman_core::disk::{Disk, ImageFormat};
use vman_core::operation::Effect;
use vman_core::ports::{Applied, ApplyError};
use vman_plugin::{ImageRef, ImageSpec};

use crate::{Operator, mismatch};

impl Operator {
    pub(crate) async fn apply_to_disk(
        &self,
        effect: Effect,
        disk: &Disk,
    ) -> Result<Applied, ApplyError> {
        let path = self.storage.image(disk);
        let format = plugin_format(disk.format);
        let done = match effect {
            Effect::CreateImage => {
                let virtual_size = disk.virtual_size();
                self.client.create_image(ImageSpec { path, format, virtual_size }).await
            }
            Effect::DeleteImage => self.client.delete_image(ImageRef { path, format }).await,
            Effect::PrepareDirectory
            | Effect::ConnectNetwork
            | Effect::DisconnectNetwork
            | Effect::Launch
            | Effect::Adopt
            | Effect::PowerOff
            | Effect::End
            | Effect::Kill
            | Effect::RemoveDirectory
            | Effect::QuarantineFile => return Err(mismatch(effect)),
        };
        done.map(|()| Applied::default()).map_err(|error| ApplyError(error.to_string()))
    }
}

pub(crate) fn plugin_format(format: ImageFormat) -> vman_plugin::ImageFormat {
    match format {
        ImageFormat::Qcow2 => vman_plugin::ImageFormat::Qcow2,
        ImageFormat::Raw => vman_plugin::ImageFormat::Raw,
    }
}
