//! From a look to a repair, and when none is made.

use std::sync::OnceLock;

use vman_core::coherence::Kind;
use vman_core::operation::{Effect, Subject, Verb};
use vman_core::repair::{
    Context, IssueState, JudgeFailure, JudgeFailureKind, Judgement, Resolution, Verdict,
};
use vman_core::sighting::Guest;
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::*;

/// What a policy says that chooses to start the machine again.
pub(super) fn restart() -> Vec<Judgement> {
    vec![samples::answer("restarter", Verdict::Repair, &[0])]
}

pub(super) fn failure() -> Vec<Judgement> {
    let kind = JudgeFailureKind::Trap;
    let failure = JudgeFailure { kind, message: "unreachable executed".to_owned(), trace: None };
    let answer = samples::answer("broken", Verdict::Repair, &[0]);
    vec![Judgement { outcome: Err(failure), ..answer }]
}

/// Looks, acts on it, and waits until what came of it has ended.
pub(super) async fn look_and_act(world: &World, engine: &Engine) -> Option<Timestamp> {
    let look = world.look().await;
    let next = engine.act_on(look).await.expect("the records can be used");
    all_ended(engine).await;
    next
}

#[tokio::test(start_paused = true)]
async fn a_vanished_machine_is_started_again_by_the_path_a_users_command_takes() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    world.host.hold(Effect::Launch);
    let look = world.look().await;
    engine.act_on(look).await.expect("the records can be used");

    let issue = world.only_issue().await;
    assert_eq!((issue.kind, &issue.subject), (Kind::VmProcessMissing, &Subject::Vm(vm)));
    let repair = &world.repairs().await[0];
    assert_eq!(issue.state, IssueState::Repairing(repair.id));
    let reason = Reason::Repair { issue: issue.id, policy: "restarter".to_owned() };
    assert_eq!((repair.verb, &repair.reason), (Verb::VmRestart, &reason));
    assert_eq!(world.vm(vm).await.state, VmState::Starting);
    let kept = world.records.judgements(issue.id).await.expect("readable");
    assert_eq!(kept.into_iter().map(|kept| kept.judgement).collect::<Vec<_>>(), restart());

    // While it goes on, looks change nothing.
    world.host.reached(Effect::Launch, 1).await;
    let look = world.look().await;
    engine.act_on(look).await.expect("the records can be used");
    assert_eq!(world.only_issue().await.state, issue.state);

    world.host.release(Effect::Launch);
    succeeded(&engine, repair.id).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    look_and_act(&world, &engine).await;
    let how = Resolution::ByRepair;
    assert_eq!(world.only_issue().await.state, IssueState::Resolved { at: NOW, how });
    assert_eq!(world.repairs().await.len(), 1);
    assert_eq!(world.judge.cases().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_policy_sees_the_case_the_time_and_what_was_tried_before() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    world.clock.advance(1_000);
    assert!(world.host.crash(vm));
    look_and_act(&world, &engine).await;
    let cases = world.judge.cases();
    let (issue, context) = &cases[1];
    assert_eq!(issue.candidates.len(), 2);
    assert_eq!((context.now, context.backend.as_str()), (NOW.plus(1_000), "fake"));
    assert_eq!(context.attempts.len(), 1);
    assert!(context.attempts[0].succeeded);
    assert_eq!(context.attempts[0].candidate, "vm.restart");
    assert_eq!(context.facts, [vman_core::evidence::Fact::integer("repair.budget-left", 2)]);
    assert_ne!(context.seed, cases[0].1.seed);
}

#[tokio::test(start_paused = true)]
async fn a_finding_of_an_older_generation_is_dropped() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    let look = world.look().await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    succeeded(&engine, stop).await;
    engine.act_on(look).await.expect("the records can be used");
    assert_eq!(world.issues().await, []);
    assert_eq!(world.judge.cases(), []);
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_finding_of_an_older_generation_does_not_resolve_an_issue_either() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    look_and_act(&world, &engine).await;
    let look = world.look().await;
    let start = ask(&engine, vm, VmCommand::Restart).await;
    succeeded(&engine, start).await;
    engine.act_on(look).await.expect("the records can be used");
    assert_eq!(world.only_issue().await.state, IssueState::Open);
    look_and_act(&world, &engine).await;
    let how = Resolution::ByItself;
    assert_eq!(world.only_issue().await.state, IssueState::Resolved { at: NOW, how });
}

/// A policy that takes its time: the user stops or restarts the VM meanwhile.
struct SlowJudge(OnceLock<Engine>, VmCommand);

