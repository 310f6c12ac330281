//! Calls the verbs of one instance, each within a deadline. It repeats nothing and decides
//! nothing: what a failure means for a machine is its caller's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::fault::Fault;
use super::isolated::Process;
use super::link::error_from;
use super::shared::Shared;
use super::slots::{Answer, MAX_OPERATIONS};
use super::worker::{self, Order};
use crate::backend::sighting_in;
use crate::wire::{MAX_MESSAGE_BYTES, MachineParams, NoParams, Request, STATUS_OK, op};
use crate::{
    BackendError, DiskAttachment, DiskGrowth, DiskRemoval, ErrorCode, ImageGrowth, ImageInfo,
    ImageRef, ImageSpec, Machine, MachineSighting, MachineSpec, Manifest, Probe, Survey, Unplug,
    deadline,
};

/// Never one: every plugin answers it as it answers any that it does not know.
const NO_OPERATION: &str = "none";
/// How long a cancelled operation has to say that it ended.
const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// How often it is looked whether the instance still takes orders, while one waits.
const HANG_CHECK: Duration = Duration::from_secs(1);
/// Operations that neither end nor have anybody waiting for them, of which an instance is given up.
const ABANDONED_MAX: usize = MAX_OPERATIONS / 2;
/// How long they have to end after they were cancelled.
const ABANDONED_TIME: Duration = Duration::from_secs(5);

/// An instance of a backend; a clone is the same instance. The verbs are those of
/// [`Backend`](crate::Backend), where they are told. Needs a tokio runtime with time.
///
/// Each verb has its [deadline], unless [`with_deadline`](Self::with_deadline) sets another. One
/// that does not end in time is cancelled and fails with [`ErrorCode::Timeout`]; one whose future
/// is dropped is cancelled, too. At most 256 are under way at the same time, among them those that
/// were cancelled and have not ended.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    deadline: Option<Duration>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    orders: SyncSender<Order>,
    manifest: Arc<Manifest>,
    /// Of an isolated instance.
    process: Option<Arc<Process>>,
    abandoned: AtomicU64,
}

impl Inner {
    /// Gives the instance up. What hangs in a process of its own is ended with it.
    fn hangs(&self, fault: Fault) {
        self.shared.fail(fault);
        match &self.process {
            Some(process) => process.kill(),
            None => worker::count_hanging(&self.shared),
        }
    }
}

/// What an instance's calls came to that nobody waited for. Each only grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Answers that came late or twice.
    pub answers: u64,
    /// Events that did not parse or found the channel full or closed.
    pub events: u64,
    /// Operations that did not even end when they were cancelled: something hangs in there.
    pub operations: u64,
}

impl Client {
    pub(crate) fn new(
        shared: Arc<Shared>,
        orders: SyncSender<Order>,
        manifest: Arc<Manifest>,
        process: Option<Arc<Process>>,
    ) -> Self {
        let inner = Inner { shared, orders, manifest, process, abandoned: AtomicU64::new(0) };
        Self { inner: Arc::new(inner), deadline: None }
    }

