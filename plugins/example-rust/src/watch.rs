//! Tells the host that a machine has ended, once for each process: when it ends by itself, or when
//! a verb has ended it. A hint for the host, which looks for itself; nothing here ends a machine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;
use vman_plugin::{BackendContext, Event, ProcessIdentity};

use crate::process::{Found, Held};

/// The processes that are watched. Cheap to clone; its tasks end with the instance.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    context: BackendContext,
    watched: Arc<Mutex<HashMap<Uuid, ProcessIdentity>>>,
}

impl Watch {
    pub(crate) fn new(context: BackendContext) -> Self {
        Self { context, watched: Arc::default() }
    }

    /// Watches a machine from now on; one that is watched already is left alone.
    pub(crate) fn begin(&self, folder: &Path, found: &Found) {
        // One that ended in between, or cannot be held, is found by the next survey.
        let Ok(Some(held)) = Held::machine(folder, found) else { return };
        let before = self.with(|watched| watched.insert(found.id, found.identity.clone()));
        if before.as_ref() == Some(&found.identity) {
            return;
        }
        let (watch, found) = (self.clone(), found.clone());
        tokio::spawn(async move {
            held.ended().await;
            watch.tell_ended(&found, "its process has ended");
        });
    }

    /// Nothing, if it was told already or the machine is not watched.
    pub(crate) fn tell_ended(&self, found: &Found, reason: &str) {
        let is_news = self.with(|watched| {
            let is_it = watched.get(&found.id) == Some(&found.identity);
            is_it && watched.remove(&found.id).is_some()
        });
        if is_news {
            self.context.emit(Event::MachineEnded { id: found.id, reason: reason.to_owned() });
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Uuid, ProcessIdentity>) -> T) -> T {
        f(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
