//! One connection to a machine's control socket: opened, verified, and spoken with, every step
//! within a deadline. When to connect again is not decided here.
//!
//! Lenient towards QEMU 7.2 and later: a line this crate's QMP library cannot read (an event or a
//! value of a newer QEMU) is passed over, and run states are read as text.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, future};
use qapi::futures::{QapiEvents, QapiService, QmpStreamTokio};
use qapi::qmp::{self, Event};
use qapi::{Command, ExecuteError};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;
use uuid::Uuid;
use vman_plugin::RunState;

use crate::command_line::QMP_SOCKET;

/// A monitor serves one client at a time, and the next one waits without a word: so the greeting
/// needs a deadline of its own.
const GREETING_DEADLINE: Duration = Duration::from_secs(3);

/// For one command's answer; usually it comes within a millisecond.
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes of one line from QEMU; the answers we ask for have under 300.
const MAX_LINE: usize = 256 * 1024;

type Incoming = StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QmpError {
    /// QEMU answered with an error; the connection goes on.
    Refused(String),
    /// The connection can no longer be used.
    Broken(String),
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Broken(why) => f.write_str(why),
        }
    }
}

/// A connection on which commands have been answered.
pub(crate) struct Connection {
    service: QapiService<QmpStreamTokio<OwnedWriteHalf>>,
    events: QapiEvents<QmpStreamTokio<Incoming>>,
    /// An event that tells of the run state came while a command was waited for.
    changed: bool,
}

impl Connection {
    /// Connects to the machine in `directory` and makes sure that it is machine `id`, run by
    /// process `pid`.
    pub(crate) async fn open(directory: &Path, id: Uuid, pid: u32) -> Result<Self, String> {
        let socket = connect(directory).await?;
        let peer = socket.peer_cred().map_err(|error| format!("{QMP_SOCKET}: {error}"))?.pid();
        if peer != i32::try_from(pid).ok() {
            return Err(format!("{QMP_SOCKET} is served by process {peer:?}, not by {pid}"));
        }
        let (read, write) = socket.into_split();
        let greeting =
            timeout(GREETING_DEADLINE, QmpStreamTokio::open_split(incoming(read), write))
                .await
                .map_err(|_| {
                    format!(
                        "{QMP_SOCKET} gave no greeting in {GREETING_DEADLINE:?}: QEMU hangs, or \
                     another client holds its control socket"
                    )
                })?
                .map_err(|error| format!("{QMP_SOCKET}: {error}"))?;
        let (service, events) = greeting.stream.into_parts();
        let mut connection = Self { service, events, changed: false };
        connection.verify(id).await.map_err(|error| error.to_string())?;
        Ok(connection)
    }

    async fn verify(&mut self, id: Uuid) -> Result<(), QmpError> {
        self.execute(qmp::qmp_capabilities { enable: None }).await?;
        let told = self.execute(qmp::query_uuid {}).await?.UUID;
        if Uuid::parse_str(&told).ok() == Some(id) {
            Ok(())
        } else {
            Err(QmpError::Broken(format!("{QMP_SOCKET} answers for machine {told}, not {id}")))
        }
    }

    pub(crate) async fn run_state(&mut self) -> Result<RunState, QmpError> {
        self.changed = false;
        Ok(run_state(&self.execute(QueryStatus {}).await?.status))
    }

    pub(crate) async fn power_button(&mut self) -> Result<(), QmpError> {
        self.execute(qmp::system_powerdown {}).await.map(drop)
    }

    pub(crate) async fn quit(&mut self) -> Result<(), QmpError> {
        self.execute(qmp::quit {}).await.map(drop)
    }

