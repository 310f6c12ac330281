//! Why an instance is used no longer, and how it is known that it hangs. What is done about it is
//! decided by who uses instances.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::{BackendError, ErrorCode};

/// Why an instance is used no longer: another one must take its place. The words are for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// A verb panicked, and nobody knows in which state it left the instance.
    #[error("a verb of it panicked: {0}")]
    Panicked(String),
    /// Something in there does not end, also when it is told to.
    #[error("it hangs: {0}")]
    Hung(String),
    /// The process it ran in has ended.
    #[error("it crashed: {0}")]
    Crashed(String),
}

impl Fault {
    /// What a verb fails with that is asked of such an instance.
    pub(crate) fn error(&self, name: &str) -> BackendError {
        let code = match self {
            Self::Panicked(_) | Self::Hung(_) => ErrorCode::Broken,
            Self::Crashed(_) => ErrorCode::Crashed,
        };
        BackendError::new(code, format!("{name}: {self}; its machines are not touched by that"))
    }
}

/// A function of the plugin's table that the instance's thread may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Create,
    Submit,
    Cancel,
    Destroy,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Submit => "submit",
            Self::Cancel => "cancel",
            Self::Destroy => "destroy",
        }
    }

    /// How long it may take before the instance is said to hang.
    pub(crate) fn limit(self) -> Duration {
        match self {
            Self::Create => Duration::from_secs(10),
            Self::Submit | Self::Cancel | Self::Destroy => Duration::from_secs(5),
        }
    }
}

/// What the instance's thread is doing in the plugin's code, and since when.
#[derive(Debug, Default)]
pub(crate) struct Inside(Mutex<Option<(Function, Instant)>>);

impl Inside {
    /// Until the guard is dropped the thread is in there.
    pub(crate) fn enter(&self, function: Function) -> InsideGuard<'_> {
        self.set(Some((function, Instant::now())));
        InsideGuard(self)
    }

    /// What to say of a function that has not returned in time.
    pub(crate) fn overdue(&self) -> Option<Fault> {
        let (function, since) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let limit = function.limit();
        (since.elapsed() > limit).then(|| {
            Fault::Hung(format!("its `{}` has not returned for {limit:?}", function.name()))
        })
    }

    fn set(&self, state: Option<(Function, Instant)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

pub(crate) struct InsideGuard<'a>(&'a Inside);

impl Drop for InsideGuard<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
