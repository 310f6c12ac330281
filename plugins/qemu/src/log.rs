//! Log files in a machine's directory: kept small while QEMU writes them, and read from their end.
//! What is in them is the guest's and QEMU's and is not interpreted here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes a log may have before its older part is dropped. It may pass this between two checks.
pub(crate) const MAX_LOG: u64 = 4 * 1024 * 1024;

/// Bytes of a log's end that are kept beside it when it is cut.
const KEPT: u64 = 1024 * 1024;

/// Bytes of a log's end that an error shows.
const TAIL: u64 = 2048;

/// Where the older part of a log goes: the name with `.1` after it.
pub(crate) fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Cuts a log that passed `max` bytes: its last part becomes `<log>.1`, replacing the one before,
/// and the log starts anew. QEMU appends (`O_APPEND`), so it goes on at the new end; what it
/// writes between the copy and the cut is lost. True if it was cut. Blocks.
pub(crate) fn cap(log: &Path, max: u64) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).write(true).open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() <= max {
        return Ok(false);
    }
    let last = read_end(&file, KEPT)?;
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(older(log))?
        .write_all(&last)?;
    file.set_len(0)?;
    Ok(true)
}

/// A log's length now; 0 if it is not there. With [`since`] it tells one run's words from those
/// before.
pub(crate) fn length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// The end of what was written after `mark`, on one line, at most [`TAIL`] bytes; empty if nothing
/// can be read.
pub(crate) fn since(log: &Path, mark: u64) -> String {
    let written = length(log).saturating_sub(mark);
    let bytes = File::open(log).and_then(|file| read_end(&file, written.min(TAIL)));
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

fn read_end(mut file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let from = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(from))?;
    let mut last = Vec::new();
    file.take(bytes).read_to_end(&mut last)?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_within_its_cap_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        assert!(!cap(&log, 10).unwrap());
        std::fs::write(&log, "0123456789").unwrap();
        assert!(!cap(&log, 10).unwrap());
        assert_eq!(std::fs::read(&log).unwrap(), b"0123456789");
    }

    #[test]
    fn a_log_past_its_cap_keeps_its_last_part_beside_it_and_its_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        let mut writer = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let size = usize::try_from(KEPT).unwrap() + 100;
        writer.write_all(&vec![b'a'; size]).unwrap();
        writer.write_all(b"end").unwrap();
        assert!(cap(&log, KEPT).unwrap());
        let kept = std::fs::read(older(&log)).unwrap();
        assert_eq!(kept.len(), usize::try_from(KEPT).unwrap());
        assert!(kept.ends_with(b"aend"));
        writer.write_all(b"next").unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), b"next");
    }

    #[test]
    fn since_shows_only_what_came_after_the_mark() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("qemu.log");
        std::fs::write(&log, "old\n").unwrap();
        let mark = length(&log);
        let mut writer = OpenOptions::new().append(true).open(&log).unwrap();
        writer.write_all(b"new one\n\nnew two\n").unwrap();
        assert_eq!(since(&log, mark), "new one | new two");
        assert_eq!(since(&folder.path().join("absent"), 0), "");
    }
}
