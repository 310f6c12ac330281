//! The plugin's side of one instance: its tokio runtime, the operations under way, and the guard
//! that turns a panic into an answer. How calls arrive here is told in `abi`.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};

use crate::abi::HostLink;
use crate::wire::{LogLine, MachineParams, Request, STATUS_FAILED, STATUS_OK, op};
use crate::{Backend, BackendConfig, BackendContext, BackendError, ErrorCode};

/// Threads of an instance's runtime. Verbs wait on hypervisors; they do not compute.
const WORKERS: usize = 2;
/// How long `destroy` waits for blocking work before it leaves the threads behind.
const DESTROY_GRACE: Duration = Duration::from_secs(2);

/// A backend at work, as the C functions hold it.
#[derive(Debug)]
pub(crate) struct Instance<B> {
    runtime: OwnRuntime,
    backend: Arc<B>,
    name: Arc<str>,
    link: HostLink,
    running: Running,
    poisoned: Arc<AtomicBool>,
}

impl<B: Backend> Instance<B> {
    pub(crate) fn create(link: HostLink, config: &[u8]) -> Result<Self, BackendError> {
        let name: Arc<str> = B::manifest().name.into();
        let config: BackendConfig = serde_json::from_slice(config).map_err(|error| {
            BackendError::new(
                ErrorCode::Invalid,
                format!("{name}: the host's configuration does not parse: {error}"),
            )
        })?;
        let runtime = OwnRuntime::new(&name)?;
        let backend = {
            let _inside = runtime.get().enter();
            B::create(config, context(link))?
        };
        Ok(Self {
            runtime,
            backend: Arc::new(backend),
            name,
            link,
            running: Running::default(),
            poisoned: Arc::default(),
        })
    }

    /// Starts an operation. It is answered exactly once, now or later.
    pub(crate) fn submit(&self, op: u64, request: &[u8]) {
        let reply = Reply::new(self.link, op);
        if self.poisoned.load(Ordering::Acquire) {
            return reply.send(Err(poisoned(&self.name)));
        }
        let request: Request<String, Value> = match serde_json::from_slice(request) {
            Ok(request) => request,
            Err(error) => return reply.send(Err(malformed(&self.name, "the request", &error))),
        };
        let (ticket, cancelled, ending) = self.running.begin(op, subject(&request));
        let backend = Arc::clone(&self.backend);
        let name = Arc::clone(&self.name);
        let poisoned = Arc::clone(&self.poisoned);
        self.runtime.get().spawn(async move {
            let _ticket = ticket;
            let verb = async {
                ended(ending).await;
                dispatch(&*backend, &name, &request).await
            };
            let verb = AssertUnwindSafe(verb).catch_unwind();
            let answer = tokio::select! {
                biased;
                answer = verb => answer.unwrap_or_else(|payload| {
                    poisoned.store(true, Ordering::Release);
                    Err(panicked(&format!("{name}: `{}`", request.op), payload))
                }),
                Ok(()) = cancelled => Err(BackendError::new(
                    ErrorCode::Timeout,
                    format!("{name}: `{}` was cancelled by the host", request.op),
                )),
            };
            reply.send(answer);
        });
    }

    /// Drops the operation's future, which answers it. One that has ended is left alone.
    pub(crate) fn cancel(&self, op: u64) {
        self.running.cancel(op);
    }
}

/// Turns a panic of `work` into an error.
pub(crate) fn guarded<T>(
    what: &str,
    work: impl FnOnce() -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|payload| Err(panicked(what, payload)))
}

fn panicked(what: &str, payload: Box<dyn Any + Send>) -> BackendError {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let error = BackendError::new(
        ErrorCode::Panicked,
        format!("{what} panicked: {text}; this is a fault of the plugin, report it to its authors"),
    );
    // Its own Drop may panic again.
    std::mem::forget(payload);
    error
}

fn poisoned(name: &str) -> BackendError {
    BackendError::new(
        ErrorCode::Broken,
        format!("{name}: an earlier operation panicked; the instance must be made anew"),
    )
}

fn malformed(name: &str, what: &str, error: &serde_json::Error) -> BackendError {
    BackendError::new(ErrorCode::Invalid, format!("{name}: {what} does not parse: {error}"))
}

type Answer = Result<Vec<u8>, BackendError>;

async fn dispatch<B: Backend>(backend: &B, name: &str, request: &Request<String, Value>) -> Answer {
    match request.op.as_str() {
        op::PROBE => answer(backend.probe().await),
        op::LAUNCH => answer(backend.launch(params(name, request)?).await),
        op::REATTACH => answer(backend.reattach(params(name, request)?).await),
        op::POWER_BUTTON => answer(backend.power_button(machine(name, request)?.id).await),
        op::QUIT => answer(backend.quit(machine(name, request)?.id).await),
        op::KILL => answer(backend.kill(machine(name, request)?.id).await),
        op::CREATE_IMAGE => answer(backend.create_image(params(name, request)?).await),
        op::INSPECT_IMAGE => answer(backend.inspect_image(params(name, request)?).await),
        op::DELETE_IMAGE => answer(backend.delete_image(params(name, request)?).await),
        op::SURVEY => answer(backend.survey().await),
        op::SIGHT => answer(backend.sight(machine(name, request)?.id).await),
        op::PAUSE => answer(backend.pause(machine(name, request)?.id).await),
        op::RESUME => answer(backend.resume(machine(name, request)?.id).await),
        op::RESET => answer(backend.reset(machine(name, request)?.id).await),
        op::ATTACH_DISK => answer(backend.attach_disk(params(name, request)?).await),
        op::DETACH_DISK => answer(backend.detach_disk(params(name, request)?).await),
        op::RESIZE_DISK => answer(backend.resize_disk(params(name, request)?).await),
        op::RESIZE_IMAGE => answer(backend.resize_image(params(name, request)?).await),
        unknown => Err(BackendError::new(
            ErrorCode::Unsupported,
            format!(
                "{name}: no operation is called `{unknown}`; the plugin is older than its host"
            ),
        )),
    }
}

