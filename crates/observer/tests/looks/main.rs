//! The observer over the ports in memory, under paused time: when it looks, and what it says when
//! it cannot see. What counts as wrong is tested in `vman-core`.

#![cfg(test)]

mod blind;
mod machines;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use vman_core::coherence::{Kind, Look};
use vman_core::ident::{Name, Timestamp};
use vman_core::ports::{Change, ObserverHealth, Record, Survey};
use vman_core::sighting::{Sightings, Surveyed};
use vman_core::template::Template;
use vman_core::testing::{FakeHost, FixedClock, MemoryRecords, samples};
use vman_core::vm::VmState;
use vman_observer::{Findings, INTERVAL_MAX, Observer, Ports};

use crate::blind::Unreadable;

const INTERVAL: Duration = Duration::from_secs(5);
/// Nothing here takes longer, unless it never comes.
const LONG: Duration = Duration::from_secs(3600);
const NOW: Timestamp = Timestamp(1_000_000);

/// What an observer sees, and its findings.
struct Scene {
    records: Arc<MemoryRecords>,
    host: Arc<FakeHost>,
    clock: Arc<FixedClock>,
    wake: Arc<Notify>,
}

impl Scene {
    fn new() -> Self {
        let clock = Arc::new(FixedClock::at(NOW));
        Self { records: Arc::default(), host: Arc::default(), clock, wake: Arc::default() }
    }

    fn ports(&self) -> Ports {
        Ports {
            recall: self.records.clone(),
            surveys: vec![self.host.clone()],
            clock: self.clock.clone(),
            wake: self.wake.clone(),
        }
    }

    fn run(&self) -> Findings {
        start(self.ports(), INTERVAL)
    }

    /// So many VMs recorded running; no machine of them lives.
    async fn add_vanished(&self, count: u8) {
        let mut changes = vec![Change::AddTemplate(samples::template("small"))];
        changes.extend((1..=count).map(|n| Change::AddVm(samples::vm(n, VmState::Running))));
        self.records.commit(changes).await.expect("the records take it");
    }
}

fn start(ports: Ports, interval: Duration) -> Findings {
    let (observer, findings) = Observer::new(ports, interval);
    tokio::spawn(observer.run());
    findings
}

/// The next look, and how long it took to come.
async fn next(findings: &mut Findings) -> (Look, Duration) {
    let begun = Instant::now();
    let look = tokio::time::timeout(LONG, findings.looks.recv()).await;
    (look.expect("a look comes").expect("the observer runs"), begun.elapsed())
}

fn health(findings: &Findings) -> ObserverHealth {
    findings.status.borrow().health.clone()
}

fn degraded(reason: &str) -> ObserverHealth {
    ObserverHealth::Degraded(reason.to_owned())
}

fn kinds(look: &Look) -> Vec<Kind> {
    look.incoherences.iter().map(|found| found.wrong.kind()).collect()
}

/// Takes its time before it sees what the host is like.
struct Slow(Arc<FakeHost>, Duration);

#[async_trait]
impl Survey for Slow {
    async fn survey(&self) -> Sightings {
        tokio::time::sleep(self.1).await;
        self.0.survey().await
    }
}

/// Sees network devices alone.
struct Network;

#[async_trait]
impl Survey for Network {
    async fn survey(&self) -> Sightings {
        Sightings { devices: Surveyed::Known(BTreeMap::new()), ..Sightings::default() }
    }
}

#[tokio::test(start_paused = true)]
async fn it_looks_at_once_and_then_at_every_interval() {
    let mut findings = Scene::new().run();
    let mut waits = Vec::new();
    for _ in 0..4 {
        waits.push(next(&mut findings).await.1.as_secs());
    }
    assert_eq!(waits, [0, 5, 5, 5]);
}

#[tokio::test(start_paused = true)]
async fn an_interval_above_the_limit_is_cut_to_it() {
    let mut findings = start(Scene::new().ports(), Duration::from_secs(60));
    next(&mut findings).await;
    assert_eq!(next(&mut findings).await.1.as_secs(), INTERVAL_MAX.as_secs());
}

