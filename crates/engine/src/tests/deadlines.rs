//! Effects that never end, and machines that start at the same time.

use vman_core::lifecycle::Outcome;
use vman_core::operation::{Effect, Subject};
use vman_core::testing::samples;

use super::scenes::{assert_deletable, plays};
use super::*;
use crate::deadline;

const GRACE: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn an_effect_that_never_ends_fails_at_its_deadline_and_is_undone() {
    for play in plays().iter().filter(|play| play.is_alone()) {
        for step in &play.steps {
            let (world, effect) = (play.scene().await, step.effect);
            let story = format!("{}, {} hangs", play.name(), effect.word());
            let engine = world.engine();
            world.host.hold(effect);
            let begun = tokio::time::Instant::now();
            let id = ask(&engine, samples::vm_id(1), play.command).await;
            let operation = ended(&engine, id).await;
            let error = error_of(&operation).to_owned();
            let at_most = deadline::of(effect, GRACE);
            let told = format!("{} did not end within {} s", effect.word(), at_most.as_secs());
            assert!(error.starts_with(&told) && error.contains("try again"), "{story}: {error}");
            assert!(begun.elapsed() >= at_most, "{story}");
            let state = world.vm(samples::vm_id(1)).await.state;
            assert_eq!(Some(state), play.state_after(&Outcome::Failed(error)), "{story}");
            world.host.release(effect);
            assert_deletable(&world, &engine, &story).await;
        }
    }
}

#[test]
fn the_guests_grace_is_part_of_the_time_that_powering_off_may_take() {
    let more = Duration::from_secs(600);
    assert_eq!(
        deadline::of(Effect::PowerOff, more) - deadline::of(Effect::PowerOff, GRACE),
        more - GRACE
    );
    for effect in Effect::ALL {
        assert!(deadline::of(*effect, GRACE) < LONG, "{}", effect.word());
    }
    assert_eq!(deadline::of(Effect::PowerOff, Duration::MAX), Duration::MAX);
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_never_ends_is_given_up_and_told() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.fail_next(Effect::Launch, "no room");
    world.host.hold(Effect::End);
    let start = ask(&engine, vm, VmCommand::Start).await;
    let operation = ended(&engine, start).await;
    let error = error_of(&operation);
    assert!(error.starts_with("no room; undoing by end failed: end did not end within"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_machines_are_started_at_the_same_time() {
    let world = World::new().await;
    let engine = world.engine();
    world.host.hold(Effect::Launch);
    let mut starts = Vec::new();
    for number in 1..=20 {
        let vm = world.add_vm(number, VmState::Stopped).await;
        starts.push(ask(&engine, vm, VmCommand::Start).await);
    }
    world.host.reached(Effect::Launch, 16).await;
    let more = world.host.reached(Effect::Launch, 17);
    tokio::time::timeout(Duration::from_secs(1), more).await.expect_err("there is no room");
    // Whoever waits to be started can be killed all the same.
    let kill = ask(&engine, samples::vm_id(20), VmCommand::Kill).await;
    succeeded(&engine, kill).await;
    let waiting = starts.pop().expect("twenty");
    assert!(canceller_of(&ended(&engine, waiting).await).starts_with("superseded by vm.kill"));
    world.host.release(Effect::Launch);
    for start in starts {
        succeeded(&engine, start).await;
    }
    let launches = |vm| world.host.effects_on(&Subject::Vm(vm)).contains(&Effect::Launch);
    assert_eq!((1..=20).map(samples::vm_id).filter(|vm| launches(*vm)).count(), 19);
}
