//! A file of bounded size: when it is full it becomes `NAME.1`, `NAME.1` becomes `NAME.2`, and so
//! on; the oldest goes. What is written is not looked at.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Nobody but the daemon's user need read what it did.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// What has to be made above the folder may be the storage folder, through which machines of other
/// users reach their files.
const ABOVE_MODE: u32 = 0o711;

/// The open file.
#[derive(Debug)]
pub(super) struct RollingFile {
    path: PathBuf,
    /// None while it cannot be opened.
    file: Option<File>,
    size: u64,
    max_bytes: u64,
    backup_count: u32,
}

impl RollingFile {
    /// Opens `path` for appending, and creates it and its folder if need be.
    ///
    /// # Errors
    /// The folder cannot be made, or the file cannot be opened.
    pub(super) fn open(path: &Path, max_bytes: u64, backup_count: u32) -> io::Result<Self> {
        for (folder, mode) in
            [(path.parent().and_then(Path::parent), ABOVE_MODE), (path.parent(), FOLDER_MODE)]
        {
            // A bare file name has an empty folder, and that one has none above it.
            if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) {
                DirBuilder::new().recursive(true).mode(mode).create(folder)?;
            }
        }
        let mut rolling =
            Self { path: path.to_owned(), file: None, size: 0, max_bytes, backup_count };
        rolling.reopen()?;
        Ok(rolling)
    }

    /// Appends a line whole. One that cannot be written is lost, and the next one is tried again:
    /// the files never exceed their bounds, whatever fails.
    pub(super) fn append(&mut self, line: &[u8]) {
        // Nobody can be told of a failure here: this is what tells.
        let _ = self.try_append(line);
    }

    fn try_append(&mut self, line: &[u8]) -> io::Result<()> {
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.file.is_none() {
            self.reopen()?;
        }
        if self.size > 0 && self.size.saturating_add(bytes) > self.max_bytes {
            self.roll()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(line);
        self.size = self.size.saturating_add(bytes);
        written
    }

    fn roll(&mut self) -> io::Result<()> {
        if self.backup_count == 0 {
            fs::remove_file(&self.path)?;
        }
        for number in (0..self.backup_count).rev() {
            match fs::rename(self.backup(number), self.backup(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.reopen()
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = None;
        let file = OpenOptions::new().create(true).append(true).mode(FILE_MODE).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Number 0 is the file itself.
    fn backup(&self, number: u32) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: &Path) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    fn numbered(path: &Path, number: u32) -> PathBuf {
        PathBuf::from(format!("{}.{number}", path.display()))
    }

    #[test]
    fn a_full_file_is_put_aside_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/a.log");
        let mut log = RollingFile::open(&path, 10, 2).unwrap();
        for line in ["one one\n", "two two\n", "three t\n", "four fo\n", "5\n"] {
            log.append(line.as_bytes());
        }
        assert_eq!(content(&path).as_deref(), Some("four fo\n5\n"));
        assert_eq!(content(&numbered(&path, 1)).as_deref(), Some("three t\n"));
        assert_eq!(content(&numbered(&path, 2)).as_deref(), Some("two two\n"));
        assert_eq!(content(&numbered(&path, 3)), None);
    }

    #[test]
    fn with_no_file_kept_the_log_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = RollingFile::open(&path, 10, 0).unwrap();
        log.append(b"one one\n");
        log.append(b"two two\n");
        assert_eq!(content(&path).as_deref(), Some("two two\n"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_log_that_is_opened_again_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        RollingFile::open(&path, 10, 1).unwrap().append(b"before\n");
        let mut log = RollingFile::open(&path, 10, 1).unwrap();
        log.append(b"a\n");
        assert_eq!(content(&path).as_deref(), Some("before\na\n"));
        log.append(b"full\n");
        assert_eq!(content(&path).as_deref(), Some("full\n"));
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_never_grows_beyond_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let obstacle = numbered(&path, 1);
        fs::create_dir_all(obstacle.join("full")).unwrap();
        let mut log = RollingFile::open(&path, 10, 1).unwrap();
        for _ in 0..5 {
            log.append(b"seven..\n");
        }
        assert_eq!(content(&path).as_deref(), Some("seven..\n"));
        fs::remove_dir_all(obstacle).unwrap();
        log.append(b"again..\n");
        assert_eq!(content(&path).as_deref(), Some("again..\n"));
    }

    #[test]
    fn a_folder_that_goes_away_loses_lines_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/a.log");
        let mut log = RollingFile::open(&path, 10, 1).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        for _ in 0..3 {
            log.append(b"seven..\n");
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        log.append(b"back...\n");
        assert_eq!(content(&path).as_deref(), Some("back...\n"));
    }
}
