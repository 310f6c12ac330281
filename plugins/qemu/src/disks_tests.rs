//! Tests of `disks` against a scripted monitor: answers that a real QEMU gives only when something
//! is wrong with it, the host or the guest.

use tempfile::TempDir;
use vman_plugin::ImageFormat;

use super::*;
use crate::devices::disk_name;
use crate::qmp::Notice;
use crate::qmp::tests::{TIME, lines, monitor, opened, opening};

const MACHINE: Uuid = Uuid::from_u128(1);
const DISK: Uuid = Uuid::from_u128(7);
const DONE: &str = r#"{"return": {}}"#;
const EMPTY: &str = r#"{"return": []}"#;

/// The commands that were given after those of the opening.
struct Script {
    _folder: TempDir,
    seen: tokio::task::JoinHandle<Vec<String>>,
}

impl Script {
    async fn seen(self) -> Vec<String> {
        self.seen.await.unwrap().split_off(2)
    }
}

/// A connection to a monitor that answers each command with one of the lines.
async fn connect(answers: &[&str]) -> (Connection, Script) {
    let folder = tempfile::tempdir().unwrap();
    let mut script = opening(MACHINE);
    script.extend(answers.iter().map(|answer| lines(&[answer])));
    let seen = monitor(folder.path(), script);
    let qmp = opened(folder.path(), MACHINE).await;
    (qmp, Script { _folder: folder, seen })
}

fn refusal(why: &str) -> String {
    format!(r#"{{"error": {{"class": "GenericError", "desc": "{why}"}}}}"#)
}

fn devices() -> String {
    format!(r#"{{"return": [{{"name": "{}", "type": "child<scsi-hd>"}}]}}"#, disk_name(DISK))
}

fn nodes() -> String {
    let name = disk_name(DISK);
    format!(r#"{{"return": [{{"node-name": "{name}", "image": {{"virtual-size": 512}}}}]}}"#)
}

fn spec() -> DiskSpec {
    let (serial, format, bus) = ("s".to_owned(), ImageFormat::Raw, Bus::VirtioScsi);
    DiskSpec { id: DISK, path: "/d/x".into(), format, serial, bus }
}

fn words(fault: Fault) -> BackendError {
    match fault {
        Fault::Told(error) => error,
        Fault::Qmp(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn an_image_whose_device_is_refused_is_closed_again() {
    let (mut qmp, script) = connect(&[EMPTY, DONE, &refusal("no room"), DONE]).await;
    let mut disks = Disks::new(MACHINE, BTreeSet::new());
    let error = words(disks.attach(&mut qmp, &spec(), || false).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("no room"), "{error}");
    assert!(disks.known().is_empty());
    assert_eq!(script.seen().await, ["qom-list", "blockdev-add", "device_add", "blockdev-del"]);
}

#[tokio::test]
async fn a_disk_that_nobody_waits_for_any_more_gets_no_device() {
    let (mut qmp, script) = connect(&[EMPTY, DONE, DONE]).await;
    let mut disks = Disks::new(MACHINE, BTreeSet::new());
    disks.attach(&mut qmp, &spec(), || true).await.unwrap_err();
    assert!(disks.known().is_empty());
    assert_eq!(script.seen().await, ["qom-list", "blockdev-add", "blockdev-del"]);
}

#[tokio::test]
async fn an_image_without_its_device_is_closed_on_connecting_and_kept_if_that_fails() {
    let (mut qmp, _script) = connect(&[EMPTY, &nodes(), DONE]).await;
    let mut disks = Disks::new(MACHINE, BTreeSet::new());
    assert_eq!(disks.recall(&mut qmp).await, Ok(vec![DISK]));
    assert!(disks.known().is_empty());

    let busy = refusal("in use");
    let (mut qmp, _script) = connect(&[EMPTY, &nodes(), &busy, &nodes(), DONE, &busy, EMPTY]).await;
    assert_eq!(disks.recall(&mut qmp).await, Ok(vec![]));
    assert!(disks.known().contains(&DISK));
    // What QEMU says is asked for, and the answer that it is gone meanwhile is no failure.
    assert!(matches!(disks.ask_back(&mut qmp, DISK).await, Ok(Unplugging::Asked(_))));
    assert_eq!(disks.unplugged(&mut qmp, DISK).await, Ok(true));
}

#[tokio::test]
async fn asking_again_while_the_guest_considers_it_is_asking_and_its_refusal_is_told() {
    let pending = refusal("Device x is already in the process of unplug");
    let device = format!(r#"{{"device": "{}", "path": "/x"}}"#, disk_name(DISK));
    let no = format!(r#"{{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {device}, {TIME}"#);
    let answers = [&devices(), &nodes(), DONE, &format!("{pending}\r\n{no}")];
    let (mut qmp, _script) = connect(&answers).await;
    let mut disks = Disks::new(MACHINE, BTreeSet::new());
    assert_eq!(disks.recall(&mut qmp).await, Ok(vec![]));
    let Ok(Unplugging::Asked(first)) = disks.ask_back(&mut qmp, DISK).await else { panic!() };
    let Ok(Unplugging::Asked(second)) = disks.ask_back(&mut qmp, DISK).await else { panic!() };
    assert_eq!(qmp.notice().await, Ok(Notice::UnplugRefused(DISK)));
    disks.refused(DISK);
    assert_eq!(second.await, Ok(Release::Refused));
    assert!(first.await.is_err(), "the later one took its place");
    assert!(disks.known().contains(&DISK));
}

#[tokio::test]
async fn a_device_that_is_gone_unheard_is_done_and_its_image_closed() {
    let gone = r#"{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}"#;
    let (mut qmp, script) = connect(&[&devices(), &nodes(), gone, DONE]).await;
    let mut disks = Disks::new(MACHINE, BTreeSet::new());
    disks.recall(&mut qmp).await.unwrap();
    assert!(matches!(disks.ask_back(&mut qmp, DISK).await, Ok(Unplugging::Done)));
    assert!(disks.known().is_empty());
    assert_eq!(script.seen().await[2..], ["device_del", "blockdev-del"]);
}
