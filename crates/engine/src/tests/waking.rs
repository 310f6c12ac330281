//! The loop that takes looks in: when it makes the observer look again.

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use vman_core::coherence::Look;
use vman_core::repair::{Context, Decision, IssueState, Judgement, Verdict};
use vman_core::testing::samples;

use super::repairs::{look_and_act, restart};
use super::*;
use crate::{Ports, RepairLoop};

/// A policy's answer that puts the case off.
fn hold(recheck_after_ms: Option<u64>) -> Vec<Judgement> {
    let answer = samples::answer("patient", Verdict::Hold, &[]);
    let outcome = answer.outcome.clone().map(|held| Decision { recheck_after_ms, ..held });
    vec![Judgement { outcome, ..answer }]
}

/// A loop over a world's records, and when it woke the observer.
struct Running {
    looks: mpsc::Sender<Look>,
    wakes: watch::Receiver<u32>,
    task: tokio::task::JoinHandle<()>,
}

fn run(world: &World) -> Running {
    let (looks, receiver) = mpsc::channel(1);
    let (sender, wakes) = watch::channel(0);
    let ports = Ports {
        record: world.records.clone(),
        network: world.host.clone(),
        operator: world.host.clone(),
        judge: world.judge.clone(),
        clock: world.clock.clone(),
        wake_observer: Arc::new(move || sender.send_modify(|count| *count += 1)),
    };
    let engine = Engine::new(ports, world.config.clone());
    let task = tokio::spawn(RepairLoop::new(engine, receiver).run());
    Running { looks, wakes, task }
}

impl Running {
    async fn take(&self, world: &World) {
        self.looks.send(world.look().await).await.expect("the loop runs");
    }

    /// How long it took to the next wake; none if there is none within an hour.
    async fn next_wake(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        let woken = tokio::time::timeout(LONG, self.wakes.changed()).await;
        woken.ok().map(|_| begun.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_issue_wakes_the_observer_when_its_policy_asked_for_that() {
    let world = World::new().await;
    world.add_vanished(1).await;
    world.judge.then(hold(Some(12_000)));
    let mut running = run(&world);
    running.take(&world).await;
    let woken = running.next_wake().await.expect("it wakes the observer");
    assert_eq!(woken.as_secs(), 12, "{woken:?}");
    assert_eq!(running.next_wake().await, None, "once");
    world.clock.advance(12_000);
    world.judge.then(restart());
    running.take(&world).await;
    running.next_wake().await.expect("the repair has ended");
    assert_eq!(world.vm(samples::vm_id(1)).await.state, VmState::Running);
    assert_eq!(world.judge.cases().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_held_issue_is_not_judged_before_its_time() {
    let world = World::new().await;
    let engine = world.engine();
    world.add_vanished(1).await;
    world.judge.then(hold(None));
    assert_eq!(look_and_act(&world, &engine).await, Some(NOW.plus(30_000)));
    world.clock.advance(29_999);
    assert_eq!(look_and_act(&world, &engine).await, Some(NOW.plus(30_000)));
    assert_eq!(world.judge.cases().len(), 1);
    world.clock.advance(1);
    assert_eq!(look_and_act(&world, &engine).await, None);
    assert_eq!(world.judge.cases().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_held_issue_that_cannot_be_decided_at_its_time_does_not_wake_without_end() {
    let world = World::new().await;
    world.add_vanished(1).await;
    world.judge.then(hold(Some(1_000)));
    let mut running = run(&world);
    running.take(&world).await;
    running.next_wake().await.expect("its time has come");
    world.clock.advance(1_000);
    world.host.blind("the backend does not answer");
    running.take(&world).await;
    assert_eq!(running.next_wake().await, None);
    world.host.see();
    running.take(&world).await;
    running.take(&world).await;
    assert_eq!(world.judge.cases().len(), 2, "it is judged once it can be seen again");
}

#[tokio::test(start_paused = true)]
async fn open_issues_are_judged_anew_after_a_start_for_policies_may_have_changed() {
    let mut world = World::new().await;
    world.config.repair.enabled = false;
    let vm = world.add_vanished(1).await;
    world.judge.then(restart());
    look_and_act(&world, &world.engine()).await;
    assert_eq!(world.only_issue().await.state, IssueState::Open);
    world.config.repair.enabled = true;
    world.judge.then(restart());
    let mut running = run(&world);
    running.take(&world).await;
    running.next_wake().await.expect("the repair has ended");
    assert_eq!(world.vm(vm).await.state, VmState::Running);
}

/// A policy engine with a fault of its own.
struct Panics;

#[async_trait::async_trait]
impl Judge for Panics {
    async fn judge(&self, _: &Issue, _: &Context) -> Vec<Judgement> {
        panic!("a fault in the judge");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_look_does_not_end_the_loop() {
    let world = World::new().await;
    let (looks, receiver) = mpsc::channel(1);
    let engine =
        world.engine_judged_by(world.records.clone(), world.host.clone(), Arc::new(Panics));
    let task = tokio::spawn(RepairLoop::new(engine.clone(), receiver).run());
    world.add_vanished(1).await;
    looks.send(world.look().await).await.expect("the loop runs");
    let vm = world.add_vm(2, VmState::Stopped).await;
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    world.host.set_guest(vm, vman_core::sighting::Guest::ShutDown);
    looks.send(world.look().await).await.expect("the loop runs still");
    drop(looks);
    task.await.expect("it ends with the observer");
    all_ended(&engine).await;
    assert_eq!(world.vm(vm).await.state, VmState::Stopped);
}

#[tokio::test(start_paused = true)]
async fn the_loop_ends_with_the_observer() {
    let world = World::new().await;
    let running = run(&world);
    drop(running.looks);
    running.task.await.expect("it did not panic");
}
