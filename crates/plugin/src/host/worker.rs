//! The one thread that calls into an instance: a plugin that blocks where it must not stops this
//! thread alone, never the host's. It waits for no answer.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Client;
use super::link::Shared;
use super::slots::{Answer, MAX_OPERATIONS};
use crate::abi::{Functions, RawInstance};
use crate::wire::STATUS_FAILED;
use crate::{BackendConfig, BackendError, ErrorCode, Event, Manifest};

/// How long a plugin's `create` may take.
const CREATE_DEADLINE: Duration = Duration::from_secs(10);
/// Orders that wait for the thread. Each operation is submitted once and cancelled at most once,
/// and a slot may be used again while the cancellation of its last operation still waits: so there
/// is always room.
const ORDER_QUEUE: usize = 3 * MAX_OPERATIONS;

/// What the thread is told to do. When nobody can give orders any longer, the instance is
/// destroyed.
#[derive(Debug)]
pub(crate) enum Order {
    Submit { op: u64, request: Vec<u8> },
    Cancel { op: u64 },
}

/// Starts the thread and waits for the instance.
pub(crate) fn start(
    functions: Functions,
    manifest: Arc<Manifest>,
    config: &BackendConfig,
) -> Result<(Client, mpsc::Receiver<Event>), BackendError> {
    let name = manifest.name.as_str();
    let failed = |code, why: String| Err(BackendError::new(code, format!("{name}: {why}")));
    let config = match serde_json::to_vec(config) {
        Ok(config) => config,
        Err(error) => return failed(ErrorCode::Invalid, format!("its settings: {error}")),
    };
    let (shared, events) = Shared::register(name);
    let (orders, receiver) = sync_channel(ORDER_QUEUE);
    let (made, outcome) = sync_channel(1);
    let thread = {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("plugin-{name}"))
            .spawn(move || serve(functions, &config, &shared, &receiver, &made))
    };
    if let Err(error) = thread {
        return failed(ErrorCode::Failed, format!("no thread for it: {error}"));
    }
    match outcome.recv_timeout(CREATE_DEADLINE) {
        Ok(Ok(())) => Ok((Client::new(shared, orders, manifest), events)),
        Ok(Err(error)) => Err(error),
        Err(_) => failed(
            ErrorCode::Timeout,
            format!("its `create` did not return within {CREATE_DEADLINE:?}"),
        ),
    }
}

fn serve(
    functions: Functions,
    config: &[u8],
    shared: &Shared,
    orders: &Receiver<Order>,
    made: &SyncSender<Result<(), BackendError>>,
) {
    let instance = match RawInstance::create(functions, shared.number, config) {
        Ok(instance) => instance,
        Err(error) => {
            // Who asked may have given up; then nobody is left to tell.
            let _ = made.send(Err(error));
            return;
        }
    };
    if made.send(Ok(())).is_err() {
        return;
    }
    while let Ok(order) = orders.recv() {
        match order {
            Order::Submit { op, request } => {
                if let Err(status) = instance.submit(op, &request) {
                    refuse(shared, op, status);
                }
            }
            Order::Cancel { op } => instance.cancel(op),
        }
    }
}

fn refuse(shared: &Shared, op: u64, status: i32) {
    let error = BackendError::new(
        ErrorCode::Broken,
        format!("{}: it refused the operation with status {status}", shared.name),
    );
    // It may have been answered before it was refused; then the answer counts.
    let _ = shared
        .slots
        .answer(op, Answer { status: STATUS_FAILED, json: serde_json::to_vec(&error).ok() });
}
