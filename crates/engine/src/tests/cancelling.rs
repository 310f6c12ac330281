//! Operations that are called off: while they wait, between and during their effects, and when the
//! daemon is killed meanwhile.

use vman_core::disk::{Bus, DiskState, ImageFormat};
use vman_core::lifecycle::{NotCancellable, Outcome, may_cancel};
use vman_core::operation::{Effect, StepState, Subject};
use vman_core::ports::RecordError;
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::scenes::{Play, assert_deletable, assert_disks_settled, operations_of_vm, plays};
use super::*;
use crate::{EngineError, NewDisk};

const BY_REQUEST: &str = "by a request";

async fn refusal(engine: &Engine, id: OperationId) -> NotCancellable {
    let error = engine.cancel(id).await.expect_err("it cannot be called off");
    let EngineError::NotCancellable { operation, why, .. } = error else { panic!("{error}") };
    assert_eq!(operation, id);
    why
}

/// Holds what is left against a VM of which nothing is under way any more.
async fn assert_at_rest(play: &Play, world: &World, story: &str) {
    let vm = world.vm(samples::vm_id(1)).await;
    assert_eq!(vm.machine, world.host.machine(vm.id), "{story}");
    let expected = if vm.machine.is_some() { VmState::Running } else { VmState::Stopped };
    assert_eq!(vm.state, expected, "{story}");
    assert!(play.state != VmState::Stopped || vm.machine.is_none(), "{story}");
    assert_disks_settled(world, story).await;
    assert_eq!(world.incoherences().await, Vec::<String>::new(), "{story}");
}

