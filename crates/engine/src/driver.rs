//! Drivers: one task per subject that has operations to carry out, so that a wedged machine wedges
//! only itself, and no two effects ever meet on one machine. A driver is nudged without being told
//! what for: it reads what there is to do.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::error;
use vman_core::operation::Subject;

use crate::Engine;

/// Which subjects are being driven.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    running: Mutex<HashMap<Subject, Running>>,
}

/// What a driver is told while it runs.
#[derive(Debug, Default)]
struct Running {
    /// Something came in since it last looked.
    again: bool,
    /// The same, for a driver that waits in an effect.
    nudged: Arc<Notify>,
}

impl Drivers {
    /// True if a driver must be started.
    fn nudge(&self, subject: &Subject) -> bool {
        match self.running().entry(subject.clone()) {
            Entry::Occupied(mut running) => {
                let running = running.get_mut();
                running.again = true;
                running.nudged.notify_one();
                false
            }
            Entry::Vacant(idle) => {
                idle.insert(Running::default());
                true
            }
        }
    }

    /// What the driver of `subject` is nudged by.
    pub(crate) fn nudged(&self, subject: &Subject) -> Arc<Notify> {
        self.running().get(subject).map(|running| Arc::clone(&running.nudged)).unwrap_or_default()
    }

    /// True if the driver may end: nothing came in since it last looked.
    fn retire(&self, subject: &Subject) -> bool {
        let mut all = self.running();
        match all.get_mut(subject) {
            Some(running) if running.again => {
                running.again = false;
                false
            }
            Some(_) | None => {
                all.remove(subject);
                true
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Subject, Running>> {
        // A poisoned lock means a panic between two statements that leave the map whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a subject off the list when its driver ends in a panic, so that it can be driven again.
struct Driving {
    engine: Engine,
    subject: Subject,
    done: bool,
}

impl Drop for Driving {
    fn drop(&mut self) {
        if !self.done {
            while !self.engine.inner.drivers.retire(&self.subject) {}
        }
    }
}

impl Engine {
    /// Has the subject's operations carried out, in the order they were let in.
    pub(crate) fn nudge(&self, subject: Subject) {
        if self.inner.drivers.nudge(&subject) {
            let driving = Driving { engine: self.clone(), subject, done: false };
            tokio::spawn(drive(driving));
        }
    }
}

async fn drive(mut driving: Driving) {
    loop {
        if !drain(&driving.engine, &driving.subject).await {
            // The records cannot be used: the operation stays recorded, and the next recovery
            // takes it up again.
            return;
        }
        if driving.engine.inner.drivers.retire(&driving.subject) {
            driving.done = true;
            return;
        }
    }
}

/// Carries out what there is; false if the records could not be read or written.
async fn drain(engine: &Engine, subject: &Subject) -> bool {
    // Bounded by the operations that may wait, which the gate bounds.
    loop {
        let next = match engine.recall().unended(Some(subject)).await {
            Ok(unended) => unended.into_iter().next(),
            Err(error) => {
                error!(%subject, %error, "cannot read what is to be done");
                return false;
            }
        };
        let Some(operation) = next else { return true };
        let id = operation.id;
        if let Err(error) = engine.carry_out(operation).await {
            error!(%subject, operation = %id, %error, "operation interrupted; it will be taken up");
            return false;
        }
    }
}
