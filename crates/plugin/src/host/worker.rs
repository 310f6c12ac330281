//! The one thread that calls into an instance: a plugin that blocks where it must not stops this
//! thread alone, never the host's. It waits for no answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Client;
use super::fault::{Function, Inside};
use super::shared::Shared;
use super::slots::{Answer, MAX_OPERATIONS};
use crate::abi::{Functions, RawInstance};
use crate::wire::STATUS_FAILED;
use crate::{BackendConfig, BackendError, ErrorCode, Event, Manifest};

/// How long the thread looks for the next order before it sleeps.
const AWAKE: Duration = Duration::from_micros(50);
/// Instances that may hang in this process: their threads cannot be ended.
const HANGING_MAX: usize = 8;
/// Orders that wait for the thread. Each operation is submitted once and cancelled at most once,
/// and a slot may be used again while the cancellation of its last operation still waits: so there
/// is always room.
pub(crate) const ORDER_QUEUE: usize = 3 * MAX_OPERATIONS;

/// What the thread is told to do. When nobody can give orders any longer, the instance is
/// destroyed.
#[derive(Debug)]
pub(crate) enum Order {
    Submit { op: u64, request: Vec<u8> },
    Cancel { op: u64 },
}

/// How many hang in this process.
static HANGING: AtomicUsize = AtomicUsize::new(0);

/// Starts the thread and waits for the instance.
pub(crate) fn start(
    functions: Functions,
    manifest: Arc<Manifest>,
    config: &BackendConfig,
) -> Result<(Client, mpsc::Receiver<Event>), BackendError> {
    let name = manifest.name.as_str();
    let failed = |code, why: String| Err(BackendError::new(code, format!("{name}: {why}")));
    if HANGING.load(Ordering::Relaxed) >= HANGING_MAX {
        let why = format!(
            "{HANGING_MAX} instances of plugins hang in this process, and no further one is \
             started; machines live on: start the daemon anew, and run the plugin isolated"
        );
        return failed(ErrorCode::Broken, why);
    }
    let config = config_json(name, config)?;
    let (shared, events) = Shared::register(name);
    let (orders, receiver) = sync_channel(ORDER_QUEUE);
    let (made, outcome) = sync_channel(1);
    let thread = {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new().name(format!("plugin-{name}")).spawn(move || {
            serve(functions, &config, &shared, &receiver, &made);
            stops_hanging(&shared);
        })
    };
    if let Err(error) = thread {
        return failed(ErrorCode::Failed, format!("no thread for it: {error}"));
    }
    let deadline = Function::Create.limit();
    match outcome.recv_timeout(deadline) {
        Ok(Ok(())) => Ok((Client::new(shared, orders, manifest, None), events)),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            count_hanging(&shared);
            failed(ErrorCode::Timeout, format!("its `create` did not return within {deadline:?}"))
        }
    }
}

/// As it is given to `create`.
pub(crate) fn config_json(name: &str, config: &BackendConfig) -> Result<Vec<u8>, BackendError> {
    serde_json::to_vec(config)
        .map_err(|why| BackendError::new(ErrorCode::Invalid, format!("{name}: settings: {why}")))
}

/// An instance is given up whose threads may never end.
pub(crate) fn count_hanging(shared: &Shared) {
    if !shared.hanging.swap(true, Ordering::Relaxed) {
        HANGING.fetch_add(1, Ordering::Relaxed);
    }
}

/// Its thread has ended; what it has not answered may be on another one.
fn stops_hanging(shared: &Shared) {
    if shared.slots.abandoned_for(Duration::ZERO) == 0
        && shared.hanging.swap(false, Ordering::Relaxed)
    {
        HANGING.fetch_sub(1, Ordering::Relaxed);
    }
}

fn serve(
    functions: Functions,
    config: &[u8],
    shared: &Shared,
    orders: &Receiver<Order>,
    made: &SyncSender<Result<(), BackendError>>,
) {
    // Who asked may have given up; then nobody is left to tell.
    let instance = match create(functions, shared.number(), &shared.inside, config) {
        Ok(instance) => instance,
        Err(error) => return drop(made.send(Err(error))),
    };
    if made.send(Ok(())).is_ok() {
        while let Some(order) = next(orders) {
            carry_out(&instance, &shared.inside, &order, |op, status| refuse(shared, op, status));
            if let Order::Submit { op, .. } = order {
                shared.slots.take(op);
            }
        }
    }
    let _inside = shared.inside.enter(Function::Destroy);
    drop(instance);
}

/// `None` when nobody can give orders any longer. The next order often comes soon after the last
/// one, and to wake a thread takes longer than all else on its way: so it is looked for a moment
/// before it is slept for.
fn next(orders: &Receiver<Order>) -> Option<Order> {
    let asleep = Instant::now() + AWAKE;
    while Instant::now() < asleep {
        match orders.try_recv() {
            Ok(order) => return Some(order),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => std::thread::yield_now(),
        }
    }
    orders.recv().ok()
}

pub(crate) fn create(
    functions: Functions,
    number: u64,
    inside: &Inside,
    config: &[u8],
) -> Result<RawInstance, BackendError> {
    let _inside = inside.enter(Function::Create);
    RawInstance::create(functions, number, config)
}

/// `refused` hears of an operation that will not be answered, and the plugin's own number.
pub(crate) fn carry_out(
    instance: &RawInstance,
    inside: &Inside,
    order: &Order,
    refused: impl FnOnce(u64, i32),
) {
    match order {
        Order::Submit { op, request } => {
            let taken = {
                let _inside = inside.enter(Function::Submit);
                instance.submit(*op, request)
            };
            if let Err(status) = taken {
                refused(*op, status);
            }
        }
        Order::Cancel { op } => {
            let _inside = inside.enter(Function::Cancel);
            instance.cancel(*op);
        }
    }
}

pub(crate) fn refuse(shared: &Shared, op: u64, status: i32) {
    let error = BackendError::new(
        ErrorCode::Broken,
        format!("{}: it refused the operation with status {status}", shared.name),
    );
    // It may have been answered before it was refused; then the answer counts.
    let _ = shared
        .slots
        .answer(op, Answer { status: STATUS_FAILED, json: serde_json::to_vec(&error).ok() });
}
