//! The trait a plugin author implements, and its errors. How a verb reaches the implementation
//! (linked in or from a file) is not told here.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::message::{
    BackendConfig, DiskAttachment, DiskGrowth, DiskRemoval, Event, ImageGrowth, ImageInfo,
    ImageRef, ImageSpec, Machine, MachineSighting, MachineSpec, Manifest, Probe, Survey, Unplug,
};

/// Runs machines and makes images.
///
/// Every verb is **idempotent**: the host repeats one whose answer it lost (it was killed, or the
/// plugin was). Verbs of different machines may run at the same time; verbs of one machine never
/// do, but for [`survey`](Self::survey) and [`sight`](Self::sight), which must never wait for a
/// machine: they answer from what is known. The host gives each verb a [deadline](crate::deadline)
/// and drops its future when it has passed, or when nobody waits for it any longer; the next verb
/// of the same machine or image begins only after that. What is half done then is found by
/// `survey` or by the verb's repetition.
///
/// Machines outlive the instance and the host: nothing here may end one but `quit` and `kill`.
#[async_trait]
pub trait Backend: Send + Sync + Sized + 'static {
    /// Called without an instance, any number of times; always the same.
    fn manifest() -> Manifest;

    /// Makes an instance. Must return at once and touch no machine; runs inside the instance's
    /// own tokio runtime. An error names the setting and what to put there.
    fn create(config: BackendConfig, context: BackendContext) -> Result<Self, BackendError>;

    /// Can this host run machines with this backend? Tries it rather than guessing. An error means
    /// that it could not be found out.
    async fn probe(&self) -> Result<Probe, BackendError>;

    /// Starts a machine and returns once it answers on its control channel. If a machine of this
    /// id already lives it is returned as it is. On failure nothing of it is left running.
    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError>;

    /// Finds a machine again after the host restarted: takes up its control channel and its
    /// events. [`ErrorCode::NotFound`] if it is gone, or if another process now has its pid.
    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError>;

    /// Presses the power button: asks the guest to power off, and returns without waiting for it.
    /// `NotFound` if the machine is gone.
    async fn power_button(&self, id: Uuid) -> Result<(), BackendError>;

    /// Ends the machine through its control channel, flushing what the hypervisor holds. Done when
    /// it is gone; a machine that is already gone is a success.
    async fn quit(&self, id: Uuid) -> Result<(), BackendError>;

    /// Ends the machine without its help. Done when it is gone; already gone is a success. Signals
    /// nothing but a process verified to be this machine.
    async fn kill(&self, id: Uuid) -> Result<(), BackendError>;

    /// What is known of one machine now, as [`survey`](Self::survey) would tell it, without looking
    /// over the whole host where that can be had. `None` if it is gone. Must not wait for the
    /// machine.
    async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        Ok(sighting_in(self.survey().await?, id))
    }

    /// Halts the guest's processors; a halted guest is a success. Called only with
    /// [`Capabilities::pause`](crate::Capabilities::pause). `NotFound` if the machine is gone.
    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        Err(lacking("pause", id))
    }

    /// Lets a halted guest go on; a running guest is a success. Called only with
    /// [`Capabilities::pause`](crate::Capabilities::pause). `NotFound` if the machine is gone.
    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        Err(lacking("resume", id))
    }

    /// Resets the machine as its reset button does: the guest is not asked, the process stays, and
    /// disks that the guest was asked for are given back. Repeated, it resets again. Called only
    /// with [`Capabilities::reset`](crate::Capabilities::reset). `NotFound` if the machine is gone.
    async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        Err(lacking("reset", id))
    }

    /// Gives a running machine a disk; one it has already is a success. Called only for a bus in
    /// [`Capabilities::hot_plug`](crate::Capabilities::hot_plug). On failure the machine has
    /// nothing of it and the image is closed. `NotFound` if the machine is gone or the image is
    /// not there; `Conflict` if the image is of another format, another machine or process has it
    /// open, no slot is free, or the guest was asked for this very disk and has not let go.
    async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        Err(lacking("attach-disk", attachment.id))
    }

    /// Takes a disk from a running machine, and closes its image only after the guest has let go.
    /// A disk the machine does not have, or a machine that is gone, is [`Unplug::Done`]. Waits a
    /// little for the guest, and then answers [`Unplug::Waiting`]; asking again asks the guest
    /// again. [`ErrorCode::Refused`] if the guest says that it will not. Called only with
    /// [`Capabilities::hot_plug`](crate::Capabilities::hot_plug).
    async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        Err(lacking("detach-disk", removal.id))
    }

    /// Makes a disk of a running machine larger, image and device; of this size already is a
    /// success, a smaller size `Invalid`. `NotFound` if the machine, or the disk in it, is gone.
    /// Called only with [`Capabilities::hot_plug`](crate::Capabilities::hot_plug).
    async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        Err(lacking("resize-disk", growth.id))
    }

    /// Makes an image larger that no machine has open; of this size already is a success, a
    /// smaller size `Invalid`. Called only with
    /// [`Capabilities::resize`](crate::Capabilities::resize). `NotFound` if the file is not there,
    /// `Conflict` if it is of another format or a machine or process has it open.
    async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        Err(BackendError::new(
            ErrorCode::Unsupported,
            format!("this backend cannot resize {}", growth.path.display()),
        ))
    }

    /// Makes an image. One that is already there with this format and size is a success; with
    /// another, [`ErrorCode::Conflict`]. Never overwrites.
    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError>;

    /// Reads an image's format and sizes, also while a machine has it open. `NotFound` if the file
    /// is not there, `Conflict` if it is of another format.
    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError>;

    /// Removes an image; already gone is a success.
    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError>;

    /// Lists every living machine below the instance's folder, whoever started it. An error means
    /// that the host could not be looked at: nothing may then be called absent.
    async fn survey(&self) -> Result<Survey, BackendError>;
}

