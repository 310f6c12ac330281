//! Faults that the settings script, on a clock that the test tells: each comes when it is due, for
//! the machines it is about, whether an instance is there or not.

use serde_json::{Value, json};
use uuid::Uuid;
use vman_plugin::host::{Client, Offer};
use vman_plugin::{
    Bus, Control, DiskAttachment, DiskRemoval, ErrorCode, Event, ExitCause, ImageRef, Machine,
    RunState, Unplug,
};

use crate::{Host, SOON, in_state, next, over_both, plain};

over_both!(
    a_crash_comes_when_it_is_due_and_not_again_when_its_start_is_over,
    a_crash_comes_also_when_no_instance_is_there,
    a_machine_that_hangs_answers_nothing_until_it_is_over_and_can_be_killed,
    a_guest_panics_until_it_is_reset,
    events_are_lost_and_the_survey_tells_all_the_same,
    a_slow_guest_lets_go_later,
    an_image_is_lost_once,
    a_probe_fails_until_it_is_over,
    a_launch_takes_the_time_that_is_told,
    the_same_seed_draws_the_same_plans,
    ten_thousand_machines_are_surveyed_and_one_more_is_launched,
);

/// These faults on a virtual clock.
fn scripted(faults: &Value) -> Value {
    json!({"clock": "virtual", "fault": faults})
}

impl Host {
    fn tell_time(&self, ms: u64) {
        std::fs::write(self.path().join(".clock"), ms.to_string()).unwrap();
    }
}

async fn control(client: &Client, id: Uuid) -> Control {
    client.sight(id).await.unwrap().expect("it lives").control
}

async fn a_crash_comes_when_it_is_due_and_not_again_when_its_start_is_over(offer: Offer) {
    let host = Host::new(offer);
    let crash = json!({"kind": "crash", "on_start": 1, "after_start_ms": 100, "cause": "killed"});
    let (client, mut events) = host.start(scripted(&json!([crash])));
    let spec = host.spec();
    let id = spec.id;
    host.tell_time(1000);
    client.launch(spec.clone()).await.unwrap();
    host.tell_time(1099);
    assert_eq!(client.survey().await.unwrap().machines, [in_state(id, RunState::Running)]);
    host.tell_time(1100);
    assert_eq!(client.sight(id).await.unwrap(), None);
    assert!(matches!(next(&mut events).await, Event::MachineEnded { id: of, .. } if of == id));
    let ended = client.survey().await.unwrap().ended;
    assert_eq!((ended.len(), ended[0].cause), (1, ExitCause::Killed));
    assert!(!host.machine_file(id).exists());
    client.launch(spec).await.unwrap();
    host.tell_time(9_999_999);
    assert_eq!(client.survey().await.unwrap().machines, [in_state(id, RunState::Running)]);
    assert_eq!(host.machine(id)["starts"], 2);
}

async fn a_crash_comes_also_when_no_instance_is_there(offer: Offer) {
    let host = Host::new(offer);
    let crash = json!({"kind": "crash", "on_start": 1, "at_ms": 50});
    let first = host.start(scripted(&json!([crash])));
    let spec = host.spec();
    first.0.launch(spec.clone()).await.unwrap();
    host.stop(first).await;
    host.tell_time(50);
    // The settings of the start stand in the machine's file.
    let (client, _events) = host.start(json!({"clock": "virtual"}));
    assert_eq!(client.survey().await.unwrap().machines, []);
    client.launch(spec.clone()).await.unwrap();
    assert_eq!(control(&client, spec.id).await, running());
}

fn running() -> Control {
    Control::Connected { run_state: RunState::Running }
}

