//! Disks of running machines: given, taken back at the guest's pace, and never in two machines.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use vman_plugin::host::{Client, Offer};
use vman_plugin::{
    Bus, DiskAttachment, DiskRemoval, DiskSpec, ErrorCode, Event, ImageFormat, ImageRef, Unplug,
};

use crate::{Host, REPEATS, SOON, next, over_both, plain};

over_both!(
    a_disk_is_attached_and_detached_on_either_bus_and_ten_times_is_once,
    each_verb_goes_on_where_the_instance_before_was_killed,
    an_image_that_another_machine_has_is_refused_and_its_machine_named,
    an_image_that_is_missing_or_of_another_format_is_refused,
    a_disk_of_a_machine_that_is_gone_is_detached_and_attached_nowhere,
    a_guest_lets_go_of_a_disk_later_and_tells,
    a_guest_lets_go_of_a_disk_also_when_its_instance_is_gone,
    a_guest_that_ignores_unplug_keeps_the_disk_until_it_is_reset,
    a_guest_that_ignores_unplug_keeps_the_disk_until_it_is_ended,
    a_guest_that_refuses_is_told_of_and_keeps_the_disk,
    a_guest_that_is_asked_again_may_let_go_then,
    many_machines_have_disks_side_by_side,
);

const BUSES: [Bus; 2] = [Bus::VirtioScsi, Bus::VirtioBlk];

fn attachment(id: Uuid, disk: &DiskSpec) -> DiskAttachment {
    DiskAttachment { id, disk: disk.clone() }
}

fn removal(id: Uuid, disk: &DiskSpec) -> DiskRemoval {
    DiskRemoval { id, disk: disk.id, path: None }
}

/// As a sighting tells them.
async fn disks(client: &Client, id: Uuid) -> Vec<Uuid> {
    client.sight(id).await.unwrap().unwrap().disks.unwrap()
}

/// A machine that has a disk, in an instance of these settings.
async fn with_disk(host: &Host, settings: Value, bus: Bus) -> (Client, Events, Uuid, DiskSpec) {
    let (client, events) = host.start(settings);
    let id = host.launched(&client).await;
    let disk = host.disk(&client, bus).await;
    client.attach_disk(attachment(id, &disk)).await.unwrap();
    (client, events, id, disk)
}

type Events = tokio::sync::mpsc::Receiver<Event>;

async fn a_disk_is_attached_and_detached_on_either_bus_and_ten_times_is_once(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(plain());
    assert_eq!(client.manifest().capabilities.hot_plug, BUSES);
    let mut spec = host.spec();
    let (id, own) = (spec.id, host.disk(&client, Bus::VirtioBlk).await);
    spec.disks.push(own.clone());
    client.launch(spec).await.unwrap();
    for bus in BUSES {
        let disk = host.disk(&client, bus).await;
        for _ in 0..REPEATS {
            client.attach_disk(attachment(id, &disk)).await.unwrap();
        }
        assert_eq!(disks(&client, id).await, [own.id, disk.id]);
        assert_eq!(client.survey().await.unwrap().machines[0].disks, Some(vec![own.id, disk.id]));
        let told = &host.machine(id)["disks"][1];
        let expected = json!({"id": disk.id, "path": disk.path, "format": "qcow2", "bus": bus});
        assert_eq!(told, &expected);
        for _ in 0..REPEATS {
            let unplug = client.detach_disk(removal(id, &disk)).await;
            assert_eq!(unplug.unwrap(), Unplug::Done);
        }
        assert_eq!(next(&mut events).await, Event::DiskDetached { id, disk: disk.id });
        assert_eq!(disks(&client, id).await, [own.id]);
        assert_eq!(host.machine(id)["disks"].as_array().unwrap().len(), 1);
    }
    client.kill(id).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::MachineEnded { .. }), "and nothing between");
}