/// A verb whose capability the backend does not have, and that was called all the same.
fn lacking(verb: &str, id: Uuid) -> BackendError {
    let why = format!("machine {id}: this backend has no `{verb}`; its capabilities say so");
    BackendError::new(ErrorCode::Unsupported, why)
}

/// What a survey says of one machine.
pub(crate) fn sighting_in(survey: Survey, id: Uuid) -> Option<MachineSighting> {
    survey.machines.into_iter().find(|sighting| sighting.machine.id == id)
}

type LogFunction = dyn Fn(LogLevel, &str) + Send + Sync;

/// What a backend may do to its host: tell events and log. Cheap to clone.
#[derive(Clone)]
pub struct BackendContext {
    emit: Arc<dyn Fn(Event) + Send + Sync>,
    log: Arc<LogFunction>,
}

impl BackendContext {
    /// `emit` must not block. Log lines go nowhere until [`with_log`](Self::with_log).
    pub fn new(emit: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { emit: Arc::new(emit), log: Arc::new(|_, _| {}) }
    }

    /// `log` must not block.
    #[must_use]
    pub fn with_log(self, log: impl Fn(LogLevel, &str) + Send + Sync + 'static) -> Self {
        Self { log: Arc::new(log), ..self }
    }

    /// Tells the host; never blocks and never fails: an event is only a hint.
    pub fn emit(&self, event: Event) {
        (self.emit)(event);
    }

    /// Writes one line to the host's log. The plugin's own `tracing` events do not get there: a
    /// plugin built as a file has a `tracing` of its own.
    pub fn log(&self, level: LogLevel, message: &str) {
        (self.log)(level, message);
    }
}

impl fmt::Debug for BackendContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackendContext")
    }
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl LogLevel {
    /// As it crosses the border.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Error => 1,
            Self::Warn => 2,
            Self::Info => 3,
            Self::Debug => 4,
        }
    }

    /// A number this host does not know is shown rather than lost.
    #[cfg(feature = "host")]
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Error,
            2 => Self::Warn,
            4 => Self::Debug,
            _ => Self::Info,
        }
    }
}

/// Why a verb failed: a code the host acts on, and a sentence for people that names what failed,
/// on what, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct BackendError {
    pub code: ErrorCode,
    pub message: String,
}

impl BackendError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// An open set: a code unknown to the reader becomes [`ErrorCode::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is not one this backend can carry out; repeating it is in vain.
    Invalid,
    NotFound,
    /// Something else is there already.
    Conflict,
    /// The operation's name is not known to this backend.
    Unsupported,
    /// A machine or a program did not answer in time.
    Timeout,
    /// The guest was asked and said no.
    Refused,
    /// The hypervisor or the host refused; the message has its own words.
    Failed,
    /// The verb panicked; the instance is no longer used.
    Panicked,
    /// The plugin broke the contract, or its instance is poisoned.
    Broken,
    /// The process that the plugin ran in has ended. Only the host says so.
    #[serde(rename = "backend-crashed")]
    Crashed,
    #[serde(other)]
    Other,
}
