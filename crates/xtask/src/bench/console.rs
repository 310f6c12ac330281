//! What a guest wrote to its serial console since one last looked, from the file that QEMU keeps.
//! It never writes to the guest.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The slowest thing that is waited for is a Linux that boots on an emulated processor.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A console's log, read from where the last wait ended.
#[derive(Debug)]
pub(crate) struct Console {
    path: PathBuf,
    at: u64,
}

impl Console {
    /// The log at `path` from its begin; it need not be there yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), at: 0 }
    }

    /// Waits for a line that contains `mark` and gives it, from the mark on.
    pub(crate) fn line(&mut self, mark: &str) -> Result<String> {
        let end = Instant::now() + WITHIN;
        while Instant::now() < end {
            let text = self.unread();
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            if let Some(start) = whole.find(mark) {
                let length = whole[start..].find('\n').map_or(0, |length| length + 1);
                self.at += u64::try_from(start + length).unwrap_or_default();
                return Ok(whole[start..start + length].trim().to_owned());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        bail!("no {mark} in {} within {WITHIN:?}; since then: {:?}", self.path.display(), {
            self.unread()
        })
    }

    /// Serial consoles carry ASCII; whatever else there is has one letter for each byte, so that
    /// places in the text are places in the file.
    fn unread(&self) -> String {
        let mut bytes = Vec::new();
        // It is not there before the machine has begun: then there is nothing to read.
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(self.at)).is_ok()
            && file.read_to_end(&mut bytes).is_err()
        {
            bytes.clear();
        }
        bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn each_line_is_given_once_and_only_when_it_is_whole() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("console.log");
        let mut console = Console::new(&path);
        assert_eq!(console.unread(), "");
        fs::write(&path, b"noise \xff# UP 1\r\n# ADDED sda\r\nADDED s")?;
        assert_eq!(console.line("ADDED")?, "ADDED sda");
        assert_eq!(console.unread(), "ADDED s");
        let later = fs::OpenOptions::new().append(true).open(&path);
        let writer = std::thread::spawn(move || later.and_then(|mut file| file.write_all(b"db\n")));
        assert_eq!(console.line("ADDED")?, "ADDED sdb");
        writer.join().expect("it only writes")?;
        assert_eq!(console.unread(), "");
        Ok(())
    }
}
