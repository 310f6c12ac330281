//! Simulated images: small files that say which format and size they stand for. They hold no
//! blocks.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use vman_plugin::{BackendError, ErrorCode, ImageFormat, ImageInfo, ImageRef, ImageSpec};

/// A virtual size is a multiple of this.
const SECTOR: u64 = 512;
/// The unit of `st_blocks`, stat(2).
const STAT_BLOCK: u64 = 512;
/// More than a simulated image ever holds.
const MAX_IMAGE_FILE: u64 = 4096;

/// What the file holds, as JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: ImageFormat,
    virtual_size: u64,
}

pub(crate) fn create(spec: &ImageSpec) -> Result<(), BackendError> {
    if spec.virtual_size == 0 || !spec.virtual_size.is_multiple_of(SECTOR) {
        let why = format!("the size {} is not a multiple of {SECTOR}", spec.virtual_size);
        return Err(error(ErrorCode::Invalid, &spec.path, "made", &why));
    }
    let wanted = Content { format: spec.format, virtual_size: spec.virtual_size };
    if write_new(&spec.path, &wanted)? {
        return Ok(());
    }
    match read(&spec.path)? {
        Some((there, _)) if there == wanted => Ok(()),
        Some((there, _)) => {
            let why = format!(
                "one of format {} and {} bytes is there already; {} and {} bytes were asked for",
                there.format.name(),
                there.virtual_size,
                wanted.format.name(),
                wanted.virtual_size,
            );
            Err(error(ErrorCode::Conflict, &spec.path, "made", &why))
        }
        None => Err(error(
            ErrorCode::Failed,
            &spec.path,
            "made",
            "another file was there a moment ago; try again",
        )),
    }
}

pub(crate) fn inspect(image: &ImageRef) -> Result<ImageInfo, BackendError> {
    let (content, actual_size) = read(&image.path)?
        .ok_or_else(|| error(ErrorCode::NotFound, &image.path, "read", "it is not there"))?;
    if content.format != image.format {
        let why = format!("its format is {}, not {}", content.format.name(), image.format.name());
        return Err(error(ErrorCode::Conflict, &image.path, "read", &why));
    }
    Ok(ImageInfo { format: content.format, virtual_size: content.virtual_size, actual_size })
}

pub(crate) fn delete(image: &ImageRef) -> Result<(), BackendError> {
    match std::fs::remove_file(&image.path) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(failed(&image.path, "removed", &why)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// `false` if something is there already; it is left as it is.
fn write_new(path: &Path, content: &Content) -> Result<bool, BackendError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let json = serde_json::to_vec(content).expect("a format and a number are JSON");
    let written = NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(&json)?;
        file.as_file().sync_all()?;
        Ok(file)
    });
    let file = written.map_err(|why| failed(path, "made", &why))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(kept) if kept.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(kept) => Err(failed(path, "made", &kept.error)),
    }
}

/// What the file stands for, and the bytes it occupies; `None` if it is not there.
fn read(path: &Path) -> Result<Option<(Content, u64)>, BackendError> {
    let mut json = Vec::new();
    let opened = File::open(path).and_then(|file| {
        let occupied = file.metadata()?.blocks() * STAT_BLOCK;
        file.take(MAX_IMAGE_FILE).read_to_end(&mut json)?;
        Ok(occupied)
    });
    let occupied = match opened {
        Ok(occupied) => occupied,
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(None),
        Err(why) => return Err(failed(path, "read", &why)),
    };
    match serde_json::from_slice(&json) {
        Ok(content) => Ok(Some((content, occupied))),
        Err(why) => Err(error(
            ErrorCode::Conflict,
            path,
            "read",
            &format!("it is not a simulated image: {why}"),
        )),
    }
}

fn failed(path: &Path, what: &str, why: &std::io::Error) -> BackendError {
    error(ErrorCode::Failed, path, what, &why.to_string())
}

fn error(code: ErrorCode, path: &Path, what: &str, why: &str) -> BackendError {
    BackendError::new(code, format!("the image {} cannot be {what}: {why}", path.display()))
}
