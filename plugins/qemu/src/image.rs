//! Disk images through `qemu-img`: made, read and removed. The format always comes from the
//! caller; an image's bytes are the guest's and are never probed for one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use vman_plugin::{BackendError, ErrorCode, ImageInfo, ImageRef, ImageSpec};

use crate::program::{self, Failure, Output, QEMU_IMG};
use crate::{conflict, failed, invalid, not_found, timeout};

/// For `qemu-img create`, which writes metadata only; usually 10 to 20 ms.
pub(crate) const CREATE_DEADLINE: Duration = Duration::from_secs(30);

/// For `qemu-img info`; usually 10 to 20 ms.
pub(crate) const INSPECT_DEADLINE: Duration = Duration::from_secs(8);

/// Sizes are told to guests in sectors.
const SECTOR: u64 = 512;

/// `qemu-img`, as set or found.
#[derive(Debug)]
pub(crate) struct QemuImg(PathBuf);

impl QemuImg {
    pub(crate) fn find(set: Option<&Path>) -> Result<Self, BackendError> {
        program::find(QEMU_IMG, set).map(Self).map_err(failed)
    }

    /// Made under another name and then linked to its own: so it is whole or not there, and what
    /// is there already is never touched.
    pub(crate) async fn create(&self, spec: &ImageSpec) -> Result<(), BackendError> {
        let path = plain(&spec.path)?;
        if spec.virtual_size == 0 || !spec.virtual_size.is_multiple_of(SECTOR) {
            return Err(invalid(format!(
                "image {path}: its size of {} bytes is not a positive multiple of {SECTOR}",
                spec.virtual_size
            )));
        }
        if exists(&spec.path)? {
            return self.same(spec).await;
        }
        let unfinished = unfinished(&spec.path);
        let size = spec.virtual_size.to_string();
        let args = ["create", "-q", "-f", spec.format.name(), "--", plain(&unfinished)?, &size];
        // A leftover of an attempt that was cut short.
        remove(&unfinished)?;
        let output = self.run(&args, CREATE_DEADLINE).await?;
        if !output.success {
            let _ = remove(&unfinished);
            return Err(failed(format!("image {path} could not be made: {}", output.stderr)));
        }
        let (from, to) = (unfinished.clone(), spec.path.clone());
        let linked = aside(move || publish(&from, &to)).await?;
        let removed = remove(&unfinished);
        match linked {
            Ok(()) => removed,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.same(spec).await,
            Err(error) => Err(failed(format!("image {path} could not be made: {error}"))),
        }
    }

    async fn same(&self, spec: &ImageSpec) -> Result<(), BackendError> {
        let image = ImageRef { path: spec.path.clone(), format: spec.format };
        let there = self.inspect(&image).await?;
        if there.virtual_size == spec.virtual_size {
            return Ok(());
        }
        Err(conflict(format!(
            "image {} is there already, with {} bytes instead of {}: remove it or use another name",
            spec.path.display(),
            there.virtual_size,
            spec.virtual_size
        )))
    }

    /// Also while a machine has the image open (`-U`).
    pub(crate) async fn inspect(&self, image: &ImageRef) -> Result<ImageInfo, BackendError> {
        let path = plain(&image.path)?;
        if !exists(&image.path)? {
            return Err(not_found(format!("image {path} is not there")));
        }
        let format = image.format.name();
        let args = ["info", "-U", "--output=json", "-f", format, "--", path];
        let output = self.run(&args, INSPECT_DEADLINE).await?;
        if !output.success {
            let other = output.stderr.contains(&format!("Image is not in {format} format"));
            let code = if other { ErrorCode::Conflict } else { ErrorCode::Failed };
            return Err(BackendError::new(
                code,
                format!("image {path} cannot be read as {format}: {}", output.stderr),
            ));
        }
        let told: Told = serde_json::from_str(&output.stdout)
            .map_err(|error| failed(format!("image {path}: qemu-img info: {error}")))?;
        if told.format != format {
            return Err(conflict(format!("image {path} is {}, not {format}", told.format)));
        }
        Ok(ImageInfo {
            format: image.format,
            virtual_size: told.virtual_size,
            actual_size: told.actual_size,
        })
    }

    async fn run(&self, args: &[&str], deadline: Duration) -> Result<Output, BackendError> {
        program::run(&self.0, args, deadline).await.map_err(|failure| match failure {
            Failure::NotRun(why) => failed(why),
            Failure::Deadline(why) => timeout(format!("{why}: is the storage reachable?")),
        })
    }
}

/// Needs no `qemu-img`.
pub(crate) async fn delete(image: ImageRef) -> Result<(), BackendError> {
    plain(&image.path)?;
    aside(move || {
        remove(&unfinished(&image.path))?;
        remove(&image.path)
    })
    .await?
}

/// On a thread that may wait: writing back or freeing a large file takes the kernel seconds.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BackendError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| failed(format!("the work on an image was cut short: {error}")))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Told {
    format: String,
    virtual_size: u64,
    actual_size: u64,
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

/// An absolute path is never taken for a protocol (`nbd:`, `json:`) or an option.
fn plain(path: &Path) -> Result<&str, BackendError> {
    path.to_str()
        .filter(|_| path.is_absolute())
        .ok_or_else(|| invalid(format!("the image's path {path:?} is not absolute and UTF-8")))
}

/// Written down before it has its name, and the name before it is told of: a power failure leaves
/// no image that the record knows and the disk does not.
fn publish(unfinished: &Path, path: &Path) -> io::Result<()> {
    File::open(unfinished)?.sync_all()?;
    fs::hard_link(unfinished, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn exists(path: &Path) -> Result<bool, BackendError> {
    fs::exists(path).map_err(|error| failed(format!("image {}: {error}", path.display())))
}

fn remove(path: &Path) -> Result<(), BackendError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(failed(format!("image {} could not be removed: {error}", path.display())))
        }
    }
}
