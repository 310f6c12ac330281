//! Carries one operation out: its effects in order, its undoing in reverse with the failing step
//! included, and its end. Every step is recorded before it touches the host, and its end together
//! with what comes next, so that a daemon killed anywhere in here finds the place again.

use std::pin::pin;

use tracing::{info, warn};
use vman_core::disk::DiskState;
use vman_core::lifecycle::{Done, cuts_short, disk_end, vm_end};
use vman_core::operation::{Effect, Operation, OperationState, Part, StepState, Subject, Verb};
use vman_core::ports::{Applied, ApplyError, Change, MachineChange, RecordError, Target};
use vman_core::vm::{FailureReason, VmState};

use crate::Engine;

/// How often an end is recorded anew because the record changed meanwhile.
const END_TRIES_MAX: u32 = 16;

impl Engine {
    /// `Err` if the records could not be used: the operation has then not ended.
    pub(crate) async fn carry_out(&self, mut operation: Operation) -> Result<(), RecordError> {
        let Some(target) = self.target(&operation.subject).await? else {
            let error = format!("{} does not exist any more", operation.subject);
            return self.end(&operation, Err(error), vec![]).await;
        };
        // Told to the records with the next change that has to be: a commit is what costs most.
        let mut untold = self.begin(&mut operation);
        // A step that had failed before a restart: its undoing goes on.
        let failed = operation.steps.iter().rposition(|step| has_failed(step.state));
        let outcome = match failed {
            Some(index) => Err((index, earlier_failure(&operation))),
            None => self.go_forward(&mut operation, &target, &mut untold).await?,
        };
        match outcome {
            Ok(()) => self.end(&operation, Ok(()), untold).await,
            Err((index, error)) => {
                let error = self.go_back(&mut operation, &target, index, error).await?;
                self.end(&operation, Err(error), vec![]).await
            }
        }
    }

    /// The change that says so, if it had not begun before.
    fn begin(&self, operation: &mut Operation) -> Vec<Change> {
        if operation.state != OperationState::Pending {
            return vec![];
        }
        operation.state = OperationState::Running;
        let (verb, subject) = (operation.verb.word(), &operation.subject);
        info!(operation = %operation.id, verb, %subject, "operation begins");
        let state = OperationState::Running;
        vec![Change::OperationState { operation: operation.id, state, at: self.now() }]
    }

