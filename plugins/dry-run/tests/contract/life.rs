//! A machine's life: launched, seen, found again, asked to power off, ended; every verb twice.

use std::slice::from_ref;

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;
use vman_plugin::host::Offer;
use vman_plugin::{Control, DiskSpec, ErrorCode, Event, ImageFormat, ImageSpec, Machine, RunState};

use crate::{Host, SOON, in_state, next, over_both, plain};

over_both!(
    a_machine_is_launched_seen_powered_off_and_ended_and_twice_is_once,
    a_machine_outlives_its_instance_and_counts_its_starts,
    deleting_the_file_crashes_the_machine,
    editing_the_file_changes_what_the_guest_does,
    a_power_button_can_be_ignored,
    a_guest_powers_off_also_when_its_instance_is_gone,
    a_machine_that_is_gone_is_not_found_but_can_be_ended,
    a_machine_is_launched_in_its_own_directory_alone,
    a_missing_disk_is_named_and_nothing_is_left,
    many_machines_live_side_by_side,
    a_folder_that_cannot_be_read_is_an_error_and_not_empty,
);

async fn a_machine_is_launched_seen_powered_off_and_ended_and_twice_is_once(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(plain());
    assert!(client.probe().await.unwrap().usable);
    assert_eq!(client.survey().await.unwrap().machines, []);
    let spec = host.spec();
    let id = spec.id;

    let machine = client.launch(spec.clone()).await.unwrap();
    assert_eq!(machine, Machine { id, process: None });
    assert_eq!(client.launch(spec).await.unwrap(), machine);
    let running = in_state(id, RunState::Running);
    assert_eq!(client.survey().await.unwrap().machines, from_ref(&running));
    assert_eq!(client.reattach(machine.clone()).await.unwrap(), running);

    client.power_button(id).await.unwrap();
    client.power_button(id).await.unwrap();
    let run_state = RunState::GuestShutdown;
    assert_eq!(next(&mut events).await, Event::MachineChanged { id, run_state });
    let off = in_state(id, run_state);
    assert_eq!(client.survey().await.unwrap().machines, [off]);

    client.quit(id).await.unwrap();
    client.quit(id).await.unwrap();
    client.kill(id).await.unwrap();
    let ended = next(&mut events).await;
    assert!(matches!(ended, Event::MachineEnded { id: which, .. } if which == id));
    assert_eq!(client.survey().await.unwrap().machines, []);
    let gone = client.reattach(machine).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound);
}

async fn a_machine_outlives_its_instance_and_counts_its_starts(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(plain());
    let spec = host.spec();
    let id = spec.id;
    client.launch(spec.clone()).await.unwrap();
    client.kill(id).await.unwrap();
    let machine = client.launch(spec).await.unwrap();
    drop(client);
    while events.recv().await.is_some() {}

    let expected = json!({"id": id, "state": "running", "starts": 2, "resets": 0, "disks": []});
    assert_eq!(host.machine(id), expected);
    let (client, _events) = host.start(plain());
    let running = in_state(id, RunState::Running);
    assert_eq!(client.survey().await.unwrap().machines, from_ref(&running));
    assert_eq!(client.reattach(machine).await.unwrap(), running);
}

async fn deleting_the_file_crashes_the_machine(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(plain());
    let spec = host.spec();
    let id = spec.id;
    client.launch(spec).await.unwrap();
    std::fs::remove_file(host.machine_file(id)).unwrap();
    assert_eq!(client.survey().await.unwrap().machines, []);
    let ended = next(&mut events).await;
    assert!(matches!(ended, Event::MachineEnded { id: which, .. } if which == id));
}

