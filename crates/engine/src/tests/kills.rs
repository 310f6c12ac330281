//! The law of being killed: whenever the daemon dies (before or after any commit and any effect),
//! the next one ends what was let in, truthfully, and nothing is lost or left over.

use vman_core::lifecycle::{Outcome, VmCommand};
use vman_core::operation::{Effect, Verb};
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::scenes::{Play, assert_deletable, operations_of_vm, plays};
use super::*;

const REASON: &str = "on purpose";
/// No operation has so many moments.
const MOMENTS_MAX: usize = 200;

/// Runs a daemon that dies after so many moments; false if it got everything done before.
async fn dies(world: &World, moments: usize, command: Option<VmCommand>) -> bool {
    let mortal = Arc::new(Mortal::dying_after(world, moments));
    let engine = world.engine_over(mortal.clone(), mortal.clone());
    let life = async move {
        engine.recover().await.expect("readable");
        if let Some(command) = command {
            ask(&engine, samples::vm_id(1), command).await;
        }
        all_ended(&engine).await;
    };
    mortal.dies_in(life).await
}

/// The next daemon, once it has taken up and ended what there was.
async fn reborn(world: &World) -> Engine {
    let engine = world.engine();
    engine.recover().await.expect("readable");
    all_ended(&engine).await;
    engine
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_the_next_one_ends_the_operation_as_it_was_meant() {
    for play in plays() {
        let mut moments = 0;
        loop {
            assert!(moments < MOMENTS_MAX, "{} never ends", play.name());
            let world = play.scene().await;
            let earlier = (world.host.deeds().len(), world.operations().await.len());
            if !dies(&world, moments, Some(play.command)).await {
                break;
            }
            let story = format!("{}, killed at moment {moments}", play.name());
            let let_in = world.operations().await.len() > earlier.1;
            if !let_in && play.is_alone() {
                assert_eq!(world.host.deeds().len(), earlier.0, "{story}: nobody asked for it");
            }
            reborn(&world).await;
            if let_in {
                let operation = &operations_of_vm(&world).await[0];
                assert_eq!(operation.verb, play.command.verb(), "{story}");
                assert_eq!(operation.state, OperationState::Succeeded, "{story}");
                play.assert_fulfilled(&world, &story).await;
            } else if play.is_alone() {
                assert_eq!(world.vm(samples::vm_id(1)).await.state, play.state, "{story}");
            }
            moments += 1;
        }
        // At least before and after: let in, each step done, ended.
        assert!(moments >= 2 * (2 + play.steps.len()), "{}: {moments}", play.name());
    }
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_while_an_operation_fails_it_ends_failed_and_undone() {
    for play in plays().iter().filter(|play| play.is_alone()) {
        for failing in 0..play.steps.len() {
            fail_and_die(play, failing).await;
        }
    }
}

async fn fail_and_die(play: &Play, failing: usize) {
    let effect = play.steps[failing].effect;
    for moments in 0..MOMENTS_MAX {
        let world = play.scene().await;
        world.host.fail_always(effect, REASON);
        if !dies(&world, moments, Some(play.command)).await {
            return;
        }
        let story = format!("{}, {} fails, killed at {moments}", play.name(), effect.word());
        let engine = reborn(&world).await;
        if let Some(operation) = operations_of_vm(&world).await.first() {
            let error = error_of(operation).to_owned();
            assert!(error.starts_with(REASON), "{story}: {error}");
            let state = world.vm(samples::vm_id(1)).await.state;
            assert_eq!(Some(state), play.state_after(&Outcome::Failed(error)), "{story}");
        }
        world.host.heal(effect);
        assert_deletable(&world, &engine, &story).await;
    }
    panic!("{} never ends", play.name());
}

#[tokio::test(start_paused = true)]
async fn an_undoing_that_was_cut_off_goes_on_and_tells_what_it_left() {
    for moments in 0..MOMENTS_MAX {
        let world = World::new().await;
        let vm = world.add_vm(1, VmState::Stopped).await;
        world.host.fail_next_after_doing(Effect::Launch, REASON);
        world.host.fail_next(Effect::End, "no answer");
        if !dies(&world, moments, Some(VmCommand::Start)).await {
            return;
        }
        let story = format!("killed at moment {moments}");
        let before = operations_of_vm(&world).await;
        reborn(&world).await;
        let machine = world.host.machine(vm);
        match operations_of_vm(&world).await.first().map(|operation| &operation.state) {
            None => assert_eq!(machine, None, "{story}"),
            Some(OperationState::Succeeded) => {
                // The failure had not been recorded: the step was done once more, and well.
                assert!(!has_failed(&before[0]), "{story}");
                assert_eq!(world.vm(vm).await.machine, machine, "{story}");
            }
            Some(OperationState::Failed(error)) => {
                assert!(error.starts_with(REASON), "{story}: {error}");
                assert_eq!(error.contains("undoing by end failed"), machine.is_some(), "{story}");
            }
            Some(
                OperationState::Pending | OperationState::Running | OperationState::Cancelled(_),
            ) => panic!("{story}"),
        }
    }
    panic!("it never ends");
}

fn has_failed(operation: &Operation) -> bool {
    operation.steps.iter().any(|step| step.state.is_failure())
}

#[tokio::test(start_paused = true)]
async fn a_daemon_killed_again_while_it_recovers_changes_nothing_of_that() {
    for broken in [None, Some(Effect::Launch)] {
        let play =
            Play { state: VmState::Running, command: VmCommand::Restart, steps: plays_restart() };
        for first in 0..MOMENTS_MAX {
            if !die_twice(&play, broken, first).await {
                break;
            }
        }
    }
}

fn plays_restart() -> Vec<vman_core::operation::Step> {
    let restart =
        |play: &Play| play.command == VmCommand::Restart && play.state == VmState::Running;
    plays().into_iter().find(restart).expect("a running VM can be restarted").steps
}

/// False if the first daemon was not killed.
async fn die_twice(play: &Play, broken: Option<Effect>, first: usize) -> bool {
    for second in 0..MOMENTS_MAX {
        let world = play.scene().await;
        if let Some(effect) = broken {
            world.host.fail_always(effect, REASON);
        }
        if !dies(&world, first, Some(play.command)).await {
            return false;
        }
        let story = format!("killed at {first} and {second}, broken: {broken:?}");
        let died_again = dies(&world, second, None).await;
        let engine = reborn(&world).await;
        if let Some(operation) = operations_of_vm(&world).await.first() {
            match broken {
                None => play.assert_fulfilled(&world, &story).await,
                Some(effect) => {
                    assert!(error_of(operation).starts_with(REASON), "{story}");
                    assert_eq!(world.host.machine(samples::vm_id(1)), None, "{story}");
                    world.host.heal(effect);
                    assert_deletable(&world, &engine, &story).await;
                }
            }
        }
        if !died_again {
            return true;
        }
    }
    panic!("recovering never ends");
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_no_image_is_lost_or_left_over() {
    for verb in [Verb::DiskCreate, Verb::DiskDelete] {
        for broken in [false, true] {
            for moments in 0..MOMENTS_MAX {
                if !disk_outlives(verb, broken, moments).await {
                    break;
                }
            }
        }
    }
}

/// False if the daemon was not killed.
async fn disk_outlives(verb: Verb, broken: bool, moments: usize) -> bool {
    let story = format!("{}, broken: {broken}, killed at {moments}", verb.word());
    let world = World::new().await;
    let deletes = verb == Verb::DiskDelete;
    if deletes {
        let disk = samples::disk(1, vman_core::disk::DiskState::Available);
        world.host.stray_file(&format!("disks/{}", disk.file_name()));
        world.put(vec![Change::AddDisk(disk)]).await;
    }
    let effect = if deletes { Effect::DeleteImage } else { Effect::CreateImage };
    if broken {
        world.host.fail_always(effect, REASON);
    }
    let mortal = Arc::new(Mortal::dying_after(&world, moments));
    let engine = world.engine_over(mortal.clone(), mortal.clone());
    if !mortal.dies_in(super::disks::create_or_delete(engine, deletes)).await {
        return false;
    }
    reborn(&world).await;
    let disks = world.records.disks(Page::first()).await.expect("readable");
    let files = world.host.leftovers();
    match world.operations().await.first().map(|operation| operation.state.is_ended()) {
        None => {
            assert_eq!((disks.len(), files.len()), (usize::from(deletes), usize::from(deletes)))
        }
        Some(true) if broken => {
            let reason = disks[0].state.reason().map(ToString::to_string);
            assert_eq!(reason, Some(format!("{}: {REASON}", verb.word())), "{story}");
            assert_eq!(files.len(), usize::from(deletes), "{story}");
        }
        Some(true) => {
            assert_eq!((disks.len(), files.len()), (usize::from(!deletes), usize::from(!deletes)));
            assert_eq!(world.incoherences().await, Vec::<String>::new(), "{story}");
        }
        Some(false) => panic!("{story}: not ended"),
    }
    true
}
