//! Where calls of plugins into the host arrive: finds the instance by its number and hands on the
//! answer, event or log line. A number of an instance that is gone leads nowhere, so a plugin's
//! forgotten thread may call for ever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::{BackendError, ErrorCode};

/// Bytes of an error's message: it is recorded, and told to people.
const ERROR_LENGTH_MAX: usize = 8 * 1024;

static INSTANCES: RwLock<BTreeMap<u64, Weak<dyn Callbacks>>> = RwLock::new(BTreeMap::new());
static NEXT_INSTANCE: AtomicU64 = AtomicU64::new(1);

/// What calls of one instance into the host come to. No JSON means that it was null, or longer
/// than a message may be. None may block for long.
pub(crate) trait Callbacks: Send + Sync {
    /// The plugin ends an operation.
    fn complete(&self, op: u64, status: i32, json: Option<&[u8]>);
    /// The plugin tells an event.
    fn event(&self, json: Option<&[u8]>);
    /// The plugin writes a log line.
    fn log(&self, level: u32, json: Option<&[u8]>);
}

/// The number by which an instance calls the host; unknown again when this is dropped.
#[derive(Debug)]
pub(crate) struct Number(u64);

impl Number {
    pub(crate) fn give(callbacks: Weak<dyn Callbacks>) -> Self {
        let number = NEXT_INSTANCE.fetch_add(1, Ordering::Relaxed);
        INSTANCES.write().unwrap_or_else(PoisonError::into_inner).insert(number, callbacks);
        Self(number)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        INSTANCES.write().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

pub(crate) fn find(instance: u64) -> Option<Arc<dyn Callbacks>> {
    INSTANCES.read().unwrap_or_else(PoisonError::into_inner).get(&instance)?.upgrade()
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
