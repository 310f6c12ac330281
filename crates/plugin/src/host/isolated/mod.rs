//! Plugins in a process of their own: a helper opens the file and speaks the same messages over a
//! socket. A crash there ends that process alone, and what hangs is ended with it. When a new one
//! is started is decided elsewhere.

mod frame;
mod process;
mod serve;

use std::io::{self, BufReader, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use process::Helper;
pub(crate) use process::Process;
pub use serve::serve_plugin;

use self::frame::{Frame, Kind};
use super::fault::{Fault, Function};
use super::link::{Callbacks, error_from};
use super::shared::Shared;
use super::slots::Answer;
use super::trust::Pin;
use super::worker::{ORDER_QUEUE, Order, config_json, refuse};
use super::{Client, LoadError};
use crate::{BackendConfig, BackendError, ErrorCode, Event, Manifest};

/// How long a helper may take to open its file.
const LOAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a helper whose instance is needed no longer has to end by itself.
const END_GRACE: Duration = Duration::from_secs(7);
/// How long a helper may leave the socket full.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// What a helper says of the file it has opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The smaller of both sides'.
    abi_minor: u32,
    manifest: Manifest,
}

/// A plugin file that is opened by a helper each time an instance is made.
#[derive(Debug)]
pub(crate) struct Isolated {
    pub(crate) helper: Helper,
    pub(crate) file: PathBuf,
    pub(crate) pin: Option<Pin>,
}

impl Isolated {
    /// What the plugin says of itself, and the ABI's minor that is spoken with it.
    pub(crate) fn look(&self) -> Result<(Manifest, u32), LoadError> {
        let (_helper, Hello { manifest, abi_minor }) = Running::load(self)?;
        Ok((manifest, abi_minor))
    }

    /// Makes an instance, in a helper of its own.
    pub(crate) fn start(
        &self,
        manifest: Arc<Manifest>,
        config: &BackendConfig,
    ) -> Result<(Client, mpsc::Receiver<Event>), BackendError> {
        let name = manifest.name.clone();
        let failed = |code, why: &str| BackendError::new(code, format!("{name}: {why}"));
        let config = config_json(&name, config)?;
        let (mut helper, hello) =
            Running::load(self).map_err(|error| failed(ErrorCode::Failed, &error.to_string()))?;
        if hello.manifest != *manifest {
            let why = format!("{} is another plugin, or version, than before", self.file.display());
            return Err(failed(ErrorCode::Conflict, &why));
        }
        let (shared, events) = Shared::register(&name);
        helper.create(&shared, &config)?;
        let process = Arc::clone(&helper.process);
        let (orders, receiver) = sync_channel(ORDER_QUEUE);
        helper
            .run(&shared, receiver)
            .map_err(|error| failed(ErrorCode::Failed, &format!("no thread for it: {error}")))?;
        Ok((Client::new(shared, orders, manifest, Some(process)), events))
    }
}

/// A helper, and the way to it. Killed when dropped.
#[derive(Debug)]
struct Running {
    process: Arc<Process>,
    /// Taken by the thread that waits for its end.
    child: Option<Child>,
    to: UnixStream,
    from: BufReader<UnixStream>,
}

impl Running {
    fn load(isolated: &Isolated) -> Result<(Self, Hello), LoadError> {
        let Isolated { helper, file, pin } = isolated;
        let failed = |source| LoadError::Helper { path: file.clone(), source };
        let (process, child, to) = process::start(helper, file, pin.as_ref()).map_err(failed)?;
        to.set_write_timeout(Some(WRITE_DEADLINE)).map_err(failed)?;
        let from = BufReader::new(to.try_clone().map_err(failed)?);
        let mut running = Self { process: Arc::new(process), child: Some(child), to, from };
        let frame = running.next(Instant::now() + LOAD_DEADLINE).map_err(failed)?;
        let path = file.clone();
        match frame {
            Some(Frame { kind: Kind::Loaded, payload, .. }) => {
                let hello = serde_json::from_slice(&payload).map_err(|error| failed(error.into()));
                Ok((running, hello?))
            }
            Some(Frame { kind: Kind::NotLoaded, payload, .. }) => {
                let reason = String::from_utf8_lossy(&payload).into_owned();
                Err(LoadError::Isolated { reason })
            }
            Some(_) => Err(failed(io::Error::other("it says what no helper says"))),
            None => Err(LoadError::Crashed { path, how: running.how_it_ended() }),
        }
    }