async fn each_verb_goes_on_where_the_instance_before_was_killed(offer: Offer) {
    let host = Host::new(offer);
    let first = host.start(plain());
    let id = host.launched(&first.0).await;
    let disk = host.disk(&first.0, Bus::VirtioScsi).await;
    host.stop(first).await;
    for _ in 0..REPEATS {
        let instance = host.start(plain());
        instance.0.attach_disk(attachment(id, &disk)).await.unwrap();
        host.stop(instance).await;
        assert_eq!(host.machine(id)["disks"][0]["id"], json!(disk.id));
    }
    for _ in 0..REPEATS {
        let instance = host.start(plain());
        let unplug = instance.0.detach_disk(removal(id, &disk)).await;
        assert_eq!(unplug.unwrap(), Unplug::Done);
        host.stop(instance).await;
        assert_eq!(host.machine(id)["disks"], json!([]));
    }
    // Killed in the middle: the guest was asked, and nobody waited for it.
    let slow = host.start(json!({"unplug_ms": 3_600_000}));
    slow.0.attach_disk(attachment(id, &disk)).await.unwrap();
    let hurried = slow.0.with_deadline(Duration::from_millis(20));
    let error = hurried.detach_disk(removal(id, &disk)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    drop(hurried);
    host.stop(slow).await;
    let (client, _events) = host.start(plain());
    assert_eq!(disks(&client, id).await, [disk.id]);
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Done);
}

async fn an_image_that_another_machine_has_is_refused_and_its_machine_named(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events, holder, disk) = with_disk(&host, plain(), Bus::VirtioScsi).await;
    let mut spec = host.spec();
    spec.disks.push(disk.clone());
    let other = host.launched(&client).await;
    // The same image under another name is the same image.
    let alias = DiskSpec { id: Uuid::new_v4(), ..disk.clone() };
    for result in [
        client.attach_disk(attachment(other, &disk)).await,
        client.attach_disk(attachment(holder, &alias)).await,
        client.launch(spec.clone()).await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        for part in [holder.to_string(), disk.path.display().to_string()] {
            assert!(error.message.contains(&part), "{part} in {error}");
        }
    }
    assert!(disks(&client, other).await.is_empty());
    assert_eq!(client.sight(spec.id).await.unwrap(), None);

    client.detach_disk(removal(holder, &disk)).await.unwrap();
    client.attach_disk(attachment(other, &disk)).await.unwrap();
    client.kill(other).await.unwrap();
    client.launch(spec).await.unwrap();
}

async fn an_image_that_is_missing_or_of_another_format_is_refused(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let id = host.launched(&client).await;
    let disk = host.disk(&client, Bus::VirtioScsi).await;
    let raw = DiskSpec { format: ImageFormat::Raw, ..disk.clone() };
    let error = client.attach_disk(attachment(id, &raw)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    client.delete_image(ImageRef { path: disk.path.clone(), format: disk.format }).await.unwrap();
    let error = client.attach_disk(attachment(id, &disk)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    std::fs::write(&disk.path, "Dear all").unwrap();
    let error = client.attach_disk(attachment(id, &disk)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains(disk.path.to_str().unwrap()), "{error}");
    assert!(disks(&client, id).await.is_empty());
}

async fn a_disk_of_a_machine_that_is_gone_is_detached_and_attached_nowhere(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events, id, disk) = with_disk(&host, plain(), Bus::VirtioBlk).await;
    std::fs::remove_file(host.machine_file(id)).unwrap();
    for _ in 0..REPEATS {
        let error = client.attach_disk(attachment(id, &disk)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        let unplug = client.detach_disk(removal(id, &disk)).await;
        assert_eq!(unplug.unwrap(), Unplug::Done);
    }
    assert!(!host.machine_file(id).exists());
}

async fn a_guest_lets_go_of_a_disk_later_and_tells(offer: Offer) {
    let host = Host::new(offer);
    let slow = json!({"unplug_ms": 1500});
    let (client, mut events, id, disk) = with_disk(&host, slow, Bus::VirtioBlk).await;
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Waiting);
    assert_eq!(disks(&client, id).await, [disk.id], "its image is still in use");
    let again = client.attach_disk(attachment(id, &disk)).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::Conflict, "{again}");
    assert_eq!(next(&mut events).await, Event::DiskDetached { id, disk: disk.id });
    assert!(disks(&client, id).await.is_empty());
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Done);
    client.attach_disk(attachment(id, &disk)).await.unwrap();
}

async fn a_guest_lets_go_of_a_disk_also_when_its_instance_is_gone(offer: Offer) {
    let host = Host::new(offer);
    let slow = json!({"unplug_ms": 1500});
    let (client, events, id, disk) = with_disk(&host, slow, Bus::VirtioBlk).await;
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Waiting);
    host.stop((client, events)).await;
    let (client, _events) = host.start(plain());
    let let_go = async { while !disks(&client, id).await.is_empty() {} };
    tokio::time::timeout(SOON, let_go).await.unwrap();
    let other = host.launched(&client).await;
    client.attach_disk(attachment(other, &disk)).await.unwrap();
}

