//! Log files in a machine's directory: begun anew, kept small while QEMU writes them, and read from
//! their end. What is in them is the guest's and QEMU's and is not interpreted here.
//!
//! The directory is the machine's own, so no name in it is followed or written to blindly: `files`
//! does the opening.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::files::{For, create_new, open_single, remove};

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

/// A new log; what was there goes to [`older`], replacing what was there before.
pub(crate) fn begin(log: &Path) -> io::Result<File> {
    match fs::rename(log, older(log)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    create_new(log)
}

/// Cuts a log that passed `max` bytes: its last part becomes `<log>.1`, replacing the one before,
/// and the log starts anew. QEMU appends (`O_APPEND`), so it goes on at the new end; what it
/// writes between the copy and the cut is lost. True if it was cut. Blocks.
pub(crate) fn cap(log: &Path, max: u64) -> io::Result<bool> {
    let file = match open_single(log, For::Writing) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() <= max {
        return Ok(false);
    }
    let kept = keep(&file, log);
    // Also when nothing could be kept: the log must not fill the storage.
    file.set_len(0)?;
    kept.map(|()| true)
}

fn keep(file: &File, log: &Path) -> io::Result<()> {
    let last = read_end(file, KEPT)?;
    let older = older(log);
    remove(&older)?;
    create_new(&older)?.write_all(&last)
}

/// The end of a log, its lines joined to one, at most [`TAIL`] bytes; empty if nothing can be read.
pub(crate) fn tail(log: &Path) -> String {
    let bytes = open_single(log, For::Reading).and_then(|file| read_end(&file, TAIL));
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_benign(line));
    lines.collect::<Vec<_>>().join(" | ")
}

/// QEMU says this on every start where the accelerator lacks a feature of the CPU model.
fn is_benign(line: &str) -> bool {
    line.contains("warning:") && line.contains("doesn't support requested feature: CPUID")
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
    use std::fs::OpenOptions;

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
    fn a_new_log_keeps_the_one_before_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("qemu.log");
        begin(&log).unwrap().write_all(b"one").unwrap();
        assert_eq!(tail(&log), "one");
        begin(&log).unwrap();
        assert_eq!(tail(&log), "");
        assert_eq!(fs::read(older(&log)).unwrap(), b"one");
    }

    #[test]
    fn the_tail_leaves_out_empty_lines_and_warnings_that_mean_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("qemu.log");
        let benign = "qemu-system-x86_64: warning: TCG doesn't support requested feature: \
                      CPUID.01H:ECX.x2apic [bit 21]";
        fs::write(&log, format!("{benign}\nnew one\n\nwarning: new two\n")).unwrap();
        assert_eq!(tail(&log), "new one | warning: new two");
        assert_eq!(tail(&folder.path().join("absent")), "");
    }

    #[test]
    fn a_link_planted_for_a_log_is_neither_read_nor_cut_nor_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let (log, victim) = (folder.path().join("console.log"), folder.path().join("victim"));
        let words = vec![b'v'; 100];
        fs::write(&victim, &words).unwrap();
        std::os::unix::fs::symlink(&victim, &log).unwrap();
        cap(&log, 10).unwrap_err();
        assert_eq!(tail(&log), "");
        drop(begin(&log).unwrap());
        fs::remove_file(older(&log)).unwrap();
        // The name beside the log, to which its end is written.
        for plant in [true, false] {
            fs::write(&log, [b'a'; 50]).unwrap();
            let older = older(&log);
            let _ = fs::remove_file(&older);
            if plant {
                std::os::unix::fs::symlink(&victim, &older).unwrap();
            } else {
                fs::hard_link(&victim, &older).unwrap();
            }
            assert!(cap(&log, 10).unwrap());
            assert_eq!(fs::read(&older).unwrap(), [b'a'; 50]);
        }
        assert_eq!(fs::read(&victim).unwrap(), words);
    }

    #[test]
    fn a_log_is_cut_also_when_its_end_cannot_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("console.log");
        fs::write(&log, [b'a'; 50]).unwrap();
        fs::create_dir(older(&log)).unwrap();
        cap(&log, 10).unwrap_err();
        assert_eq!(fs::metadata(&log).unwrap().len(), 0);
    }
}
