//! Machines as processes: finding ours in `/proc`, naming one for ever, and ending exactly that
//! one. It knows no control socket. Blocking reads of `/proc` only; callers choose the thread.

use std::fs::{File, read_dir};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use procfs::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use uuid::Uuid;
use vman_plugin::ProcessIdentity;

use crate::command_line::{PID_FILE_OPTION, UUID_OPTION, pid_file};
use crate::exit::Status;
use crate::owner::Owner;
use crate::spawn::{exit_of, release_memory, wait_on};

/// Bytes that most command lines are shorter than.
const COMMAND_LINE_USUAL: usize = 4096;

/// A living machine, as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: Uuid,
    pub(crate) identity: ProcessIdentity,
}

/// Every living QEMU of a machine below `machines_dir` (canonical), whoever started it. An error
/// means that `/proc` could not be read.
pub(crate) fn scan(machines_dir: &Path) -> Result<Vec<Found>, String> {
    let boot_id = boot_id()?;
    let unlisted = |error| format!("/proc cannot be listed: {error}");
    let (mut found, mut words) = (Vec::new(), Vec::new());
    for entry in read_dir("/proc").map_err(unlisted)? {
        let name = entry.map_err(unlisted)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that cannot be read has ended meanwhile, or is another user's and so not ours.
        if !may_be_machine(pid, &mut words) {
            continue;
        }
        let machine = Process::new(pid).ok().and_then(|one| machine_of(&one, machines_dir));
        if let Some((id, start_time)) = machine {
            let pid = pid.cast_unsigned();
            found.push(Found { id, identity: ProcessIdentity { pid, start_time, boot_id } });
        }
    }
    Ok(found)
}

/// Tells most processes from machines, by their command lines alone: looking closer takes many
/// times as long, and a host has hundreds. `words` is room to read into.
fn may_be_machine(pid: i32, words: &mut Vec<u8>) -> bool {
    let Ok(file) = File::open(format!("/proc/{pid}/cmdline")) else { return false };
    words.clear();
    words.reserve(COMMAND_LINE_USUAL);
    // Until nothing more comes.
    while rustix::io::read(&file, rustix::buffer::spare_capacity(words)).is_ok_and(|more| more > 0)
    {
        words.reserve(COMMAND_LINE_USUAL);
    }
    words.split(|byte| *byte == 0).any(|word| word == PID_FILE_OPTION.as_bytes())
}

/// The identity of a child that was not waited for, so that its pid cannot have been reused.
pub(crate) fn identity_of_child(pid: u32) -> Result<ProcessIdentity, String> {
    let why = |error| format!("/proc/{pid}: {error}");
    let number = i32::try_from(pid).map_err(|error| format!("pid {pid}: {error}"))?;
    let stat = Process::new(number).and_then(|process| process.stat()).map_err(why)?;
    Ok(ProcessIdentity { pid, start_time: stat.starttime, boot_id: boot_id()? })
}

pub(crate) fn boot_id() -> Result<Uuid, String> {
    let text = procfs::sys::kernel::random::boot_id().map_err(|error| error.to_string())?;
    Uuid::parse_str(text.trim()).map_err(|error| format!("boot id {text:?}: {error}"))
}

/// A process held by a descriptor: it can be waited for and signalled, and its pid cannot come to
/// mean another one.
#[derive(Debug)]
pub(crate) struct Held {
    pidfd: AsyncFd<OwnedFd>,
}

impl Held {
    /// Holds a child that was not waited for.
    pub(crate) fn child(pid: u32) -> io::Result<Self> {
        hold(pid)?.ok_or_else(|| io::Error::from(Errno::SRCH))
    }

    /// Holds the process of a machine, verified *after* it is held to be that machine and no
    /// other. `None` if it is gone or its pid is another process's by now.
    pub(crate) fn machine(found: &Found, machines_dir: &Path) -> io::Result<Option<Self>> {
        let identity = &found.identity;
        if boot_id().map_err(io::Error::other)? != identity.boot_id {
            return Ok(None);
        }
        let Some(held) = hold(identity.pid)? else { return Ok(None) };
        let seen = i32::try_from(identity.pid)
            .ok()
            .and_then(|pid| Process::new(pid).ok())
            .and_then(|process| machine_of(&process, machines_dir));
        Ok((seen == Some((found.id, identity.start_time))).then_some(held))
    }

