//! One living machine: a task that holds its process and its control connection, and what it last
//! saw, for readers who must not wait. How QEMU is spoken with is in `talk`; which machines there
//! are is the registry's to know.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;
use vman_plugin::{
    BackendContext, BackendError, Control, DiskSpec, ErrorCode, Event, Machine, MachineSighting,
    RunState, Unplug,
};

use crate::aftermath::Aftermath;
use crate::command_line::{CONSOLE_LOG, QEMU_LOG};
use crate::disks::Release;
use crate::exit::Witness;
use crate::process::{Found, Held};
use crate::qmp::COMMAND_DEADLINE;
use crate::talk::Talk;
use crate::{failed, log, not_found, timeout as timed_out};

/// How often the machine's logs are measured.
const LOG_CHECK: Duration = Duration::from_secs(5);

/// Commands waiting for the connection. Verbs of one machine never overlap; one that was dropped
/// may still lie here.
const MAX_REQUESTS: usize = 4;

/// For a command to be taken up and answered; longer than QEMU's answer to one may take.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Likewise, where QEMU opens, closes or changes an image for it.
pub(crate) const DISK_DEADLINE: Duration = Duration::from_secs(9);

/// For a guest to let go of a disk; a Linux guest takes about 0.1 s.
pub(crate) const UNPLUG_WAIT: Duration = Duration::from_secs(5);

const _: () = assert!(COMMAND_DEADLINE.as_secs() < REQUEST_DEADLINE.as_secs());

/// What the task last saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Unreachable(String),
    Connected(RunState),
    Ended(String),
}

/// What the task last saw, and when.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) state: State,
    /// When QEMU last said something; before that, when it was taken up.
    pub(crate) heard: Instant,
    /// As of the last connection; `None` before the first.
    pub(crate) disks: Option<BTreeSet<Uuid>>,
}

/// What can be asked of a machine.
#[derive(Debug)]
pub(crate) enum Request {
    PowerButton,
    Quit,
    Pause,
    Resume,
    Reset,
    Attach(DiskSpec),
    Detach(Uuid),
    Resize { disk: Uuid, virtual_size: u64 },
}

impl Request {
    /// For people: what QEMU is asked to do.
    pub(crate) fn verb(&self) -> String {
        match self {
            Self::PowerButton => "press the power button".to_owned(),
            Self::Quit => "quit".to_owned(),
            Self::Pause => "pause".to_owned(),
            Self::Resume => "resume".to_owned(),
            Self::Reset => "reset".to_owned(),
            Self::Attach(disk) => format!("attach disk {}", disk.id),
            Self::Detach(disk) => format!("detach disk {disk}"),
            Self::Resize { disk, .. } => format!("resize disk {disk}"),
        }
    }

    /// Whether it may come to an end long after it was wanted: who wants a machine to end goes on
    /// to what is firmer.
    pub(crate) fn may_come_late(&self) -> bool {
        match self {
            Self::PowerButton | Self::Quit => true,
            Self::Pause
            | Self::Resume
            | Self::Reset
            | Self::Attach(_)
            | Self::Detach(_)
            | Self::Resize { .. } => false,
        }
    }

    fn deadline(&self) -> Duration {
        match self {
            Self::PowerButton
            | Self::Quit
            | Self::Pause
            | Self::Resume
            | Self::Reset
            | Self::Detach(_) => REQUEST_DEADLINE,
            Self::Attach(_) | Self::Resize { .. } => DISK_DEADLINE,
        }
    }
}

/// That a request was carried out.
#[derive(Debug)]
pub(crate) enum Reply {
    Done,
    /// The guest was asked for a disk; this tells what becomes of it.
    Asked(oneshot::Receiver<Release>),
}

