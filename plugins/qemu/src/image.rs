//! Disk images: made and grown by `qemu-img`, read by their headers, and removed. The format always
//! comes from the caller; an image's bytes are the guest's and are never probed for one.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vman_plugin::{BackendError, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec};

use crate::failure::{is_locked, is_storage_full};
use crate::files::{For, open_regular};
use crate::owner::Owner;
use crate::program::{self, Failure, Output, QEMU_IMG};
use crate::{aside, conflict, failed, files, holder, invalid, not_found, timeout};

mod header;

use header::{Fault, SECTOR, Sizes};

/// For `qemu-img create`, which writes metadata only; usually 10 to 20 ms.
pub(crate) const CREATE_DEADLINE: Duration = Duration::from_secs(30);

/// For `qemu-img resize`, which writes metadata only; usually 10 to 20 ms.
pub(crate) const RESIZE_DEADLINE: Duration = Duration::from_secs(45);

/// proc(5): opening it opens the file anew, with the rights of who opens it.
const STDIN: &str = "/proc/self/fd/0";

/// An image is for its machine's user, or for the daemon's.
const MODE: u32 = 0o600;

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
        sectors(path, spec.virtual_size)?;
        let unfinished = unfinished(&spec.path);
        if exists(&spec.path)? {
            // Its other name, if whoever made it was ended between the two.
            remove(&unfinished)?;
            return same(spec).await;
        }
        let size = spec.virtual_size.to_string();
        let args = ["create", "-q", "-f", spec.format.name(), "--", plain(&unfinished)?, &size];
        // A leftover of an attempt that was cut short.
        remove(&unfinished)?;
        let output = self.run(&args, CREATE_DEADLINE).await?;
        if !output.success {
            let _ = remove(&unfinished);
            let full = if is_storage_full(&output.stderr) { ": free some space there" } else { "" };
            return Err(failed(format!("image {path} could not be made: {}{full}", output.stderr)));
        }
        let (from, to) = (unfinished.clone(), spec.path.clone());
        let linked = aside(move || publish(&from, &to)).await?;
        let removed = remove(&unfinished);
        match linked {
            Ok(()) => removed,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => same(spec).await,
            Err(error) => Err(failed(format!("image {path} could not be made: {error}"))),
        }
    }

    /// The image must be one that [`inspect`] lets pass: then `qemu-img` opens no other file,
    /// unless whoever has written it changes its header in between. So where we are root `qemu-img`
    /// runs as the image's owner, and gains nothing by that.
    pub(crate) async fn grow(
        &self,
        growth: &ImageGrowth,
        machines_dir: &Path,
    ) -> Result<(), BackendError> {
        let ImageGrowth { path, format, virtual_size } = growth;
        let text = plain(path)?;
        sectors(text, *virtual_size)?;
        let now = inspect(ImageRef { path: path.clone(), format: *format }).await?.virtual_size;
        if *virtual_size == now {
            return Ok(());
        }
        if *virtual_size < now {
            return Err(invalid(format!(
                "image {text} has {now} bytes and cannot shrink to {virtual_size}: the guest would \
                 lose its end"
            )));
        }
        let size = virtual_size.to_string();
        let args = ["resize", "-q", "-f", format.name(), "--", STDIN, &size];
        let output = self.run_on(path, &args).await?;
        if output.success {
            let path = path.clone();
            let synced = aside(move || open_regular(&path, For::Reading)?.sync_all()).await?;
            return synced.map_err(|error| failed(format!("image {text}: {error}")));
        }
        if is_locked(&output.stderr) {
            let (path, machines_dir) = (path.clone(), machines_dir.to_owned());
            return Err(conflict(aside(move || holder::in_use(&path, &machines_dir)).await?));
        }
        Err(failed(format!("image {text} could not be made larger: {}", output.stderr)))
    }

    async fn run(&self, args: &[&str], deadline: Duration) -> Result<Output, BackendError> {
        program::run(&self.0, args, deadline).await.map_err(told)
    }

    /// Has `qemu-img` work on the image that is its standard input: the file itself, so that its
    /// user need not be let through the folders above.
    async fn run_on(&self, image: &Path, args: &[&str]) -> Result<Output, BackendError> {
        let path = image.to_owned();
        let opened = aside(move || {
            let file = open_regular(&path, For::Writing)?;
            let user = unprivileged(&file)?;
            Ok((file.try_clone()?, file, user))
        });
        let (first, second, user) = opened.await?.map_err(|error: io::Error| {
            failed(format!("image {} cannot be opened: {error}", image.display()))
        })?;
        let run =
            |stdin: File, user| program::run_as(&self.0, args, stdin.into(), user, RESIZE_DEADLINE);
        match run(first, user).await {
            // Then no machine has ever run as another user either.
            Err(Failure::NotAsUser) => run(second, None).await.map_err(told),
            done => done.map_err(told),
        }
    }
}

