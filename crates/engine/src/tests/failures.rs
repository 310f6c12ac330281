//! The laws of failing: an effect done twice is done once, and an operation that fails anywhere is
//! undone in reverse order, the failing step included.

use vman_core::lifecycle::{Outcome, VmCommand};
use vman_core::operation::{Effect, Step, StepState, Subject};
use vman_core::ports::{Applied, ApplyError, Target};
use vman_core::testing::samples;

use super::scenes::{Play, assert_deletable, operations_of_vm, plays};
use super::*;

const REASON: &str = "on purpose";

/// A host on which everything happens twice.
pub(super) struct Twice(pub(super) Arc<FakeHost>);

#[async_trait::async_trait]
impl Apply for Twice {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        self.0.apply(effect, target).await?;
        self.0.apply(effect, target).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_every_effect_happens_twice_ends_as_if_each_happened_once() {
    for play in plays() {
        let world = play.scene().await;
        let engine = world.engine_over(world.records.clone(), Arc::new(Twice(world.host.clone())));
        engine.recover().await.expect("readable");
        let id = ask(&engine, samples::vm_id(1), play.command).await;
        succeeded(&engine, id).await;
        play.assert_fulfilled(&world, &play.name()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_step_is_undone_in_reverse_and_told() {
    for play in plays().iter().filter(|play| play.is_alone()) {
        for failing in 0..play.steps.len() {
            for done_first in [false, true] {
                fail_at(play, failing, done_first).await;
            }
        }
    }
}

async fn fail_at(play: &Play, failing: usize, done_first: bool) {
    let story = format!("{}, step {failing} fails, done first: {done_first}", play.name());
    let world = play.scene().await;
    let effect = play.steps[failing].effect;
    if done_first {
        world.host.fail_next_after_doing(effect, REASON);
    } else {
        world.host.fail_next(effect, REASON);
    }
    let before = world.host.deeds().len();
    let engine = world.engine();
    let vm = samples::vm_id(1);
    let id = ask(&engine, vm, play.command).await;
    let operation = ended(&engine, id).await;

    assert_eq!(error_of(&operation), REASON, "{story}");
    let recorded = world.vm(vm).await;
    let expected = play.state_after(&Outcome::Failed(REASON.to_owned()));
    assert_eq!(Some(&recorded.state), expected.as_ref(), "{story}");
    let done: Vec<Effect> =
        world.host.deeds().into_iter().skip(before).map(|deed| deed.effect).collect();
    assert_eq!(done, effects_and_undos(&play.steps, failing), "{story}");
    for (index, step) in operation.steps.iter().enumerate() {
        let expected = state_after_undoing(&play.steps, index, failing);
        assert_eq!(step.state, expected, "{story}, step {index}");
    }
    let launches = play.steps.iter().any(|step| step.effect == Effect::Launch);
    // A machine that could not be ended, or did not say so, may still be there.
    if launches && (failing > 0 || play.state == VmState::Stopped) {
        assert_eq!((world.host.machine(vm), recorded.machine), (None, None), "{story}");
    }
    if play.state == VmState::Stopped && play.command == VmCommand::Start {
        let devices = world.host.survey().await.devices;
        assert_eq!(devices.known().map(|devices| devices.len()), Some(0), "{story}");
    }
    assert_deletable(&world, &engine, &story).await;
}

/// The last step that is recorded as begun when the one at `failing` is carried out: what prepares
/// the machine is recorded at once.
fn last_begun(steps: &[Step], failing: usize) -> usize {
    let prepares = |step: &Step| {
        let effects = [Effect::PrepareDirectory, Effect::PrepareDisks, Effect::ConnectNetwork];
        effects.contains(&step.effect)
    };
    let last = steps.iter().rposition(prepares);
    last.filter(|last| *last > failing && prepares(&steps[failing])).unwrap_or(failing)
}

/// Every effect up to the failing one, and then the undoing of what may have begun, last first.
fn effects_and_undos(steps: &[Step], failing: usize) -> Vec<Effect> {
    let undos = steps[..=last_begun(steps, failing)].iter().rev().filter_map(|step| step.undo);
    steps[..=failing].iter().map(|step| step.effect).chain(undos).collect()
}

fn state_after_undoing(steps: &[Step], index: usize, failing: usize) -> StepState {
    match (index.cmp(&failing), steps[index].undo) {
        (std::cmp::Ordering::Greater, Some(_)) if index <= last_begun(steps, failing) => {
            StepState::Undone
        }
        (std::cmp::Ordering::Greater, _) => StepState::Pending,
        (std::cmp::Ordering::Less | std::cmp::Ordering::Equal, Some(_)) => StepState::Undone,
        (std::cmp::Ordering::Equal, None) => StepState::Failed,
        (std::cmp::Ordering::Less, None) => StepState::Done,
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_either_of_two_operations_leaves_a_vm_that_can_be_deleted() {
    for play in plays().iter().filter(|play| !play.is_alone()) {
        for effect in Effect::ALL {
            let story = format!("{}, {} fails", play.name(), effect.word());
            let world = play.scene().await;
            world.host.fail_next(*effect, REASON);
            let engine = world.engine();
            engine.recover().await.expect("readable");
            let id = ask(&engine, samples::vm_id(1), play.command).await;
            let operation = ended(&engine, id).await;
            assert_eq!(operations_of_vm(&world).await.len(), 2, "{story}");
            world.host.heal(*effect);
            if operation.state == OperationState::Succeeded {
                play.assert_fulfilled(&world, &story).await;
            }
            if world.find_vm(samples::vm_id(1)).await.is_some() {
                assert_deletable(&world, &engine, &story).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_is_told_beside_the_failure_and_the_others_are_undone() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.fail_next_after_doing(Effect::Launch, "no answer");
    world.host.fail_next(Effect::End, "no answer either");
    let id = ask(&engine, vm, VmCommand::Start).await;
    let operation = ended(&engine, id).await;
    assert_eq!(error_of(&operation), "no answer; undoing by end failed: no answer either");
    let states: Vec<StepState> = operation.steps.iter().map(|step| step.state).collect();
    let undone = StepState::Undone;
    assert_eq!(states, [StepState::Done, undone, undone, StepState::UndoFailed]);
    // The machine lives on, and its VM says that it failed: the observer names that.
    assert_eq!(
        world.incoherences().await,
        [format!("VM {vm} is recorded failed, and its machine lives")]
    );
    let again = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, again).await;
    assert_eq!(world.vm(vm).await.machine, world.host.machine(vm));
    assert_eq!(world.incoherences().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_failed_vm_can_be_started_again() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.fail_next(Effect::Launch, REASON);
    let first = ask(&engine, vm, VmCommand::Start).await;
    assert_eq!(error_of(&ended(&engine, first).await), REASON);
    let second = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, second).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

#[tokio::test(start_paused = true)]
async fn an_operation_on_what_has_no_record_any_more_fails_and_does_nothing() {
    let world = World::new().await;
    world.put(vec![Change::AddOperation(samples::operation(7))]).await;
    let engine = world.engine();
    assert_eq!(engine.recover().await, Ok(1));
    let operation = ended(&engine, samples::operation_id(7)).await;
    let subject = Subject::Vm(samples::vm_id(7));
    assert_eq!(error_of(&operation), format!("{subject} does not exist any more"));
    assert_eq!(world.host.deeds(), []);
}