#[async_trait::async_trait]
impl Judge for SlowJudge {
    async fn judge(&self, issue: &Issue, _: &Context) -> Vec<Judgement> {
        let (Subject::Vm(vm), Some(engine)) = (&issue.subject, self.0.get()) else {
            panic!("not the case of this test: {issue:?}");
        };
        let command = ask(engine, *vm, self.1).await;
        succeeded(engine, command).await;
        restart()
    }
}

/// A vanished VM whose user is quicker than its policy; judged once.
async fn overtaken(command: VmCommand) -> (World, Engine, VmId) {
    let world = World::new().await;
    let judge = Arc::new(SlowJudge(OnceLock::new(), command));
    let engine = world.engine_judged_by(world.records.clone(), world.host.clone(), judge.clone());
    judge.0.set(engine.clone()).expect("set once");
    let vm = world.add_vanished(1).await;
    look_and_act(&world, &engine).await;
    assert_eq!(world.repairs().await, []);
    (world, engine, vm)
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_the_user_has_started_again_is_not_started_once_more_by_a_repair() {
    let (world, engine, vm) = overtaken(VmCommand::Restart).await;
    let launches = world.host.effects_on(&Subject::Vm(vm));
    assert_eq!(launches.iter().filter(|effect| **effect == Effect::Launch).count(), 1);
    assert_eq!(world.vm(vm).await.state, VmState::Running);
    look_and_act(&world, &engine).await;
    let how = Resolution::ByItself;
    assert_eq!(world.only_issue().await.state, IssueState::Resolved { at: NOW, how });
}

#[tokio::test(start_paused = true)]
async fn the_users_stop_wins_over_a_repair() {
    let (world, engine, vm) = overtaken(VmCommand::Stop).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
    assert_eq!(world.host.machine(vm), None);
    look_and_act(&world, &engine).await;
    let how = Resolution::ByItself;
    assert_eq!(world.only_issue().await.state, IssueState::Resolved { at: NOW, how });
}

#[tokio::test(start_paused = true)]
async fn an_issue_is_resolved_when_a_look_from_after_its_repair_no_longer_finds_it() {
    let world = World::new().await;
    let engine = world.engine();
    world.add_vanished(1).await;
    world.judge.then(restart());
    world.host.hold(Effect::Launch);
    let look = world.look().await;
    engine.act_on(look).await.expect("the records can be used");
    // This look sees a VM that is being started, and is acted on when that has ended.
    let during = world.look().await;
    world.clock.advance(40);
    world.host.release(Effect::Launch);
    all_ended(&engine).await;
    engine.act_on(during).await.expect("the records can be used");
    assert!(matches!(world.only_issue().await.state, IssueState::Repairing(_)));
    let after = world.look().await;
    world.clock.advance(3);
    engine.act_on(after).await.expect("the records can be used");
    let state = IssueState::Resolved { at: NOW.plus(43), how: Resolution::ByRepair };
    assert_eq!(world.only_issue().await.state, state);
}

#[tokio::test(start_paused = true)]
async fn a_repair_that_did_not_hold_has_not_resolved_what_goes_away_later() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    world.clock.advance(1_000);
    assert!(world.host.crash(vm));
    look_and_act(&world, &engine).await;
    assert_eq!(world.only_issue().await.state, IssueState::Open);
    world.clock.advance(1_000);
    let by_the_user = ask(&engine, vm, VmCommand::Restart).await;
    succeeded(&engine, by_the_user).await;
    look_and_act(&world, &engine).await;
    let state = IssueState::Resolved { at: NOW.plus(2_000), how: Resolution::ByItself };
    assert_eq!(world.only_issue().await.state, state);
}

#[tokio::test(start_paused = true)]
async fn an_issue_whose_repair_failed_was_given_up_and_did_not_go_away_by_itself() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    world.host.fail_always(Effect::Launch, "no room");
    world.judge.then(restart());
    for _ in 0..2 {
        look_and_act(&world, &engine).await;
    }
    let reason = world.vm(vm).await.state.reason().map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("vm.restart: no room"));
    let state = IssueState::Resolved { at: NOW, how: Resolution::GivenUp };
    assert_eq!(world.only_issue().await.state, state);
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_issue_stays_open_and_the_host_is_left_alone() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    for look in 1..=3 {
        assert_eq!(look_and_act(&world, &engine).await, None);
        let issue = world.only_issue().await;
        assert_eq!((issue.state, issue.occurrences), (IssueState::Open, look));
        world.clock.advance(5_000);
    }
    assert_eq!(world.judge.cases().len(), 1, "it is judged once, not at every look");
    assert_eq!(world.host.deeds(), []);
    assert_eq!(world.vm(vm).await, samples::vm(1, VmState::Running));
}