fn params<P: DeserializeOwned>(
    name: &str,
    request: &Request<String, Value>,
) -> Result<P, BackendError> {
    P::deserialize(&request.params)
        .map_err(|error| malformed(name, &format!("`{}`", request.op), &error))
}

fn machine(name: &str, request: &Request<String, Value>) -> Result<MachineParams, BackendError> {
    params(name, request)
}

fn answer<T: Serialize>(result: Result<T, BackendError>) -> Answer {
    serde_json::to_vec(&result?).map_err(|error| {
        BackendError::new(ErrorCode::Broken, format!("a result cannot be written as JSON: {error}"))
    })
}

/// What an operation works on: a machine, or an image. None for one that must wait for neither.
fn subject(request: &Request<String, Value>) -> Option<String> {
    if request.op == op::SIGHT {
        return None;
    }
    let named = request.params.get("id").or_else(|| request.params.get("path"));
    named.and_then(Value::as_str).map(str::to_owned)
}

fn context(link: HostLink) -> BackendContext {
    BackendContext::new(move |event| {
        // An event is plain data and a hint: nothing is lost that a survey would not find.
        if let Ok(json) = serde_json::to_vec(&event) {
            link.emit_event(&json);
        }
    })
    .with_log(move |level, message| {
        let line = LogLine { message: message.to_owned() };
        if let Ok(json) = serde_json::to_vec(&line) {
            link.log(level.number(), &json);
        }
    })
}

/// The one answer an operation gets: sent, or told by `Drop` that there will be none.
struct Reply {
    link: HostLink,
    op: Option<u64>,
}

impl Reply {
    fn new(link: HostLink, op: u64) -> Self {
        Self { link, op: Some(op) }
    }

    fn send(mut self, answer: Answer) {
        self.answer(answer);
    }

    fn answer(&mut self, answer: Answer) {
        let Some(op) = self.op.take() else { return };
        match answer {
            Ok(json) => self.link.complete(op, STATUS_OK, &json),
            Err(error) => {
                let json = serde_json::to_vec(&error).unwrap_or_default();
                self.link.complete(op, STATUS_FAILED, &json);
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let code = if std::thread::panicking() { ErrorCode::Panicked } else { ErrorCode::Broken };
        self.answer(Err(BackendError::new(
            code,
            "the operation was dropped before its end; the instance is going away",
        )));
    }
}

/// The operations under way. The host bounds their number.
#[derive(Debug, Clone, Default)]
struct Running(Arc<Mutex<HashMap<u64, Operation>>>);

/// One that has begun and not ended.
#[derive(Debug)]
struct Operation {
    subject: Option<String>,
    /// Taken when it is told to end.
    cancel: Option<oneshot::Sender<()>>,
    end: End,
}

/// Nothing is ever sent: the channel closes when the operation's future has been dropped.
type End = watch::Receiver<()>;

impl Running {
    /// Also the ends of those of the same subject that were told to end: a future is dropped at
    /// its next halt, which may be later than the next verb comes.
    fn begin(&self, op: u64, subject: Option<String>) -> (Ticket, oneshot::Receiver<()>, Vec<End>) {
        let (cancel, cancelled) = oneshot::channel();
        let (ends, end) = watch::channel(());
        let ending = self.with(|running| {
            let of_same = |other: &&Operation| other.cancel.is_none() && other.subject == subject;
            let ending = match &subject {
                Some(_) => running.values().filter(of_same).map(|one| one.end.clone()).collect(),
                None => Vec::new(),
            };
            running.insert(op, Operation { subject, cancel: Some(cancel), end });
            ending
        });
        let ticket = Ticket { running: self.clone(), op, _ends: ends };
        (ticket, cancelled, ending)
    }

    fn cancel(&self, op: u64) {
        let cancel = self.with(|running| running.get_mut(&op)?.cancel.take());
        if let Some(cancel) = cancel {
            // It ended meanwhile: nothing is left to cancel.
            let _ = cancel.send(());
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<u64, Operation>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn ended(ending: Vec<End>) {
    for mut end in ending {
        // An error is the end: the sender is gone.
        while end.changed().await.is_ok() {}
    }
}

/// Forgets its operation when dropped.
struct Ticket {
    running: Running,
    op: u64,
    _ends: watch::Sender<()>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.running.with(|running| running.remove(&self.op));
    }
}

/// A runtime whose end is bounded.
#[derive(Debug)]
struct OwnRuntime(Option<Runtime>);

impl OwnRuntime {
    fn new(name: &str) -> Result<Self, BackendError> {
        Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name(format!("vman-{name}"))
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(|error| {
                BackendError::new(
                    ErrorCode::Failed,
                    format!("{name}: its threads could not be started: {error}"),
                )
            })
    }

    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("taken by Drop alone")
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(DESTROY_GRACE);
        }
    }
}
