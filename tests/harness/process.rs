//! Processes as the host shows them, whatever the daemon believes, and the end of those a test has
//! caused.

use std::fs;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process has no command line for a moment between fork and exec: looked at again after this.
const EXEC: Duration = Duration::from_millis(20);
/// Looks for machines at the end of a test, at most.
const SWEEPS_MAX: usize = 50;

/// A living process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// The words of its command line.
    pub command: Vec<String>,
}

impl Process {
    /// Whether a word of its command line has `mark` in it.
    pub fn names(&self, mark: &str) -> bool {
        self.command.iter().any(|word| word.contains(mark))
    }

    /// Sends SIGKILL to exactly this process; nothing if it has ended.
    pub fn kill(&self) {
        let pid = Pid::from_raw(self.pid).expect("process ids begin at 1");
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        // The handle is of whatever has the id now: look again before the signal.
        if command(self.pid).is_some_and(|now| now == self.command) {
            // It may end by itself in between.
            let _ = pidfd_send_signal(handle.as_fd(), Signal::KILL);
        }
    }
}

/// Every living process that names `mark` in its command line, except this one.
pub fn processes(mark: &str) -> Vec<Process> {
    let own = i32::try_from(std::process::id()).expect("process ids are small");
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let others = pids.filter(|pid| *pid != own);
    let named = others.filter_map(|pid| Some(Process { pid, command: command(pid)? }));
    named.filter(|process| process.names(mark)).collect()
}

/// Ends every process that names `mark`, also one that is just being started.
pub(crate) fn end_all(mark: &str) {
    let mut quiet = 0;
    for _ in 0..SWEEPS_MAX {
        let left = processes(mark);
        left.iter().for_each(Process::kill);
        quiet = if left.is_empty() { quiet + 1 } else { 0 };
        if quiet == 2 {
            return;
        }
        thread::sleep(EXEC);
    }
}

/// None if it has ended, even if its parent has not looked yet.
fn command(pid: i32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<String> = text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    (!bytes.is_empty()).then_some(words)
}
