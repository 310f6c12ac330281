//! Images: plain files as large as the disks they are. No machine opens one, since a process has no
//! disks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use vman_plugin::{
    BackendError, ErrorCode, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec,
};

/// A virtual size is a multiple of this.
const SECTOR: u64 = 512;
/// The unit of `st_blocks`, stat(2).
const STAT_BLOCK: u64 = 512;

/// Puts a whole image in its place: it has another name until then, so that an image is there
/// wholly or not at all, whoever is killed when.
pub(crate) fn create(spec: &ImageSpec) -> Result<(), BackendError> {
    let ImageSpec { path, format, virtual_size } = spec;
    check(path, *format)?;
    check_size(path, *virtual_size)?;
    let beside = beside(path);
    let made = make(&beside, *virtual_size).and_then(|()| fs::hard_link(&beside, path));
    // What is left behind is removed by whoever makes or deletes this image next.
    let _ = fs::remove_file(&beside);
    match made {
        Err(why) if why.kind() == ErrorKind::AlreadyExists => is_there(path, *virtual_size),
        // A folder that is missing is no missing image.
        Err(why) => Err(error(ErrorCode::Failed, path, &format!("cannot be made: {why}"))),
        Ok(()) => Ok(()),
    }
}

pub(crate) fn inspect(image: &ImageRef) -> Result<ImageInfo, BackendError> {
    check(&image.path, image.format)?;
    let file = open(&image.path, OpenOptions::new().read(true))?;
    let data = file.metadata().map_err(|why| failed(&image.path, &why))?;
    let actual_size = data.blocks() * STAT_BLOCK;
    Ok(ImageInfo { format: ImageFormat::Raw, virtual_size: data.len(), actual_size })
}

/// Never smaller; of this size already is left alone.
pub(crate) fn grow(growth: &ImageGrowth) -> Result<(), BackendError> {
    let ImageGrowth { path, format, virtual_size } = growth;
    check(path, *format)?;
    check_size(path, *virtual_size)?;
    let file = open(path, OpenOptions::new().write(true))?;
    let now = file.metadata().map_err(|why| failed(path, &why))?.len();
    if *virtual_size < now {
        let why = format!("has {now} bytes, and {virtual_size} are fewer");
        return Err(error(ErrorCode::Invalid, path, &why));
    }
    file.set_len(*virtual_size).and_then(|()| file.sync_all()).map_err(|why| failed(path, &why))
}

pub(crate) fn delete(image: &ImageRef) -> Result<(), BackendError> {
    check(&image.path, image.format)?;
    remove(&beside(&image.path))
        .and_then(|()| remove(&image.path))
        .map_err(|why| failed(&image.path, &why))
}

fn check(path: &Path, format: ImageFormat) -> Result<(), BackendError> {
    match format {
        ImageFormat::Raw if path.is_absolute() => Ok(()),
        ImageFormat::Raw => Err(error(ErrorCode::Invalid, path, "has a path that is not absolute")),
        ImageFormat::Qcow2 => {
            let why = "is to be qcow2; this backend has the format raw alone";
            Err(error(ErrorCode::Invalid, path, why))
        }
    }
}

fn check_size(path: &Path, size: u64) -> Result<(), BackendError> {
    if size != 0 && size.is_multiple_of(SECTOR) && i64::try_from(size).is_ok() {
        return Ok(());
    }
    let why = format!("cannot have {size} bytes: that is not a multiple of {SECTOR}");
    Err(error(ErrorCode::Invalid, path, &why))
}

fn make(path: &Path, size: u64) -> io::Result<()> {
    remove(path)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_len(size)?;
    file.sync_all()
}

/// Made before, as it was asked for now?
fn is_there(path: &Path, size: u64) -> Result<(), BackendError> {
    let file = open(path, OpenOptions::new().read(true))?;
    let there = file.metadata().map_err(|why| failed(path, &why))?.len();
    if there == size {
        return Ok(());
    }
    let why = format!("is there already with {there} bytes; {size} were asked for");
    Err(error(ErrorCode::Conflict, path, &why))
}

/// A symbolic link leads to nobody's image, and opening a pipe must wait for nobody.
fn open(path: &Path, options: &mut OpenOptions) -> Result<File, BackendError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = options.custom_flags(flags).open(path).map_err(|why| failed(path, &why))?;
    if file.metadata().is_ok_and(|data| data.is_file()) {
        return Ok(file);
    }
    Err(error(ErrorCode::Conflict, path, "is not a file"))
}

/// Gone already is a success.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(why),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn failed(path: &Path, why: &io::Error) -> BackendError {
    let is_missing = why.kind() == ErrorKind::NotFound;
    let code = if is_missing { ErrorCode::NotFound } else { ErrorCode::Failed };
    error(code, path, &format!("cannot be used: {why}"))
}

fn error(code: ErrorCode, path: &Path, what: &str) -> BackendError {
    BackendError::new(code, format!("the image {} {what}", path.display()))
}
