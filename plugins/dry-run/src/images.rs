//! Simulated images: small files that say which format and size they stand for. They hold no
//! blocks.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use vman_plugin::{
    BackendError, ErrorCode, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec,
};

use crate::files;

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
    check_path(&spec.path, "made")?;
    check_size(&spec.path, "made", spec.virtual_size)?;
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
    check_path(&image.path, "read")?;
    let (content, actual_size) = read(&image.path)?
        .ok_or_else(|| error(ErrorCode::NotFound, &image.path, "read", "it is not there"))?;
    if content.format != image.format {
        let why = format!("its format is {}, not {}", content.format.name(), image.format.name());
        return Err(error(ErrorCode::Conflict, &image.path, "read", &why));
    }
    Ok(ImageInfo { format: content.format, virtual_size: content.virtual_size, actual_size })
}

pub(crate) fn delete(image: &ImageRef) -> Result<(), BackendError> {
    check_path(&image.path, "removed")?;
    files::remove(&image.path).map_err(|why| failed(&image.path, "removed", &why))
}

/// Never smaller; of this size already is left alone.
pub(crate) fn grow(growth: &ImageGrowth) -> Result<(), BackendError> {
    let ImageGrowth { path, format, virtual_size } = growth;
    check_size(path, "resized", *virtual_size)?;
    let now = inspect(&ImageRef { path: path.clone(), format: *format })?.virtual_size;
    if *virtual_size == now {
        return Ok(());
    }
    if *virtual_size < now {
        let why = format!("it has {now} bytes, and {virtual_size} are fewer");
        return Err(error(ErrorCode::Invalid, path, "resized", &why));
    }
    let larger = Content { format: *format, virtual_size: *virtual_size };
    let replaced = write_beside(path, &larger).and_then(|file| files::replace(path, file));
    if replaced.map_err(|why| failed(path, "resized", &why))? {
        return Ok(());
    }
    Err(error(ErrorCode::NotFound, path, "resized", "it was removed meanwhile"))
}

/// What the folder is that a path begins in is not the backend's to guess.
fn check_path(path: &Path, what: &str) -> Result<(), BackendError> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(error(ErrorCode::Invalid, path, what, "its path is not absolute"))
}

fn check_size(path: &Path, what: &str, size: u64) -> Result<(), BackendError> {
    if size != 0 && size.is_multiple_of(SECTOR) {
        return Ok(());
    }
    let why = format!("the size {size} is not a multiple of {SECTOR}");
    Err(error(ErrorCode::Invalid, path, what, &why))
}

/// `false` if something is there already; it is left as it is.
fn write_new(path: &Path, content: &Content) -> Result<bool, BackendError> {
    let file = write_beside(path, content).map_err(|why| failed(path, "made", &why))?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(true),
        Err(kept) if kept.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(kept) => Err(failed(path, "made", &kept.error)),
    }
}

fn write_beside(path: &Path, content: &Content) -> std::io::Result<NamedTempFile> {
    let json = serde_json::to_vec(content).expect("a format and a number are JSON");
    let file = files::beside(path, &json)?;
    file.as_file().sync_all()?;
    Ok(file)
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