#[tokio::test(start_paused = true)]
async fn what_is_called_off_at_any_effect_is_undone_or_goes_on_to_its_end() {
    let mut cancelled = 0;
    for play in plays().iter().filter(|play| play.is_alone()) {
        for (index, step) in play.steps.iter().enumerate() {
            let story = format!("{} at step {index}", play.name());
            let world = play.scene().await;
            let engine = world.engine();
            world.host.hold(step.effect);
            let id = ask(&engine, samples::vm_id(1), play.command).await;
            world.host.reached(step.effect, 1).await;
            let so_far = world.records.operation(id).await.expect("readable").expect("recorded");
            if let Err(why) = may_cancel(&so_far) {
                assert_eq!(refusal(&engine, id).await, why, "{story}");
                world.host.release(step.effect);
                succeeded(&engine, id).await;
                play.assert_fulfilled(&world, &story).await;
                continue;
            }
            cancelled += 1;
            let asked = engine.cancel(id).await.expect("it can be called off");
            assert!(asked.cancel_requested && !asked.state.is_ended(), "{story}: {asked:?}");
            let again = engine.cancel(id).await.expect("twice is once");
            assert!(again.cancel_requested, "{story}");
            // The effect is still held: it was dropped.
            let operation = ended(&engine, id).await;
            assert_eq!(canceller_of(&operation), BY_REQUEST, "{story}");
            assert!(operation.steps.iter().all(|step| step.state != StepState::Running), "{story}");
            assert_at_rest(play, &world, &story).await;
            let after = engine.cancel(id).await.expect("it is");
            assert_eq!(after, operation, "{story}");
            world.host.release(step.effect);
            assert_deletable(&world, &engine, &story).await;
        }
    }
    assert!(cancelled > 10, "only {cancelled}");
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_what_was_called_off_ends_so() {
    for play in plays().iter().filter(|play| play.is_alone()) {
        for step in play.steps.iter().filter(|step| step.effect != Effect::Kill) {
            for moments in 0.. {
                if !dies_while_called_off(play, step.effect, moments).await {
                    break;
                }
            }
        }
    }
}

/// False if the daemon was not killed.
async fn dies_while_called_off(play: &Play, effect: Effect, moments: usize) -> bool {
    let story = format!("{} at {}, killed at {moments}", play.name(), effect.word());
    let world = play.scene().await;
    world.host.hold(effect);
    let mortal = Arc::new(Mortal::dying_after(&world, moments));
    let engine = world.engine_over(mortal.clone(), mortal.clone());
    let (host, command) = (world.host.clone(), play.command);
    let life = async move {
        let id = ask(&engine, samples::vm_id(1), command).await;
        host.reached(effect, 1).await;
        if engine.cancel(id).await.is_err() {
            host.release(effect);
        }
        all_ended(&engine).await;
    };
    if !mortal.dies_in(life).await {
        return false;
    }
    let before = operations_of_vm(&world).await;
    world.host.release(effect);
    let engine = world.engine();
    engine.recover().await.expect("readable");
    all_ended(&engine).await;
    let Some(before) = before.first() else { return true };
    let operation = &operations_of_vm(&world).await[0];
    if before.cancel_requested {
        assert_eq!(canceller_of(operation), BY_REQUEST, "{story}");
        assert_at_rest(play, &world, &story).await;
    } else {
        assert_eq!(operation.state, OperationState::Succeeded, "{story}");
        play.assert_fulfilled(&world, &story).await;
    }
    true
}

#[tokio::test(start_paused = true)]
async fn what_waits_and_is_called_off_ends_at_once_and_never_touches_the_host() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    let start = ask(&engine, vm, VmCommand::Start).await;
    world.host.reached(Effect::Launch, 1).await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopping);
    engine.cancel(stop).await.expect("it has not begun");
    let stopped = ended(&engine, stop).await;
    assert_eq!(canceller_of(&stopped), BY_REQUEST);
    assert!(stopped.steps.iter().all(|step| step.state == StepState::Pending));
    // The start goes on, and says so; another stop is not lost.
    assert_eq!(world.vm(vm).await.state, VmState::Starting);
    let again = ask(&engine, vm, VmCommand::Stop).await;
    assert_ne!(again, stop);
    engine.cancel(again).await.expect("it has not begun");
    ended(&engine, again).await;
    world.host.release(Effect::Launch);
    succeeded(&engine, start).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    assert!(!world.host.effects_on(&Subject::Vm(vm)).contains(&Effect::PowerOff));
    assert_eq!(world.incoherences().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_waits_and_is_called_off_leaves_no_disk_to_be_made() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    let disk = samples::attached(1, 1, "/dev/sdb");
    world.host.stray_file(&format!("disks/{}", disk.file_name()));
    world.put(vec![Change::AddDisk(disk.clone())]).await;
    world.host.hold(Effect::ResizeImage);
    let resize = ask_disk(&engine, disk.id, DiskCommand::Resize(4)).await;
    let start = ask(&engine, vm, VmCommand::Start).await;
    assert_eq!(world.disks().await.len(), 2);
    engine.cancel(start).await.expect("it has not begun");
    assert_eq!(canceller_of(&ended(&engine, start).await), BY_REQUEST);
    assert_eq!(world.disks().await.len(), 1);
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
    assert_eq!(world.host.effects_on(&Subject::Vm(vm)), []);
    world.host.release(Effect::ResizeImage);
    succeeded(&engine, resize).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_whose_making_is_called_off_leaves_neither_record_nor_file() {
    for effect_done in [false, true] {
        let world = World::new().await;
        let engine = world.engine();
        let (format, bus) = (Some(ImageFormat::Qcow2), Bus::VirtioBlk);
        let new = NewDisk { size_gib: 1, format, bus, mount_point: None };
        world.host.hold(Effect::CreateImage);
        let accepted = engine.create_disk(new, None).await.expect("let in");
        let id = accepted.operation.expect("an operation");
        world.host.reached(Effect::CreateImage, 1).await;
        if effect_done {
            // In part: the file is there already.
            world.host.stray_file(&format!("disks/{}", accepted.record.file_name()));
        }
        engine.cancel(id).await.expect("it can be called off");
        assert_eq!(canceller_of(&ended(&engine, id).await), BY_REQUEST);
        assert_eq!((world.disks().await, world.host.leftovers()), (vec![], vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_undone_is_a_failure_and_told() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    world.host.fail_next(Effect::End, "no answer");
    let start = ask(&engine, vm, VmCommand::Start).await;
    world.host.reached(Effect::Launch, 1).await;
    engine.cancel(start).await.expect("it can be called off");
    let error = "by a request; undoing by end failed: no answer".to_owned();
    assert_eq!(error_of(&ended(&engine, start).await), error);
    let reason = world.vm(vm).await.state.reason().map(ToString::to_string);
    assert_eq!(reason, Some(format!("vm.start: {error}")));
}

#[tokio::test(start_paused = true)]
async fn an_undoing_cut_off_by_a_kill_of_the_daemon_goes_on_and_ends_cancelled() {
    for moments in 0.. {
        let world = World::new().await;
        let vm = world.add_vm(1, VmState::Stopped).await;
        world.host.hold(Effect::Launch);
        let mortal = Arc::new(Mortal::dying_after(&world, moments));
        let engine = world.engine_over(mortal.clone(), mortal.clone());
        let host = world.host.clone();
        let life = async move {
            let id = ask(&engine, vm, VmCommand::Start).await;
            host.reached(Effect::Launch, 1).await;
            engine.cancel(id).await.expect("it can be called off");
            all_ended(&engine).await;
        };
        if !mortal.dies_in(life).await {
            assert!(moments > 12, "only {moments} moments");
            return;
        }
        let before = operations_of_vm(&world).await;
        // Still held: nobody launches it any more once that is recorded.
        let engine = world.engine();
        if before.first().is_some_and(|operation| operation.cancel_requested) {
            engine.recover().await.expect("readable");
            all_ended(&engine).await;
            assert_eq!(canceller_of(&operations_of_vm(&world).await[0]), BY_REQUEST, "{moments}");
            assert_eq!(world.vm(vm).await.state, VmState::Stopped, "{moments}");
            let devices = world.host.survey().await.devices;
            assert_eq!(devices.known().map(|devices| devices.len()), Some(0), "{moments}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_called_off_says_why() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Running).await;
    world.host.stray_machine(vm);
    world.host.hold(Effect::Kill);
    let kill = ask(&engine, vm, VmCommand::Kill).await;
    let error = engine.cancel(kill).await.expect_err("it is short").to_string();
    let expected = format!(
        "operation {kill} (vm.kill) cannot be cancelled: vm.kill ends by itself at once, so it \
         cannot be broken off"
    );
    assert_eq!(error, expected);
    assert!(!world.operations().await[0].cancel_requested);
    world.host.release(Effect::Kill);
    succeeded(&engine, kill).await;
    assert_eq!(refusal(&engine, kill).await, NotCancellable::Ended);
    let unknown = samples::operation_id(9);
    let error = engine.cancel(unknown).await.expect_err("there is no such one");
    let missing = RecordError::NotFound(format!("operation {unknown}"));
    assert_eq!(error, EngineError::Record(missing));
}

#[tokio::test(start_paused = true)]
async fn what_is_called_off_as_it_ends_has_one_end() {
    for yields in 0..60 {
        let world = World::new().await;
        let slow = Arc::new(Mortal::dawdling(&world));
        let engine = world.engine_over(slow, world.host.clone());
        let vm = world.add_vm(1, VmState::Stopped).await;
        let start = ask(&engine, vm, VmCommand::Start).await;
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        let asked = engine.cancel(start).await;
        let operation = ended(&engine, start).await;
        let vm = world.vm(vm).await;
        match operation.state {
            OperationState::Succeeded => assert_eq!(vm.state, VmState::Running),
            OperationState::Cancelled(_) => {
                asked.expect("it could be called off");
                assert_eq!(vm.state, VmState::Stopped);
            }
            OperationState::Pending | OperationState::Running | OperationState::Failed(_) => {
                panic!("{operation:?}")
            }
        }
        assert_eq!(vm.machine, world.host.machine(vm.id), "after {yields} yields");
        assert_eq!(world.incoherences().await, Vec::<String>::new());
        for disk in world.disks().await {
            assert_eq!(disk.state, DiskState::Attached, "after {yields} yields");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_comes_before_the_request_is_told_as_what_it_is() {
    let play = plays().into_iter().find(|play| play.command == VmCommand::Start);
    let play = play.expect("a stopped VM can be started");
    let world = play.scene().await;
    let engine = world.engine();
    world.host.fail_next(Effect::Launch, "no room");
    world.host.hold(Effect::End);
    let id = ask(&engine, samples::vm_id(1), play.command).await;
    world.host.reached(Effect::End, 1).await;
    // It is being undone already.
    drop(engine.cancel(id).await);
    world.host.release(Effect::End);
    assert_eq!(error_of(&ended(&engine, id).await), "no room");
    let state = world.vm(samples::vm_id(1)).await.state;
    assert_eq!(Some(state), play.state_after(&Outcome::Failed("no room".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_stop_called_off_behind_a_pause_that_fails_leaves_the_vm_running() {
    let world = World::new().await;
    let vm = world.add_vm(1, VmState::Running).await;
    let machine = Some(world.host.stray_machine(vm));
    world.put(vec![Change::VmMachine { vm, machine }]).await;
    world.host.hold(Effect::Pause);
    world.host.fail_next(Effect::Pause, "no answer");
    let engine = world.engine();
    let pause = ask(&engine, vm, VmCommand::Pause).await;
    world.host.reached(Effect::Pause, 1).await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    engine.cancel(stop).await.expect("it has not begun");
    assert!(matches!(ended(&engine, stop).await.state, OperationState::Cancelled(_)));
    world.host.release(Effect::Pause);
    assert!(matches!(ended(&engine, pause).await.state, OperationState::Failed(_)));
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}
