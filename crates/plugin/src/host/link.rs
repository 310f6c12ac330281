//! Where calls of plugins into the host arrive: finds the instance by its number and hands on the
//! answer, event or log line. A number of an instance that is gone leads nowhere, so a plugin's
//! forgotten thread may call for ever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use tokio::sync::mpsc;

use super::slots::{Answer, Slots};
use crate::wire::LogLine;
use crate::{BackendError, ErrorCode, Event, LogLevel};

/// Events that wait for the host to take them.
pub(crate) const EVENT_QUEUE: usize = 1024;

/// Bytes of an error's message: it is recorded, and told to people.
const ERROR_LENGTH_MAX: usize = 8 * 1024;

static INSTANCES: RwLock<BTreeMap<u64, Weak<Shared>>> = RwLock::new(BTreeMap::new());
static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

/// What the caller's side, the instance's thread and the plugin's calls share of one instance.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) number: u64,
    /// The plugin's name.
    pub(crate) name: String,
    pub(crate) slots: Slots,
    events: mpsc::Sender<Event>,
    pub(crate) dropped_answers: AtomicU64,
    pub(crate) dropped_events: AtomicU64,
}

impl Shared {
    /// Makes an instance's number known.
    pub(crate) fn register(name: &str) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let shared = Arc::new(Self {
            number: NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            slots: Slots::default(),
            events,
            dropped_answers: AtomicU64::new(0),
            dropped_events: AtomicU64::new(0),
        });
        INSTANCES
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(shared.number, Arc::downgrade(&shared));
        (shared, receiver)
    }

    pub(crate) fn answer(&self, op: u64, answer: Answer) {
        if !self.slots.answer(op, answer) {
            self.dropped_answers.fetch_add(1, Ordering::Relaxed);
            // Also that of an operation that was called off, which is nothing to worry about.
            tracing::debug!(plugin = self.name, op, "an answer came late or twice and was dropped");
        }
    }

    fn event(&self, json: Option<&[u8]>) {
        let event = json.and_then(|json| serde_json::from_slice::<Event>(json).ok());
        let taken = event.is_some_and(|event| self.events.try_send(event).is_ok());
        if !taken {
            self.dropped_events.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        INSTANCES.write().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// A plugin ends an operation; no JSON means that it was longer than a message may be.
pub(crate) fn complete(instance: u64, op: u64, status: i32, json: Option<&[u8]>) {
    if let Some(shared) = find(instance) {
        let json = json.map(<[u8]>::to_vec);
        shared.answer(op, Answer { status, json });
    }
}

/// A plugin tells an event.
pub(crate) fn emit_event(instance: u64, json: Option<&[u8]>) {
    if let Some(shared) = find(instance) {
        shared.event(json);
    }
}

/// A plugin writes a log line.
pub(crate) fn log(instance: u64, level: u32, json: Option<&[u8]>) {
    let line = json.and_then(|json| serde_json::from_slice::<LogLine>(json).ok());
    let (Some(shared), Some(LogLine { message })) = (find(instance), line) else {
        return;
    };
    let plugin = shared.name.as_str();
    match LogLevel::from_number(level) {
        LogLevel::Error => tracing::error!(plugin, "{message}"),
        LogLevel::Warn => tracing::warn!(plugin, "{message}"),
        LogLevel::Info => tracing::info!(plugin, "{message}"),
        LogLevel::Debug => tracing::debug!(plugin, "{message}"),
    }
}

/// What a plugin says of a failure, cut to [`ERROR_LENGTH_MAX`]; what cannot be read is a fault of
/// the plugin.
pub(crate) fn error_from(json: &[u8]) -> BackendError {
    let mut error: BackendError = serde_json::from_slice(json).unwrap_or_else(|error| {
        BackendError::new(
            ErrorCode::Broken,
            format!("it failed, and its reason does not parse: {error}"),
        )
    });
    if error.message.len() > ERROR_LENGTH_MAX {
        error.message.truncate(error.message.floor_char_boundary(ERROR_LENGTH_MAX));
        error.message.push('…');
    }
    error
}

fn find(instance: u64) -> Option<Arc<Shared>> {
    INSTANCES.read().unwrap_or_else(PoisonError::into_inner).get(&instance)?.upgrade()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_would_fill_the_records_is_cut() {
        let long = BackendError::new(ErrorCode::Conflict, "ä".repeat(ERROR_LENGTH_MAX));
        let read = error_from(&serde_json::to_vec(&long).unwrap());
        assert_eq!(read.code, ErrorCode::Conflict);
        assert!(read.message.ends_with("ä…") && read.message.len() <= ERROR_LENGTH_MAX + 3);
    }
}
