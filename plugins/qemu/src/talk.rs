//! The part of a machine's task that speaks with QEMU: keeps the control connection, carries out
//! what is asked for, one thing after the other, and tells what QEMU says. What callers wait for is
//! in `machine`, what becomes of disks in `disks`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use uuid::Uuid;
use vman_plugin::{BackendContext, BackendError, Event, LogLevel, RunState};

use crate::command_line::PID_FILE;
use crate::disks::{Disks, Fault, Unplugging};
use crate::exit::Witness;
use crate::files::{For, open_single};
use crate::machine::{Answer, Reply, Request, Seen, State};
use crate::process::{Found, runs};
use crate::qmp::{Connection, Notice, QmpError};
use crate::{conflict, failed, timeout as timed_out};

/// How often a silent machine is asked how it is, so that one that hangs is noticed.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// A process that is stopped carries out, when it goes on, what was written to its socket
/// meanwhile, however long ago its caller gave up. So nothing is asked of a machine whose process
/// does not run, or that has not spoken for this long, before it was seen to answer. Longer than
/// [`HEARTBEAT`]: QEMU reads what it is asked a byte at a time, and a question takes it as long as
/// what is then asked.
const FRESH: Duration = Duration::from_millis(2500);

/// Pause between attempts to connect: at least this while a machine starts ...
const STARTING_PAUSE: Duration = Duration::from_millis(1);
/// ... and this once a connection has broken;
const BROKEN_PAUSE: Duration = Duration::from_millis(50);
/// this part of the time waited so far in between; and never over this.
const PAUSE_PART: u32 = 32;
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Talk {
    found: Found,
    directory: PathBuf,
    told: Arc<watch::Sender<Seen>>,
    requests: mpsc::Receiver<(Request, Answer)>,
    witness: Arc<Witness>,
    context: BackendContext,
    disks: Disks,
    /// It was started by us, with the disks that are known, and nobody has spoken with it yet.
    is_new: bool,
    pause: Duration,
    /// A connection broke, and it is not known yet whether because the machine ended.
    lost: bool,
}

impl Talk {
    /// `launched` with these disks just now; `None` for a machine that was found.
    pub(crate) fn new(
        found: Found,
        directory: PathBuf,
        launched: Option<BTreeSet<Uuid>>,
        told: Arc<watch::Sender<Seen>>,
        requests: mpsc::Receiver<(Request, Answer)>,
        witness: Arc<Witness>,
        context: BackendContext,
    ) -> Self {
        let is_new = launched.is_some();
        let disks = Disks::new(found.id, launched.unwrap_or_default());
        Self {
            found,
            directory,
            told,
            requests,
            witness,
            context,
            disks,
            is_new,
            pause: STARTING_PAUSE,
            lost: false,
        }
    }

    pub(crate) async fn talk(mut self) -> Infallible {
        let mut since = Instant::now();
        loop {
            let why = match self.open().await {
                Ok(connection) => {
                    let why = self.serve(connection).await;
                    since = Instant::now();
                    (self.pause, self.lost) = (BROKEN_PAUSE, true);
                    why
                }
                Err(why) => {
                    self.log_once_lost(&why);
                    why
                }
            };
            self.told.send_modify(|seen| seen.state = State::Unreachable(why));
            sleep((since.elapsed() / PAUSE_PART).clamp(self.pause, LONGEST_PAUSE)).await;
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
    async fn open(&mut self) -> Result<Connection, String> {
        let mut connection = Connection::open(&self.directory, self.found.identity.pid).await?;
        self.take_stock(&mut connection).await.map_err(|error| error.to_string())?;
        empty_pid_file(&self.directory);
        Ok(connection)
    }

    async fn take_stock(&mut self, qmp: &mut Connection) -> Result<(), QmpError> {
        let is_new = std::mem::take(&mut self.is_new);
        if is_new {
            // All that its launch need wait for: the rest is known of a machine that we started.
            let run_state = qmp.run_state().await?;
            self.tell_disks();
            self.tell(run_state);
        }
        qmp.verify(self.found.id).await?;
        let gone = self.disks.recall(qmp).await?;
        if !is_new {
            // Before the state: who sees it connected takes these for what it has now.
            self.tell_disks();
            self.ask_run_state(qmp).await?;
        }
        self.tell_detached(gone);
        Ok(())
    }

    /// Returns why the connection ended.
    async fn serve(&mut self, mut connection: Connection) -> String {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                notice = connection.notice() => match notice {
                    Ok(notice) => self.notice(&mut connection, notice).await,
                    Err(why) => Err(QmpError::Broken(why)),
                },
                Some((request, answer)) = self.requests.recv() => {
                    self.carry_out(&mut connection, request, answer).await
                }
                _ = heartbeat.tick() => self.look(&mut connection).await,
            };
            if let Err(why) = done {
                return why.to_string();
            }
            self.tell_heard(&connection);
        }
    }

