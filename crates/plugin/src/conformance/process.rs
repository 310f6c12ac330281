//! The host's own view of processes, whatever a backend says of them. Only what was verified to be
//! the process that is meant is signalled, and it is held meanwhile.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

use super::fault::{Fault, Outcome, ensure};
use crate::{Machine, ProcessIdentity};

/// Where the start time stands among the fields behind the command's name: field 22, proc(5).
const START_TIME: usize = 19;

/// Clock ticks after boot; `None` if there is no such process.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(START_TIME)?.parse().ok()
}

pub(super) fn boot_id() -> Result<Uuid, Fault> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().parse().map_err(|_| Fault("the suite cannot read the host's boot id".to_owned()))
}

/// One process, held: its pid cannot become another's meanwhile.
#[derive(Debug)]
pub(super) struct Watched(OwnedFd);

impl Watched {
    pub(super) fn of(machine: &Machine) -> Result<Self, Fault> {
        let process = machine.process.as_ref();
        Self::hold(process.ok_or_else(|| Fault(format!("{machine:?} names no process")))?)
    }

    /// Fails unless the process of this pid is the one that is named.
    pub(super) fn hold(process: &ProcessIdentity) -> Result<Self, Fault> {
        let held = hold(process.pid).ok_or_else(|| Fault(format!("{process:?} does not live")))?;
        let real = start_time(process.pid);
        ensure!(real == Some(process.start_time), "{process:?} is another process");
        Ok(Self(held))
    }

    pub(super) fn kill(&self) -> Outcome {
        self.signal(Signal::KILL)
    }

    pub(super) fn stop(&self) -> Outcome {
        self.signal(Signal::STOP)
    }

    fn signal(&self, signal: Signal) -> Outcome {
        let sent = pidfd_send_signal(&self.0, signal);
        sent.map_err(|error| Fault(format!("the suite cannot signal a machine: {error}")))
    }

    pub(super) fn has_ended(&self) -> bool {
        let at_once = Timespec::default();
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&at_once))
            .is_ok_and(|ready| ready > 0)
    }
}

fn hold(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// The command lines of the living processes that name something in this folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) pid: u32,
    pub(super) command: String,
}

/// Every living process that names `folder` in its command line.
pub(super) fn naming(folder: &Path) -> Vec<Named> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| named(pid, folder)).collect()
}

fn named(pid: u32, folder: &Path) -> Option<Named> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&words).replace('\0', " ").trim_end().to_owned();
    command.contains(folder.to_str()?).then_some(Named { pid, command })
}

/// Ends a process that still names the folder.
pub(super) fn end(process: &Named, folder: &Path) {
    let Some(held) = hold(process.pid) else { return };
    if named(process.pid, folder).as_ref() == Some(process) {
        // It may have ended at this very moment.
        let _ = pidfd_send_signal(&held, Signal::KILL);
    }
}
