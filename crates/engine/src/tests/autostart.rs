//! VMs that start by themselves after the host was booted anew.

use uuid::Uuid;
use vman_core::lifecycle::Denied;
use vman_core::operation::{Effect, Subject, Verb};
use vman_core::testing::samples;
use vman_core::vm::{FailureReason, Machine, Process};

use super::mortal::Mortal;
use super::*;
use crate::EngineError;

const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);

/// VMs in every state that are to start by themselves, and one that is not; the host has gone down.
async fn after_a_boot() -> World {
    let world = World::new().await;
    world.put(vec![Change::HostBoot(FIRST)]).await;
    let failed = VmState::Failed(FailureReason("earlier".to_owned()));
    let states = [VmState::Running, VmState::Paused, VmState::Stopped, failed, VmState::Running];
    for (number, state) in (1..).zip(states) {
        let machine = Machine { backend: "fake".to_owned(), process: None };
        let vm =
            Vm { autostart: number != 5, machine: Some(machine), ..samples::vm(number, state) };
        world.put(vec![Change::AddVm(vm)]).await;
    }
    world
}

#[tokio::test(start_paused = true)]
async fn after_a_boot_of_the_host_what_ran_and_is_to_start_by_itself_is_started() {
    let world = after_a_boot().await;
    let engine = world.engine();
    assert_eq!(engine.autostart(SECOND).await, Ok(2));
    all_ended(&engine).await;
    for number in [1, 2] {
        let vm = world.vm(samples::vm_id(number)).await;
        assert_eq!((vm.state, vm.machine), (VmState::Running, world.host.machine(vm.id)));
        assert!(world.host.machine(vm.id).is_some());
    }
    for number in [3, 4, 5] {
        assert_eq!(world.host.effects_on(&Subject::Vm(samples::vm_id(number))), []);
    }
    let operations = world.operations().await;
    assert_eq!(operations.len(), 2);
    for operation in operations {
        assert_eq!((operation.verb, operation.reason), (Verb::VmStart, Reason::Boot));
    }
    assert_eq!(engine.autostart(SECOND).await, Ok(0), "it is the same boot");
    assert_eq!(world.operations().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn before_any_boot_is_known_nothing_is_started() {
    let world = World::new().await;
    let vm = Vm { autostart: true, ..samples::vm(1, VmState::Running) };
    world.put(vec![Change::AddVm(vm)]).await;
    assert_eq!(world.engine().autostart(FIRST).await, Ok(0));
    assert_eq!(world.records.host_boot().await, Ok(Some(FIRST)));
    assert_eq!(world.operations().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_starts_by_itself_is_not_repaired_beside_that() {
    let world = after_a_boot().await;
    let engine = world.engine();
    engine.autostart(SECOND).await.expect("the records can be used");
    // The first look, before anything has started.
    let look = world.look().await;
    for _ in 0..3 {
        world.judge.then(super::repairs::restart());
    }
    engine.act_on(look).await.expect("the records can be used");
    all_ended(&engine).await;
    let cases = world.judge.cases();
    let subjects: Vec<&Subject> = cases.iter().map(|(issue, _)| &issue.subject).collect();
    assert_eq!(subjects, [&Subject::Vm(samples::vm_id(5))]);
    let launches = world.host.effects_on(&Subject::Vm(samples::vm_id(1)));
    assert_eq!(launches.iter().filter(|effect| **effect == Effect::Launch).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_each_vm_is_started_once() {
    for moments in 0.. {
        let world = after_a_boot().await;
        let mortal = Arc::new(Mortal::dying_after(&world, moments));
        let engine = world.engine_over(mortal.clone(), mortal.clone());
        let life = async move {
            engine.recover().await.expect("readable");
            engine.autostart(SECOND).await.expect("the records can be used");
            all_ended(&engine).await;
        };
        let died = mortal.dies_in(life).await;
        let engine = world.engine();
        engine.recover().await.expect("readable");
        engine.autostart(SECOND).await.expect("the records can be used");
        all_ended(&engine).await;
        let story = format!("killed at moment {moments}");
        assert_eq!(world.operations().await.len(), 2, "{story}");
        for number in [1, 2] {
            assert!(world.host.machine(samples::vm_id(number)).is_some(), "{story}");
            assert_eq!(world.vm(samples::vm_id(number)).await.state, VmState::Running, "{story}");
        }
        if !died {
            assert!(moments > 10, "only {moments} moments");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_keeps_nothing_else_from_starting() {
    let world = after_a_boot().await;
    let elsewhere = Machine { backend: "other".to_owned(), process: None };
    let vm = samples::vm_id(1);
    world.put(vec![Change::VmMachine { vm, machine: Some(elsewhere) }]).await;
    let engine = world.engine();
    assert_eq!(engine.autostart(SECOND).await, Ok(1));
    all_ended(&engine).await;
    assert_eq!(world.vm(samples::vm_id(2)).await.state, VmState::Running);
    assert_eq!(world.host.effects_on(&Subject::Vm(vm)), []);
}

#[tokio::test(start_paused = true)]
async fn whether_a_vm_starts_by_itself_can_be_changed_at_any_time() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Running).await;
    let before = world.vm(vm).await;
    let told = engine.set_autostart(vm, true).await.expect("it exists");
    assert!(told.autostart);
    assert_eq!(told, world.vm(vm).await);
    assert_eq!((told.state, told.generation), (before.state, before.generation));
    let nobody = samples::vm_id(9);
    let error = engine.set_autostart(nobody, true).await.expect_err("unknown");
    assert_eq!(error, EngineError::NotFound(Subject::Vm(nobody)));
}

/// Recorded running on another backend, since before the host was booted.
async fn elsewhere_before_the_boot() -> World {
    let world = World::new().await;
    world.put(vec![Change::HostBoot(FIRST)]).await;
    let process = Process { pid: 7, start_time: 1, boot_id: FIRST };
    let machine = Some(Machine { backend: "other".to_owned(), process: Some(process) });
    let vm = Vm { autostart: true, machine, ..samples::vm(1, VmState::Running) };
    world.put(vec![Change::AddVm(vm)]).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_machine_from_before_the_boot_is_gone_whichever_backend_ran_it() {
    let world = elsewhere_before_the_boot().await;
    let engine = world.engine();
    assert_eq!(engine.autostart(SECOND).await, Ok(1));
    all_ended(&engine).await;
    let vm = world.vm(samples::vm_id(1)).await;
    assert_eq!((vm.state, vm.machine), (VmState::Running, world.host.machine(vm.id)));
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ran_before_the_boot_is_started_and_stopped_at_once_when_somebody_asks() {
    for (command, state) in [
        (VmCommand::Start, VmState::Running),
        (VmCommand::Restart, VmState::Running),
        (VmCommand::Stop, VmState::Stopped),
        (VmCommand::Kill, VmState::Stopped),
    ] {
        let world = elsewhere_before_the_boot().await;
        world
            .put(vec![Change::VmAutostart {
                vm: samples::vm_id(1),
                autostart: false,
                at: samples::MADE_AT,
            }])
            .await;
        let engine = world.engine();
        assert_eq!(engine.autostart(SECOND).await, Ok(0));
        let id = ask(&engine, samples::vm_id(1), command).await;
        succeeded(&engine, id).await;
        let vm = world.vm(samples::vm_id(1)).await;
        assert_eq!((vm.state, vm.machine), (state, world.host.machine(vm.id)), "{command:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_another_backend_runs_is_not_said_to_be_started() {
    let world = elsewhere_before_the_boot().await;
    let engine = world.engine();
    // It is still the same boot.
    assert_eq!(engine.autostart(FIRST).await, Ok(0));
    let asked = engine.command_vm(samples::vm_id(1), VmCommand::Start, Reason::User, None).await;
    let refused = asked.expect_err("this engine cannot see it");
    assert!(matches!(&refused, EngineError::Denied { denied: Denied::OtherBackend, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_paused_vm_whose_machine_is_known_to_be_gone_can_be_started() {
    let world = World::new().await;
    let vm = world.add_vm(1, VmState::Paused).await;
    let engine = world.engine();
    let look = world.look().await;
    engine.act_on(look).await.expect("the records can be used");
    let id = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, id).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}
