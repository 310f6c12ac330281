//! Carries one operation out: its effects in order, and its undoing in reverse, the failing step
//! included. Every step is recorded before it touches the host, and its end together with what
//! comes next, so that a daemon killed anywhere in here finds the place again: a step that is
//! recorded as running may have begun. What is left at the end is told in [`crate::ending`].

use std::pin::pin;

use tracing::info;
use vman_core::disk::DiskState;
use vman_core::ident::Timestamp;
use vman_core::lifecycle::{Outcome, may_cancel};
use vman_core::operation::{Effect, Operation, OperationState, Part, Step, StepState, Verb};
use vman_core::ports::{Applied, ApplyError, Change, MachineChange, RecordError, Target};

use crate::driver::Turn;
use crate::{Engine, deadline};

/// What an operation ends with that somebody asked to break off.
pub(crate) const BY_REQUEST: &str = "by a request";
const SUPERSEDED: &str = "superseded by ";

/// One operation while it is carried out.
struct Run<'a> {
    engine: &'a Engine,
    turn: &'a mut Turn,
    operation: Operation,
    target: Target,
    /// Told to the records with the next change that has to be: a commit is what costs most.
    untold: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

impl Engine {
    /// `Err` if the records could not be used: the operation has then not ended.
    pub(crate) async fn carry_out(
        &self,
        operation: Operation,
        turn: &mut Turn,
    ) -> Result<(), RecordError> {
        let Some(target) = self.target(&operation.subject).await? else {
            let error = format!("{} does not exist any more", operation.subject);
            return self.record_end(&operation, &Outcome::Failed(error), vec![]).await;
        };
        if is_outrun(&operation, &target) {
            // The disk is somebody else's by now.
            return self.record_end(&operation, &Outcome::Succeeded, vec![]).await;
        }
        let mut run = Run { engine: self, turn, operation, target, untold: vec![] };
        run.begin();
        let halted = match earlier_halt(&run.operation) {
            Some(outcome) => Some(outcome),
            None => run.go_forward().await?,
        };
        let outcome = match halted {
            Some(outcome) => run.go_back(outcome).await?,
            None => Outcome::Succeeded,
        };
        self.end(&run.operation, &outcome, run.untold).await
    }

    /// One effect, bounded in time. What has not ended by then is dropped.
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        let _launch = match effect == Effect::Launch {
            // Nobody closes it.
            true => self.inner.launches.acquire().await.ok(),
            false => None,
        };
        let port = match effect.part() {
            Part::Network(_) => &self.inner.ports.network,
            Part::Machine(_) | Part::Disk(_) | Part::QuarantineFile => &self.inner.ports.operator,
        };
        if outlives_power(effect) {
            self.sync().await.map_err(|error| ApplyError::Failed(error.to_string()))?;
        }
        let at_most = deadline::of(effect, self.inner.config.stop_grace);
        match tokio::time::timeout(at_most, port.apply(effect, target)).await {
            Ok(applied) => applied,
            Err(_) => Err(ApplyError::Failed(format!(
                "{} did not end within {} s, so it was given up; see the log for what the backend \
                 and the host say, then try again, or kill the VM if its machine hangs",
                effect.word(),
                at_most.as_secs()
            ))),
        }
    }
}