    /// The index of the step that failed and its error, or all is done.
    async fn go_forward(
        &self,
        operation: &mut Operation,
        target: &Target,
        untold: &mut Vec<Change>,
    ) -> Result<Result<(), (usize, String)>, RecordError> {
        for index in 0..operation.steps.len() {
            if operation.steps[index].state == StepState::Done {
                continue;
            }
            let step = &mut operation.steps[index];
            step.state = StepState::Running;
            step.started_at = Some(self.now());
            // Before the host is touched, with the end of the step before.
            self.record_step(operation, index, std::mem::take(untold)).await?;
            let effect = operation.steps[index].effect;
            let applied = self.apply_unless_cut_short(operation, effect, target).await;
            let step = &mut operation.steps[index];
            step.ended_at = Some(self.now());
            match applied {
                Ok(Applied { machine, note }) => {
                    step.state = StepState::Done;
                    step.note = note;
                    untold.extend(machine_change(target, machine));
                    untold.push(step_change(operation, index));
                }
                Err(ApplyError(error)) => {
                    step.state = StepState::Failed;
                    step.note = Some(error.clone());
                    self.record_step(operation, index, vec![]).await?;
                    return Ok(Err((index, error)));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Undoes the steps up to and with `index`, last first, going on after errors; returns them all
    /// in one text behind `error`.
    async fn go_back(
        &self,
        operation: &mut Operation,
        target: &Target,
        index: usize,
        mut error: String,
    ) -> Result<String, RecordError> {
        for index in (0..=index).rev() {
            let step = &operation.steps[index];
            let Some(undo) = step.undo else { continue };
            if step.state == StepState::Undone {
                continue;
            }
            let applied = self.apply(undo, target).await;
            let step = &mut operation.steps[index];
            step.ended_at = Some(self.now());
            let seen = match applied {
                Ok(Applied { machine, .. }) => {
                    step.state = StepState::Undone;
                    machine_change(target, machine)
                }
                Err(ApplyError(undo_error)) => {
                    step.state = StepState::UndoFailed;
                    error.push_str(&format!("; undoing by {} failed: {undo_error}", undo.word()));
                    vec![]
                }
            };
            self.record_step(operation, index, seen).await?;
        }
        Ok(error)
    }

    /// Drops an effect whose place a newer command takes, also one that was let in already.
    async fn apply_unless_cut_short(
        &self,
        operation: &Operation,
        effect: Effect,
        target: &Target,
    ) -> Result<Applied, ApplyError> {
        let nudged = self.inner.drivers.nudged(&operation.subject);
        let mut applying = pin!(self.apply(effect, target));
        // Bounded by the effect: every turn but the last one is a command that came in meanwhile.
        loop {
            if let Some(newer) = self.cuts_short(operation, effect).await {
                let (verb, id) = (newer.verb.word(), newer.id);
                return Err(ApplyError(format!("superseded by {verb} (operation {id})")));
            }
            tokio::select! {
                applied = &mut applying => return applied,
                () = nudged.notified() => {}
            }
        }
    }

    async fn cuts_short(&self, operation: &Operation, effect: Effect) -> Option<Operation> {
        if !Verb::ALL.iter().any(|verb| cuts_short(*verb, effect)) {
            return None;
        }
        // Records that cannot be read are no reason to break off what goes on.
        let unended = self.recall().unended(Some(&operation.subject)).await.unwrap_or_default();
        let newer = unended.into_iter().skip_while(|other| other.id != operation.id).skip(1);
        newer.into_iter().find(|newer| cuts_short(newer.verb, effect))
    }

    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        let port = match effect.part() {
            Part::Network(_) => &self.inner.ports.network,
            Part::Machine(_) | Part::Image(_) | Part::QuarantineFile => &self.inner.ports.operator,
        };
        port.apply(effect, target).await
    }

    async fn record_step(
        &self,
        operation: &Operation,
        index: usize,
        mut with: Vec<Change>,
    ) -> Result<(), RecordError> {
        with.push(step_change(operation, index));
        self.commit_port().commit(with).await
    }

    /// Records the end, and the subject's state with it unless another command came in since: then
    /// the state is that command's.
    async fn end(
        &self,
        operation: &Operation,
        outcome: Result<(), String>,
        untold: Vec<Change>,
    ) -> Result<(), RecordError> {
        for _ in 0..END_TRIES_MAX {
            let mut changes = untold.clone();
            changes.extend(self.end_state(operation, &outcome).await?);
            let state = match &outcome {
                Ok(()) => OperationState::Succeeded,
                Err(error) => OperationState::Failed(error.clone()),
            };
            let at = self.now();
            changes.push(Change::OperationState { operation: operation.id, state, at });
            match self.commit_port().commit(changes).await {
                Ok(()) => {
                    self.tell_end(operation, &outcome);
                    return Ok(());
                }
                Err(RecordError::Stale(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(RecordError::Stale(operation.subject.to_string()))
    }

    async fn end_state(
        &self,
        operation: &Operation,
        outcome: &Result<(), String>,
    ) -> Result<Vec<Change>, RecordError> {
        let subject = &operation.subject;
        // Read before looking for others: whoever comes in after this makes the change stale.
        let changes = match subject {
            Subject::Vm(id) => match self.recall().vm(*id).await? {
                Some(vm) => vm_changes(&vm, operation.verb, outcome, self.now()),
                None => vec![],
            },
            Subject::Disk(id) => match self.recall().disk(*id).await? {
                Some(disk) => disk_changes(&disk, operation.verb, outcome, self.now()),
                None => vec![],
            },
            Subject::Machine(_) | Subject::File(_) => vec![],
        };
        let unended = self.recall().unended(Some(subject)).await?;
        let superseded = unended.iter().any(|other| other.id != operation.id);
        Ok(if superseded { vec![] } else { changes })
    }

    fn tell_end(&self, operation: &Operation, outcome: &Result<(), String>) {
        let (id, verb, subject) = (operation.id, operation.verb.word(), &operation.subject);
        let duration_ms = self.now().since(operation.created_at);
        match outcome {
            Ok(()) => info!(operation = %id, verb, %subject, duration_ms, "operation succeeded"),
            Err(error) => {
                warn!(operation = %id, verb, %subject, duration_ms, %error, "operation failed");
            }
        }
        self.inner.ended.send_modify(|count| *count = count.wrapping_add(1));
        // What was in transition until now can be compared again.
        (self.inner.ports.wake_observer)();
    }
}

/// The step failed, or it was undone because a later one did.
fn has_failed(state: StepState) -> bool {
    match state {
        StepState::Failed | StepState::Undone | StepState::UndoFailed => true,
        StepState::Pending | StepState::Running | StepState::Done => false,
    }
}

/// The error of the step that had failed before the daemon was restarted: the last one touched.
fn earlier_failure(operation: &Operation) -> String {
    let failed = operation.steps.iter().rfind(|step| has_failed(step.state));
    failed
        .and_then(|step| step.note.clone())
        .unwrap_or_else(|| "a step failed before the daemon was restarted".to_owned())
}

fn step_change(operation: &Operation, index: usize) -> Change {
    let step = operation.steps[index].clone();
    Change::OperationStep { operation: operation.id, index, step }
}

fn machine_change(target: &Target, change: MachineChange) -> Vec<Change> {
    let Target::Vm(target) = target else { return vec![] };
    let vm = target.vm.id;
    match change {
        MachineChange::Same => vec![],
        MachineChange::Lives(machine) => vec![Change::VmMachine { vm, machine: Some(machine) }],
        MachineChange::Gone => vec![Change::VmMachine { vm, machine: None }],
    }
}

fn vm_changes(
    vm: &vman_core::vm::Vm,
    verb: Verb,
    outcome: &Result<(), String>,
    at: vman_core::ident::Timestamp,
) -> Vec<Change> {
    let state = match (outcome, vm_end(verb)) {
        (_, None) => return vec![],
        (Ok(()), Some(Done::State(state))) => state,
        (Ok(()), Some(Done::Gone)) => return vec![Change::RemoveVm(vm.id, at)],
        (Err(error), Some(_)) => {
            VmState::Failed(FailureReason(format!("{}: {error}", verb.word())))
        }
    };
    // Also where no effect told so: one that is believed to be gone is not looked for any more.
    let gone = (state == VmState::Stopped && vm.machine.is_some())
        .then_some(Change::VmMachine { vm: vm.id, machine: None });
    let change = Change::VmState { vm: vm.id, expected: vm.generation, state, at };
    std::iter::once(change).chain(gone).collect()
}

fn disk_changes(
    disk: &vman_core::disk::Disk,
    verb: Verb,
    outcome: &Result<(), String>,
    at: vman_core::ident::Timestamp,
) -> Vec<Change> {
    let state = match (outcome, disk_end(verb)) {
        (_, None) => return vec![],
        (Ok(()), Some(Done::State(state))) => state,
        (Ok(()), Some(Done::Gone)) => return vec![Change::RemoveDisk(disk.id)],
        (Err(error), Some(_)) => {
            DiskState::Failed(FailureReason(format!("{}: {error}", verb.word())))
        }
    };
    vec![Change::DiskState {
        disk: disk.id,
        expected: disk.generation,
        state,
        vm: disk.vm,
        mount_point: disk.mount_point.clone(),
        at,
    }]
}