#[tokio::test(start_paused = true)]
async fn the_time_a_look_takes_does_not_put_the_next_one_off() {
    let scene = Scene::new();
    let slow = Arc::new(Slow(scene.host.clone(), Duration::from_secs(2)));
    let ports = Ports { surveys: vec![slow], ..scene.ports() };
    let mut findings = start(ports, INTERVAL);
    assert_eq!(next(&mut findings).await.1.as_secs(), 2);
    assert_eq!(next(&mut findings).await.1.as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_wake_makes_it_look_at_once() {
    let scene = Scene::new();
    let mut findings = scene.run();
    next(&mut findings).await;
    scene.add_vanished(1).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    scene.wake.notify_one();
    let (look, took) = next(&mut findings).await;
    assert_eq!(took, Duration::ZERO);
    assert_eq!(kinds(&look), [Kind::VmProcessMissing]);
}

#[tokio::test(start_paused = true)]
async fn a_wake_during_a_look_makes_another_one() {
    let scene = Scene::new();
    let slow = Arc::new(Slow(scene.host.clone(), Duration::from_secs(1)));
    let ports = Ports { surveys: vec![slow], ..scene.ports() };
    let mut findings = start(ports, INTERVAL);
    tokio::time::advance(Duration::from_millis(500)).await;
    scene.wake.notify_one();
    next(&mut findings).await;
    assert_eq!(next(&mut findings).await.1.as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_look_bears_the_last_millisecond_that_was_over_when_it_began() {
    let scene = Scene::new();
    scene.add_vanished(1).await;
    let mut findings = scene.run();
    let (look, _) = next(&mut findings).await;
    let before = NOW.minus(1);
    assert_eq!((look.at, look.incoherences[0].seen_at), (before, before));
    scene.clock.advance(7);
    scene.wake.notify_one();
    assert_eq!(next(&mut findings).await.0.at, NOW.plus(6));
}

#[tokio::test(start_paused = true)]
async fn the_status_counts_looks_and_what_the_last_one_found() {
    let scene = Scene::new();
    scene.add_vanished(3).await;
    scene.host.stray_file("disks/stray.raw");
    let mut findings = scene.run();
    assert_eq!(health(&findings), ObserverHealth::Starting);
    next(&mut findings).await;
    scene.host.lose_file("disks/stray.raw");
    let first = findings.status.borrow().clone();
    assert_eq!((first.looks, first.last_look), (1, Some(NOW.minus(1))));
    assert_eq!(first.health, ObserverHealth::Healthy);
    assert_eq!(first.found, [("file.orphan", 1), ("vm.process-missing", 3)]);
    scene.clock.advance(5_000);
    next(&mut findings).await;
    let second = findings.status.borrow().clone();
    assert_eq!((second.looks, second.last_look), (2, Some(NOW.plus(4_999))));
    assert_eq!(second.found, [("vm.process-missing", 3)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_seen_accuses_nobody_and_is_told() {
    let scene = Scene::new();
    scene.add_vanished(1).await;
    scene.host.blind("the backend does not answer");
    let mut findings = scene.run();
    let (look, _) = next(&mut findings).await;
    assert_eq!(look.incoherences, []);
    for kind in [Kind::VmProcessMissing, Kind::ProcessOrphan, Kind::FileOrphan] {
        assert!(look.undecided.contains(&kind), "{kind:?}");
    }
    let reason = "machines: the backend does not answer; files: the backend does not answer; \
                  network devices: the backend does not answer";
    assert_eq!(health(&findings), degraded(reason));
    scene.host.see();
    let (look, _) = next(&mut findings).await;
    assert_eq!((kinds(&look), look.undecided), (vec![Kind::VmProcessMissing], vec![]));
    assert_eq!(health(&findings), ObserverHealth::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_survey_that_takes_too_long_leaves_its_part_unknown_and_the_others_known() {
    let scene = Scene::new();
    scene.add_vanished(1).await;
    let slow = Arc::new(Slow(scene.host.clone(), Duration::from_millis(3_001)));
    let ports = Ports { surveys: vec![slow, Arc::new(Network)], ..scene.ports() };
    let mut findings = start(ports, INTERVAL);
    let (look, took) = next(&mut findings).await;
    assert_eq!(took.as_secs(), 3);
    assert_eq!(look.incoherences, []);
    assert!(look.undecided.contains(&Kind::VmProcessMissing));
    assert!(!look.undecided.contains(&Kind::DeviceOrphan));
    assert_eq!(health(&findings), degraded("machines: not looked at; files: not looked at"));
}

#[tokio::test(start_paused = true)]
async fn surveys_that_hang_together_take_no_longer_than_one() {
    let scene = Scene::new();
    let hangs = || Arc::new(Slow(scene.host.clone(), LONG)) as Arc<dyn Survey>;
    let ports = Ports { surveys: vec![hangs(), hangs(), hangs()], ..scene.ports() };
    let mut findings = start(ports, INTERVAL);
    assert_eq!(next(&mut findings).await.1.as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_survey_just_within_its_time_is_believed() {
    let scene = Scene::new();
    scene.add_vanished(1).await;
    let slow = Arc::new(Slow(scene.host.clone(), Duration::from_millis(2_900)));
    let ports = Ports { surveys: vec![slow], ..scene.ports() };
    let mut findings = start(ports, INTERVAL);
    assert_eq!(kinds(&next(&mut findings).await.0), [Kind::VmProcessMissing]);
    assert_eq!(health(&findings), ObserverHealth::Healthy);
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_read_are_told_and_tried_again() {
    let scene = Scene::new();
    let records = Arc::new(Unreadable::default());
    let ports = Ports { recall: records.clone(), ..scene.ports() };
    let mut findings = start(ports, INTERVAL);
    let mut status = findings.status.clone();
    let told = status.wait_for(|status| status.health != ObserverHealth::Starting).await;
    let told = told.expect("the observer runs").clone();
    assert_eq!(told.health, degraded("the records cannot be used now: disk on fire"));
    assert_eq!((told.looks, told.last_look), (0, None));
    findings.looks.try_recv().expect_err("nothing was compared");
    records.mend();
    let (look, took) = next(&mut findings).await;
    assert_eq!((look.incoherences, took.as_secs()), (vec![], 5));
    assert_eq!(health(&findings), ObserverHealth::Healthy);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens() {
    let scene = Scene::new();
    let (observer, mut findings) = Observer::new(scene.ports(), INTERVAL);
    let running = tokio::spawn(observer.run());
    next(&mut findings).await;
    let status = findings.status.clone();
    drop(findings.looks);
    let ended = tokio::time::timeout(Duration::from_secs(1), running).await;
    ended.expect("at once").expect("without a panic");
    assert_eq!(status.borrow().looks, 1);
}

#[tokio::test(start_paused = true)]
async fn wakes_without_end_do_not_make_it_look_without_pause() {
    let scene = Scene::new();
    let mut findings = scene.run();
    next(&mut findings).await;
    let begun = Instant::now();
    for _ in 0..50 {
        scene.wake.notify_one();
        next(&mut findings).await;
    }
    // Each of them comes soon all the same.
    let per_look = begun.elapsed() / 50;
    assert!((Duration::from_millis(2)..Duration::from_millis(5)).contains(&per_look));
}
