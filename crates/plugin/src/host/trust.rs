//! Who could have written a plugin file: loading it runs its code as this user. Says nothing of
//! what the code does; a plugin loaded into the daemon is trusted wholly.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use super::LoadError;

const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

/// Writable by group or by anyone.
const FOREIGN_WRITE: u32 = 0o022;
/// Writable by anyone.
const OPEN_WRITE: u32 = 0o002;
/// In a folder with this bit nobody replaces another's file.
const STICKY: u32 = 0o1000;

/// The plugin's file, opened, and its real path, if nobody but root and this user can change the
/// file or its folder, and not just anyone can put another folder in its place.
pub(crate) fn open(path: &Path) -> Result<(PathBuf, File), LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let real = path.canonicalize().map_err(unreadable)?;
    // Without blocking: it may be a pipe that nobody writes to.
    let opened = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(&real);
    let opened = opened.map_err(unreadable)?;
    let file = opened.metadata().map_err(unreadable)?;
    let folder = real.parent().unwrap_or(Path::new("/"));
    let folder_data = folder.metadata().map_err(unreadable)?;
    let doubt = if !file.is_file() {
        Some("it is not a file".to_owned())
    } else {
        let us = rustix::process::geteuid().as_raw();
        doubt((file.uid(), file.mode()), us, &real, false)
            .or_else(|| doubt((folder_data.uid(), folder_data.mode()), us, folder, true))
            .or_else(|| folder.ancestors().skip(1).find_map(open_to_all))
    };
    match doubt {
        None => Ok((real, opened)),
        Some(why) => Err(LoadError::Untrusted { path: path.to_owned(), why }),
    }
}

/// Is it the file whose hash was written down?
pub(crate) fn check_pin(path: &Path, file: &File, pin: &Pin) -> Result<(), LoadError> {
    let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
    let mut hasher = Sha256::new();
    io::copy(&mut &*file, &mut HashWriter(&mut hasher)).map_err(unreadable)?;
    let found = Pin(hasher.finalize().into());
    if found == *pin {
        return Ok(());
    }
    Err(LoadError::Pinned { path: path.to_owned(), pinned: *pin, found })
}

/// The SHA-256 hash of a plugin's file (FIPS 180-4), as 64 digits of 0-9 and a-f.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a SHA-256 hash: 64 digits of 0-9 and a-f");
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn doubt((owner, mode): (u32, u32), us: u32, path: &Path, sticky_counts: bool) -> Option<String> {
    let path = path.display();
    if owner != 0 && owner != us {
        return Some(format!(
            "{path} belongs to uid {owner}, but only root and uid {us} (this process) may own it; \
             if you trust it: chown {us} {path}"
        ));
    }
    let open = mode & FOREIGN_WRITE != 0 && !(sticky_counts && mode & STICKY != 0);
    open.then(|| {
        format!(
            "{path} has mode {:04o}, so others can write to it; \
             if you trust it: chmod go-w {path}",
            mode & 0o7777
        )
    })
}

/// Farther up a group may write: where every user has a group of their own, the folders of a home
/// often are so.
fn open_to_all(folder: &Path) -> Option<String> {
    let mode = folder.metadata().map_or(0, |data| data.mode());
    (mode & OPEN_WRITE != 0 && mode & STICKY == 0).then(|| {
        let path = folder.display();
        format!("anyone can write to {path}, and so replace it; if you trust it: chmod o-w {path}")
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_anyone_can_replace_is_not_trusted() {
        let root = tempfile::tempdir().unwrap();
        let (outer, inner) = (root.path().join("outer"), root.path().join("outer/inner"));
        let file = inner.join("x.so");
        create_dir(&outer).unwrap();
        create_dir(&inner).unwrap();
        std::fs::write(&file, "").unwrap();
        for (path, mode) in [(&file, 0o644), (&inner, 0o755), (&outer, 0o775)] {
            set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(open(&file).unwrap().0, file.canonicalize().unwrap());
        set_permissions(&outer, Permissions::from_mode(0o777)).unwrap();
        let refusal = open(&file).unwrap_err().to_string();
        assert!(refusal.contains("outer") && refusal.contains("chmod o-w"), "{refusal}");
    }

    #[test]
    fn only_a_file_that_nobody_else_can_change_is_trusted() {
        let path = Path::new("/p/x.so");
        for (owner, mode, us, in_sticky, trusted) in [
            (0, 0o100_755, 1000, false, true),
            (1000, 0o100_700, 1000, false, true),
            (1000, 0o100_755, 0, false, false),
            (1001, 0o100_755, 1000, false, false),
            (0, 0o100_775, 0, false, false),
            (0, 0o100_757, 0, false, false),
            (0, 0o101_777, 0, false, false),
            (0, 0o041_777, 1000, true, true),
            (0, 0o040_777, 1000, true, false),
        ] {
            let doubt = doubt((owner, mode), us, path, in_sticky);
            assert_eq!(doubt.is_none(), trusted, "{owner} {mode:o} {us}: {doubt:?}");
        }
    }

    #[test]
    fn a_doubt_names_the_path_both_sides_and_the_way_out() {
        let owner = doubt((7, 0o100_755), 5, Path::new("/p/x.so"), false).unwrap();
        for part in ["/p/x.so", "uid 7", "uid 5", "chown 5 /p/x.so"] {
            assert!(owner.contains(part), "{part} in {owner}");
        }
        let mode = doubt((5, 0o100_766), 5, Path::new("/p/x.so"), false).unwrap();
        for part in ["/p/x.so", "0766", "chmod go-w /p/x.so"] {
            assert!(mode.contains(part), "{part} in {mode}");
        }
    }
}
