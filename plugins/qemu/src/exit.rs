//! How a machine ended, and why: what was seen of it before, and a pure judgement of that. Whether
//! one has ended is the process's to say (`process`).

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc;
use nix::sys::signal::Signal;
use vman_plugin::{ExitCause, MachineEnd, RunState};

/// Ends that are kept to be asked for; the oldest is forgotten.
pub(crate) const MAX_ENDS: usize = 1000;

/// How a process ended, as its parent is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Exited(i32),
    Signalled(i32),
    /// It was another's child, and the kernel no longer tells.
    Unseen,
}

impl Status {
    /// From the number that wait(2) gives and `/proc/PID/stat` shows of a zombie.
    pub(crate) fn from_wait(number: i32) -> Self {
        if libc::WIFSIGNALED(number) {
            Self::Signalled(libc::WTERMSIG(number))
        } else {
            Self::Exited(libc::WEXITSTATUS(number))
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit status: {code}"),
            Self::Signalled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal: {number}, {signal}"),
                Err(_) => write!(f, "signal: {number}"),
            },
            Self::Unseen => f.write_str("no exit status: it was started by an earlier daemon"),
        }
    }
}

/// All that is known of a machine at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) status: Status,
    /// What the guest was last seen doing.
    pub(crate) run_state: Option<RunState>,
    /// `quit` or `kill` was called for it.
    pub(crate) asked: bool,
    /// Processes of its cgroup that the kernel ended for want of memory.
    pub(crate) oom_kills: u64,
    /// QEMU's last words; empty for none.
    pub(crate) words: String,
}

/// The cause, and a line for people.
pub(crate) fn judge(evidence: &Evidence) -> (ExitCause, String) {
    let Evidence { status, run_state, asked, oom_kills, words } = evidence;
    let said = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
    let (cause, why) = match (*run_state, *status) {
        (_, Status::Signalled(libc::SIGKILL)) if *oom_kills > 0 => (
            ExitCause::OutOfMemory,
            "the kernel ended QEMU: the machine's memory limit was reached",
        ),
        (Some(RunState::GuestShutdown), _) => (ExitCause::GuestShutdown, "the guest powered off"),
        (Some(RunState::GuestPanicked), _) => (ExitCause::GuestPanic, "the guest panicked"),
        _ if *asked => (ExitCause::Asked, "QEMU was asked to end"),
        (_, Status::Signalled(number)) if is_crash(number) => {
            return (ExitCause::Failed, format!("QEMU crashed ({status}){said}"));
        }
        (_, Status::Signalled(libc::SIGKILL)) => (
            ExitCause::Killed,
            "somebody else ended QEMU, or the kernel when the host had no memory left (see dmesg)",
        ),
        (_, Status::Signalled(_)) => (ExitCause::Killed, "somebody else ended QEMU"),
        // QEMU handles the signals that ask it to end, and says who sent one.
        (_, Status::Exited(_)) if words.contains(TERMINATING) => {
            return (ExitCause::Killed, format!("somebody else ended QEMU ({status}){said}"));
        }
        (_, Status::Exited(0)) => {
            (ExitCause::Unknown, "QEMU was told to end by somebody else's control connection")
        }
        (_, Status::Exited(_)) => {
            return (ExitCause::Failed, format!("QEMU gave up ({status}){said}"));
        }
        (_, Status::Unseen) => {
            return (ExitCause::Unknown, format!("QEMU ended ({status}){said}"));
        }
    };
    (cause, format!("{why} ({status})"))
}

/// What QEMU says of a signal that asks it to end.
const TERMINATING: &str = "terminating on signal";

/// Raised by the process's own doing; SIGSYS by a forbidden system call.
fn is_crash(signal: i32) -> bool {
    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};
    [SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP].contains(&signal)
}

/// What is seen of a living machine and matters at its end.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    run_state: Mutex<Option<RunState>>,
    asked: AtomicBool,
}

impl Witness {
    /// The guest's run state, each time it is known.
    pub(crate) fn saw(&self, run_state: RunState) {
        *lock(&self.run_state) = Some(run_state);
    }

    /// Before the machine is told to end.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn evidence(&self, status: Status, oom_kills: u64, words: String) -> Evidence {
        let (run_state, asked) = (*lock(&self.run_state), self.was_asked());
        Evidence { status, run_state, asked, oom_kills, words }
    }
}

/// The last ends: the newest of each machine, [`MAX_ENDS`] in all.
#[derive(Debug, Default)]
pub(crate) struct Ends(Mutex<VecDeque<MachineEnd>>);

impl Ends {
    pub(crate) fn add(&self, end: MachineEnd) {
        let mut ends = lock(&self.0);
        ends.retain(|other| other.machine.id != end.machine.id);
        ends.push_back(end);
        let surplus = ends.len().saturating_sub(MAX_ENDS);
        ends.drain(..surplus);
    }