impl Run<'_> {
    fn begin(&mut self) {
        let operation = &mut self.operation;
        let (id, verb, subject) = (operation.id, operation.verb.word(), &operation.subject);
        info!(operation = %id, verb, %subject, "operation begins");
        if operation.state == OperationState::Pending {
            operation.state = OperationState::Running;
            let (state, at) = (OperationState::Running, self.engine.now());
            self.untold.push(Change::OperationState { operation: id, state, at });
        }
    }

    /// Why it went no further, or all is done.
    async fn go_forward(&mut self) -> Result<Option<Outcome>, RecordError> {
        for index in 0..self.operation.steps.len() {
            if self.operation.steps[index].state == StepState::Done {
                continue;
            }
            let effect = self.operation.steps[index].effect;
            self.turn.look(self.engine, self.operation.id).await;
            let applied = match broken_off(self.turn, &self.operation, effect, Way::Forward) {
                Some(who) => Err(Outcome::Cancelled(who)),
                None => {
                    self.record_begun(index).await?;
                    self.apply(effect, Way::Forward).await
                }
            };
            match applied {
                Ok(applied) => self.tell_done(index, applied),
                Err(outcome) => {
                    self.record_failed(index, &outcome).await?;
                    return Ok(Some(outcome));
                }
            }
        }
        Ok(None)
    }

    /// Before the host is touched, with the end of the step before. Steps that go with this one are
    /// recorded as running with it, to spare a commit for each.
    async fn record_begun(&mut self, index: usize) -> Result<(), RecordError> {
        let now = self.engine.now();
        let begins = self.operation.steps[index].state == StepState::Pending;
        for index in mark_begun(&mut self.operation.steps[index..], now).map(|at| index + at) {
            self.untold.push(step_change(&self.operation, index));
        }
        self.operation.steps[index].started_at = Some(now);
        if begins { self.record_untold().await } else { Ok(()) }
    }

    fn tell_done(&mut self, index: usize, applied: Applied) {
        let now = self.engine.now();
        let Applied { machine, note } = applied;
        let step = &mut self.operation.steps[index];
        (step.state, step.ended_at, step.note) = (StepState::Done, Some(now), note);
        self.untold.extend(machine_change(&self.target, machine));
        if self.operation.steps[index].effect == Effect::PrepareDisks {
            self.untold.extend(attach_made(&mut self.target, now));
        }
        self.untold.push(step_change(&self.operation, index));
    }

    async fn record_failed(&mut self, index: usize, why: &Outcome) -> Result<(), RecordError> {
        let step = &mut self.operation.steps[index];
        step.state = StepState::Failed;
        step.note = Some(text(why).to_owned());
        step.ended_at = Some(self.engine.now());
        self.untold.push(step_change(&self.operation, index));
        for index in index + 1..self.operation.steps.len() {
            let step = &mut self.operation.steps[index];
            // One with an undo is undone.
            if step.state == StepState::Running && step.undo.is_none() {
                *step = Step::new(step.effect, None);
                self.untold.push(step_change(&self.operation, index));
            }
        }
        self.record_untold().await
    }

    /// Undoes every step that has begun, last first, going on after errors; returns them all in one
    /// text behind the first.
    async fn go_back(&mut self, mut outcome: Outcome) -> Result<Outcome, RecordError> {
        for index in (0..self.operation.steps.len()).rev() {
            let step = &self.operation.steps[index];
            let Some(undo) = step.undo else { continue };
            if step.state == StepState::Undone || step.started_at.is_none() {
                continue;
            }
            let applied = self.apply(undo, Way::Back).await;
            let step = &mut self.operation.steps[index];
            step.ended_at = Some(self.engine.now());
            match applied {
                Ok(Applied { machine, .. }) => {
                    step.state = StepState::Undone;
                    self.untold.extend(machine_change(&self.target, machine));
                }
                Err(why) => {
                    step.state = StepState::UndoFailed;
                    outcome = undo_failed(outcome, undo, &why);
                }
            }
            self.untold.push(step_change(&self.operation, index));
            self.record_untold().await?;
        }
        Ok(outcome)
    }

    /// Drops an effect whose place a newer command takes, or that somebody called off.
    async fn apply(&mut self, effect: Effect, way: Way) -> Result<Applied, Outcome> {
        let Self { engine, turn, operation, target, .. } = self;
        let mut applying = pin!(engine.apply(effect, target));
        turn.look(engine, operation.id).await;
        // Bounded by the effect: every round but the last one is a command that came in meanwhile.
        loop {
            if let Some(who) = broken_off(turn, operation, effect, way) {
                return Err(Outcome::Cancelled(who));
            }
            tokio::select! {
                biased;
                applied = &mut applying => return applied.map_err(outcome_of),
                () = turn.nudged() => turn.look(engine, operation.id).await,
            }
        }
    }

    async fn record_untold(&mut self) -> Result<(), RecordError> {
        self.engine.commit(std::mem::take(&mut self.untold)).await
    }
}

/// Whether a loss of power leaves what the effect does to the host: files. Then the record of it
/// has to be on the device first; machines and network devices go with the power.
fn outlives_power(effect: Effect) -> bool {
    match effect {
        Effect::PrepareDirectory
        | Effect::RemoveDirectory
        | Effect::PrepareDisks
        | Effect::DiscardNewDisks
        | Effect::CreateImage
        | Effect::ResizeImage
        | Effect::DeleteImage
        | Effect::QuarantineFile => true,
        Effect::ConnectNetwork
        | Effect::DisconnectNetwork
        | Effect::Launch
        | Effect::Adopt
        | Effect::PowerOff
        | Effect::End
        | Effect::Kill
        | Effect::Pause
        | Effect::Resume
        | Effect::Reset
        | Effect::AttachDisk
        | Effect::DetachDisk => false,
    }
}

/// Who breaks `operation` off before or while `effect` goes on, if anybody does.
fn broken_off(turn: &Turn, operation: &Operation, effect: Effect, way: Way) -> Option<String> {
    if let Some(newer) = turn.superseding(operation.id, effect) {
        return Some(format!("{SUPERSEDED}{} (operation {})", newer.verb.word(), newer.id));
    }
    let called_off = match way {
        Way::Forward => turn.is_cancelled(operation.id) && may_cancel(operation).is_ok(),
        // What goes back is broken off already.
        Way::Back => false,
    };
    called_off.then(|| BY_REQUEST.to_owned())
}

