//! The format of an image that is to be made: what was asked for, held against what the backend
//! makes. Images that are there already have the format in their record.

use vman_core::disk::ImageFormat;

use crate::{Engine, EngineError};

/// Grows as it is written to, where the backend makes it.
const USUAL: ImageFormat = ImageFormat::Qcow2;

impl Engine {
    /// The format of a new image; where none is asked for, the usual one or, of a backend that does
    /// not make it, its first.
    pub(super) fn image_format(
        &self,
        asked: Option<ImageFormat>,
    ) -> Result<ImageFormat, EngineError> {
        let makes = &self.inner.config.image_formats;
        let wanted = asked.unwrap_or(USUAL);
        let format = if makes.contains(&wanted) { Some(wanted) } else { makes.first().copied() };
        format.filter(|format| asked.is_none_or(|asked| asked == *format)).ok_or_else(|| {
            let backend = self.inner.config.backend.clone();
            EngineError::NoSuchImages { backend, asked, makes: makes.clone() }
        })
    }
}
