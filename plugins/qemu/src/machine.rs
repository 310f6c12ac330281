//! One living machine: a task that holds its process and its control connection, and what it last
//! saw, for readers who must not wait. Which machines there are is the registry's to know.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use vman_plugin::{
    BackendContext, BackendError, Control, Event, LogLevel, Machine, MachineSighting, RunState,
};

use crate::command_line::{CONSOLE_LOG, QEMU_LOG};
use crate::process::{Found, Held};
use crate::qmp::{Connection, QmpError};
use crate::{failed, log, not_found, timeout as timed_out};

/// How often a silent machine is asked for its run state, so that one that hangs is noticed.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Pause between attempts to connect: at least this while a machine starts ...
const STARTING_PAUSE: Duration = Duration::from_millis(2);
/// ... and this once a connection has broken;
const BROKEN_PAUSE: Duration = Duration::from_millis(50);
/// an eighth of the time waited so far in between; and never over this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often the machine's logs are measured.
const LOG_CHECK: Duration = Duration::from_secs(5);

/// Commands waiting for the connection. Verbs of one machine never overlap; one that was dropped
/// may still lie here.
const MAX_REQUESTS: usize = 4;

/// For a command to be taken up and answered; longer than one reconnection usually takes.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(8);

/// What the task last saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Unreachable(String),
    Connected(RunState),
    Ended(String),
}

/// A command for the machine's control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    PowerButton,
    Quit,
}

/// A handle on one living machine. Dropping it ends the task and leaves the machine alone.
#[derive(Debug)]
pub(crate) struct Watched {
    found: Found,
    held: Arc<Held>,
    state: watch::Receiver<State>,
    requests: mpsc::Sender<(Request, Answer)>,
    task: AbortHandle,
}

type Answer = oneshot::Sender<Result<(), QmpError>>;

