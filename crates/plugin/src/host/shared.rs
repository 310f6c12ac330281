//! What the caller's side, the instance's thread and the plugin's calls share of one instance. It
//! calls nothing in the plugin.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::mpsc;

use super::fault::{Fault, Inside};
use super::link::{Callbacks, Number};
use super::slots::{Answer, Slots};
use crate::wire::LogLine;
use crate::{Event, LogLevel};

/// Events that wait for the host to take them.
pub(crate) const EVENT_QUEUE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Shared {
    number: Number,
    /// The plugin's name.
    pub(crate) name: String,
    pub(crate) slots: Slots,
    pub(crate) inside: Inside,
    fault: OnceLock<Fault>,
    /// It was counted among those that hang in this process.
    pub(crate) hanging: AtomicBool,
    let_go: AtomicBool,
    /// None when the instance has ended.
    events: Mutex<Option<mpsc::Sender<Event>>>,
    pub(crate) dropped_answers: AtomicU64,
    pub(crate) dropped_events: AtomicU64,
}

impl Shared {
    /// Makes an instance's number known.
    pub(crate) fn register(name: &str) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let shared = Arc::new_cyclic(|weak: &Weak<Self>| Self {
            number: Number::give(weak.clone()),
            name: name.to_owned(),
            slots: Slots::default(),
            inside: Inside::default(),
            fault: OnceLock::new(),
            hanging: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            events: Mutex::new(Some(events)),
            dropped_answers: AtomicU64::new(0),
            dropped_events: AtomicU64::new(0),
        });
        (shared, receiver)
    }

    /// By which it calls the host.
    pub(crate) fn number(&self) -> u64 {
        self.number.get()
    }

    pub(crate) fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }

    /// The first one counts.
    pub(crate) fn fail(&self, fault: Fault) {
        if self.let_go.load(Ordering::Relaxed) {
            return;
        }
        if self.fault.set(fault).is_ok() {
            let why = self.fault.get().map(ToString::to_string).unwrap_or_default();
            tracing::error!(plugin = self.name, "the instance is used no longer: {why}");
        }
    }

    /// That it ends now is no fault.
    pub(crate) fn is_needed_no_longer(&self) {
        self.let_go.store(true, Ordering::Relaxed);
    }

    /// Nothing comes from it any more: who waits for an answer or an event hears so.
    pub(crate) fn ended(&self) {
        self.slots.end_all();
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(crate) fn answer(&self, op: u64, answer: Answer) {
        if !self.slots.answer(op, answer) {
            self.dropped_answers.fetch_add(1, Ordering::Relaxed);
            // Also that of an operation that was called off, which is nothing to worry about.
            tracing::debug!(plugin = self.name, op, "an answer came late or twice and was dropped");
        }
    }
}

impl Callbacks for Shared {
    fn complete(&self, op: u64, status: i32, json: Option<&[u8]>) {
        self.answer(op, Answer { status, json: json.map(<[u8]>::to_vec) });
    }

    fn event(&self, json: Option<&[u8]>) {
        let event = json.and_then(|json| serde_json::from_slice::<Event>(json).ok());
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = event
            .zip(events.as_ref())
            .is_some_and(|(event, events)| events.try_send(event).is_ok());
        if !taken {
            self.dropped_events.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn log(&self, level: u32, json: Option<&[u8]>) {
        let line = json.and_then(|json| serde_json::from_slice::<LogLine>(json).ok());
        let Some(LogLine { message }) = line else { return };
        let plugin = self.name.as_str();
        match LogLevel::from_number(level) {
            LogLevel::Error => tracing::error!(plugin, "{message}"),
            LogLevel::Warn => tracing::warn!(plugin, "{message}"),
            LogLevel::Info => tracing::info!(plugin, "{message}"),
            LogLevel::Debug => tracing::debug!(plugin, "{message}"),
        }
    }
}