    /// Has the instance made. What the plugin says meanwhile is handed on.
    fn create(&mut self, shared: &Shared, config: &[u8]) -> Result<(), BackendError> {
        let name = &shared.name;
        let failed = |code, why: String| BackendError::new(code, format!("{name}: {why}"));
        let limit = Function::Create.limit();
        let late =
            || failed(ErrorCode::Timeout, format!("its `create` did not return within {limit:?}"));
        let lost = |error: io::Error| {
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                return late();
            }
            failed(ErrorCode::Crashed, format!("its helper: {error}"))
        };
        frame::write(&mut self.to, Kind::Create, 0, 0, config).map_err(lost)?;
        let ends = Instant::now() + limit;
        // Bounded by the time that is left.
        loop {
            match self.next(ends).map_err(lost)? {
                Some(Frame { kind: Kind::Created, .. }) => return Ok(()),
                Some(Frame { kind: Kind::NotCreated, payload, .. }) => {
                    return Err(error_from(&payload));
                }
                Some(Frame { kind: Kind::Hung, .. }) => return Err(late()),
                Some(frame) => hand_on(shared, frame),
                None => {
                    let how = format!("its `create` ended its process: {}", self.how_it_ended());
                    return Err(failed(ErrorCode::Crashed, how));
                }
            }
        }
    }

    fn next(&mut self, until: Instant) -> io::Result<Option<Frame>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.from.get_ref().set_read_timeout(Some(left))?;
        frame::read(&mut self.from)
    }

    fn how_it_ended(&mut self) -> String {
        self.process.kill_after(END_GRACE);
        self.child.take().map_or_else(String::new, |child| self.process.wait(child))
    }

    /// Starts the two threads: one writes what is asked and ends the helper when nobody can ask any
    /// more; one reads what it says, and sees its end.
    fn run(mut self, shared: &Arc<Shared>, orders: Receiver<Order>) -> io::Result<()> {
        self.from.get_ref().set_read_timeout(None)?;
        let thread =
            |role| std::thread::Builder::new().name(format!("plugin-{}-{role}", shared.name));
        let (to, process) = (self.to.try_clone()?, Arc::clone(&self.process));
        let writing = Arc::clone(shared);
        thread("out").spawn(move || write_orders(to, &process, &writing, &orders))?;
        let reading = Arc::clone(shared);
        thread("in").spawn(move || {
            while let Ok(Some(frame)) = frame::read(&mut self.from) {
                hand_on(&reading, frame);
            }
            let how = self.how_it_ended();
            reading.fail(Fault::Crashed(how));
            reading.ended();
        })?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            self.process.kill();
            self.process.wait(child);
        }
    }
}

fn write_orders(mut to: UnixStream, process: &Process, shared: &Shared, orders: &Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        let written = match &order {
            Order::Submit { op, request } => {
                let written = frame::write(&mut to, Kind::Submit, *op, 0, request);
                shared.slots.take(*op);
                written
            }
            Order::Cancel { op } => frame::write(&mut to, Kind::Cancel, *op, 0, &[]),
        };
        if let Err(error) = written {
            if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
                // It has ended, and who reads from it tells how to all that wait.
                continue;
            }
            // Half a frame may be written: it can be spoken with no longer.
            shared.fail(Fault::Hung(format!("its helper takes nothing any more: {error}")));
            process.kill();
            return;
        }
    }
    // The helper sees the end of what it is told, and ends its instance.
    let _ = to.shutdown(std::net::Shutdown::Write);
    shared.is_needed_no_longer();
    process.kill_after(END_GRACE);
}

/// What a helper says once its instance is made.
fn hand_on(shared: &Shared, frame: Frame) {
    let Frame { kind, number, status, payload } = frame;
    match kind {
        Kind::Complete => shared.answer(number, Answer { status, json: Some(payload) }),
        Kind::CompleteTooLong => shared.complete(number, status, None),
        Kind::Refused => refuse(shared, number, status),
        Kind::Event => shared.event(Some(&payload)),
        Kind::Log => shared.log(status.cast_unsigned(), Some(&payload)),
        Kind::Hung => shared.fail(Fault::Hung(String::from_utf8_lossy(&payload).into_owned())),
        // No helper says any of these then.
        Kind::Loaded
        | Kind::NotLoaded
        | Kind::Create
        | Kind::Created
        | Kind::NotCreated
        | Kind::Submit
        | Kind::Cancel => {}
    }
}