async fn editing_the_file_changes_what_the_guest_does(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(plain());
    let spec = host.spec();
    let id = spec.id;
    client.launch(spec).await.unwrap();
    let content = json!({"id": id, "state": "guest-panicked", "starts": 1});
    std::fs::write(host.machine_file(id), content.to_string()).unwrap();
    let run_state = RunState::GuestPanicked;
    assert_eq!(next(&mut events).await, Event::MachineChanged { id, run_state });

    std::fs::write(host.machine_file(id), "").unwrap();
    let survey = client.survey().await.unwrap();
    let [sighting] = &survey.machines[..] else {
        panic!("{survey:?}");
    };
    assert!(matches!(sighting.control, Control::Unreachable { .. }));
    client.kill(id).await.unwrap();
    assert_eq!(client.survey().await.unwrap().machines, []);
}

async fn a_power_button_can_be_ignored(offer: Offer) {
    let host = Host::new(offer);
    let settings = json!({"ignore_power_button": true, "shutdown_ms": 0});
    let (client, _events) = host.start(settings);
    let spec = host.spec();
    let id = spec.id;
    client.launch(spec).await.unwrap();
    client.power_button(id).await.unwrap();
    let running = in_state(id, RunState::Running);
    assert_eq!(client.survey().await.unwrap().machines, [running]);
}

async fn a_guest_powers_off_also_when_its_instance_is_gone(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(json!({"shutdown_ms": 1}));
    let spec = host.spec();
    let id = spec.id;
    client.launch(spec).await.unwrap();
    client.power_button(id).await.unwrap();
    drop(client);
    while events.recv().await.is_some() {}

    let (client, _events) = host.start(plain());
    let off = in_state(id, RunState::GuestShutdown);
    let powered_off = tokio::time::timeout(SOON, async {
        while client.survey().await.unwrap().machines != [off.clone()] {}
    });
    powered_off.await.unwrap();
}

async fn a_machine_that_is_gone_is_not_found_but_can_be_ended(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let id = Uuid::new_v4();
    let error = client.power_button(id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    assert!(error.message.contains(&id.to_string()), "{error}");
    client.quit(id).await.unwrap();
    client.kill(id).await.unwrap();
}

async fn a_machine_is_launched_in_its_own_directory_alone(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let mut spec = host.spec();
    spec.directory = host.spec().directory;
    let error = client.launch(spec).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
    assert_eq!(client.survey().await.unwrap().machines, []);
}

async fn a_missing_disk_is_named_and_nothing_is_left(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let mut spec = host.spec();
    let path = host.path().join("disk.qcow2");
    let format = ImageFormat::Qcow2;
    spec.disks.push(DiskSpec {
        id: Uuid::new_v4(),
        path: path.clone(),
        format,
        serial: "d0".to_owned(),
        bus: vman_plugin::Bus::VirtioScsi,
    });
    let error = client.launch(spec.clone()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
    assert!(error.message.contains("disk.qcow2"), "{error}");
    assert_eq!(client.survey().await.unwrap().machines, []);
    assert_eq!(std::fs::read_dir(&spec.directory).unwrap().count(), 0);

    let virtual_size = 1 << 30;
    let image = ImageSpec { path, format, virtual_size };
    client.create_image(image).await.unwrap();
    client.launch(spec).await.unwrap();
}

async fn many_machines_live_side_by_side(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(json!({"launch_ms": 20}));
    let specs: Vec<_> = (0..100).map(|_| host.spec()).collect();
    let launches = specs.iter().map(|spec| client.launch(spec.clone()));
    for launched in join_all(launches).await {
        launched.unwrap();
    }
    let survey = client.survey().await.unwrap();
    let mut ids: Vec<_> = specs.iter().map(|spec| spec.id).collect();
    ids.sort();
    let seen: Vec<_> = survey.machines.iter().map(|m| m.machine.id).collect();
    assert_eq!(seen, ids);
}

async fn a_folder_that_cannot_be_read_is_an_error_and_not_empty(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    std::fs::remove_dir(host.path()).unwrap();
    let error = client.survey().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    let path = host.path().display().to_string();
    assert!(error.message.contains(&path), "{error}");
    std::fs::create_dir(host.path()).unwrap();
}
