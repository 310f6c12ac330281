//! Limits on repairs: in a row, and at once.

use std::collections::BTreeSet;

use vman_core::ident::Generation;
use vman_core::operation::{Effect, Subject};
use vman_core::repair::{IssueState, Resolution};
use vman_core::testing::samples;
use vman_core::vm::FailureReason;

use super::repairs::{look_and_act, restart};
use super::*;

#[tokio::test(start_paused = true)]
async fn a_vm_that_crashes_in_a_loop_fails_when_its_budget_is_spent() {
    let mut world = World::new().await;
    world.config.repair.budget = 2;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    for _ in 0..3 {
        world.judge.then(restart());
        look_and_act(&world, &engine).await;
        world.clock.advance(1_000);
        world.host.crash(vm);
    }
    let state = world.vm(vm).await.state;
    let reason = state.reason().expect("it failed").to_string();
    assert!(reason.starts_with("repair budget: 2 repairs within 600 s did not last"), "{reason}");
    assert_eq!(world.repairs().await.len(), 2);
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    assert_eq!(world.repairs().await.len(), 2, "it stays failed");
    let state = world.only_issue().await.state;
    assert!(matches!(state, IssueState::Resolved { how: Resolution::GivenUp, .. }), "{state:?}");
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_is_recorded_once_and_not_at_every_look() {
    let mut world = World::new().await;
    world.config.repair.budget = 0;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.stray_machine(vm);
    for _ in 0..4 {
        world.judge.then(restart());
        look_and_act(&world, &engine).await;
        world.clock.advance(1_000);
    }
    let recorded = world.vm(vm).await;
    assert_eq!(recorded.state.word(), "failed");
    assert_eq!(recorded.generation, Generation::FIRST.next());
    // Once for each generation; after that not before its time.
    assert_eq!(world.judge.cases().len(), 2);
    assert_eq!(world.only_issue().await.state, IssueState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_failed_vm_keeps_its_reason_when_the_budget_is_spent() {
    let mut world = World::new().await;
    world.config.repair.budget = 0;
    let engine = world.engine();
    let failed = VmState::Failed(FailureReason("no room".to_owned()));
    let vm = world.add_vm(1, failed.clone()).await;
    world.host.stray_machine(vm);
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    assert_eq!(world.judge.cases().len(), 1);
    assert_eq!(world.vm(vm).await.state, failed);
}

#[tokio::test(start_paused = true)]
async fn one_look_has_only_so_many_issues_judged_and_the_next_one_comes_at_once() {
    let world = World::new().await;
    let engine = world.engine();
    for number in 0..100 {
        world.host.stray_file(&format!("disks/stray-{number:03}.raw"));
    }
    assert_eq!(look_and_act(&world, &engine).await, Some(NOW), "there is more to do");
    assert_eq!((world.issues().await.len(), world.judge.cases().len()), (100, 64));
    assert_eq!(look_and_act(&world, &engine).await, None);
    let judged: BTreeSet<_> = world.judge.cases().into_iter().map(|(issue, _)| issue.id).collect();
    assert_eq!((judged.len(), world.judge.cases().len()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_kind_is_cut_and_hides_no_other_kind() {
    let world = World::new().await;
    let engine = world.engine();
    for number in 0..1_200 {
        world.host.stray_file(&format!("disks/stray-{number:04}.raw"));
    }
    look_and_act(&world, &engine).await;
    assert_eq!(world.records.unresolved().await.expect("readable").len(), 1_000);
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    let unresolved = world.records.unresolved().await.expect("readable");
    assert_eq!(unresolved.len(), 1_001);
    // What is found beyond them is taken up once there is room.
    for number in 0..1_000 {
        assert!(world.host.lose_file(&format!("disks/stray-{number:04}.raw")));
    }
    for _ in 0..2 {
        world.clock.advance(1_000);
        look_and_act(&world, &engine).await;
    }
    assert_eq!(world.records.unresolved().await.expect("readable").len(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_budget_outlives_the_daemon_and_is_whole_again_after_its_window() {
    let mut world = World::new().await;
    world.config.repair.budget = 1;
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    look_and_act(&world, &world.engine()).await;
    world.clock.advance(600_001);
    world.host.crash(vm);
    world.judge.then(restart());
    look_and_act(&world, &world.engine()).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    assert_eq!(world.repairs().await.len(), 2);
    world.clock.advance(1_000);
    world.host.crash(vm);
    world.judge.then(restart());
    look_and_act(&world, &world.engine()).await;
    assert_eq!(world.vm(vm).await.state.word(), "failed");
}

#[tokio::test(start_paused = true)]
async fn the_users_own_commands_cost_no_budget() {
    let mut world = World::new().await;
    world.config.repair.budget = 1;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    for _ in 0..5 {
        let restarted = ask(&engine, vm, VmCommand::Restart).await;
        succeeded(&engine, restarted).await;
    }
    world.host.crash(vm);
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_comes_as_the_budget_is_spent_wins() {
    let mut world = World::new().await;
    world.config.repair.budget = 0;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    let look = world.look().await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    engine.act_on(look).await.expect("the records can be used");
    succeeded(&engine, stop).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn at_most_eight_repairs_are_under_way_at_once_and_the_others_follow() {
    let world = World::new().await;
    let engine = world.engine();
    for number in 1..=10 {
        world.add_vanished(number).await;
        world.judge.then(restart());
    }
    world.host.hold(Effect::Launch);
    let look = world.look().await;
    let next = engine.act_on(look).await.expect("the records can be used");
    assert_eq!(world.repairs().await.len(), 8);
    assert_eq!(next, None, "the end of a repair makes the observer look");
    assert_eq!(world.judge.cases().len(), 8, "nobody is asked for what could not be done now");
    let open = world.issues().await.into_iter().filter(|issue| issue.state == IssueState::Open);
    assert_eq!(open.count(), 2);
    world.host.release(Effect::Launch);
    all_ended(&engine).await;
    look_and_act(&world, &engine).await;
    assert_eq!(world.repairs().await.len(), 10);
    let running = world.records.vms(Some("running"), Page::first()).await.expect("readable");
    assert_eq!(running.len(), 10);
    let subjects: BTreeSet<Subject> =
        world.repairs().await.into_iter().map(|repair| repair.subject).collect();
    assert_eq!(subjects.len(), 10);
    assert!(subjects.contains(&Subject::Vm(samples::vm_id(10))));
}

#[tokio::test(start_paused = true)]
async fn repairs_that_end_soon_make_room_for_others_of_the_same_look() {
    let world = World::new().await;
    let engine = world.engine();
    for number in 1..=40 {
        world.add_vanished(number).await;
        world.judge.then(restart());
    }
    let look = world.look().await;
    let next = engine.act_on(look).await.expect("the records can be used");
    all_ended(&engine).await;
    assert_eq!((world.repairs().await.len(), next), (40, None));
    let running = world.records.vms(Some("running"), Page::first()).await.expect("readable");
    assert_eq!(running.len(), 40);
}
