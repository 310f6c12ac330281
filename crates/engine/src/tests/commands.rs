//! Commands of people, from the gate to their end.

use vman_core::disk::DiskState;
use vman_core::lifecycle::{Denied, VmCommand};
use vman_core::operation::{Effect, OperationState, Reason, StepState, Subject};
use vman_core::ports::{Apply, Change, Recall, RecordError};
use vman_core::testing::samples;
use vman_core::vm::{Machine, VmState};

use super::mortal::Mortal;
use super::*;
use crate::EngineError;

/// What starts a machine.
const BOOT: [Effect; 4] =
    [Effect::PrepareDirectory, Effect::PrepareDisks, Effect::ConnectNetwork, Effect::Launch];

async fn asked(engine: &Engine, vm: VmId, command: VmCommand) -> Result<(), EngineError> {
    engine.command_vm(vm, command, Reason::User, None).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_start_ends_with_a_running_machine_that_is_recorded() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    let accepted =
        engine.command_vm(vm, VmCommand::Start, Reason::User, None).await.expect("let in");
    assert_eq!(accepted.record, world.vm(vm).await);
    assert_eq!(accepted.record.state, VmState::Starting);
    world.host.release(Effect::Launch);
    let operation = succeeded(&engine, accepted.operation.expect("an operation")).await;
    assert!(operation.steps.iter().all(|step| step.state == StepState::Done), "{operation:?}");
    assert_eq!(operation.ended_at, Some(NOW));
    let recorded = world.vm(vm).await;
    assert_eq!(recorded.state, VmState::Running);
    assert_eq!(recorded.machine, world.host.machine(vm));
    assert!(recorded.machine.is_some());
    assert_eq!(world.host.effects_on(&Subject::Vm(vm)), BOOT);
    assert_eq!(world.incoherences().await, Vec::<String>::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.wakes(), 1, "the observer is told that something ended");
}

