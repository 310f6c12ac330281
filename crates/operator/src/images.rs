//! Effects on disks: making and deleting images through the backend.

use vman_core::disk::{Disk, ImageFormat};
use vman_core::operation::ImageEffect;
use vman_core::ports::{Applied, ApplyError};
use vman_plugin::{ImageRef, ImageSpec};

use crate::Operator;

impl Operator {
    pub(crate) async fn apply_to_disk(
        &self,
        effect: ImageEffect,
        disk: &Disk,
    ) -> Result<Applied, ApplyError> {
        let path = self.storage.image(disk);
        let format = plugin_format(disk.format);
        let done = match effect {
            ImageEffect::Create => {
                let virtual_size = disk.virtual_size();
                self.client.create_image(ImageSpec { path, format, virtual_size }).await
            }
            ImageEffect::Delete => self.client.delete_image(ImageRef { path, format }).await,
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