    async fn notice(&mut self, qmp: &mut Connection, notice: Notice) -> Result<(), QmpError> {
        match notice {
            // The event says enough; whoever waits for the end need not wait for a question.
            Notice::GuestShutdown => self.tell(RunState::GuestShutdown),
            Notice::RunState | Notice::Reset => self.ask_run_state(qmp).await?,
            Notice::Unplugged(disk) => {
                let news = self.disks.unplugged(qmp, disk).await?;
                self.tell_detached(news.then_some(disk));
            }
            Notice::UnplugRefused(disk) => self.disks.refused(disk),
        }
        Ok(())
    }

    async fn look(&mut self, qmp: &mut Connection) -> Result<(), QmpError> {
        self.ask_run_state(qmp).await?;
        let gone = self.disks.look(qmp).await?;
        self.tell_detached(gone);
        Ok(())
    }

    async fn ask_run_state(&mut self, qmp: &mut Connection) -> Result<(), QmpError> {
        let run_state = qmp.run_state().await?;
        self.tell(run_state);
        Ok(())
    }

    /// What nobody waits for any more is not carried out: it may come to an end long after it was
    /// wanted. The error says why the connection is of no more use.
    async fn carry_out(
        &mut self,
        qmp: &mut Connection,
        request: Request,
        answer: Answer,
    ) -> Result<(), QmpError> {
        if answer.is_closed() {
            return Ok(());
        }
        let done = match self.prepare(qmp, &request).await {
            Ok(()) if answer.is_closed() => return Ok(()),
            Ok(()) => self.verb(qmp, &request, &answer).await,
            Err(error) => Err(error.into()),
        };
        self.tell_disks();
        self.tell_heard(qmp);
        let broken = if let Err(Fault::Qmp(error @ QmpError::Broken(_))) = &done {
            Err(error.clone())
        } else {
            Ok(())
        };
        // The caller may have gone meanwhile.
        let _ = answer.send(done.map_err(|fault| told(self.found.id, &request, fault)));
        broken
    }

    /// See [`FRESH`]. What has happened so far is dealt with first, so that it is not taken for a
    /// consequence of what is asked now.
    async fn prepare(&mut self, qmp: &mut Connection, request: &Request) -> Result<(), QmpError> {
        let is_fresh = qmp.heard().elapsed() < FRESH && runs(&self.found.identity);
        if !request.may_come_late() && !is_fresh {
            self.ask_run_state(qmp).await?;
        }
        while let Some(notice) = qmp.next_notice() {
            self.notice(qmp, notice).await?;
        }
        Ok(())
    }

    async fn verb(
        &mut self,
        qmp: &mut Connection,
        request: &Request,
        answer: &Answer,
    ) -> Result<Reply, Fault> {
        match request {
            Request::PowerButton => qmp.power_button().await?,
            Request::Quit => qmp.quit().await?,
            Request::Pause => self.pause(qmp).await?,
            Request::Resume => self.resume(qmp).await?,
            Request::Reset => self.reset(qmp).await?,
            Request::Attach(disk) => {
                self.disks.attach(qmp, disk, || answer.is_closed()).await?;
            }
            Request::Detach(disk) => match self.disks.ask_back(qmp, *disk).await? {
                Unplugging::Done => {}
                Unplugging::Asked(released) => return Ok(Reply::Asked(released)),
            },
            Request::Resize { disk, virtual_size } => {
                self.disks.resize(qmp, *disk, *virtual_size).await?;
            }
        }
        Ok(Reply::Done)
    }

