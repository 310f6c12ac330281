//! Tells the host when a simulated machine changes or ends, also when a person did it by editing
//! or deleting its file. An event is a hint; what is true is said by `machines`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;
use vman_plugin::{BackendContext, Control, Event, LogLevel, RunState};

use crate::machines;

/// How often the files of the machines known here are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// What the clock on the wall and a timer may differ by when a guest powers off.
const CLOCK_SLACK: Duration = Duration::from_millis(2);

/// Watches every machine that was launched or found again here, until it ends.
#[derive(Debug, Clone)]
pub(crate) struct Watch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    machines_dir: PathBuf,
    context: BackendContext,
    /// What was told of each; `None` while its file does not parse.
    known: Mutex<HashMap<Uuid, Option<RunState>>>,
}

impl Watch {
    /// Must be called inside the instance's runtime, and ends with it.
    pub(crate) fn start(machines_dir: PathBuf, context: BackendContext) -> Self {
        let watch = Self(Arc::new(Inner { machines_dir, context, known: Mutex::default() }));
        let watching = watch.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(WATCH_INTERVAL);
            loop {
                ticks.tick().await;
                let round = watching.clone();
                // It ends with the runtime alone.
                let _ = tokio::task::spawn_blocking(move || round.look_at_all()).await;
            }
        });
        watch
    }

    /// Looks at a machine that is new here or was just changed.
    pub(crate) fn look(&self, id: Uuid) {
        self.0.look(id);
    }

    /// Looks again when the guest has had this long.
    pub(crate) fn look_after(&self, id: Uuid, wait: Duration) {
        let watch = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait + CLOCK_SLACK).await;
            watch.look(id);
        });
    }

    fn look_at_all(&self) {
        let known: Vec<Uuid> = self.0.known().keys().copied().collect();
        for id in known {
            self.look(id);
        }
    }
}

impl Inner {
    fn look(&self, id: Uuid) {
        let directory = self.machines_dir.join(id.to_string());
        // Held while looking, so that an older look never overtakes a newer one.
        let mut known = self.known();
        let seen = match machines::sight(&directory, id) {
            Ok(seen) => seen,
            Err(error) => return self.context.log(LogLevel::Warn, &error.message),
        };
        let Some(sighting) = seen else {
            if known.remove(&id).is_some() {
                let reason = "its machine.json was removed".to_owned();
                self.context.emit(Event::MachineEnded { id, reason });
            }
            return;
        };
        let run_state = match sighting.control {
            Control::Connected { run_state } => Some(run_state),
            Control::Unreachable { .. } => None,
        };
        let before = known.insert(id, run_state);
        if let Some(run_state) = run_state
            && before.is_some_and(|before| before != Some(run_state))
        {
            self.context.emit(Event::MachineChanged { id, run_state });
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Option<RunState>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