#[tokio::test(start_paused = true)]
async fn what_a_loss_of_power_would_undo_is_answered_to_nobody_and_makes_no_file() {
    let world = World::new().await;
    let engine = world.engine();
    let (stopped, running) = (world.add_vm(1, VmState::Stopped).await, samples::vm_id(2));
    world.add_vm(2, VmState::Stopped).await;
    let start = ask(&engine, running, VmCommand::Start).await;
    succeeded(&engine, start).await;
    let why = RecordError::Unavailable("the device is broken".to_owned());
    world.records.refuse_to_sync(why.clone());

    let told = asked(&engine, stopped, VmCommand::Start).await;
    assert_eq!(told, Err(EngineError::Record(why.clone())));
    all_ended(&engine).await;
    let reason = world.vm(stopped).await.state.reason().map(ToString::to_string);
    assert!(reason.is_some_and(|reason| reason.contains("the device is broken")));
    // What was recorded as begun is taken back.
    let effects = world.host.effects_on(&Subject::Vm(stopped));
    assert_eq!(effects, [Effect::DisconnectNetwork]);

    // A machine goes with the power: it is ended all the same.
    asked(&engine, running, VmCommand::Kill).await.expect_err("nobody is told that it will be");
    all_ended(&engine).await;
    assert_eq!(world.vm(running).await.state, VmState::Stopped);
    assert_eq!(world.host.machine(running), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_happens_on_the_host_that_is_not_recorded_before() {
    for effect in BOOT {
        let world = World::new().await;
        let engine = world.engine();
        let vm = world.add_vm(1, VmState::Stopped).await;
        world.host.hold(effect);
        let id = ask(&engine, vm, VmCommand::Start).await;
        world.host.reached(effect, 1).await;
        assert_eq!(world.vm(vm).await.state, VmState::Starting);
        let operation = world.records.operation(id).await.expect("readable").expect("recorded");
        assert_eq!(operation.state, OperationState::Running);
        let step = operation.steps.iter().find(|step| step.effect == effect).expect("a step");
        assert_eq!(step.state, StepState::Running);
        world.host.release(effect);
        succeeded(&engine, id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_starts_are_one_operation() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    let first = ask(&engine, vm, VmCommand::Start).await;
    world.host.reached(Effect::Launch, 1).await;
    assert_eq!(ask(&engine, vm, VmCommand::Start).await, first);
    world.host.release(Effect::Launch);
    succeeded(&engine, first).await;
    let again =
        engine.command_vm(vm, VmCommand::Start, Reason::User, None).await.expect("already so");
    assert_eq!(again.operation, None);
    assert_eq!(again.record.state, VmState::Running);
    assert_eq!(world.operations().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_start_is_not_lost() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    let start = ask(&engine, vm, VmCommand::Start).await;
    world.host.reached(Effect::Launch, 1).await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    assert_ne!(start, stop);
    assert_eq!(world.vm(vm).await.state, VmState::Stopping);
    world.host.hold(Effect::PowerOff);
    world.host.release(Effect::Launch);
    succeeded(&engine, start).await;
    world.host.reached(Effect::PowerOff, 1).await;
    // The start ended well, and does not say `running` over the stop.
    assert_eq!(world.vm(vm).await.state, VmState::Stopping);
    world.host.release(Effect::PowerOff);
    succeeded(&engine, stop).await;
    let recorded = world.vm(vm).await;
    assert_eq!((recorded.state, recorded.machine), (VmState::Stopped, None));
    assert_eq!(world.host.machine(vm), None);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_after_a_stop_was_let_in_leaves_the_vm_to_the_stop() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    world.host.fail_next(Effect::Launch, "no room");
    let start = ask(&engine, vm, VmCommand::Start).await;
    world.host.reached(Effect::Launch, 1).await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    world.host.hold(Effect::PowerOff);
    world.host.release(Effect::Launch);
    assert_eq!(error_of(&ended(&engine, start).await), "no room");
    world.host.reached(Effect::PowerOff, 1).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopping);
    world.host.release(Effect::PowerOff);
    succeeded(&engine, stop).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_command_let_in_just_as_the_one_before_it_ends_is_carried_out() {
    let world = World::new().await;
    let slow = Arc::new(Mortal::dawdling(&world));
    let engine = world.engine_over(slow, world.host.clone());
    let vm = world.add_vm(1, VmState::Stopped).await;
    for _ in 0..50 {
        for command in [VmCommand::Start, VmCommand::Stop] {
            let id = ask(&engine, vm, command).await;
            succeeded(&engine, id).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_another_one_was_quicker_than_is_decided_anew() {
    let world = World::new().await;
    let slow = Arc::new(Mortal::dawdling(&world));
    let engine = world.engine_over(slow, world.host.clone());
    let vm = world.add_vm(1, VmState::Stopped).await;
    let start = || ask(&engine, vm, VmCommand::Start);
    let starts = tokio::join!(start(), start(), start());
    assert_eq!((starts.0, starts.1), (starts.1, starts.2));
    assert_eq!(world.operations().await.len(), 1);
    let (stop, kill) =
        tokio::join!(ask(&engine, vm, VmCommand::Stop), ask(&engine, vm, VmCommand::Kill));
    ended(&engine, stop).await;
    succeeded(&engine, kill).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_kill_or_a_deletion_does_not_wait_for_a_guest_that_does_not_obey() {
    for (first, firm) in [
        (VmCommand::Stop, VmCommand::Kill),
        (VmCommand::Stop, VmCommand::Delete),
        (VmCommand::Restart, VmCommand::Kill),
    ] {
        let world = World::new().await;
        let engine = world.engine();
        let vm = world.add_vm(1, VmState::Running).await;
        world.host.stray_machine(vm);
        // Whoever waits for the guest waits for ever.
        world.host.hold(Effect::PowerOff);
        let first = ask(&engine, vm, first).await;
        world.host.reached(Effect::PowerOff, 1).await;
        let firm_id = ask(&engine, vm, firm).await;
        succeeded(&engine, firm_id).await;
        let superseded = ended(&engine, first).await;
        let verb = firm.verb().word();
        assert_eq!(
            canceller_of(&superseded),
            format!("superseded by {verb} (operation {firm_id})")
        );
        assert_eq!(superseded.steps[0].state, StepState::Failed);
        assert!(superseded.steps[1..].iter().all(|step| step.state == StepState::Pending));
        assert!(!world.host.effects_on(&Subject::Vm(vm)).contains(&Effect::PowerOff));
        let state = world.find_vm(vm).await.map(|vm| vm.state);
        assert_eq!(state, (firm == VmCommand::Kill).then_some(VmState::Stopped));
        assert_eq!(world.host.leftovers(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_kill_or_a_deletion_does_not_wait_for_a_machine_that_does_not_start() {
    for firm in [VmCommand::Kill, VmCommand::Delete] {
        let world = World::new().await;
        let engine = world.engine();
        let vm = world.add_vm(1, VmState::Stopped).await;
        let root = samples::attached(1, 1, "/dev/sda");
        let file = format!("disks/{}", root.file_name());
        world.host.stray_file(&file);
        world.put(vec![Change::AddDisk(root)]).await;
        world.host.hold(Effect::Launch);
        let start = ask(&engine, vm, VmCommand::Start).await;
        world.host.reached(Effect::Launch, 1).await;
        let begun = tokio::time::Instant::now();
        let firm_id = ask(&engine, vm, firm).await;
        succeeded(&engine, firm_id).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let superseded = ended(&engine, start).await;
        let who = format!("superseded by {} (operation {firm_id})", firm.verb().word());
        assert_eq!(canceller_of(&superseded), who);
        assert_eq!(superseded.steps.last().expect("launch").state, StepState::Undone);
        let (state, left) = match world.find_vm(vm).await {
            Some(vm) => (Some(vm.state), vec![format!("directory of {}", vm.id)]),
            None => (None, vec![]),
        };
        assert_eq!(state, (firm == VmCommand::Kill).then_some(VmState::Stopped));
        assert_eq!(world.host.leftovers(), [left, vec![format!("file {file}")]].concat());
        assert_eq!(world.incoherences().await, Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_meets_another_command_than_these_goes_on() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Running).await;
    world.host.hold(Effect::PowerOff);
    let restart = ask(&engine, vm, VmCommand::Restart).await;
    world.host.reached(Effect::PowerOff, 1).await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    world.host.release(Effect::PowerOff);
    succeeded(&engine, restart).await;
    succeeded(&engine, stop).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn what_was_let_in_is_carried_out_although_its_caller_has_gone() {
    let world = World::new().await;
    let slow = Arc::new(Mortal::dawdling(&world));
    let engine = world.engine_over(slow, world.host.clone());
    let vm = world.add_vm(1, VmState::Stopped).await;
    let command = engine.command_vm(vm, VmCommand::Start, Reason::User, None);
    // Polled once: it is on its way when it is dropped.
    assert!(futures_util::FutureExt::now_or_never(command).is_none());
    world.host.reached(Effect::Launch, 1).await;
    all_ended(&engine).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_wedged_machine_wedges_only_itself() {
    let world = World::new().await;
    let engine = world.engine();
    let wedged = world.add_vm(1, VmState::Running).await;
    let other = world.add_vm(2, VmState::Stopped).await;
    world.host.hold(Effect::PowerOff);
    let stop = ask(&engine, wedged, VmCommand::Stop).await;
    world.host.reached(Effect::PowerOff, 1).await;
    let start = ask(&engine, other, VmCommand::Start).await;
    succeeded(&engine, start).await;
    let waiting = engine.wait(stop, Duration::from_secs(1)).await.expect("readable");
    assert_eq!(waiting.expect("recorded").state, OperationState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_limit_and_an_unknown_operation_at_once() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    let start = ask(&engine, vm, VmCommand::Start).await;
    let begun = tokio::time::Instant::now();
    engine.wait(start, Duration::from_secs(7)).await.expect("readable").expect("recorded");
    assert_eq!(begun.elapsed(), Duration::from_secs(7));
    assert_eq!(engine.wait(samples::operation_id(9), LONG).await, Ok(None));
    assert_eq!(begun.elapsed(), Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_denial_names_the_vm_its_state_and_what_to_do() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    let denied = asked(&engine, vm, VmCommand::Restart).await.expect_err("it is not running");
    let expected = EngineError::Denied {
        subject: Subject::Vm(vm),
        state: "stopped",
        denied: Denied::NotRunning,
    };
    assert_eq!(denied, expected);
    assert_eq!(
        denied.to_string(),
        format!("vm {vm} is stopped: it is not running; start it first")
    );
    assert_eq!(world.operations().await, []);
    assert_eq!(world.vm(vm).await, samples::vm(1, VmState::Stopped));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_cannot_be_commanded() {
    let world = World::new().await;
    let engine = world.engine();
    let nobody = samples::vm_id(9);
    let error = asked(&engine, nobody, VmCommand::Start).await.expect_err("unknown");
    assert_eq!(error, EngineError::NotFound(Subject::Vm(nobody)));
    let new = crate::NewVm { template: samples::name("huge"), name: None, autostart: false };
    let error = engine.create_vm(new, None).await.expect_err("unknown");
    assert_eq!(error, EngineError::NoTemplate(samples::name("huge")));
}

#[tokio::test(start_paused = true)]
async fn deleting_a_running_vm_ends_its_machine_and_frees_its_disks() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    let disk = samples::attached(1, 1, "/dev/sda");
    let file = format!("disks/{}", disk.file_name());
    world.host.stray_file(&file);
    world.put(vec![Change::AddDisk(disk)]).await;
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    world.host.hold(Effect::PowerOff);
    let delete = ask(&engine, vm, VmCommand::Delete).await;
    assert_eq!(world.vm(vm).await.state, VmState::Deleting);
    world.host.release(Effect::PowerOff);
    succeeded(&engine, delete).await;
    assert_eq!(world.find_vm(vm).await, None);
    let disk = world.disk(samples::disk_id(1)).await;
    assert_eq!((disk.state, disk.vm), (DiskState::Available, None));
    assert_eq!(world.host.leftovers(), [format!("file {file}")]);
    assert_eq!(world.incoherences().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn more_operations_than_may_wait_are_refused() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Running).await;
    world.host.hold(Effect::Kill);
    for _ in 0..16 {
        ask(&engine, vm, VmCommand::Kill).await;
    }
    let refused = asked(&engine, vm, VmCommand::Kill).await.expect_err("there are enough");
    assert_eq!(refused, EngineError::Full(Subject::Vm(vm)));
    world.host.release(Effect::Kill);
    all_ended(&engine).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
    assert_eq!(world.operations().await.len(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_template_in_use_cannot_be_deleted() {
    let world = World::new().await;
    let engine = world.engine();
    world.add_vm(1, VmState::Stopped).await;
    let name = samples::name("small");
    let error = engine.delete_template(&name).await.expect_err("in use");
    assert!(error.to_string().contains("delete that VM first"), "{error}");
    let gone = ask(&engine, samples::vm_id(1), VmCommand::Delete).await;
    succeeded(&engine, gone).await;
    engine.delete_template(&name).await.expect("no longer in use");
}

#[tokio::test(start_paused = true)]
async fn an_effect_goes_to_the_port_it_belongs_to() {
    let world = World::new().await;
    let network = Arc::new(FakeHost::default());
    let ports = Ports {
        record: world.records.clone(),
        network: network.clone(),
        operator: world.host.clone() as Arc<dyn Apply>,
        judge: world.judge.clone(),
        clock: world.clock.clone(),
        wake_observer: Arc::new(|| {}),
    };
    let engine = Engine::new(ports, world.config.clone());
    let vm = world.add_vm(1, VmState::Stopped).await;
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    let subject = Subject::Vm(vm);
    assert_eq!(network.effects_on(&subject), [Effect::ConnectNetwork]);
    let others = [Effect::PrepareDirectory, Effect::PrepareDisks, Effect::Launch];
    assert_eq!(world.host.effects_on(&subject), others);
}

#[tokio::test(start_paused = true)]
async fn what_is_already_so_names_its_operation_or_is_so_for_good() {
    let world = World::new().await;
    let slow = Arc::new(Mortal::dawdling(&world));
    let engine = world.engine_over(slow, world.host.clone());
    let vm = world.add_vm(1, VmState::Stopped).await;
    let mut at_rest = 0;
    for round in 0..50 {
        for command in [VmCommand::Start, VmCommand::Stop] {
            let first = ask(&engine, vm, command).await;
            // Each time it is nearer to its end when this one asks.
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            let again =
                engine.command_vm(vm, command, Reason::User, None).await.expect("already so");
            match again.operation {
                Some(operation) => assert_eq!(operation, first),
                None => {
                    at_rest += 1;
                    assert!([VmState::Running, VmState::Stopped].contains(&again.record.state));
                }
            }
            succeeded(&engine, first).await;
        }
    }
    assert!(at_rest > 0, "never was one so quick");
}

#[tokio::test(start_paused = true)]
async fn starting_a_vm_whose_machine_is_known_to_be_gone_starts_it() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    // Before anybody has looked, the record is all that is known.
    let accepted =
        engine.command_vm(vm, VmCommand::Start, Reason::User, None).await.expect("let in");
    assert_eq!(accepted.operation, None);
    engine.act_on(world.look().await).await.expect("taken up");
    let id = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, id).await;
    assert!(world.host.machine(vm).is_some());
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    assert_eq!(world.incoherences().await, Vec::<String>::new());
    assert!(!world.host.effects_on(&Subject::Vm(vm)).contains(&Effect::End));
}

#[tokio::test(start_paused = true)]
async fn stopping_a_stopped_vm_whose_machine_is_known_to_live_ends_it() {
    for command in [VmCommand::Stop, VmCommand::Kill] {
        let world = World::new().await;
        let engine = world.engine();
        let vm = world.add_vm(1, VmState::Stopped).await;
        world.host.stray_machine(vm);
        engine.act_on(world.look().await).await.expect("taken up");
        let id = ask(&engine, vm, command).await;
        succeeded(&engine, id).await;
        assert_eq!(world.host.machine(vm), None, "{command:?}");
        assert_eq!(world.vm(vm).await.state, VmState::Stopped);
        assert_eq!(world.incoherences().await, Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_machine_runs_on_another_backend_is_left_as_it_is() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Running).await;
    let machine = Machine { backend: "other".to_owned(), process: None };
    world.put(vec![Change::VmMachine { vm, machine: Some(machine) }]).await;
    let before = world.vm(vm).await;
    for command in [VmCommand::Stop, VmCommand::Restart, VmCommand::Kill, VmCommand::Delete] {
        let refused = asked(&engine, vm, command).await.expect_err("not this daemon's");
        assert!(
            matches!(refused, EngineError::Denied { denied: Denied::OtherBackend, .. }),
            "{command:?}: {refused}"
        );
    }
    assert_eq!(world.vm(vm).await, before);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_kept_waiting_by_an_engine_that_closes() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::Launch);
    let id = ask(&engine, vm, VmCommand::Start).await;
    world.host.reached(Effect::Launch, 1).await;
    let begun = tokio::time::Instant::now();
    let waiting = engine.wait(id, Duration::from_secs(60));
    let (operation, ()) = tokio::join!(waiting, async { engine.close() });
    let operation = operation.expect("readable").expect("recorded");
    assert_eq!(operation.state, OperationState::Running);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    world.host.release(Effect::Launch);
}
