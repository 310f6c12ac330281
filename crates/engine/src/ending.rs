//! Records the end of an operation, and with it what it left: the state of its subject, unless
//! another command came in since, and the disks that were to be made for a VM. What is left is
//! decided in `vman-core`.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use vman_core::disk::{Disk, DiskState};
use vman_core::ident::{Timestamp, VmId};
use vman_core::lifecycle::{DiskEnd, Outcome, VmEnd, disk_end, vm_end};
use vman_core::operation::{Effect, Operation, OperationState, StepState, Subject, Verb};
use vman_core::ports::{Change, RecordError};
use vman_core::vm::{FailureReason, Vm, VmState};

use crate::Engine;
use crate::operation::{BY_REQUEST, text};

/// Whoever waits for an operation has its answer before the observer looks, which keeps the
/// processors busy for a millisecond or two.
const ANSWER_FIRST: Duration = Duration::from_millis(5);

/// How often an end is recorded anew because the record changed meanwhile.
const END_TRIES_MAX: u32 = 16;

/// Whose the state of a subject is when an operation on it ends.
enum Owner {
    Itself,
    /// A command that came in later.
    Newer,
    /// It ends before its turn, and this one, which came in earlier, goes on.
    Older(Verb),
}

impl Engine {
    /// An operation that was called off before its turn came.
    pub(crate) async fn end_unbegun(&self, operation: &Operation) -> Result<(), RecordError> {
        self.end(operation, &Outcome::Cancelled(BY_REQUEST.to_owned()), vec![]).await
    }

    /// Records the end, and what it leaves.
    pub(crate) async fn end(
        &self,
        operation: &Operation,
        outcome: &Outcome,
        untold: Vec<Change>,
    ) -> Result<(), RecordError> {
        for _ in 0..END_TRIES_MAX {
            let mut changes = untold.clone();
            changes.extend(self.what_is_left(operation, outcome).await?);
            match self.record_end(operation, outcome, changes).await {
                Err(RecordError::Stale(_)) => {}
                recorded => return recorded,
            }
        }
        Err(RecordError::Stale(operation.subject.to_string()))
    }

    pub(crate) async fn record_end(
        &self,
        operation: &Operation,
        outcome: &Outcome,
        mut changes: Vec<Change>,
    ) -> Result<(), RecordError> {
        let state = match outcome {
            Outcome::Succeeded => OperationState::Succeeded,
            Outcome::Failed(why) | Outcome::Refused(why) | Outcome::LeftToTheGuest(why) => {
                OperationState::Failed(why.clone())
            }
            Outcome::Cancelled(who) => OperationState::Cancelled(who.clone()),
        };
        let at = self.now();
        changes.push(Change::OperationState { operation: operation.id, state, at });
        let frees = changes.iter().any(|change| matches!(change, Change::RemoveVm(..)));
        self.commit(changes).await?;
        if frees {
            // Its address is to be given again.
            *self.inner.choosing.lock().await = None;
        }
        self.tell_end(operation, outcome);
        Ok(())
    }

