//! The serial console of the demo's machine, read from the file that its backend keeps. It never
//! writes to the guest.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A console log, read from where the last look ended.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    read: usize,
}

impl Console {
    /// The log at `path`, which need not be there yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// Waits for a new line that contains `mark`, and gives it from there on.
    pub(super) fn line(&mut self, mark: &str, within: Duration) -> Result<String> {
        let until = Instant::now() + within;
        loop {
            if let Some(line) = self.look(mark) {
                return Ok(line);
            }
            if Instant::now() > until {
                let path = self.path.display();
                bail!("no `{mark}` on the console within {within:?}; see {path}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn look(&mut self, mark: &str) -> Option<String> {
        let bytes = fs::read(&self.path).unwrap_or_default();
        // A machine that is started again may begin its log anew.
        if bytes.len() < self.read {
            self.read = 0;
        }
        let mut end = self.read;
        let whole_lines = bytes[self.read..].split_inclusive(|byte| *byte == b'\n');
        for line in whole_lines.filter(|line| line.ends_with(b"\n")) {
            end += line.len();
            let line = String::from_utf8_lossy(line);
            // What a shell's prompt has put before it is left out.
            if let Some(start) = line.find(mark) {
                self.read = end;
                return Some(line[start..].trim().to_owned());
            }
        }
        self.read = end;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_found_once_and_a_log_begun_anew_from_its_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("console.log");
        let mut console = Console::new(path.clone());
        assert_eq!(console.look("UP"), None);
        fs::write(&path, "boot\r\nUP 1\r\nUP").expect("a file");
        assert_eq!(console.look("UP").as_deref(), Some("UP 1"));
        assert_eq!(console.look("UP"), None, "the line is not finished");
        fs::write(&path, "boot\r\nUP 1\r\nUP 2\r\n").expect("a file");
        assert_eq!(console.look("UP").as_deref(), Some("UP 2"));
        fs::write(&path, "UP 3\r\n").expect("a file");
        assert_eq!(console.look("UP").as_deref(), Some("UP 3"));
    }
}