    /// Returns when an event says that the run state may have changed; an error means that the
    /// connection ended. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> Result<(), String> {
        while !self.changed {
            self.changed = tells_run_state(self.events.next().await)?;
        }
        self.changed = false;
        Ok(())
    }

    /// After a missed deadline the connection is broken for good: the library would take the late
    /// answer for the next command's.
    async fn execute<C: qmp::QmpCommand>(&mut self, command: C) -> Result<C::Ok, QmpError> {
        let mut answer = std::pin::pin!(self.service.execute(command));
        let mut changed = self.changed;
        let talk = async {
            loop {
                let event = tokio::select! {
                    biased;
                    answer = &mut answer => return answer.map_err(refused_or_broken),
                    event = self.events.next() => event,
                };
                changed |= tells_run_state(event).map_err(QmpError::Broken)?;
            }
        };
        let result = timeout(COMMAND_DEADLINE, talk).await;
        self.changed = changed;
        result.unwrap_or_else(|_| {
            Err(QmpError::Broken(format!("no answer to {} in {COMMAND_DEADLINE:?}", C::NAME)))
        })
    }
}

fn refused_or_broken(error: ExecuteError) -> QmpError {
    match error {
        ExecuteError::Qapi(error) => QmpError::Refused(error.desc),
        ExecuteError::Io(error) => QmpError::Broken(error.to_string()),
    }
}

/// `query-status`, read more leniently than by the library: 7.2 adds a field, and a later QEMU may
/// have a state of its own.
#[derive(Debug, Serialize)]
struct QueryStatus {}

#[derive(Debug, Deserialize)]
struct Status {
    status: String,
}

impl Command for QueryStatus {
    type Ok = Status;
    const NAME: &'static str = "query-status";
    const ALLOW_OOB: bool = false;
}

impl qmp::QmpCommand for QueryStatus {}

/// QEMU's `RunState` (qapi/run-state.json) in our words. `prelaunch` is a machine started paused.
fn run_state(status: &str) -> RunState {
    match status {
        "running" => RunState::Running,
        "paused" | "prelaunch" => RunState::Paused,
        "shutdown" => RunState::GuestShutdown,
        "guest-panicked" => RunState::GuestPanicked,
        "io-error" => RunState::IoError,
        "internal-error" => RunState::InternalError,
        _ => RunState::Other,
    }
}

fn tells_run_state(event: Option<io::Result<Event>>) -> Result<bool, String> {
    match event {
        None => Err("QEMU closed its control socket".to_owned()),
        Some(Err(error)) => Err(format!("{QMP_SOCKET}: {error}")),
        Some(Ok(event)) => Ok(matches!(
            event,
            Event::SHUTDOWN { .. }
                | Event::STOP { .. }
                | Event::RESUME { .. }
                | Event::RESET { .. }
                | Event::SUSPEND { .. }
                | Event::WAKEUP { .. }
                | Event::GUEST_PANICKED { .. }
        )),
    }
}

/// Through the directory's descriptor, since a socket's address holds 108 bytes and a storage path
/// may be longer.
async fn connect(directory: &Path) -> Result<UnixStream, String> {
    let folder =
        File::open(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let path = format!("/proc/self/fd/{}/{QMP_SOCKET}", folder.as_raw_fd());
    timeout(GREETING_DEADLINE, UnixStream::connect(path))
        .await
        .map_err(|_| format!("{QMP_SOCKET} took no connection in {GREETING_DEADLINE:?}"))?
        .map_err(|error| {
            let full = error.kind() == io::ErrorKind::WouldBlock;
            let why =
                if full { ": QEMU hangs, or another client holds its control socket" } else { "" };
            format!("{QMP_SOCKET}: {error}{why}")
        })
}

fn incoming(socket: OwnedReadHalf) -> Incoming {
    let lines = FramedRead::new(socket, LinesCodec::new_with_max_length(MAX_LINE))
        .map_err(io::Error::other)
        .try_filter(|line| future::ready(readable(line)))
        .map_ok(|line| Bytes::from(line + "\n"));
    StreamReader::new(lines.boxed())
}

/// False for an event the library has no word for: it would end the connection.
fn readable(line: &str) -> bool {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "event")]
        _event: serde::de::IgnoredAny,
    }
    serde_json::from_str::<Named>(line).is_err() || serde_json::from_str::<Event>(line).is_ok()
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
