//! Things on the host that no record owns.

use vman_core::coherence::Kind;
use vman_core::operation::{Effect, Subject, Verb};
use vman_core::repair::{IssueState, Resolution, Verdict};
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::repairs::look_and_act;
use super::*;

fn first_candidate() -> Vec<vman_core::repair::Judgement> {
    vec![samples::answer("tidy", Verdict::Repair, &[0])]
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_a_record_is_killed_when_a_policy_says_so() {
    let world = World::new().await;
    let engine = world.engine();
    let stray = samples::vm_id(7);
    world.host.stray_machine(stray);
    world.judge.then(first_candidate());
    look_and_act(&world, &engine).await;
    let issue = world.only_issue().await;
    assert_eq!((issue.kind, &issue.subject), (Kind::ProcessOrphan, &Subject::Machine(stray)));
    let repair = &world.repairs().await[0];
    assert_eq!((repair.verb, &repair.state), (Verb::ProcessKill, &OperationState::Succeeded));
    assert_eq!(world.host.effects_on(&Subject::Machine(stray)), [Effect::Kill]);
    look_and_act(&world, &engine).await;
    let how = Resolution::ByRepair;
    assert_eq!(world.only_issue().await.state, IssueState::Resolved { at: NOW, how });
}

#[tokio::test(start_paused = true)]
async fn a_file_without_a_record_is_moved_out_of_the_way_and_not_deleted() {
    let world = World::new().await;
    let engine = world.engine();
    world.host.stray_file("disks/stray.raw");
    world.judge.then(first_candidate());
    look_and_act(&world, &engine).await;
    look_and_act(&world, &engine).await;
    assert_eq!(world.host.quarantined().into_iter().collect::<Vec<_>>(), ["disks/stray.raw"]);
    let state = world.only_issue().await.state;
    assert_eq!(state, IssueState::Resolved { at: NOW, how: Resolution::ByRepair });
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_vm_was_recorded_since_the_look_is_no_orphan() {
    let world = World::new().await;
    let engine = world.engine();
    world.host.stray_machine(samples::vm_id(1));
    world.judge.then(first_candidate());
    let look = world.look().await;
    assert_eq!(look.incoherences.len(), 1);
    world.add_vm(1, VmState::Running).await;
    engine.act_on(look).await.expect("the records can be used");
    all_ended(&engine).await;
    assert_eq!((world.issues().await, world.host.deeds()), (vec![], vec![]));
    assert!(world.host.machine(samples::vm_id(1)).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_look_that_began_before_a_repair_had_ended_has_nothing_repaired_again() {
    let world = World::new().await;
    let engine = world.engine();
    world.host.stray_machine(samples::vm_id(7));
    let look = world.look().await;
    world.clock.advance(5);
    for _ in 0..2 {
        world.judge.then(first_candidate());
        engine.act_on(look.clone()).await.expect("the records can be used");
        all_ended(&engine).await;
    }
    assert_eq!(world.repairs().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_fails_is_judged_anew_and_tried_within_the_budget() {
    let world = World::new().await;
    let engine = world.engine();
    world.host.stray_machine(samples::vm_id(7));
    world.host.fail_always(Effect::Kill, "not permitted");
    for _ in 0..6 {
        world.judge.then(first_candidate());
        look_and_act(&world, &engine).await;
        world.clock.advance(1_000);
    }
    assert_eq!(world.repairs().await.len(), 3, "the budget");
    assert_eq!(error_of(&world.repairs().await[0]), "not permitted");
    let issue = world.only_issue().await;
    assert_eq!(issue.state, IssueState::Open);
    // Once the window has passed there is budget again.
    world.host.heal(Effect::Kill);
    world.clock.advance(700_000);
    world.judge.then(first_candidate());
    look_and_act(&world, &engine).await;
    assert_eq!(world.host.machine(samples::vm_id(7)), None);
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_a_stray_machine_is_still_dealt_with() {
    for moments in 0.. {
        let world = World::new().await;
        world.host.stray_machine(samples::vm_id(7));
        for _ in 0..10 {
            world.judge.then(first_candidate());
        }
        let mortal = Arc::new(Mortal::dying_after(&world, moments));
        let engine = world.engine_over(mortal.clone(), mortal.clone());
        let look = world.look().await;
        let life = async move {
            engine.act_on(look).await.expect("the records can be used");
            all_ended(&engine).await;
        };
        if !mortal.dies_in(life).await {
            return;
        }
        let engine = world.engine();
        for _ in 0..4 {
            world.clock.advance(5_000);
            look_and_act(&world, &engine).await;
        }
        let story = format!("killed at moment {moments}");
        assert_eq!(world.host.leftovers(), Vec::<String>::new(), "{story}");
        assert_eq!(world.repairs().await.len(), 1, "{story}");
        let state = world.only_issue().await.state;
        assert!(matches!(state, IssueState::Resolved { how: Resolution::ByRepair, .. }), "{story}");
    }
}
