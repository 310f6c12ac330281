//! Limits on repairs: in a row, and at once.

use vman_core::operation::{Effect, Subject};
use vman_core::repair::IssueState;
use vman_core::testing::samples;

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
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
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
    assert_eq!(next, Some(NOW.plus(1_000)), "the others are judged again soon");
    let open = world.issues().await.into_iter().filter(|issue| issue.state == IssueState::Open);
    assert_eq!(open.count(), 2);
    world.host.release(Effect::Launch);
    all_ended(&engine).await;
    for _ in 0..2 {
        world.judge.then(restart());
    }
    world.clock.advance(1_000);
    look_and_act(&world, &engine).await;
    assert_eq!(world.repairs().await.len(), 10);
    let running = world.records.vms(Some("running"), Page::first()).await.expect("readable");
    assert_eq!(running.len(), 10);
    let subjects: std::collections::BTreeSet<Subject> =
        world.repairs().await.into_iter().map(|repair| repair.subject).collect();
    assert_eq!(subjects.len(), 10);
    assert!(subjects.contains(&Subject::Vm(samples::vm_id(10))));
}