async fn a_machine_that_hangs_answers_nothing_until_it_is_over_and_can_be_killed(offer: Offer) {
    let host = Host::new(offer);
    let hang = json!({"kind": "hang", "at_ms": 10, "for_ms": 10});
    let (client, _events) = host.start(scripted(&json!([hang])));
    let [id, other] = [host.launched(&client).await, host.launched(&client).await];
    host.tell_time(15);
    assert!(matches!(control(&client, id).await, Control::Unreachable { .. }));
    assert_eq!(client.sight(id).await.unwrap().unwrap().age_ms, 5);
    for result in [
        client.pause(id).await,
        client.reset(id).await,
        client.power_button(id).await,
        client.quit(id).await,
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.code, ErrorCode::Timeout);
        assert!(error.message.contains("it can be killed"), "{error}");
    }
    client.kill(other).await.unwrap();
    assert_eq!(client.sight(other).await.unwrap(), None);
    host.tell_time(20);
    assert_eq!(control(&client, id).await, running());
    client.quit(id).await.unwrap();
}

async fn a_guest_panics_until_it_is_reset(offer: Offer) {
    let host = Host::new(offer);
    let panic = json!({"kind": "guest-panic", "at_ms": 10});
    let (client, mut events) = host.start(scripted(&json!([panic])));
    let id = host.launched(&client).await;
    host.tell_time(10);
    let run_state = RunState::GuestPanicked;
    assert_eq!(next(&mut events).await, Event::MachineChanged { id, run_state });
    assert_eq!(control(&client, id).await, Control::Connected { run_state });
    assert_eq!(client.resume(id).await.unwrap_err().code, ErrorCode::Failed);
    client.reset(id).await.unwrap();
    assert_eq!(control(&client, id).await, running());
}

async fn events_are_lost_and_the_survey_tells_all_the_same(offer: Offer) {
    let host = Host::new(offer);
    let lost = json!({"kind": "lost-event", "on_start": 1});
    let (client, mut events) = host.start(scripted(&json!([lost])));
    let [spec, told] = [host.spec(), host.spec()];
    client.launch(spec.clone()).await.unwrap();
    client.kill(spec.id).await.unwrap();
    let ended = client.survey().await.unwrap().ended;
    assert_eq!((ended.len(), ended[0].machine.id), (1, spec.id));
    // The first event is of a later start.
    client.launch(told.clone()).await.unwrap();
    client.kill(told.id).await.unwrap();
    client.launch(told.clone()).await.unwrap();
    client.kill(told.id).await.unwrap();
    let first = next(&mut events).await;
    assert!(matches!(first, Event::MachineEnded { id, .. } if id == told.id), "{first:?}");
    drop(client);
    let rest = tokio::time::timeout(SOON, events.recv()).await.unwrap();
    assert_eq!(rest, None, "and nothing else");
}

async fn a_slow_guest_lets_go_later(offer: Offer) {
    let host = Host::new(offer);
    let slow = json!({"kind": "slow-unplug", "delay_ms": 500});
    let (client, mut events) = host.start(scripted(&json!([slow])));
    let id = host.launched(&client).await;
    let disk = host.disk(&client, Bus::VirtioScsi).await;
    client.attach_disk(DiskAttachment { id, disk: disk.clone() }).await.unwrap();
    let removal = DiskRemoval { id, disk: disk.id, path: None };
    assert_eq!(client.detach_disk(removal.clone()).await.unwrap(), Unplug::Waiting);
    host.tell_time(499);
    assert_eq!(client.sight(id).await.unwrap().unwrap().disks, Some(vec![disk.id]));
    host.tell_time(500);
    assert_eq!(next(&mut events).await, Event::DiskDetached { id, disk: disk.id });
    assert_eq!(client.detach_disk(removal).await.unwrap(), Unplug::Done);
}

