//! The helper as a process: started, and ended without taking another one for it. What is spoken
//! with it is told elsewhere.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::host::trust::Pin;

/// The program that runs plugins in a process of their own. It is given, after the arguments, the
/// plugin's file and, where the file is pinned, `--sha256` and the hash; it has to call
/// [`serve_plugin`](super::serve_plugin) with these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// A helper that was started.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

/// The helper's standard input is the socket. It is in a process group of its own: a key that ends
/// the daemon from its terminal does not end it before the daemon is done with it.
pub(crate) fn start(
    helper: &Helper,
    file: &Path,
    pin: Option<&Pin>,
) -> io::Result<(Process, Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(&helper.program);
    command.args(&helper.arguments).arg(file);
    if let Some(pin) = pin {
        command.arg("--sha256").arg(pin.to_string());
    }
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).process_group(0);
    let mut child = command.spawn()?;
    // The child is not reaped before this, so the pid is its.
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let opened =
        pid.ok_or(rustix::io::Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    match opened {
        Ok(pidfd) => Ok((Process { pid: child.id(), pidfd }, child, ours)),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error.into())
        }
    }
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn kill(&self) {
        // One that has ended needs none.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Lets it end by itself for so long.
    pub(crate) fn kill_after(&self, grace: Duration) {
        let timeout = Timespec::try_from(grace).expect("a grace is some seconds");
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        // Whatever comes of it, a process that has ended is not hurt.
        let _ = poll(&mut ended, Some(&timeout));
        self.kill();
    }

    /// How it ended, for people.
    pub(crate) fn wait(&self, mut child: Child) -> String {
        let pid = self.pid;
        match child.wait() {
            Ok(status) => format!("its process (pid {pid}) {}", told(status)),
            Err(error) => format!("its process (pid {pid}): {error}"),
        }
    }
}

fn told(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("was ended by signal {signal}")
        }
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "has ended".to_owned(),
    }
}