impl Watched {
    /// Takes up a machine whose process is held; `child` where it is ours to wait for.
    pub(crate) fn start(
        found: Found,
        directory: PathBuf,
        held: Arc<Held>,
        child: Option<Child>,
        context: BackendContext,
    ) -> Arc<Self> {
        let (told, state) = watch::channel(State::Unreachable("not connected yet".to_owned()));
        let (requests, waiting) = mpsc::channel(MAX_REQUESTS);
        let told = Arc::new(told);
        let talk = Talk {
            found: found.clone(),
            directory: directory.clone(),
            told: Arc::clone(&told),
            requests: waiting,
            context: context.clone(),
            pause: STARTING_PAUSE,
            lost: false,
        };
        let (id, process) = (found.id, Arc::clone(&held));
        let task = tokio::spawn(async move {
            let reason = tokio::select! {
                reason = ended(&process, child) => reason,
                never = talk.talk() => match never {},
                never = cap_logs(directory) => match never {},
            };
            told.send_replace(State::Ended(reason.clone()));
            context.emit(Event::MachineEnded { id, reason });
        });
        Arc::new(Self { found, held, state, requests, task: task.abort_handle() })
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

    /// What is known now, without waiting; `None` if the machine has ended.
    pub(crate) fn sighting(&self) -> Option<MachineSighting> {
        let control = match self.state.borrow().clone() {
            State::Ended(_) => return None,
            State::Connected(run_state) => Control::Connected { run_state },
            State::Unreachable(reason) => Control::Unreachable { reason },
        };
        Some(MachineSighting { machine: self.machine(), control, age_ms: 0, disks: None })
    }

    /// Waits until the machine is connected or has ended, at most `deadline`; then tells the state
    /// it is in.
    pub(crate) async fn settled(&self, deadline: Duration) -> State {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Unreachable(_)));
        if let Ok(Ok(settled)) = timeout(deadline, settled).await {
            return settled.clone();
        }
        // Past the deadline, or the task is gone with the runtime: what it last said.
        self.state.borrow().clone()
    }

    /// Waits until the machine has ended; false if it has not within `deadline`.
    pub(crate) async fn ended_within(&self, deadline: Duration) -> bool {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| matches!(state, State::Ended(_)));
        matches!(timeout(deadline, ended).await, Ok(Ok(_)))
    }

    /// Has a command carried out. [`vman_plugin::ErrorCode::NotFound`] if the machine ends first.
    pub(crate) async fn request(&self, request: Request) -> Result<(), BackendError> {
        let id = self.found.id;
        let (answer, answered) = oneshot::channel();
        let carried_out = async {
            self.requests.send((request, answer)).await.ok()?;
            answered.await.ok()
        };
        let mut state = self.state.clone();
        let result = tokio::select! {
            result = timeout(REQUEST_DEADLINE, carried_out) => result,
            _ = state.wait_for(|state| matches!(state, State::Ended(_))) => Ok(None),
        };
        match result {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(QmpError::Refused(why)))) => {
                Err(failed(format!("machine {id}: QEMU refused {request:?}: {why}")))
            }
            Ok(Some(Err(QmpError::Broken(why)))) => Err(timed_out(format!(
                "machine {id}: {request:?} was not answered: {why}; try again, or kill it"
            ))),
            Ok(None) => Err(not_found(format!("machine {id} has ended"))),
            Err(_) => Err(timed_out(format!(
                "machine {id}: {request:?} was not taken up in {REQUEST_DEADLINE:?} ({}); try \
                 again, or kill it",
                self.why_unreachable()
            ))),
        }
    }

    pub(crate) fn why_unreachable(&self) -> String {
        match &*self.state.borrow() {
            State::Unreachable(why) | State::Ended(why) => why.clone(),
            State::Connected(_) => "it is connected and slow".to_owned(),
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

/// Waits for the process, and for the child's exit status where it is ours to have.
async fn ended(held: &Held, child: Option<Child>) -> String {
    if let Some(mut child) = child
        && let Ok(status) = child.wait().await
    {
        return format!("QEMU ended ({status})");
    }
    match held.ended().await {
        Ok(()) => "QEMU ended (it was started by an earlier daemon: no exit status)".to_owned(),
        Err(error) => format!("QEMU could not be watched any longer: {error}"),
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

/// The part of the task that speaks with QEMU.
struct Talk {
    found: Found,
    directory: PathBuf,
    told: Arc<watch::Sender<State>>,
    requests: mpsc::Receiver<(Request, Answer)>,
    context: BackendContext,
    pause: Duration,
    /// A connection broke, and it is not known yet whether because the machine ended.
    lost: bool,
}

impl Talk {
    async fn talk(mut self) -> Infallible {
        let mut since = Instant::now();
        loop {
            let why = match self.open().await {
                Ok((connection, run_state)) => {
                    let why = self.serve(connection, run_state).await;
                    since = Instant::now();
                    (self.pause, self.lost) = (BROKEN_PAUSE, true);
                    why
                }
                Err(why) => {
                    self.log_once_lost(&why);
                    why
                }
            };
            self.told.send_replace(State::Unreachable(why));
            sleep((since.elapsed() / 8).clamp(self.pause, LONGEST_PAUSE)).await;
        }
    }

    /// Only when the machine still lives after a pause: each that ends closes its socket first.
    fn log_once_lost(&mut self, why: &str) {
        if std::mem::take(&mut self.lost) {
            let id = self.found.id;
            let line = format!("machine {id}: its control socket was lost, still trying: {why}");
            self.context.log(LogLevel::Warn, &line);
        }
    }

    /// Events are lost while nobody is connected, so a connection begins with asking.
    async fn open(&self) -> Result<(Connection, RunState), String> {
        let Found { id, identity } = &self.found;
        let mut connection = Connection::open(&self.directory, *id, identity.pid).await?;
        let run_state = connection.run_state().await.map_err(|error| error.to_string())?;
        Ok((connection, run_state))
    }

    /// Returns why the connection ended.
    async fn serve(&mut self, mut connection: Connection, run_state: RunState) -> String {
        self.tell(run_state, false);
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                changed = connection.changed() => match changed {
                    Ok(()) => true,
                    Err(why) => return why,
                },
                Some((request, answer)) = self.requests.recv() => {
                    match carry_out(&mut connection, request, answer).await {
                        Ok(()) => continue,
                        Err(why) => return why,
                    }
                }
                _ = heartbeat.tick() => false,
            };
            match connection.run_state().await {
                Ok(run_state) => self.tell(run_state, event),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Known first, told after: whoever is woken by the event surveys.
    fn tell(&self, run_state: RunState, always: bool) {
        let new = State::Connected(run_state);
        let old = self.told.send_replace(new.clone());
        if always || old != new {
            let id = self.found.id;
            self.context.emit(Event::MachineChanged { id, run_state });
        }
    }
}

/// A command whose caller has gone is not carried out: it may come to an end long after it was
/// wanted. The error says why the connection is of no more use.
async fn carry_out(
    connection: &mut Connection,
    request: Request,
    answer: Answer,
) -> Result<(), String> {
    if answer.is_closed() {
        return Ok(());
    }
    let result = match request {
        Request::PowerButton => connection.power_button().await,
        Request::Quit => connection.quit().await,
    };
    let broken = match &result {
        Err(QmpError::Broken(why)) => Err(why.clone()),
        Err(QmpError::Refused(_)) | Ok(()) => Ok(()),
    };
    // The caller may have gone meanwhile.
    let _ = answer.send(result);
    broken
}