    pub(crate) fn all(&self) -> Vec<MachineEnd> {
        lock(&self.0).iter().cloned().collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use vman_plugin::Machine;

    use super::*;

    const KILL: Status = Status::Signalled(libc::SIGKILL);
    const RUNNING: Option<RunState> = Some(RunState::Running);
    const OFF: Option<RunState> = Some(RunState::GuestShutdown);
    const PANICKED: Option<RunState> = Some(RunState::GuestPanicked);
    const TERM: &str = "qemu-system-x86_64: terminating on signal 15 from pid 7 (sh)";

    fn told(
        status: Status,
        run_state: Option<RunState>,
        asked: bool,
        oom: u64,
        words: &str,
    ) -> Evidence {
        Evidence { status, run_state, asked, oom_kills: oom, words: words.to_owned() }
    }

    #[test]
    fn each_way_to_end_has_its_cause_and_its_line() {
        let abort = Status::Signalled(libc::SIGABRT);
        for (evidence, cause, line) in [
            (told(Status::Exited(0), OFF, true, 0, ""), ExitCause::GuestShutdown, "powered off"),
            (told(KILL, OFF, true, 0, ""), ExitCause::GuestShutdown, "SIGKILL"),
            (told(Status::Unseen, OFF, false, 0, ""), ExitCause::GuestShutdown, "earlier daemon"),
            (told(KILL, PANICKED, true, 0, ""), ExitCause::GuestPanic, "panicked"),
            (told(Status::Exited(0), RUNNING, true, 0, ""), ExitCause::Asked, "exit status: 0"),
            (told(KILL, RUNNING, true, 0, ""), ExitCause::Asked, "SIGKILL"),
            (told(KILL, RUNNING, false, 0, ""), ExitCause::Killed, "dmesg"),
            (told(KILL, RUNNING, false, 1, ""), ExitCause::OutOfMemory, "memory limit"),
            (told(KILL, OFF, true, 1, ""), ExitCause::OutOfMemory, "memory limit"),
            (told(Status::Exited(0), RUNNING, false, 1, TERM), ExitCause::Killed, "from pid 7"),
            (
                told(Status::Signalled(libc::SIGHUP), None, false, 0, ""),
                ExitCause::Killed,
                "SIGHUP",
            ),
            (told(abort, RUNNING, false, 0, "assertion x"), ExitCause::Failed, "assertion x"),
            (
                told(Status::Signalled(libc::SIGSYS), None, false, 0, ""),
                ExitCause::Failed,
                "SIGSYS",
            ),
            (told(Status::Exited(1), None, false, 0, "no disk"), ExitCause::Failed, "no disk"),
            (told(Status::Exited(1), RUNNING, false, 0, ""), ExitCause::Failed, "exit status: 1"),
            (told(Status::Exited(0), RUNNING, false, 0, ""), ExitCause::Unknown, "somebody else"),
            (told(Status::Unseen, RUNNING, false, 0, "w"), ExitCause::Unknown, "it said: w"),
            (told(Status::Signalled(64), None, false, 0, ""), ExitCause::Killed, "signal: 64"),
        ] {
            let (judged, words) = judge(&evidence);
            assert_eq!(judged, cause, "{evidence:?}");
            assert!(words.contains(line), "{words:?} for {evidence:?}");
        }
    }

    #[test]
    fn a_wait_status_is_an_exit_or_a_signal() {
        assert_eq!(Status::from_wait(0), Status::Exited(0));
        assert_eq!(Status::from_wait(3 << 8), Status::Exited(3));
        assert_eq!(Status::from_wait(9), KILL);
        // With a core dump.
        assert_eq!(Status::from_wait(6 | 0x80), Status::Signalled(libc::SIGABRT));
    }

    #[test]
    fn what_was_seen_last_is_the_evidence() {
        let witness = Witness::default();
        assert_eq!(witness.evidence(KILL, 0, String::new()), told(KILL, None, false, 0, ""));
        witness.saw(RunState::Running);
        witness.saw(RunState::GuestPanicked);
        witness.ask();
        let evidence = witness.evidence(KILL, 2, "w".to_owned());
        assert_eq!(evidence, told(KILL, PANICKED, true, 2, "w"));
    }

    #[test]
    fn the_newest_end_of_each_machine_is_kept_and_the_oldest_forgotten() {
        let end = |id: u128, detail: &str| MachineEnd {
            machine: Machine { id: Uuid::from_u128(id), process: None },
            cause: ExitCause::Asked,
            detail: detail.to_owned(),
        };
        let ends = Ends::default();
        for id in 0..u128::try_from(MAX_ENDS).unwrap() + 1 {
            ends.add(end(id, "first"));
        }
        assert_eq!(ends.all().len(), MAX_ENDS);
        assert_eq!(ends.all()[0], end(1, "first"));
        ends.add(end(5, "second"));
        let of_five = ends.all().into_iter().filter(|other| other.machine.id == Uuid::from_u128(5));
        assert_eq!(of_five.collect::<Vec<_>>(), [end(5, "second")]);
    }
}