    /// The same instance, with this deadline for every verb.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { inner: Arc::clone(&self.inner), deadline: Some(deadline) }
    }

    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// Why every further verb fails at once, and the instance must be replaced by
    /// [`Offer::start`](super::Offer::start); `None` while it can be used.
    pub fn fault(&self) -> Option<&Fault> {
        self.inner.shared.fault()
    }

    /// The pid of the process that an isolated instance runs in.
    pub fn pid(&self) -> Option<u32> {
        self.inner.process.as_ref().map(|process| process.pid())
    }

    /// What was dropped since the instance was made.
    pub fn dropped(&self) -> Dropped {
        Dropped {
            answers: self.inner.shared.dropped_answers.load(Ordering::Relaxed),
            events: self.inner.shared.dropped_events.load(Ordering::Relaxed),
            operations: self.inner.abandoned.load(Ordering::Relaxed),
        }
    }

    /// The number it calls the host by.
    #[cfg(test)]
    pub(crate) fn instance(&self) -> u64 {
        self.inner.shared.number()
    }

    pub async fn probe(&self) -> Result<Probe, BackendError> {
        self.call(op::PROBE, deadline::PROBE, NoParams {}).await
    }

    pub async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        self.call(op::LAUNCH, deadline::LAUNCH, spec).await
    }

    pub async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        self.call(op::REATTACH, deadline::REATTACH, machine).await
    }

    pub async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        self.call(op::POWER_BUTTON, deadline::POWER_BUTTON, MachineParams { id }).await
    }

    pub async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        self.call(op::QUIT, deadline::QUIT, MachineParams { id }).await
    }

    pub async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.call(op::KILL, deadline::KILL, MachineParams { id }).await
    }

    pub async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        self.call(op::CREATE_IMAGE, deadline::CREATE_IMAGE, spec).await
    }

    pub async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        self.call(op::INSPECT_IMAGE, deadline::INSPECT_IMAGE, image).await
    }

    pub async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        self.call(op::DELETE_IMAGE, deadline::DELETE_IMAGE, image).await
    }

    pub async fn survey(&self) -> Result<Survey, BackendError> {
        self.call(op::SURVEY, deadline::SURVEY, NoParams {}).await
    }

    /// A plugin older than this verb is surveyed instead, within a deadline of its own.
    pub async fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        match self.call(op::SIGHT, deadline::SIGHT, MachineParams { id }).await {
            Err(error) if error.code == ErrorCode::Unsupported => {
                Ok(sighting_in(self.survey().await?, id))
            }
            seen => seen,
        }
    }

    pub async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        self.call(op::PAUSE, deadline::CONTROL, MachineParams { id }).await
    }

    pub async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        self.call(op::RESUME, deadline::CONTROL, MachineParams { id }).await
    }

    pub async fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        self.call(op::RESET, deadline::CONTROL, MachineParams { id }).await
    }

    pub async fn attach_disk(&self, attachment: DiskAttachment) -> Result<(), BackendError> {
        self.call(op::ATTACH_DISK, deadline::ATTACH_DISK, attachment).await
    }

    pub async fn detach_disk(&self, removal: DiskRemoval) -> Result<Unplug, BackendError> {
        self.call(op::DETACH_DISK, deadline::DETACH_DISK, removal).await
    }

    pub async fn resize_disk(&self, growth: DiskGrowth) -> Result<(), BackendError> {
        self.call(op::RESIZE_DISK, deadline::RESIZE_DISK, growth).await
    }

    pub async fn resize_image(&self, growth: ImageGrowth) -> Result<(), BackendError> {
        self.call(op::RESIZE_IMAGE, deadline::RESIZE_IMAGE, growth).await
    }

    /// Asks for an operation that no backend has, and gives how long the answer took: what a call
    /// costs beyond what a backend does for it.
    pub async fn measure(&self) -> Result<Duration, BackendError> {
        let asked = std::time::Instant::now();
        let answer =
            self.call::<_, serde_json::Value>(NO_OPERATION, deadline::SIGHT, NoParams {}).await;
        match answer {
            Err(error) if error.code == ErrorCode::Unsupported => Ok(asked.elapsed()),
            Err(error) => Err(error),
            Ok(_) => {
                Err(self.error(ErrorCode::Broken, NO_OPERATION, "it is no operation, and was done"))
            }
        }
    }

    pub(crate) async fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        op: &str,
        deadline: Duration,
        params: P,
    ) -> Result<R, BackendError> {
        let deadline = self.deadline.unwrap_or(deadline);
        let request = serde_json::to_vec(&Request { op, params })
            .map_err(|error| self.error(ErrorCode::Invalid, op, &error.to_string()))?;
        let mut pending = self.submit(op, request)?;
        match pending.within(deadline).await {
            Waited::Answered(answer) => {
                pending.ended = true;
                return self.read(op, answer);
            }
            Waited::Ended => return Err(self.faulty(op)),
            Waited::Late => {}
        }
        // What it says in the grace counts, unless it says no more than that it was cancelled.
        let last = pending.cancelled(op).await.map(|answer| self.read(op, answer));
        match last {
            Some(Ok(result)) => Ok(result),
            Some(Err(error)) if error.code != ErrorCode::Timeout => Err(error),
            Some(Err(_)) | None => {
                let why = format!("it did not end within {deadline:?} and was cancelled");
                Err(self.error(ErrorCode::Timeout, op, &why))
            }
        }
    }

    /// What the plugin answers to these very bytes, which no verb would send: its status and JSON;
    /// no JSON if it was longer than a message may be.
    #[cfg(feature = "conformance")]
    pub(crate) async fn raw(
        &self,
        request: Vec<u8>,
        deadline: Duration,
    ) -> Result<(i32, Option<Vec<u8>>), BackendError> {
        const OP: &str = "a request";
        let mut pending = self.submit(OP, request)?;
        let answer = match pending.within(deadline).await {
            Waited::Answered(answer) => Some(answer),
            Waited::Ended => return Err(self.faulty(OP)),
            Waited::Late => pending.cancelled(OP).await,
        };
        pending.ended = true;
        let why = format!("it was not answered within {deadline:?}");
        let Answer { status, json } =
            answer.ok_or_else(|| self.error(ErrorCode::Timeout, OP, &why))?;
        Ok((status, json))
    }

    pub(crate) fn submit(&self, op: &str, request: Vec<u8>) -> Result<Pending, BackendError> {
        if let Some(fault) = self.fault() {
            return Err(fault.error(&self.inner.manifest.name));
        }
        if request.len() > MAX_MESSAGE_BYTES {
            let why = format!("the request is longer than {MAX_MESSAGE_BYTES} bytes");
            return Err(self.error(ErrorCode::Invalid, op, &why));
        }
        let (number, answer) = self.inner.shared.slots.begin().ok_or_else(|| {
            if self.inner.shared.slots.abandoned_for(ABANDONED_TIME) > ABANDONED_MAX {
                let why = format!("more than {ABANDONED_MAX} operations of it do not end");
                self.inner.hangs(Fault::Hung(why));
            }
            let why = format!("{MAX_OPERATIONS} operations are under way already; try again later");
            self.error(ErrorCode::Failed, op, &why)
        })?;
        let inner = Arc::clone(&self.inner);
        let pending = Pending { inner, op: number, answer, ended: false, cancelled: false };
        // Who tells all that wait of an instance's end may just have done so.
        if let Some(fault) = self.fault() {
            return Err(fault.error(&self.inner.manifest.name));
        }
        let order = Order::Submit { op: number, request };
        self.inner.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => self.error(ErrorCode::Broken, op, "its queue is full"),
            TrySendError::Disconnected(_) => self.faulty(op),
        })?;
        Ok(pending)
    }

    fn read<R: DeserializeOwned>(&self, op: &str, answer: Answer) -> Result<R, BackendError> {
        let json = answer.json.ok_or_else(|| {
            let why = format!("the answer is longer than {MAX_MESSAGE_BYTES} bytes");
            self.error(ErrorCode::Broken, op, &why)
        })?;
        if answer.status == STATUS_OK {
            return serde_json::from_slice(&json).map_err(|error| {
                let why = format!("the answer does not parse: {error}");
                self.error(ErrorCode::Broken, op, &why)
            });
        }
        let error = error_from(&json);
        if error.code == ErrorCode::Panicked {
            self.inner.shared.fail(Fault::Panicked(error.message.clone()));
        }
        Err(error)
    }

    /// Of an instance from which nothing comes any more.
    fn faulty(&self, op: &str) -> BackendError {
        match self.fault() {
            Some(fault) => fault.error(&self.inner.manifest.name),
            None => self.error(ErrorCode::Broken, op, "the instance has ended"),
        }
    }

    fn error(&self, code: ErrorCode, op: &str, why: &str) -> BackendError {
        BackendError::new(code, format!("{}: `{op}`: {why}", self.inner.manifest.name))
    }
}

