//! One connection to a machine's control socket: opened, verified, and spoken with, every step
//! within a deadline, and the events that come on it. When to connect again is not decided here.
//!
//! Lenient towards QEMU 7.2 and later: a line this crate's QMP library cannot read (an event or a
//! value of a newer QEMU) is passed over, and run states are read as text.

use std::collections::VecDeque;
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
use qapi::qmp::{self, Event, ShutdownCause};
use qapi::{Command, ErrorClass, ExecuteError};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;
use uuid::Uuid;
use vman_plugin::RunState;

use crate::command_line::QMP_SOCKET;
use crate::devices::disk_of;

/// A monitor serves one client at a time, and the next one waits without a word: so the greeting
/// needs a deadline of its own.
const GREETING_DEADLINE: Duration = Duration::from_secs(3);

/// For one command's answer; usually it comes within a millisecond.
pub(crate) const COMMAND_DEADLINE: Duration = Duration::from_secs(4);

/// Bytes kept of an error's text.
const MAX_WORDS: usize = 2048;

/// Bytes of one line from QEMU. The longest we ask for tells of every disk: at most 255 SCSI disks
/// of two nodes each, about 1.5 KiB a node.
const MAX_LINE: usize = 2 * 1024 * 1024;

type Incoming = StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes>;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QmpError {
    /// QEMU answered with an error; the connection goes on.
    Refused(String),
    /// Likewise, since it has no device of this name.
    NoDevice(String),
    /// The connection can no longer be used.
    Broken(String),
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::NoDevice(why) | Self::Broken(why) => f.write_str(why),
        }
    }
}

/// What an event of QEMU's means to a machine's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The run state may have changed.
    RunState,
    /// The guest has powered itself off.
    GuestShutdown,
    /// The machine was reset, by whomever.
    Reset,
    /// The device of a disk is gone: the guest has let go, or did not need to be asked.
    Unplugged(Uuid),
    /// The guest says that it will not let go of a disk.
    UnplugRefused(Uuid),
}

/// A connection on which commands have been answered.
pub(crate) struct Connection {
    service: QapiService<QmpStreamTokio<OwnedWriteHalf>>,
    events: QapiEvents<QmpStreamTokio<Incoming>>,
    /// What came while a command was waited for, each once: so it is bounded by the disks.
    notices: VecDeque<Notice>,
    /// When QEMU last said something.
    heard: Instant,
}

impl Connection {
    /// Connects to the machine in `directory` and makes sure that it is run by process `pid`.
    pub(crate) async fn open(directory: &Path, pid: u32) -> Result<Self, String> {
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
        let mut connection =
            Self { service, events, notices: VecDeque::new(), heard: Instant::now() };
        let ready = connection.execute(qmp::qmp_capabilities { enable: None }).await;
        ready.map_err(|error| error.to_string())?;
        Ok(connection)
    }

    /// Makes sure that it is machine `id`.
    pub(crate) async fn verify(&mut self, id: Uuid) -> Result<(), QmpError> {
        let told = self.execute(qmp::query_uuid {}).await?.UUID;
        if Uuid::parse_str(&told).ok() == Some(id) {
            Ok(())
        } else {
            Err(QmpError::Broken(format!("{QMP_SOCKET} answers for machine {told}, not {id}")))
        }
    }

    pub(crate) async fn run_state(&mut self) -> Result<RunState, QmpError> {
        Ok(run_state(&self.execute(QueryStatus {}).await?.status))
    }

    pub(crate) async fn power_button(&mut self) -> Result<(), QmpError> {
        self.execute(qmp::system_powerdown {}).await.map(drop)
    }

    pub(crate) async fn quit(&mut self) -> Result<(), QmpError> {
        self.execute(qmp::quit {}).await.map(drop)
    }

    /// Halts the guest's processors; as it is, where they are halted already.
    pub(crate) async fn stop(&mut self) -> Result<(), QmpError> {
        self.execute(qmp::stop {}).await.map(drop)
    }

    pub(crate) async fn cont(&mut self) -> Result<(), QmpError> {
        self.execute(qmp::cont {}).await.map(drop)
    }

