//! The laws of being killed, of failing and of doing twice, for what touches a disk, also one that
//! a running machine has.

use vman_core::lifecycle::Outcome;
use vman_core::operation::StepState;
use vman_core::ports::{Applied, ApplyError};
use vman_core::testing::samples;

use super::disk_scenes::{DiskPlay, assert_host_agrees, disk_plays};
use super::failures::Twice;
use super::mortal::Mortal;
use super::*;

const REASON: &str = "on purpose";

/// The only operation, if it was let in.
async fn only_operation(world: &World) -> Option<Operation> {
    let mut operations = world.operations().await;
    assert!(operations.len() <= 1, "{operations:?}");
    operations.pop()
}

/// Runs a daemon that dies after so many moments; false if it got everything done before.
async fn dies(world: &World, moments: usize, play: &DiskPlay) -> bool {
    let mortal = Arc::new(Mortal::dying_after(world, moments));
    let engine = world.engine_over(mortal.clone(), mortal.clone());
    let command = play.command;
    let life = async move {
        ask_disk(&engine, samples::disk_id(1), command).await;
        all_ended(&engine).await;
    };
    mortal.dies_in(life).await
}

async fn reborn(world: &World) -> Engine {
    let engine = world.engine();
    engine.recover().await.expect("readable");
    all_ended(&engine).await;
    engine
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_the_next_one_ends_what_was_meant() {
    for play in disk_plays() {
        for moments in 0.. {
            let world = play.scene().await;
            let died = dies(&world, moments, &play).await;
            reborn(&world).await;
            let story = format!("{}, killed at moment {moments}", play.name());
            match only_operation(&world).await {
                Some(operation) => play.assert_fulfilled(&world, &operation, &story).await,
                None => assert_eq!(world.disk(play.disk.id).await, play.disk, "{story}"),
            }
            if !died {
                assert!(moments >= 6, "{story}");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_while_it_fails_it_ends_failed_and_undone() {
    for play in disk_plays() {
        for moments in 0.. {
            let world = play.scene().await;
            world.host.fail_always(play.steps[0].effect, REASON);
            let died = dies(&world, moments, &play).await;
            reborn(&world).await;
            let story = format!("{}, fails, killed at moment {moments}", play.name());
            if let Some(operation) = only_operation(&world).await {
                assert_eq!(error_of(&operation), REASON, "{story}");
                let outcome = Outcome::Failed(REASON.to_owned());
                play.assert_left(&world, &operation, &outcome, &story).await;
                assert_host_agrees(&world, &story).await;
            }
            if !died {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_the_guest_answers_is_recorded_as_what_it_is() {
    let why = || REASON.to_owned();
    let failures = [
        (ApplyError::Failed(why()), Outcome::Failed(why())),
        (ApplyError::Refused(why()), Outcome::Refused(why())),
        (ApplyError::LeftToTheGuest(why()), Outcome::LeftToTheGuest(why())),
    ];
    for play in disk_plays() {
        for (error, outcome) in failures.clone() {
            let world = play.scene().await;
            let engine = world.engine();
            let story = format!("{}: {outcome:?}", play.name());
            world.host.fail_next_with(play.steps[0].effect, error);
            let id = play.ask(&engine).await;
            let operation = ended(&engine, id).await;
            assert_eq!(error_of(&operation), REASON, "{story}");
            play.assert_left(&world, &operation, &outcome, &story).await;
            assert_host_agrees(&world, &story).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_done_and_said_to_have_failed_is_undone() {
    for play in disk_plays() {
        let world = play.scene().await;
        let engine = world.engine();
        let story = play.name();
        world.host.fail_next_after_doing(play.steps[0].effect, REASON);
        let id = play.ask(&engine).await;
        let operation = ended(&engine, id).await;
        let outcome = Outcome::Failed(REASON.to_owned());
        play.assert_left(&world, &operation, &outcome, &story).await;
        if play.steps[0].undo.is_some() {
            assert_eq!(operation.steps[0].state, StepState::Undone, "{story}");
            assert_host_agrees(&world, &story).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_fails_leaves_the_disk_with_the_machine_that_may_have_it() {
    for play in disk_plays() {
        let Some(undo) = play.steps[0].undo else { continue };
        let world = play.scene().await;
        let engine = world.engine();
        world.host.fail_next_after_doing(play.steps[0].effect, REASON);
        let guest = ApplyError::LeftToTheGuest("the guest has not let go".to_owned());
        world.host.fail_next_with(undo, guest);
        let id = play.ask(&engine).await;
        let operation = ended(&engine, id).await;
        let error = "on purpose; undoing by detach-disk failed: the guest has not let go";
        assert_eq!(error_of(&operation), error);
        let disk = world.disk(play.disk.id).await;
        assert_eq!((disk.state.word(), disk.vm), ("detaching", Some(samples::vm_id(1))));
        // And once the guest has let go, that is honoured.
        assert!(world.host.let_go(samples::vm_id(1), play.disk.id));
        engine.act_on(world.look().await).await.expect("the records can be used");
        let disk = world.disk(play.disk.id).await;
        assert_eq!((disk.state.word(), disk.vm), ("available", None));
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_twice_ends_as_if_it_happened_once() {
    for play in disk_plays() {
        let world = play.scene().await;
        let twice = Arc::new(Twice(world.host.clone()));
        let engine = world.engine_over(world.records.clone(), twice);
        let id = play.ask(&engine).await;
        let operation = ended(&engine, id).await;
        play.assert_fulfilled(&world, &operation, &play.name()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_commit_is_refused_it_is_taken_up_again() {
    for play in disk_plays() {
        for commits in 1.. {
            let world = play.scene().await;
            let records = Arc::new(Mortal::refused_after(&world, commits));
            let engine = world.engine_over(records.clone(), world.host.clone());
            let id = play.ask(&engine).await;
            engine.wait(id, LONG).await.expect("readable");
            let was_refused = records.was_refused();
            engine.recover().await.expect("readable");
            let operation = ended(&engine, id).await;
            let story = format!("{}, commit {commits} refused", play.name());
            play.assert_fulfilled(&world, &operation, &story).await;
            if !was_refused {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_effect_on_a_disk_that_never_ends_fails_at_its_deadline() {
    for play in disk_plays() {
        let (world, effect) = (play.scene().await, play.steps[0].effect);
        let engine = world.engine();
        world.host.hold(effect);
        let id = play.ask(&engine).await;
        let operation = ended(&engine, id).await;
        let error = error_of(&operation).to_owned();
        let told = format!("{} did not end within", effect.word());
        assert!(error.starts_with(&told), "{}: {error}", play.name());
        let outcome = Outcome::Failed(error);
        play.assert_left(&world, &operation, &outcome, &play.name()).await;
    }
}

/// Says on what each effect was asked for.
struct Witness(Arc<FakeHost>, std::sync::Mutex<Vec<(Effect, Option<VmId>)>>);

#[async_trait::async_trait]
impl Apply for Witness {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        let Target::Disk(disk) = target else { panic!("not a disk: {target:?}") };
        let vm = disk.vm.as_ref().map(|vm| vm.id);
        self.1.lock().expect("not poisoned").push((effect, vm));
        self.0.apply(effect, target).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_effect_is_told_which_vm_holds_the_disk() {
    for play in disk_plays() {
        let world = play.scene().await;
        let witness = Arc::new(Witness(world.host.clone(), std::sync::Mutex::default()));
        let engine = world.engine_over(world.records.clone(), witness.clone());
        let id = play.ask(&engine).await;
        let operation = succeeded(&engine, id).await;
        let holder = match play.command {
            DiskCommand::Attach(vm) => Some(vm),
            DiskCommand::Detach
            | DiskCommand::Resize(_)
            | DiskCommand::Delete
            | DiskCommand::Released
            | DiskCommand::MarkMissing
            | DiskCommand::MarkAvailable => play.disk.vm,
        };
        let seen = witness.1.lock().expect("not poisoned").clone();
        assert_eq!(seen, [(play.steps[0].effect, holder)], "{}", play.name());
        assert_eq!(operation.turn_of, holder, "{}", play.name());
    }
}