async fn a_guest_that_ignores_unplug_keeps_the_disk_until_it_is_reset(offer: Offer) {
    let host = Host::new(offer);
    let deaf = json!({"ignore_unplug": true});
    let first = with_disk(&host, deaf.clone(), Bus::VirtioBlk).await;
    let (client, events, id, disk) = first;
    for _ in 0..REPEATS {
        let unplug = client.detach_disk(removal(id, &disk)).await;
        assert_eq!(unplug.unwrap(), Unplug::Waiting);
    }
    host.stop((client, events)).await;
    let (client, mut events) = host.start(deaf);
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Waiting);
    let other = host.launched(&client).await;
    let taken = client.attach_disk(attachment(other, &disk)).await.unwrap_err();
    assert_eq!(taken.code, ErrorCode::Conflict);
    let kept = host.disk(&client, Bus::VirtioBlk).await;
    client.attach_disk(attachment(id, &kept)).await.unwrap();

    client.reset(id).await.unwrap();
    assert_eq!(next(&mut events).await, Event::DiskDetached { id, disk: disk.id });
    assert_eq!(disks(&client, id).await, [kept.id], "it was not asked for");
    client.attach_disk(attachment(other, &disk)).await.unwrap();
}

async fn a_guest_that_ignores_unplug_keeps_the_disk_until_it_is_ended(offer: Offer) {
    let host = Host::new(offer);
    let deaf = json!({"ignore_unplug": true});
    let (client, mut events, id, disk) = with_disk(&host, deaf, Bus::VirtioScsi).await;
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Waiting);
    client.quit(id).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::MachineEnded { .. }));
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Done);
    let other = host.launched(&client).await;
    client.attach_disk(attachment(other, &disk)).await.unwrap();
}

async fn a_guest_that_refuses_is_told_of_and_keeps_the_disk(offer: Offer) {
    let host = Host::new(offer);
    let stubborn = json!({"refuse_unplug": true});
    let (client, events, id, disk) = with_disk(&host, stubborn, Bus::VirtioBlk).await;
    for _ in 0..REPEATS {
        let error = client.detach_disk(removal(id, &disk)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Refused);
        assert!(error.message.contains(&disk.id.to_string()), "{error}");
    }
    let foreign = DiskRemoval { id, disk: Uuid::new_v4(), path: None };
    assert_eq!(client.detach_disk(foreign).await.unwrap(), Unplug::Done, "nobody is asked");
    assert_eq!(disks(&client, id).await, [disk.id]);
    client.attach_disk(attachment(id, &disk)).await.unwrap();
    host.stop((client, events)).await;
    let (client, _events) = host.start(plain());
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Done);
}

async fn a_guest_that_is_asked_again_may_let_go_then(offer: Offer) {
    let host = Host::new(offer);
    let deaf = json!({"ignore_unplug": true});
    let (client, events, id, disk) = with_disk(&host, deaf, Bus::VirtioBlk).await;
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Waiting);
    host.stop((client, events)).await;
    let (client, mut events) = host.start(plain());
    let unplug = client.detach_disk(removal(id, &disk)).await;
    assert_eq!(unplug.unwrap(), Unplug::Done);
    assert_eq!(next(&mut events).await, Event::DiskDetached { id, disk: disk.id });
}

async fn many_machines_have_disks_side_by_side(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(json!({"unplug_ms": 20}));
    let mut all = Vec::new();
    for _ in 0..20 {
        let id = host.launched(&client).await;
        all.push((id, host.disk(&client, Bus::VirtioScsi).await));
    }
    let attach = all.iter().map(|(id, disk)| client.attach_disk(attachment(*id, disk)));
    for attached in futures_util::future::join_all(attach).await {
        attached.unwrap();
    }
    let detach = all.iter().map(|(id, disk)| client.detach_disk(removal(*id, disk)));
    for detached in futures_util::future::join_all(detach).await {
        assert_eq!(detached.unwrap(), Unplug::Done);
    }
    let survey = client.survey().await.unwrap();
    assert!(survey.machines.iter().all(|machine| machine.disks == Some(vec![])));
}