/// A handle on one living machine. Dropping it ends the task and leaves the machine alone.
#[derive(Debug)]
pub(crate) struct Watched {
    found: Found,
    held: Arc<Held>,
    seen: watch::Receiver<Seen>,
    requests: mpsc::Sender<(Request, Answer)>,
    witness: Arc<Witness>,
    task: AbortHandle,
}

pub(crate) type Answer = oneshot::Sender<Result<Reply, BackendError>>;

impl Watched {
    /// Takes up a machine whose process is held; one that was `launched` just now, with these
    /// disks.
    pub(crate) fn start(
        aftermath: Aftermath,
        launched: Option<BTreeSet<Uuid>>,
        context: BackendContext,
    ) -> Arc<Self> {
        let (found, held) = (aftermath.found.clone(), Arc::clone(&aftermath.held));
        let (directory, witness) = (aftermath.directory.clone(), Arc::clone(&aftermath.witness));
        let state = State::Unreachable("not connected yet".to_owned());
        let (told, seen) = watch::channel(Seen { state, heard: Instant::now(), disks: None });
        let (requests, waiting) = mpsc::channel(MAX_REQUESTS);
        let told = Arc::new(told);
        let talk = Talk::new(
            found.clone(),
            directory.clone(),
            launched,
            Arc::clone(&told),
            waiting,
            Arc::clone(&witness),
            context.clone(),
        );
        let (id, process) = (found.id, Arc::clone(&held));
        let task = tokio::spawn(async move {
            let ended = tokio::select! {
                ended = process.ended() => ended,
                never = talk.talk() => match never {},
                never = cap_logs(directory) => match never {},
            };
            let reason = match ended {
                Ok(()) => aftermath.settle().await,
                Err(error) => format!("QEMU could not be watched any longer: {error}"),
            };
            told.send_modify(|seen| seen.state = State::Ended(reason.clone()));
            context.emit(Event::MachineEnded { id, reason });
            aftermath.clear().await;
        });
        Arc::new(Self { found, held, seen, requests, witness, task: task.abort_handle() })
    }

    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine { id: self.found.id, process: Some(self.found.identity.clone()) }
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.held.has_ended()
    }

    /// The process, held since it was verified to be this machine's.
    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.held)
    }

    /// To be told before the machine is made to end.
    pub(crate) fn witness(&self) -> &Witness {
        &self.witness
    }

    /// What is known now, without waiting; `None` if the machine has ended.
    pub(crate) fn sighting(&self) -> Option<MachineSighting> {
        let seen = self.seen.borrow().clone();
        let (control, disks) = match seen.state {
            State::Ended(_) => return None,
            State::Connected(run_state) => (Control::Connected { run_state }, seen.disks),
            // Unseen, the guest may have let go of one.
            State::Unreachable(reason) => (Control::Unreachable { reason }, None),
        };
        Some(MachineSighting {
            machine: self.machine(),
            control,
            age_ms: u64::try_from(seen.heard.elapsed().as_millis()).unwrap_or(u64::MAX),
            disks: disks.map(|disks| disks.into_iter().collect()),
        })
    }

    /// Waits until the machine is connected or has ended, at most `deadline`; then tells the state
    /// it is in.
    pub(crate) async fn settled(&self, deadline: Duration) -> State {
        let mut seen = self.seen.clone();
        let settled = seen.wait_for(|seen| !matches!(seen.state, State::Unreachable(_)));
        if let Ok(Ok(settled)) = timeout(deadline, settled).await {
            return settled.state.clone();
        }
        // Past the deadline, or the task is gone with the runtime: what it last said.
        self.seen.borrow().state.clone()
    }

    /// Waits until the process has ended; false if it has not within `deadline`.
    pub(crate) async fn ended_within(&self, deadline: Duration) -> bool {
        timeout(deadline, self.held.ended()).await.is_ok() && self.is_ended()
    }

    /// Waits, at most `deadline`, until it is known why the machine has ended.
    pub(crate) async fn judged_within(&self, deadline: Duration) {
        let mut seen = self.seen.clone();
        let judged = seen.wait_for(|seen| matches!(seen.state, State::Ended(_)));
        let _ = timeout(deadline, judged).await;
    }

    /// Waits, at most `deadline`, until nothing is left of the machine that has ended but its
    /// directory.
    pub(crate) async fn cleared_within(&self, deadline: Duration) {
        let mut seen = self.seen.clone();
        // The task is what tells, so none will when it is done.
        let cleared = async { while seen.changed().await.is_ok() {} };
        let _ = timeout(deadline, cleared).await;
    }

    /// Nothing is left to be done for the machine that has ended.
    pub(crate) fn is_cleared(&self) -> bool {
        self.task.is_finished()
    }

    /// Has something carried out. [`vman_plugin::ErrorCode::NotFound`] if the machine ends first.
    pub(crate) async fn request(&self, request: Request) -> Result<Reply, BackendError> {
        let (id, deadline, verb) = (self.found.id, request.deadline(), request.verb());
        let (answer, answered) = oneshot::channel();
        let carried_out = async {
            self.requests.send((request, answer)).await.ok()?;
            answered.await.ok()
        };
        let result = tokio::select! {
            result = timeout(deadline, carried_out) => result,
            _ = self.held.ended() => Ok(None),
        };
        match result {
            Ok(Some(result)) => result,
            Ok(None) => Err(not_found(format!("machine {id} has ended"))),
            Err(_) => Err(timed_out(format!(
                "machine {id}: QEMU was not asked to {verb} or did not do it in {deadline:?}: {}; \
                 try again when it answers, or kill the VM",
                self.why_slow()
            ))),
        }
    }

    /// Asks the guest for a disk, and waits a little for it.
    pub(crate) async fn detach(&self, disk: Uuid) -> Result<Unplug, BackendError> {
        let mut released = match self.request(Request::Detach(disk)).await? {
            Reply::Done => return Ok(Unplug::Done),
            Reply::Asked(released) => released,
        };
        let id = self.found.id;
        let release = match timeout(UNPLUG_WAIT, &mut released).await {
            Ok(release) => release.ok(),
            Err(_) => {
                // From here on the task tells it as an event; what it told before is not lost.
                released.close();
                released.try_recv().ok()
            }
        };
        match release {
            Some(Release::Done) => Ok(Unplug::Done),
            Some(Release::Refused) => Err(BackendError::new(
                ErrorCode::Refused,
                format!(
                    "machine {id}: the guest refuses to give disk {disk} back: stop using it \
                     there, or stop the VM, and detach it again"
                ),
            )),
            Some(Release::StillOpen(why)) => Err(failed(format!(
                "machine {id}: the guest gave disk {disk} back and QEMU does not close its image \
                 ({why}): detach it again, or stop the VM"
            ))),
            None if self.is_ended() => Ok(Unplug::Done),
            None => Ok(Unplug::Waiting),
        }
    }

    fn why_slow(&self) -> String {
        let seen = self.seen.borrow();
        let silent = seen.heard.elapsed();
        match &seen.state {
            State::Unreachable(why) => {
                format!("it has not answered for {silent:.1?} ({why})")
            }
            State::Ended(why) => why.clone(),
            State::Connected(_) => format!("it last answered {silent:.1?} ago"),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Of a machine that has ended the task has still to tell, and then ends by itself.
        if !self.held.has_ended() {
            self.task.abort();
        }
    }
}

async fn cap_logs(directory: PathBuf) -> Infallible {
    loop {
        sleep(LOG_CHECK).await;
        let logs = [directory.join(CONSOLE_LOG), directory.join(QEMU_LOG)];
        // What fails now is tried again at the next check; the machine is not disturbed for it.
        let _ = tokio::task::spawn_blocking(move || {
            logs.iter().map(|file| log::cap(file, log::MAX_LOG)).collect::<Vec<_>>()
        })
        .await;
    }
}