async fn an_image_is_lost_once(offer: Offer) {
    let host = Host::new(offer);
    let loss = json!({"kind": "image-loss", "at_ms": 10, "disk": 1});
    let first = host.start(scripted(&json!([loss])));
    let mut spec = host.spec();
    let disks =
        [host.disk(&first.0, Bus::VirtioBlk).await, host.disk(&first.0, Bus::VirtioScsi).await];
    spec.disks = disks.to_vec();
    first.0.launch(spec.clone()).await.unwrap();
    host.stop(first).await;
    host.tell_time(10);
    let (client, _events) = host.start(json!({"clock": "virtual"}));
    client.reattach(Machine { id: spec.id, process: None }).await.unwrap();
    let [kept, lost] = disks.map(|disk| ImageRef { path: disk.path, format: disk.format });
    client.inspect_image(kept).await.unwrap();
    let error = client.inspect_image(lost.clone()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    std::fs::write(&lost.path, "restored").unwrap();
    host.tell_time(11);
    client.survey().await.unwrap();
    client.pause(spec.id).await.unwrap();
    assert!(lost.path.exists());
}

async fn a_probe_fails_until_it_is_over(offer: Offer) {
    let host = Host::new(offer);
    let failure = json!({"kind": "probe-failure", "for_ms": 10, "reason": "no device"});
    let (client, _events) = host.start(scripted(&json!([failure])));
    let error = client.probe().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("no device"), "{error}");
    host.tell_time(10);
    assert!(client.probe().await.unwrap().usable);
}

async fn a_launch_takes_the_time_that_is_told(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(json!({"clock": "virtual", "launch_ms": 3_600_000}));
    let spec = host.spec();
    let mut launch = Box::pin(client.launch(spec.clone()));
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut launch).await;
    assert!(early.is_err(), "nobody has told the time: {early:?}");
    host.tell_time(3_600_000);
    launch.await.unwrap();
    assert_eq!(host.machine(spec.id)["starts"], 1);
}

async fn the_same_seed_draws_the_same_plans(offer: Offer) {
    let host = Host::new(offer);
    let crash = json!({"kind": "crash", "machines": 0.5, "after_start_ms": [1, 1_000_000]});
    let settings = |seed| json!({"seed": seed, "clock": "virtual", "fault": [crash]});
    let specs: Vec<_> = (0..20).map(|_| host.spec()).collect();
    let mut plans = Vec::new();
    for seed in [1, 1, 2] {
        let instance = host.start(settings(seed));
        let launches = specs.iter().map(|spec| instance.0.launch(spec.clone()));
        futures_util::future::try_join_all(launches).await.unwrap();
        plans.push(specs.iter().map(|spec| host.machine(spec.id)["faults"].clone()).collect());
        for spec in &specs {
            instance.0.kill(spec.id).await.unwrap();
            std::fs::remove_file(host.directory(spec.id).join("machine.starts")).unwrap();
        }
        host.stop(instance).await;
    }
    let plans: [Vec<Value>; 3] = plans.try_into().unwrap();
    assert_eq!(plans[0], plans[1]);
    assert_ne!(plans[0], plans[2]);
}

/// Not how long it takes, but that it does not look at each of them for each.
async fn ten_thousand_machines_are_surveyed_and_one_more_is_launched(offer: Offer) {
    let host = Host::new(offer);
    for number in 1..=10_000 {
        let id = Uuid::from_u128(number);
        std::fs::create_dir(host.directory(id)).unwrap();
        let disk = json!({"id": id, "path": host.path().join(id.to_string()),
            "format": "raw", "bus": "virtio-blk"});
        let content = json!({"id": id, "state": "running", "starts": 1, "disks": [disk]});
        std::fs::write(host.machine_file(id), content.to_string()).unwrap();
    }
    let (client, mut events) = host.start(plain());
    assert_eq!(client.survey().await.unwrap().machines.len(), 10_000);
    let mut spec = host.spec();
    spec.disks.push(host.disk(&client, Bus::VirtioBlk).await);
    client.launch(spec.clone()).await.unwrap();
    let crashed = Uuid::from_u128(7777);
    std::fs::remove_file(host.machine_file(crashed)).unwrap();
    let event = next(&mut events).await;
    assert!(matches!(event, Event::MachineEnded { id, .. } if id == crashed), "{event:?}");
    assert_eq!(client.survey().await.unwrap().machines.len(), 10_000);
}