    /// Returns once the machine is reset: QEMU answers the command before it begins.
    pub(crate) async fn reset(&mut self) -> Result<(), QmpError> {
        self.notices.retain(|notice| *notice != Notice::Reset);
        self.execute(qmp::system_reset {}).await?;
        let reset = async {
            while !self.notices.contains(&Notice::Reset) {
                let event = self.events.next().await;
                self.take(event)?;
            }
            Ok(())
        };
        let done = timeout(COMMAND_DEADLINE, reset).await;
        done.unwrap_or_else(|_| Err(format!("not reset in {COMMAND_DEADLINE:?}")))
            .map_err(QmpError::Broken)
    }

    /// When QEMU last said something.
    pub(crate) fn heard(&self) -> Instant {
        self.heard
    }

    /// What is known to have happened and was not asked for yet.
    pub(crate) fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Waits for something to happen; an error means that the connection ended. Cancel-safe.
    pub(crate) async fn notice(&mut self) -> Result<Notice, String> {
        loop {
            if let Some(notice) = self.next_notice() {
                return Ok(notice);
            }
            let event = self.events.next().await;
            self.take(event)?;
        }
    }

    fn take(&mut self, event: Option<io::Result<Event>>) -> Result<(), String> {
        take(event, &mut self.notices)?;
        self.heard = Instant::now();
        Ok(())
    }

    /// After a missed deadline the connection is broken for good: the library would take the late
    /// answer for the next command's.
    pub(crate) async fn execute<C: qmp::QmpCommand>(
        &mut self,
        command: C,
    ) -> Result<C::Ok, QmpError> {
        let mut answer = std::pin::pin!(self.service.execute(command));
        let talk = async {
            loop {
                let event = tokio::select! {
                    biased;
                    answer = &mut answer => return answer.map_err(refused_or_broken),
                    event = self.events.next() => event,
                };
                take(event, &mut self.notices).map_err(QmpError::Broken)?;
            }
        };
        let result = timeout(COMMAND_DEADLINE, talk).await.unwrap_or_else(|_| {
            Err(QmpError::Broken(format!("no answer to {} in {COMMAND_DEADLINE:?}", C::NAME)))
        });
        if !matches!(result, Err(QmpError::Broken(_))) {
            self.heard = Instant::now();
        }
        result
    }
}

/// QEMU's words go into records and answers: one that was taken over says as much as it likes.
fn cut(mut words: String) -> String {
    words.truncate(words.floor_char_boundary(MAX_WORDS));
    words
}

fn refused_or_broken(error: ExecuteError) -> QmpError {
    match error {
        ExecuteError::Qapi(error) if error.class == ErrorClass::DeviceNotFound => {
            QmpError::NoDevice(cut(error.desc))
        }
        ExecuteError::Qapi(error) => QmpError::Refused(cut(error.desc)),
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

/// An error means that the connection ended.
fn take(event: Option<io::Result<Event>>, notices: &mut VecDeque<Notice>) -> Result<(), String> {
    let event = match event {
        None => return Err("QEMU closed its control socket".to_owned()),
        Some(event) => event.map_err(|error| format!("{QMP_SOCKET}: {error}"))?,
    };
    if let Some(notice) = meaning(&event).filter(|notice| !notices.contains(notice)) {
        notices.push_back(notice);
    }
    Ok(())
}

fn meaning(event: &Event) -> Option<Notice> {
    let of_disk = |device: &Option<String>| device.as_deref().and_then(disk_of);
    if let Event::SHUTDOWN { data, .. } = event
        && data.reason == ShutdownCause::guest_shutdown
    {
        Some(Notice::GuestShutdown)
    } else if let Event::DEVICE_DELETED { data, .. } = event {
        // A second one comes for the device's inner part, without a name.
        of_disk(&data.device).map(Notice::Unplugged)
    } else if let Event::DEVICE_UNPLUG_GUEST_ERROR { data, .. } = event {
        of_disk(&data.device).map(Notice::UnplugRefused)
    } else if matches!(event, Event::RESET { .. }) {
        Some(Notice::Reset)
    } else {
        tells_run_state(event).then_some(Notice::RunState)
    }
}

fn tells_run_state(event: &Event) -> bool {
    matches!(
        event,
        Event::SHUTDOWN { .. }
            | Event::STOP { .. }
            | Event::RESUME { .. }
            | Event::SUSPEND { .. }
            | Event::WAKEUP { .. }
            | Event::GUEST_PANICKED { .. }
    )
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
pub(crate) mod tests;
