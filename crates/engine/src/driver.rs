//! Drivers: one task per turn that has operations to carry out, so that a wedged machine wedges
//! only itself, and no two effects ever meet on one machine: what touches a machine is in the turn
//! of its VM. A driver is nudged without being told what for: it reads what there is to do.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::{error, warn};
use vman_core::ident::OperationId;
use vman_core::lifecycle::{cuts_short, may_cancel};
use vman_core::operation::{Effect, Operation, OperationState, Subject};
use vman_core::ports::RecordError;

use crate::Engine;

/// Which turns are being driven, and how their drivers are nudged.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    running: Mutex<HashMap<Subject, watch::Sender<()>>>,
}

impl Drivers {
    /// What a driver is nudged by that must be started now; none if there is one.
    fn nudge(&self, turn: &Subject) -> Option<watch::Receiver<()>> {
        match self.running().entry(turn.clone()) {
            Entry::Occupied(running) => {
                running.get().send_replace(());
                None
            }
            Entry::Vacant(idle) => {
                let (sender, nudges) = watch::channel(());
                idle.insert(sender);
                Some(nudges)
            }
        }
    }

    /// True if the driver may end: nothing came in since it last looked.
    fn retire(&self, turn: &Turn) -> bool {
        let mut running = self.running();
        if turn.was_nudged() {
            return false;
        }
        running.remove(&turn.subject);
        true
    }

    fn forget(&self, turn: &Subject) {
        self.running().remove(turn);
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Subject, watch::Sender<()>>> {
        // A poisoned lock means a panic between two statements that leave the map whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a turn off the list when its driver ends in a panic, so that it can be driven again.
struct Driving {
    engine: Engine,
    turn: Turn,
    done: bool,
}

impl Drop for Driving {
    fn drop(&mut self) {
        if !self.done {
            self.engine.inner.drivers.forget(&self.turn.subject);
        }
    }
}

impl Engine {
    /// Has the operations of a turn carried out, in the order they were let in.
    pub(crate) fn nudge(&self, turn: Subject) {
        if let Some(nudges) = self.inner.drivers.nudge(&turn) {
            let turn = Turn { subject: turn, nudges, waiting: Vec::new() };
            tokio::spawn(drive(Driving { engine: self.clone(), turn, done: false }));
        }
    }
}

async fn drive(mut driving: Driving) {
    loop {
        if let Err(error) = drain(&driving.engine, &mut driving.turn).await {
            // The records cannot be used: the operation stays recorded, and the next recovery
            // takes it up again.
            let turn = &driving.turn.subject;
            error!(%turn, %error, "operations interrupted; they will be taken up");
            return;
        }
        if driving.engine.inner.drivers.retire(&driving.turn) {
            driving.done = true;
            return;
        }
    }
}

/// Carries out what there is.
async fn drain(engine: &Engine, turn: &mut Turn) -> Result<(), RecordError> {
    // Bounded by the operations that may wait, which the gate bounds.
    loop {
        turn.read(engine).await?;
        turn.end_called_off(engine, None).await?;
        let next = turn.waiting.iter().find(|operation| !is_called_off(operation));
        let Some(operation) = next.cloned() else { return Ok(()) };
        engine.carry_out(operation, turn).await?;
    }
}

/// It has not begun, and is not to begin.
fn is_called_off(operation: &Operation) -> bool {
    operation.state == OperationState::Pending
        && operation.cancel_requested
        && may_cancel(operation).is_ok()
}

/// What a driver has to do, as it last looked.
pub(crate) struct Turn {
    subject: Subject,
    nudges: watch::Receiver<()>,
    /// Not ended, oldest first.
    waiting: Vec<Operation>,
}

impl Turn {
    /// Whoever lets something in nudges after that: what is read here is then complete, or a nudge
    /// is still to come.
    async fn read(&mut self, engine: &Engine) -> Result<(), RecordError> {
        self.nudges.borrow_and_update();
        self.waiting = engine.recall().in_turn(&self.subject).await?;
        Ok(())
    }

    /// Something came in since it last looked.
    fn was_nudged(&self) -> bool {
        // Its sender goes when it is retired, and not before.
        self.nudges.has_changed().unwrap_or(false)
    }

    /// Returns once something has come in.
    pub(crate) async fn nudged(&mut self) {
        if self.nudges.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.nudges.mark_changed();
    }

    /// Looks anew if something came in, while the operation `current` goes on.
    pub(crate) async fn look(&mut self, engine: &Engine, current: OperationId) {
        if !self.was_nudged() {
            return;
        }
        let looked = match self.read(engine).await {
            Ok(()) => self.end_called_off(engine, Some(current)).await,
            unread => unread,
        };
        if let Err(error) = looked {
            // No reason to break off what goes on; what was called off ends when its turn comes.
            warn!(turn = %self.subject, %error, "cannot see to what is to be done");
        }
    }

    /// Ends what was called off before its turn came, while `current` goes on.
    async fn end_called_off(
        &self,
        engine: &Engine,
        current: Option<OperationId>,
    ) -> Result<(), RecordError> {
        let others = self.waiting.iter().filter(|operation| Some(operation.id) != current);
        for operation in others.filter(|operation| is_called_off(operation)) {
            engine.end_unbegun(operation).await?;
        }
        Ok(())
    }

    /// The newer operation that takes the place of `operation` while `effect` goes on.
    pub(crate) fn superseding(&self, operation: OperationId, effect: Effect) -> Option<&Operation> {
        let newer = self.waiting.iter().skip_while(|other| other.id != operation).skip(1);
        newer.into_iter().find(|newer| cuts_short(newer.verb, effect) && !is_called_off(newer))
    }

    /// Somebody asked that `operation` be broken off.
    pub(crate) fn is_cancelled(&self, operation: OperationId) -> bool {
        self.waiting.iter().any(|one| one.id == operation && one.cancel_requested)
    }
}