/// What waiting for an answer came to.
enum Waited {
    Answered(Answer),
    /// None will come.
    Ended,
    /// None came within the deadline.
    Late,
}

/// An operation that waits for its answer; dropped before that, it is cancelled.
#[derive(Debug)]
pub(crate) struct Pending {
    inner: Arc<Inner>,
    op: u64,
    answer: oneshot::Receiver<Answer>,
    ended: bool,
    /// It was told to end, which is told once: the queue has room for no more.
    cancelled: bool,
}

impl Pending {
    /// Also looks whether the instance still takes orders: one that it has not taken is waited for
    /// no longer when it does not.
    async fn within(&mut self, deadline: Duration) -> Waited {
        let ends = Instant::now() + deadline;
        loop {
            let check = ends.min(Instant::now() + HANG_CHECK);
            match timeout_at(check, &mut self.answer).await {
                Ok(Ok(answer)) => return Waited::Answered(answer),
                Ok(Err(_)) => return Waited::Ended,
                Err(_) if Instant::now() >= ends => return Waited::Late,
                Err(_) => {}
            }
            if let Some(fault) = self.inner.shared.inside.overdue() {
                self.inner.hangs(fault);
                if self.inner.shared.slots.is_queued(self.op) {
                    return Waited::Ended;
                }
            }
        }
    }

    /// Cancels it and waits a little, so that nothing of it runs on when its caller goes on. An
    /// instance in which something does not end then is given up.
    async fn cancelled(&mut self, op: &str) -> Option<Answer> {
        self.cancel();
        let ends = Instant::now() + CANCEL_GRACE;
        let answer = timeout_at(ends, &mut self.answer).await;
        self.ended = true;
        if let Ok(answer) = answer {
            return answer.ok();
        }
        if self.inner.shared.slots.abandon(self.op) {
            self.inner.abandoned.fetch_add(1, Ordering::Relaxed);
            let why = format!("`{op}` did not end within {CANCEL_GRACE:?} of being cancelled");
            self.inner.hangs(Fault::Hung(why));
        }
        None
    }

    fn cancel(&mut self) {
        if std::mem::replace(&mut self.cancelled, true) {
            return;
        }
        // The queue has room for it; only an instance that has ended does not take it.
        let _ = self.inner.orders.try_send(Order::Cancel { op: self.op });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.ended && self.inner.shared.slots.abandon(self.op) {
            self.cancel();
        }
    }
}