#[tokio::test(start_paused = true)]
async fn an_issue_that_was_left_is_judged_anew_when_its_subject_has_changed() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    look_and_act(&world, &engine).await;
    let restarted = ask(&engine, vm, VmCommand::Restart).await;
    succeeded(&engine, restarted).await;
    assert!(world.host.crash(vm));
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    assert_eq!(world.judge.cases().len(), 2);
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_fails_leaves_the_host_alone_and_is_asked_again_later() {
    let world = World::new().await;
    let engine = world.engine();
    world.add_vanished(1).await;
    world.judge.then(failure());
    world.judge.then(restart());
    assert_eq!(look_and_act(&world, &engine).await, Some(NOW.plus(60_000)));
    assert_eq!(world.host.deeds(), []);
    world.clock.advance(59_999);
    look_and_act(&world, &engine).await;
    assert_eq!((world.judge.cases().len(), world.repairs().await.len()), (1, 0));
    world.clock.advance(1);
    look_and_act(&world, &engine).await;
    assert_eq!((world.judge.cases().len(), world.repairs().await.len()), (2, 1));
    let issue = world.only_issue().await;
    let kept = world.records.judgements(issue.id).await.expect("readable");
    assert_eq!(kept.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn with_repair_switched_off_issues_are_named_and_judged_and_nothing_is_done() {
    let mut world = World::new().await;
    world.config.repair.enabled = false;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    look_and_act(&world, &engine).await;
    let issue = world.only_issue().await;
    assert_eq!(issue.state, IssueState::Open);
    assert_eq!(world.records.judgements(issue.id).await.expect("readable").len(), 1);
    assert_eq!((world.operations().await, world.host.deeds()), (vec![], vec![]));
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_looked_at_resolves_nothing() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vanished(1).await;
    look_and_act(&world, &engine).await;
    world.host.blind("the backend does not answer");
    look_and_act(&world, &engine).await;
    assert_eq!(world.only_issue().await.state, IssueState::Open);
    world.host.see();
    world.host.stray_machine(vm);
    look_and_act(&world, &engine).await;
    let how = Resolution::ByItself;
    assert_eq!(world.only_issue().await.state, IssueState::Resolved { at: NOW, how });
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_powered_itself_off_is_recorded_stopped_and_is_no_issue() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    world.host.set_guest(vm, Guest::ShutDown);
    look_and_act(&world, &engine).await;
    let recorded = world.vm(vm).await;
    assert_eq!((recorded.state, recorded.machine), (VmState::Stopped, None));
    assert_eq!(world.host.machine(vm), None);
    let operation = &world.operations().await[0];
    assert_eq!((operation.verb, &operation.reason), (Verb::VmGuestEnded, &Reason::Guest));
    look_and_act(&world, &engine).await;
    assert_eq!(world.issues().await, []);
    assert_eq!(world.judge.cases(), []);
}

#[tokio::test(start_paused = true)]
async fn a_guests_end_seen_before_the_user_started_it_anew_does_not_stop_it() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    world.host.set_guest(vm, Guest::ShutDown);
    let look = world.look().await;
    let again = ask(&engine, vm, VmCommand::Restart).await;
    succeeded(&engine, again).await;
    engine.act_on(look).await.expect("the records can be used");
    all_ended(&engine).await;
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_a_repair_is_still_made_and_only_once() {
    for moments in 0.. {
        let world = World::new().await;
        let vm = world.add_vanished(1).await;
        for _ in 0..10 {
            world.judge.then(restart());
        }
        let mortal = Arc::new(Mortal::dying_after(&world, moments));
        let engine = world.engine_over(mortal.clone(), mortal.clone());
        let look = world.look().await;
        let life = async move {
            engine.act_on(look).await.expect("the records can be used");
            all_ended(&engine).await;
        };
        if !mortal.dies_in(life).await {
            assert!(moments > 10, "only {moments} moments");
            return;
        }
        let engine = world.engine();
        engine.recover().await.expect("readable");
        all_ended(&engine).await;
        for _ in 0..3 {
            world.clock.advance(5_000);
            look_and_act(&world, &engine).await;
        }
        let story = format!("killed at moment {moments}");
        assert_eq!(world.vm(vm).await.state, VmState::Running, "{story}");
        assert_eq!(world.repairs().await.len(), 1, "{story}");
        let issue = world.only_issue().await;
        let how = Resolution::ByRepair;
        assert!(matches!(issue.state, IssueState::Resolved { how: h, .. } if h == how), "{story}");
        let judgements = world.records.judgements(issue.id).await.expect("readable");
        assert!(!judgements.is_empty(), "{story}: who chose the repair is forgotten");
    }
}