/// Marks the first of `steps` as running, with those that go with it, unless it is so already;
/// returns which.
pub(crate) fn mark_begun(steps: &mut [Step], now: Timestamp) -> std::ops::Range<usize> {
    let pending = |step: &Step| step.state == StepState::Pending;
    if !steps.first().is_some_and(pending) {
        return 0..0;
    }
    let follows = |pair: &[Step]| goes_with(pair[0].effect, pair[1].effect) && pending(&pair[1]);
    let count = 1 + steps.windows(2).take_while(|pair| follows(pair)).count();
    for step in &mut steps[..count] {
        (step.state, step.started_at) = (StepState::Running, Some(now));
    }
    0..count
}

/// Whether `next` may be recorded as begun when `effect` begins. Both are short, or `effect` cannot
/// be broken off; and taking `next` back does no harm where `effect` has failed.
fn goes_with(effect: Effect, next: Effect) -> bool {
    let prepares = |effect| {
        matches!(effect, Effect::PrepareDirectory | Effect::PrepareDisks | Effect::ConnectNetwork)
    };
    let clears = |effect| matches!(effect, Effect::DisconnectNetwork | Effect::RemoveDirectory);
    let ends = matches!(effect, Effect::End | Effect::Kill);
    prepares(effect) && prepares(next) || (ends || clears(effect)) && clears(next)
}

/// Whether a disk has no VM any more that its VM was to be asked for: the VM was deleted before its
/// turn came, and let go of it.
fn is_outrun(operation: &Operation, target: &Target) -> bool {
    let (Some(vm), Target::Disk(target)) = (operation.turn_of, target) else { return false };
    operation.verb == Verb::DiskDetach && target.disk.vm != Some(vm)
}

/// Why it went no further before the daemon was restarted, if it did not: the last step with a note
/// among those that failed or were undone is the one that failed.
fn earlier_halt(operation: &Operation) -> Option<Outcome> {
    let halted = |step: &&Step| step.state.is_failure();
    operation.steps.iter().find(halted)?;
    let note = operation.steps.iter().filter(halted).rev().find_map(|step| step.note.clone());
    let unknown = || "a step failed before the daemon was restarted".to_owned();
    let why = note.unwrap_or_else(unknown);
    let called_off = operation.cancel_requested && why == BY_REQUEST;
    Some(match called_off || why.starts_with(SUPERSEDED) {
        true => Outcome::Cancelled(why),
        // Of which kind it was is not known any more.
        false => Outcome::Failed(why),
    })
}

fn outcome_of(error: ApplyError) -> Outcome {
    match error {
        ApplyError::Failed(why) => Outcome::Failed(why),
        ApplyError::Refused(why) => Outcome::Refused(why),
        ApplyError::LeftToTheGuest(why) => Outcome::LeftToTheGuest(why),
    }
}

/// What went wrong, or who broke it off.
pub(crate) fn text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Succeeded => "",
        Outcome::Failed(why)
        | Outcome::Refused(why)
        | Outcome::LeftToTheGuest(why)
        | Outcome::Cancelled(why) => why,
    }
}

fn undo_failed(outcome: Outcome, undo: Effect, why: &Outcome) -> Outcome {
    let both = format!("{}; undoing by {} failed: {}", text(&outcome), undo.word(), text(why));
    match matches!((&outcome, why), (Outcome::Cancelled(_), Outcome::Cancelled(_))) {
        // What it left is for the newer command, which does not wait for it.
        true => Outcome::Cancelled(both),
        false => Outcome::Failed(both),
    }
}

fn step_change(operation: &Operation, index: usize) -> Change {
    let step = operation.steps[index].clone();
    Change::OperationStep { operation: operation.id, index, step }
}

fn machine_change(target: &Target, change: MachineChange) -> Option<Change> {
    let Target::Vm(target) = target else { return None };
    let vm = target.vm.id;
    match change {
        MachineChange::Same => None,
        MachineChange::Lives(machine) => Some(Change::VmMachine { vm, machine: Some(machine) }),
        MachineChange::Gone => Some(Change::VmMachine { vm, machine: None }),
    }
}

/// The disks that were made for the VM are attached from now on.
fn attach_made(target: &mut Target, at: Timestamp) -> Vec<Change> {
    let Target::Vm(target) = target else { return vec![] };
    let made = target.disks.iter_mut().filter(|disk| disk.state == DiskState::Creating);
    made.map(|disk| {
        let expected = disk.generation;
        (disk.state, disk.generation) = (DiskState::Attached, expected.next());
        let (state, vm, mount_point) = (disk.state.clone(), disk.vm, disk.mount_point.clone());
        Change::DiskState { disk: disk.id, expected, state, vm, mount_point, at }
    })
    .collect()
}