    async fn what_is_left(
        &self,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<Vec<Change>, RecordError> {
        // Read before looking for others: whoever comes in after this makes the change stale.
        match &operation.subject {
            Subject::Vm(id) => {
                let Some(vm) = self.recall().vm(*id).await? else { return Ok(vec![]) };
                let mut changes = self.disks_not_made(*id, operation, outcome).await?;
                changes.extend(match self.owner(operation).await? {
                    Owner::Itself => vm_changes(&vm, operation.verb, outcome, self.now()),
                    Owner::Newer => vec![],
                    Owner::Older(verb) => meanwhile(verb)
                        .map(|state| vm_state(&vm, state, self.now()))
                        .into_iter()
                        .collect(),
                });
                Ok(changes)
            }
            Subject::Disk(id) => {
                let Some(disk) = self.recall().disk(*id).await? else { return Ok(vec![]) };
                Ok(match self.owner(operation).await? {
                    Owner::Itself => disk_changes(&disk, operation, outcome, self.now()),
                    Owner::Newer | Owner::Older(_) => vec![],
                })
            }
            Subject::Machine(_) | Subject::File(_) => Ok(vec![]),
        }
    }

    async fn owner(&self, operation: &Operation) -> Result<Owner, RecordError> {
        let unended = self.recall().unended(Some(&operation.subject)).await?;
        let own = unended.iter().position(|other| other.id == operation.id);
        let (older, newer) = unended.split_at(own.unwrap_or(unended.len()));
        Ok(match (older.last(), newer.len()) {
            (_, 2..) => Owner::Newer,
            (Some(older), _) => Owner::Older(older.verb),
            (None, _) => Owner::Itself,
        })
    }

    /// The records of disks that were to be made for a VM that was to be started, and were not.
    async fn disks_not_made(
        &self,
        vm: VmId,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<Vec<Change>, RecordError> {
        let prepares = |effect| effect == Effect::PrepareDisks;
        let Some(step) = operation.steps.iter().find(|step| prepares(step.effect)) else {
            return Ok(vec![]);
        };
        if *outcome == Outcome::Succeeded {
            return Ok(vec![]);
        }
        let disks = self.recall().disks_of(vm).await?.into_iter();
        let unmade = disks.filter(|disk| disk.state == DiskState::Creating);
        let change = |disk: Disk| match step.state {
            // Its image may be there: it goes when the disk is deleted.
            StepState::UndoFailed => {
                let verb = operation.verb.word();
                let reason = FailureReason(format!("{verb}: {}", text(outcome)));
                disk_state(&disk, DiskState::Failed(reason), disk.vm, self.now())
            }
            StepState::Pending
            | StepState::Running
            | StepState::Done
            | StepState::Failed
            | StepState::Undone => Change::RemoveDisk(disk.id),
        };
        Ok(unmade.map(change).collect())
    }

    fn tell_end(&self, operation: &Operation, outcome: &Outcome) {
        let (id, verb, subject) = (operation.id, operation.verb.word(), &operation.subject);
        let duration_ms = self.now().since(operation.created_at);
        match outcome {
            Outcome::Succeeded => {
                info!(operation = %id, verb, %subject, duration_ms, "operation succeeded");
            }
            Outcome::Failed(error) | Outcome::Refused(error) | Outcome::LeftToTheGuest(error) => {
                warn!(operation = %id, verb, %subject, duration_ms, %error, "operation failed");
            }
            Outcome::Cancelled(who) => {
                info!(operation = %id, verb, %subject, duration_ms, %who, "operation cancelled");
            }
        }
        self.inner.ended.send_modify(|count| *count = count.wrapping_add(1));
        // What was in transition until now can be compared again.
        let wake = Arc::clone(&self.inner.ports.wake_observer);
        tokio::spawn(async move {
            tokio::time::sleep(ANSWER_FIRST).await;
            wake();
        });
    }
}

fn vm_changes(vm: &Vm, verb: Verb, outcome: &Outcome, at: Timestamp) -> Vec<Change> {
    let state = match vm_end(vm, verb, outcome) {
        None | Some(VmEnd::Kept) => return vec![],
        Some(VmEnd::Gone) => return vec![Change::RemoveVm(vm.id, at)],
        Some(VmEnd::State(state)) => state,
    };
    // Also where no effect told so: one that is believed to be gone is not looked for any more.
    let gone = (state == VmState::Stopped && vm.machine.is_some())
        .then_some(Change::VmMachine { vm: vm.id, machine: None });
    std::iter::once(vm_state(vm, state, at)).chain(gone).collect()
}

fn vm_state(vm: &Vm, state: VmState, at: Timestamp) -> Change {
    Change::VmState { vm: vm.id, expected: vm.generation, state, at }
}

/// The state of a VM while an operation of this verb goes on.
fn meanwhile(verb: Verb) -> Option<VmState> {
    match verb {
        Verb::VmStart | Verb::VmRestart | Verb::VmMarkRunning => Some(VmState::Starting),
        Verb::VmStop
        | Verb::VmKill
        | Verb::VmMarkStopped
        | Verb::VmStopStray
        | Verb::VmGuestEnded => Some(VmState::Stopping),
        // The VM is what it was until it is done, and one that is paused is what is resumed.
        Verb::VmPause | Verb::VmReset => Some(VmState::Running),
        Verb::VmResume => Some(VmState::Paused),
        Verb::VmDelete => Some(VmState::Deleting),
        Verb::DiskCreate
        | Verb::DiskAttach
        | Verb::DiskDetach
        | Verb::DiskResize
        | Verb::DiskReleased
        | Verb::DiskDelete
        | Verb::DiskMarkMissing
        | Verb::DiskMarkAvailable
        | Verb::ProcessKill
        | Verb::FileQuarantine => None,
    }
}

fn disk_changes(
    disk: &Disk,
    operation: &Operation,
    outcome: &Outcome,
    at: Timestamp,
) -> Vec<Change> {
    match disk_end(disk, ends_as(operation), outcome) {
        None => vec![],
        Some(DiskEnd::Gone) => vec![Change::RemoveDisk(disk.id)],
        Some(DiskEnd::Is { state, vm, size_gib }) => {
            let resized =
                (size_gib != disk.size_gib).then_some(Change::DiskSize { disk: disk.id, size_gib });
            std::iter::once(disk_state(disk, state, vm, at)).chain(resized).collect()
        }
    }
}

/// An attachment that could not be taken back is a detachment that has not ended: the machine may
/// have the disk still.
fn ends_as(operation: &Operation) -> Verb {
    let is_left = operation.steps.iter().any(|step| step.state == StepState::UndoFailed);
    match operation.verb == Verb::DiskAttach && is_left {
        true => Verb::DiskDetach,
        false => operation.verb,
    }
}

fn disk_state(disk: &Disk, state: DiskState, vm: Option<VmId>, at: Timestamp) -> Change {
    let (expected, mount_point) = (disk.generation, disk.mount_point.clone());
    Change::DiskState { disk: disk.id, expected, state, vm, mount_point, at }
}