    async fn pause(&mut self, qmp: &mut Connection) -> Result<(), Fault> {
        match qmp.run_state().await? {
            RunState::Running | RunState::Other => qmp.stop().await?,
            RunState::Paused | RunState::IoError => {}
            ended @ (RunState::GuestShutdown
            | RunState::GuestPanicked
            | RunState::InternalError) => return Err(self.halted(ended, "nothing is to pause")),
        }
        Ok(self.ask_run_state(qmp).await?)
    }

    async fn resume(&mut self, qmp: &mut Connection) -> Result<(), Fault> {
        match qmp.run_state().await? {
            RunState::Running => {}
            // After an I/O error the guest's request is tried again.
            RunState::Paused | RunState::IoError | RunState::Other => qmp.cont().await?,
            ended @ (RunState::GuestShutdown
            | RunState::GuestPanicked
            | RunState::InternalError) => return Err(self.halted(ended, "it cannot go on")),
        }
        Ok(self.ask_run_state(qmp).await?)
    }

    /// A paused guest stays paused, at its first instruction. One that had come to a halt goes
    /// on, as after a press of the button; QEMU by itself leaves it halted.
    async fn reset(&mut self, qmp: &mut Connection) -> Result<(), Fault> {
        let halted = match qmp.run_state().await? {
            RunState::Running | RunState::Paused | RunState::Other => false,
            RunState::IoError | RunState::GuestPanicked | RunState::InternalError => true,
            off @ RunState::GuestShutdown => return Err(self.halted(off, "it is to be started")),
        };
        qmp.reset().await?;
        if halted {
            qmp.cont().await?;
        }
        Ok(self.ask_run_state(qmp).await?)
    }

    fn halted(&self, run_state: RunState, so: &str) -> Fault {
        let (why, what) = match run_state {
            RunState::GuestShutdown => ("has powered itself off", "stop the VM and start it"),
            RunState::GuestPanicked => ("has panicked", "reset the VM, or stop it"),
            RunState::InternalError => {
                ("did what QEMU cannot carry out (internal-error)", "reset the VM, or stop it")
            }
            RunState::Running | RunState::Paused | RunState::IoError | RunState::Other => {
                ("is in another state by now", "try again")
            }
        };
        Fault::Told(conflict(format!("machine {}: the guest {why}; {so}: {what}", self.found.id)))
    }

    /// Known first, told after: whoever is woken by the event surveys.
    fn tell(&self, run_state: RunState) {
        self.witness.saw(run_state);
        let new = State::Connected(run_state);
        let mut changed = false;
        self.told.send_if_modified(|seen| {
            changed = seen.state != new;
            seen.state = new;
            changed
        });
        if changed {
            let id = self.found.id;
            self.context.emit(Event::MachineChanged { id, run_state });
        }
    }

    fn tell_heard(&self, qmp: &Connection) {
        self.told.send_if_modified(|seen| {
            seen.heard = qmp.heard();
            false
        });
    }

    fn tell_disks(&self) {
        self.told.send_if_modified(|seen| {
            if seen.disks.as_ref() != Some(self.disks.known()) {
                seen.disks = Some(self.disks.known().clone());
            }
            false
        });
    }

    fn tell_detached(&self, gone: impl IntoIterator<Item = Uuid>) {
        self.tell_disks();
        for disk in gone {
            self.context.emit(Event::DiskDetached { id: self.found.id, disk });
        }
    }
}

/// QEMU holds its pid file open, and removes it, when it ends: on ext4 freeing the block of a file
/// takes the ending process 1.4 ms, nearly half of its time from the power button on. What counts
/// is the lock, which is the file's and not the content's. Not waited for; failing costs the time.
fn empty_pid_file(directory: &Path) {
    let path = directory.join(PID_FILE);
    drop(tokio::task::spawn_blocking(move || {
        open_single(&path, For::Writing).and_then(|file| file.set_len(0))
    }));
}

fn told(id: Uuid, request: &Request, fault: Fault) -> BackendError {
    let verb = request.verb();
    match fault {
        Fault::Told(error) => error,
        Fault::Qmp(QmpError::Refused(why) | QmpError::NoDevice(why)) => {
            failed(format!("machine {id}: QEMU refused to {verb}: {why}"))
        }
        Fault::Qmp(QmpError::Broken(why)) => timed_out(format!(
            "machine {id}: QEMU was asked to {verb} and does not answer: {why}; try again, or kill \
             the VM"
        )),
    }
}
