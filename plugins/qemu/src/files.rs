//! Opening files whose folder, or whose content, is a machine's: its user may have put a link, a
//! pipe or a socket where a file was. Nothing here follows one, waits on one, or changes one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOCTTY, O_NOFOLLOW, O_NONBLOCK};

/// What the file is opened for. Nothing is made or cut by opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Reading,
    Writing,
}

/// Opens a regular file, and nothing else, and not through a link in its last component. The folder
/// must be one that no machine can change.
pub(crate) fn open_regular(path: &Path, purpose: For) -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(purpose == For::Writing)
        // Without NONBLOCK the opening of a pipe waits for its other end.
        .custom_flags(O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        // ELOOP with NOFOLLOW: open(2).
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(not_regular("a symbolic link"));
        }
        // A socket, or a pipe that nobody reads.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
            return Err(not_regular("a socket or a pipe"));
        }
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular("not one")) }
}

/// [`open_regular`] in a folder that is the machine's own: also refuses a file with a second name,
/// which may be somebody else's file.
pub(crate) fn open_single(path: &Path, purpose: For) -> io::Result<File> {
    let file = open_regular(path, purpose)?;
    if file.metadata()?.nlink() <= 1 {
        Ok(file)
    } else {
        Err(not_regular("a file with a second name"))
    }
}

/// Makes a file anew: whatever had the name before is moved out of the way or removed by the
/// caller, or this fails.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    // O_EXCL does not follow a link either: open(2).
    OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)
}

/// A name that is not there is a success.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it must be a regular file and is {what}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_regular_file_is_opened_and_nothing_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        for purpose in [For::Reading, For::Writing] {
            open_regular(&path("file"), purpose).unwrap();
            for name in ["link", "folder", "pipe", "socket"] {
                let error = open_regular(&path(name), purpose).unwrap_err();
                assert_ne!(error.kind(), io::ErrorKind::NotFound, "{name}: {error}");
            }
        }
        let absent = open_regular(&path("absent"), For::Reading).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_with_a_second_name_is_not_taken_for_the_machines_own() {
        let folder = tempfile::tempdir().unwrap();
        let (file, second) = (folder.path().join("victim"), folder.path().join("log"));
        std::fs::write(&file, "x").unwrap();
        open_single(&file, For::Writing).unwrap();
        std::fs::hard_link(&file, &second).unwrap();
        open_single(&second, For::Writing).unwrap_err();
    }
}
