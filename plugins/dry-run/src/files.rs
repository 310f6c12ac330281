//! Files that are there wholly or not at all, whoever is killed when. What they hold is their
//! callers' business.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::NamedTempFile;

/// `None` if the file, or its folder, is not there.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

/// A new file beside `path`, to take its place; removed if it does not.
pub(crate) fn beside(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(content)?;
    Ok(file)
}

/// Makes or overwrites a file.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    beside(path, content)?.persist(path)?;
    Ok(())
}

/// Puts `file` in the place of another; `false` if there is none any more, and then none is made:
/// a file that somebody deletes at this very moment stays deleted.
pub(crate) fn replace(path: &Path, file: NamedTempFile) -> io::Result<bool> {
    match renameat_with(CWD, file.path(), CWD, path, RenameFlags::EXCHANGE) {
        // What was there goes with the other name.
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        // A file system that cannot exchange two files, rename(2).
        Err(Errno::INVAL | Errno::NOSYS) => {
            let there = path.try_exists()?;
            if there {
                file.persist(path)?;
            }
            Ok(there)
        }
        Err(why) => Err(why.into()),
    }
}

/// Already gone is a success.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(why),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_but_never_made_by_that_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(!replace(&path, beside(&path, b"1").unwrap()).unwrap());
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"1").unwrap();
        write(&path, b"2").unwrap();
        assert!(replace(&path, beside(&path, b"3").unwrap()).unwrap());
        assert_eq!(read(&path).unwrap().unwrap(), b"3");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