fn told(failure: Failure) -> BackendError {
    match failure {
        Failure::NotRun(_) | Failure::NotAsUser => failed(failure.message()),
        Failure::Deadline(why) => timeout(format!("{why}: is the storage reachable?")),
    }
}

/// Whom to work on the image as: its owner, if we are root and he is not.
fn unprivileged(image: &File) -> io::Result<Option<Owner>> {
    let owner = Owner::of_file(image)?;
    Ok((Owner::daemon().uid == 0 && owner.uid != 0).then_some(owner))
}

/// What is there already is as good as made if it is what would be made.
async fn same(spec: &ImageSpec) -> Result<(), BackendError> {
    let there = inspect(ImageRef { path: spec.path.clone(), format: spec.format }).await?;
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

/// Also while a machine has the image open.
pub(crate) async fn inspect(image: ImageRef) -> Result<ImageInfo, BackendError> {
    plain(&image.path)?;
    let ImageRef { path, format } = image;
    let Sizes { virtual_size, actual_size } = aside(move || check(&path, format)).await??;
    Ok(ImageInfo { format, virtual_size, actual_size })
}

/// Looks whether the file can be used as an image of this format. Blocks.
pub(crate) fn check(path: &Path, format: ImageFormat) -> Result<Sizes, BackendError> {
    let (text, format_name) = (path.display(), format.name());
    let file = open_regular(path, For::Reading).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            not_found(format!("image {text} is not there: restore the file, or delete its disk"))
        } else if error.kind() == io::ErrorKind::InvalidInput {
            conflict(format!("image {text}: {error}"))
        } else {
            failed(format!("image {text} cannot be opened: {error}"))
        }
    })?;
    header::read(&file, format).map_err(|fault| match fault {
        Fault::Unreadable(error) => failed(format!("image {text} cannot be read: {error}")),
        Fault::Foreign(why) => conflict(format!(
            "image {text} was made as {format_name}: {why}; restore the file, or delete its disk"
        )),
        Fault::Unusable(why) => failed(format!("image {text} cannot be used: {why}")),
    })
}

fn sectors(path: &str, virtual_size: u64) -> Result<(), BackendError> {
    if virtual_size != 0 && virtual_size.is_multiple_of(SECTOR) {
        return Ok(());
    }
    Err(invalid(format!(
        "image {path}: its size of {virtual_size} bytes is not a positive multiple of {SECTOR}"
    )))
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
    let file = File::open(unfinished)?;
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.sync_all()?;
    fs::hard_link(unfinished, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn exists(path: &Path) -> Result<bool, BackendError> {
    fs::exists(path).map_err(|error| failed(format!("image {}: {error}", path.display())))
}

fn remove(path: &Path) -> Result<(), BackendError> {
    files::remove(path)
        .map_err(|error| failed(format!("image {} could not be removed: {error}", path.display())))
}