    /// Returns when the process has ended, also if it was not our child.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    /// Whether the process has ended, by now and without waiting. Surer than `/proc`, which shows a
    /// zombie as a process and a program that is just being executed without its command line.
    pub(crate) fn has_ended(&self) -> bool {
        let mut poll = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut poll, Some(&at_once)), Ok(1..))
    }

    /// How the process ended, which it must have; of a child of ours, waits for it. `identity` is
    /// the process's.
    pub(crate) fn status(&self, identity: &ProcessIdentity) -> Status {
        let look = || exit_of(self.pidfd.get_ref().as_fd());
        // Until its own parent has waited for it only `/proc` tells, and then only the descriptor.
        [look(), zombie(identity), look()]
            .into_iter()
            .find(|status| *status != Status::Unseen)
            .unwrap_or(Status::Unseen)
    }

    /// Speeds up the end of a process that was killed. Blocks for as long as its memory takes to be
    /// freed.
    pub(crate) fn release_memory(&self) {
        release_memory(self.pidfd.get_ref().as_fd());
    }

    /// SIGKILL; a process that has ended already is a success.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn hold(pid: u32) -> io::Result<Option<Held>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(fd) => {
            let pidfd = wait_on(fd)?;
            Ok(Some(Held { pidfd }))
        }
        Err(Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a process runs or waits as it pleases: neither stopped, nor frozen, nor waiting in the
/// kernel for storage, which `/proc` tells as frozen. Of its first thread, which is QEMU's main
/// loop.
pub(crate) fn runs(identity: &ProcessIdentity) -> bool {
    let stat = i32::try_from(identity.pid).ok().and_then(|pid| Process::new(pid).ok()?.stat().ok());
    stat.is_some_and(|stat| {
        stat.starttime == identity.start_time && matches!(stat.state, 'R' | 'S')
    })
}

/// What `/proc` shows of a process that has ended and was not waited for by its parent.
fn zombie(identity: &ProcessIdentity) -> Status {
    let stat = i32::try_from(identity.pid).ok().and_then(|pid| Process::new(pid).ok()?.stat().ok());
    match stat.filter(|stat| stat.starttime == identity.start_time && stat.state == 'Z') {
        Some(stat) => stat.exit_code.map_or(Status::Unseen, Status::from_wait),
        None => Status::Unseen,
    }
}

/// The machine a process runs, and its start time. A zombie runs none, and neither does a process
/// of any user but ours and the one the machine's directory belongs to, whatever its command line
/// says. One of our user may have been started by another through a set-uid program, with any
/// command line: a machine has one user alone, and works in its directory, which others cannot
/// enter.
pub(crate) fn machine_of(process: &Process, machines_dir: &Path) -> Option<(Uuid, u64)> {
    let id = machine_in(&process.cmdline().ok()?, machines_dir)?;
    let directory = machines_dir.join(id.to_string());
    let uid = process.uid().ok()?;
    let is_its_own = if uid == Owner::daemon().uid {
        has_one_user(process) && works_in(process, &directory)
    } else {
        Owner::of(&directory).is_some_and(|owner| owner.uid == uid)
    };
    if !is_its_own {
        return None;
    }
    let stat = process.stat().ok()?;
    (!matches!(stat.state, 'Z' | 'X')).then_some((id, stat.starttime))
}

fn has_one_user(process: &Process) -> bool {
    process.status().is_ok_and(|all| all.ruid == all.euid && all.suid == all.euid)
}

/// Also where that cannot be told, or the directory was removed meanwhile.
fn works_in(process: &Process, directory: &Path) -> bool {
    let Ok(cwd) = process.cwd() else { return true };
    // The kernel's words for a directory that was removed: proc(5).
    let mut removed = directory.as_os_str().to_owned();
    removed.push(" (deleted)");
    cwd == directory || cwd == removed
}

fn machine_in(arguments: &[String], machines_dir: &Path) -> Option<Uuid> {
    let value = |option: &str| {
        let at = arguments.iter().position(|argument| argument == option)?;
        arguments.get(at + 1)
    };
    let id = Uuid::parse_str(value(UUID_OPTION)?).ok()?;
    (Path::new(value(PID_FILE_OPTION)?) == pid_file(machines_dir, id)).then_some(id)
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
