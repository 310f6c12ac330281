//! Sides of different age: messages as they were written before fields and verbs were added, and
//! plugins that know fewer verbs, or more words, than this host.

use std::ffi::c_void;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use super::handmade::{answer, start};
use crate::abi::VmanBuf;
use crate::wire::{STATUS_FAILED, STATUS_OK};
use crate::{
    BackendError, Bus, Capabilities, Control, DiskAttachment, DiskGrowth, DiskRemoval, DiskSpec,
    ErrorCode, Event, ExitCause, ImageFormat, ImageGrowth, Machine, MachineSighting, Probe,
    ProcessIdentity, RunState, Survey,
};

/// The machine of the messages below.
const ID: Uuid = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

const SIGHTING: &str = r#"{
    "machine": {
        "id": "01234567-89ab-cdef-0123-456789abcdef",
        "process": {
            "pid": 7, "start_time": 8, "boot_id": "00000000-0000-0000-0000-000000000009"
        }
    },
    "control": "connected", "run_state": "running"
}"#;

fn read<T: DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap()
}

fn sighting() -> MachineSighting {
    let boot_id = Uuid::from_u128(9);
    let process = Some(ProcessIdentity { pid: 7, start_time: 8, boot_id });
    MachineSighting {
        machine: Machine { id: ID, process },
        control: Control::Connected { run_state: RunState::Running },
        age_ms: 0,
        disks: None,
    }
}

#[test]
fn what_an_older_plugin_saw_is_read_and_what_it_does_not_say_is_not_known() {
    assert_eq!(read::<MachineSighting>(SIGHTING), sighting());
    let unreachable = r#"{"machine": {"id": "01234567-89ab-cdef-0123-456789abcdef",
        "process": null}, "control": "unreachable", "reason": "no answer"}"#;
    let seen: MachineSighting = read(unreachable);
    assert_eq!(seen.control, Control::Unreachable { reason: "no answer".to_owned() });
    assert_eq!((seen.age_ms, seen.disks), (0, None));

    let survey: Survey = read(&format!(r#"{{"machines": [{SIGHTING}]}}"#));
    assert_eq!(survey, Survey { machines: vec![sighting()], ended: vec![] });
}

#[test]
fn what_an_older_plugin_says_of_itself_is_read_and_what_it_does_not_say_it_cannot() {
    let json = r#"{"processes": true, "power_button": true, "image_formats": ["qcow2", "raw"]}"#;
    let capabilities = Capabilities {
        processes: true,
        power_button: true,
        image_formats: vec![ImageFormat::Qcow2, ImageFormat::Raw],
        pause: false,
        reset: false,
        hot_plug: vec![],
        resize: false,
    };
    assert_eq!(read::<Capabilities>(json), capabilities);
    assert_eq!(read::<Capabilities>("{}"), Capabilities::default());

    let reason = "it ran".to_owned();
    let probe = Probe { usable: true, reason, hypervisor: None, notes: vec![] };
    assert_eq!(read::<Probe>(r#"{"usable": true, "reason": "it ran"}"#), probe);
}

#[test]
fn a_disk_that_an_older_host_names_is_on_the_bus_that_needs_no_guest() {
    let json = r#"{"id": "01234567-89ab-cdef-0123-456789abcdef",
        "path": "/d/a.qcow2", "format": "qcow2", "serial": "a"}"#;
    let disk = DiskSpec {
        id: ID,
        path: PathBuf::from("/d/a.qcow2"),
        format: ImageFormat::Qcow2,
        serial: "a".to_owned(),
        bus: Bus::VirtioScsi,
    };
    assert_eq!(read::<DiskSpec>(json), disk);
}

#[test]
fn words_of_tomorrow_are_left_out_or_read_as_unknown() {
    let json = r#"{"image_formats": ["raw", "of-tomorrow"], "pause": true,
        "hot_plug": ["of-tomorrow", "virtio-blk", {"bus": 1}], "fly": true}"#;
    let capabilities = Capabilities {
        image_formats: vec![ImageFormat::Raw],
        pause: true,
        hot_plug: vec![Bus::VirtioBlk],
        ..Capabilities::default()
    };
    assert_eq!(read::<Capabilities>(json), capabilities);
    assert_eq!(read::<ErrorCode>(r#""of-tomorrow""#), ErrorCode::Other);
    assert_eq!(read::<ExitCause>(r#""of-tomorrow""#), ExitCause::Unknown);
    assert_eq!(read::<RunState>(r#""of-tomorrow""#), RunState::Other);
    assert_eq!(read::<Event>(r#"{"event": "of-tomorrow", "disk": 1}"#), Event::Other);
    let later = SIGHTING.replacen('{', r#"{"age_ms": 5, "of-tomorrow": [], "disks": [],"#, 1);
    let expected = MachineSighting { age_ms: 5, disks: Some(vec![]), ..sighting() };
    assert_eq!(read::<MachineSighting>(&later), expected);
}

/// Knows the survey alone, and answers the rest as a plugin does that is older than its host.
extern "C" fn surveys_alone(instance: *mut c_void, op: u64, request: VmanBuf) -> i32 {
    let request: Value = serde_json::from_slice(&request.copied()).unwrap();
    let name = request["op"].as_str().unwrap();
    if name == "survey" {
        let survey = format!(r#"{{"machines": [{SIGHTING}]}}"#);
        answer(instance, op, STATUS_OK, &survey);
    } else {
        let why = format!("handmade: no operation is called `{name}`");
        let error = json!({"code": "unsupported", "message": why});
        answer(instance, op, STATUS_FAILED, &error.to_string());
    }
    0
}

#[tokio::test]
async fn an_older_plugin_is_surveyed_where_one_machine_cannot_be_asked_for() {
    let (client, _events) = start(surveys_alone);
    assert_eq!(client.sight(ID).await.unwrap(), Some(sighting()));
    assert_eq!(client.sight(Uuid::nil()).await.unwrap(), None);
}

#[tokio::test]
async fn a_verb_newer_than_its_plugin_is_unsupported_by_name() {
    let (client, _events) = start(surveys_alone);
    let disk = Uuid::from_u128(1);
    let spec: DiskSpec =
        read(&format!(r#"{{"id": "{disk}", "path": "/d", "format": "raw", "serial": ""}}"#));
    let virtual_size = 512;
    let image = ImageGrowth { path: spec.path.clone(), format: spec.format, virtual_size };
    for (verb, result) in [
        ("pause", client.pause(ID).await),
        ("resume", client.resume(ID).await),
        ("reset", client.reset(ID).await),
        ("attach-disk", client.attach_disk(DiskAttachment { id: ID, disk: spec }).await),
        (
            "detach-disk",
            client.detach_disk(DiskRemoval { id: ID, disk, path: None }).await.map(drop),
        ),
        ("resize-disk", client.resize_disk(DiskGrowth { id: ID, disk, virtual_size }).await),
        ("resize-image", client.resize_image(image).await),
    ] {
        let why = format!("handmade: no operation is called `{verb}`");
        assert_eq!(result, Err(BackendError::new(ErrorCode::Unsupported, why)));
    }
    assert!(client.fault().is_none());
}
