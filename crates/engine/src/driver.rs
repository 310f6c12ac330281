//! Drivers: one task per subject that has operations to carry out, so that a wedged machine wedges
//! only itself, and no two effects ever meet on one machine. A driver is nudged without being told
//! what for: it reads what there is to do.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use tracing::error;
use vman_core::operation::Subject;

use crate::Engine;

/// Which subjects are being driven, and whether something came in since their drivers last looked.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    nudged: Mutex<HashMap<Subject, bool>>,
}

impl Drivers {
    /// True if a driver must be started.
    fn nudge(&self, subject: &Subject) -> bool {
        // A poisoned lock means a panic between two statements that leave the map whole.
        let mut nudged = self.nudged.lock().unwrap_or_else(PoisonError::into_inner);
        match nudged.entry(subject.clone()) {
            Entry::Occupied(mut running) => {
                running.insert(true);
                false
            }
            Entry::Vacant(idle) => {
                idle.insert(false);
                true
            }
        }
    }

    /// True if the driver may end: nothing came in since it last looked.
    fn retire(&self, subject: &Subject) -> bool {
        let mut nudged = self.nudged.lock().unwrap_or_else(PoisonError::into_inner);
        match nudged.get_mut(subject) {
            Some(again) if *again => {
                *again = false;
                false
            }
            Some(_) | None => {
                nudged.remove(subject);
                true
            }
        }
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
