//! Machines as processes: starting one that outlives who started it, finding ours in `/proc`, and
//! holding exactly that one. Nothing is kept in memory or in files: the first word of a process's
//! command line names its machine. What is told of machines is not known here.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use procfs::process::{Process, all_processes};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;
use vman_plugin::ProcessIdentity;

/// The first word of a machine's command line is this, the folder, a slash and the id.
const TAG: &str = "vman-example-rust:";
/// A program that was executed is not seen in `/proc` at once: its command line is set last, and
/// nothing tells when.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A living machine, as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: Uuid,
    pub(crate) identity: ProcessIdentity,
    /// By a signal, or by a debugger.
    pub(crate) is_stopped: bool,
}

/// Every living machine below `folder` (canonical), whoever started it, or those of one id. An
/// error means that nothing is known.
pub(crate) fn find(folder: &Path, id: Option<Uuid>) -> Result<Vec<Found>, String> {
    let boot_id = boot_id()?;
    let all = all_processes().map_err(|why| format!("/proc cannot be listed: {why}"))?;
    // One that cannot be read has ended meanwhile, or is another user's and so not ours.
    let machines = all.filter_map(|process| look(folder, &process.ok()?, boot_id));
    Ok(machines.filter(|found| id.is_none_or(|id| id == found.id)).collect())
}

/// The machine that a process is. `Process` holds its directory of `/proc` open, so all that is
/// read here is of one process, also if another one gets its pid meanwhile.
fn look(folder: &Path, process: &Process, boot_id: Uuid) -> Option<Found> {
    let id = id_in(process.cmdline().ok()?.first()?, folder)?;
    // Any user may give a process any words.
    if process.uid().ok()? != geteuid().as_raw() {
        return None;
    }
    let stat = process.stat().ok()?;
    let pid = stat.pid.cast_unsigned();
    let identity = ProcessIdentity { pid, start_time: stat.starttime, boot_id };
    let lives = !matches!(stat.state, 'Z' | 'X');
    lives.then_some(Found { id, identity, is_stopped: matches!(stat.state, 'T' | 't') })
}

fn tag(folder: &Path, id: Uuid) -> String {
    format!("{TAG}{}/{id}", folder.display())
}

fn id_in(word: &str, folder: &Path) -> Option<Uuid> {
    let (_, id) = word.rsplit_once('/')?;
    let id = Uuid::parse_str(id).ok()?;
    (word == tag(folder, id)).then_some(id)
}

fn boot_id() -> Result<Uuid, String> {
    let text = procfs::sys::kernel::random::boot_id().map_err(|why| why.to_string())?;
    Uuid::parse_str(text.trim()).map_err(|why| format!("the boot id {text:?}: {why}"))
}

/// Starts a machine in its directory, which must be there, with nothing of the daemon's but its
/// user. On failure nothing of it runs. Blocks until it is seen.
pub(crate) fn start(folder: &Path, id: Uuid, program: &Path) -> Result<Found, String> {
    let boot_id = boot_id()?;
    let mut command = Command::new(program);
    command.arg0(tag(folder, id)).arg("infinity").env_clear();
    command.current_dir(folder.join(id.to_string())).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|why| why.to_string())?;
    match wait_until_shown(folder, &mut child, boot_id) {
        Ok(found) => {
            reap(id, child)?;
            Ok(found)
        }
        Err(why) => {
            end(child);
            Err(why)
        }
    }
}

fn wait_until_shown(folder: &Path, child: &mut Child, boot_id: Uuid) -> Result<Found, String> {
    let until = Instant::now() + SHOWN_WITHIN;
    loop {
        // It was not waited for, so that its pid is its own.
        let process = Process::new(child.id().cast_signed()).ok();
        if let Some(found) = process.and_then(|process| look(folder, &process, boot_id)) {
            return Ok(found);
        }
        if let Some(status) = child.try_wait().map_err(|why| why.to_string())? {
            return Err(format!("it ended at once, with {status}"));
        }
        if Instant::now() >= until {
            return Err(format!("it was not seen in /proc within {SHOWN_WITHIN:?}"));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits for a child's end on a thread of its own: nobody else does, and one that nobody waits for
/// stays as a zombie. When the daemon ends first, init takes the child over.
fn reap(id: Uuid, child: Child) -> Result<(), String> {
    let (give, take) = std::sync::mpsc::channel::<Child>();
    let thread = thread::Builder::new().name(format!("reap-{id}"));
    let waiting = thread.spawn(move || {
        if let Ok(mut child) = take.recv() {
            // How it ended is nobody's business here.
            let _ = child.wait();
        }
    });
    if let Err(why) = waiting {
        end(child);
        return Err(format!("no thread can wait for its end: {why}"));
    }
    give.send(child).expect("the thread waits for it");
    Ok(())
}

fn end(mut child: Child) {
    // Either fails only for one that has ended and was waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// A process held by a descriptor that never comes to mean another one.
#[derive(Debug)]
pub(crate) struct Held(AsyncFd<OwnedFd>);

impl Held {
    /// Holds a machine's process, verified *after* it is held to be that machine and no other.
    /// `None` if it is gone, or its pid is another process's by now.
    pub(crate) fn machine(folder: &Path, found: &Found) -> io::Result<Option<Self>> {
        let identity = &found.identity;
        let Some(pid) = Pid::from_raw(identity.pid.cast_signed()) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(why) => return Err(why.into()),
        };
        let process = Process::new(pid.as_raw_nonzero().get()).ok();
        let seen = process.and_then(|process| look(folder, &process, identity.boot_id));
        let is_it = seen.is_some_and(|seen| seen.id == found.id && seen.identity == *identity);
        if !is_it {
            return Ok(None);
        }
        Self::wait_on(pidfd).map(Some)
    }

    /// A process's descriptor becomes readable when the process has ended.
    #[allow(
        deprecated,
        reason = "unsound only of a type that closes its descriptor meanwhile, which this does \
                  not; what is to replace it is unsafe"
    )]
    fn wait_on(pidfd: OwnedFd) -> io::Result<Self> {
        AsyncFd::with_interest(pidfd, Interest::READABLE).map(Self)
    }

    /// A process that has ended already is a success.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.0.get_ref(), signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }

    /// Returns when the process has ended, also if it was not our child.
    pub(crate) async fn ended(&self) {
        // It fails only where the runtime ends, and then nobody waits any longer.
        let _ = self.0.readable().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_that_is_the_tag_of_this_folder_names_a_machine() {
        let (folder, id) = (Path::new("/m"), Uuid::from_u128(7));
        assert_eq!(id_in(&tag(folder, id), folder), Some(id));
        for word in [
            format!("{TAG}/m/{id}0"),
            format!("{TAG}/other/{id}"),
            format!("{TAG}/m/{}", id.simple()),
            format!("/m/{id}"),
            String::new(),
        ] {
            assert_eq!(id_in(&word, folder), None, "{word}");
        }
    }
}
