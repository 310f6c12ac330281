//! Disks that come and go while a machine runs, on real QEMU: with a guest that gives them back,
//! one that does not, and instances that were not there when it did.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::host::{Host, LONG, Tcg, run_state};
use uuid::Uuid;
use vman_plugin::{
    Backend, Boot, Bus, DiskAttachment, DiskGrowth, DiskRemoval, DiskSpec, ErrorCode, Event,
    ImageFormat, ImageRef, ImageSpec, MachineSpec, RunState, Unplug,
};
use vman_plugin_qemu::{CONSOLE_SOCKET, Qemu};

const MIB: u64 = 1 << 20;

/// How long a detach may take when the guest does not answer.
const BOUND: Duration = Duration::from_secs(7);

/// An image and the disk it is.
async fn disk(host: &Host, bus: Bus, format: ImageFormat) -> DiskSpec {
    let id = Uuid::new_v4();
    let path = host.path(&format!("{id}, data.{}", format.name()));
    let image = ImageSpec { path: path.clone(), format, virtual_size: 4 * MIB };
    host.backend::<Tcg>().create_image(image).await.unwrap();
    let serial = id.simple().to_string()[..20].to_owned();
    DiskSpec { id, path, format, serial, bus }
}

/// A machine whose guest is up.
async fn machine(host: &Host, backend: &Qemu<Tcg>, disks: Vec<DiskSpec>) -> MachineSpec {
    let spec = MachineSpec { disks, ..host.spec(Uuid::new_v4()) };
    host.launch(backend, &spec).await;
    host.console_shows(&spec, "TINY-UP").await;
    spec
}

fn adding(spec: &MachineSpec, disk: &DiskSpec) -> DiskAttachment {
    DiskAttachment { id: spec.id, disk: disk.clone() }
}

fn removing(spec: &MachineSpec, disk: &DiskSpec) -> DiskRemoval {
    DiskRemoval { id: spec.id, disk: disk.id, path: Some(disk.path.clone()) }
}

async fn disks(backend: &Qemu<Tcg>, spec: &MachineSpec) -> Option<Vec<Uuid>> {
    backend.sight(spec.id).await.unwrap().unwrap().disks
}

/// Makes the tiny guest heed the power button and unplug requests no more, or again.
async fn ignore_or_heed(host: &Host, spec: &MachineSpec) {
    let mut console = UnixStream::connect(spec.directory.join(CONSOLE_SOCKET)).unwrap();
    console.write_all(b"ip").unwrap();
    host.console_shows(spec, "TINY-PONG").await;
}

async fn detached(host: &Host, spec: &MachineSpec, disk: &DiskSpec) {
    let expected = Event::DiskDetached { id: spec.id, disk: disk.id };
    host.event("the disk's detachment", |event| *event == expected).await;
}

/// QEMU has the image open; nothing of ours is asked.
fn is_open(image: &Path) -> bool {
    let links = |process: PathBuf| std::fs::read_dir(process.join("fd")).into_iter().flatten();
    std::fs::read_dir("/proc")
        .unwrap()
        .flat_map(|process| links(process.unwrap().path()))
        .any(|link| std::fs::read_link(link.unwrap().path()).is_ok_and(|file| file == image))
}

async fn comes_and_goes_twice(bus: Bus, format: ImageFormat) {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = disk(&host, bus, format).await;
    let spec = machine(&host, &backend, Vec::new()).await;
    assert_eq!(disks(&backend, &spec).await, Some(vec![]));
    for _ in 0..2 {
        for _ in 0..2 {
            let before = Instant::now();
            backend.attach_disk(adding(&spec, &disk)).await.unwrap();
            println!("attach on {bus:?} took {:?}", before.elapsed());
            assert_eq!(disks(&backend, &spec).await, Some(vec![disk.id]));
        }
        assert!(is_open(&disk.path));
        for _ in 0..2 {
            let before = Instant::now();
            let answer = backend.detach_disk(removing(&spec, &disk)).await;
            println!("detach on {bus:?} took {:?}", before.elapsed());
            assert_eq!(answer, Ok(Unplug::Done));
            assert_eq!(disks(&backend, &spec).await, Some(vec![]));
        }
        assert!(!is_open(&disk.path));
    }
    backend.kill(spec.id).await.unwrap();
    assert_eq!(backend.detach_disk(removing(&spec, &disk)).await, Ok(Unplug::Done));
    let error = backend.attach_disk(adding(&spec, &disk)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound, "{error}");
}

#[tokio::test]
async fn a_scsi_disk_comes_and_goes_and_twice_is_once() {
    comes_and_goes_twice(Bus::VirtioScsi, ImageFormat::Qcow2).await;
}

#[tokio::test]
async fn a_virtio_blk_disk_comes_and_goes_and_twice_is_once() {
    comes_and_goes_twice(Bus::VirtioBlk, ImageFormat::Raw).await;
}

#[tokio::test]
async fn disks_a_machine_started_with_are_known_to_any_instance_and_can_go() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let scsi = disk(&host, Bus::VirtioScsi, ImageFormat::Raw).await;
    let block = disk(&host, Bus::VirtioBlk, ImageFormat::Qcow2).await;
    let spec = machine(&host, &backend, vec![scsi.clone(), block.clone()]).await;
    let later = disk(&host, Bus::VirtioScsi, ImageFormat::Qcow2).await;
    backend.attach_disk(adding(&spec, &later)).await.unwrap();
    let mut all = vec![scsi.id, block.id, later.id];
    all.sort_unstable();
    assert_eq!(disks(&backend, &spec).await, Some(all.clone()));
    drop(backend);

    let new = host.backend::<Tcg>();
    assert_eq!(run_state(&new, spec.id).await, Some(RunState::Running));
    assert_eq!(disks(&new, &spec).await, Some(all));
    for disk in [&block, &later, &scsi] {
        assert_eq!(new.detach_disk(removing(&spec, disk)).await, Ok(Unplug::Done));
        assert!(!is_open(&disk.path));
    }
    assert_eq!(disks(&new, &spec).await, Some(vec![]));
}

#[tokio::test]
async fn a_machine_boots_from_a_scsi_disk_and_the_virtio_blk_one_it_boots_from_stays() {
    for bus in [Bus::VirtioScsi, Bus::VirtioBlk] {
        let host = Host::new();
        let backend = host.backend::<Tcg>();
        let mut root = disk(&host, bus, ImageFormat::Raw).await;
        root.path = host.path("root.img");
        std::fs::copy(host.path("tiny/tiny.img"), &root.path).unwrap();
        let data = disk(&host, Bus::VirtioBlk, ImageFormat::Raw).await;
        let disks = vec![root.clone(), data.clone()];
        let spec = MachineSpec { boot: Boot::RootDisk, disks, ..host.spec(Uuid::new_v4()) };
        host.launch(&backend, &spec).await;
        host.console_shows(&spec, "TINY-UP q35 disk boots=1").await;
        assert_eq!(backend.detach_disk(removing(&spec, &data)).await, Ok(Unplug::Done));
        let answer = backend.detach_disk(removing(&spec, &root)).await;
        match bus {
            Bus::VirtioScsi => assert_eq!(answer, Ok(Unplug::Done)),
            Bus::VirtioBlk => {
                let error = answer.unwrap_err();
                assert_eq!(error.code, ErrorCode::Conflict, "{error}");
                assert!(is_open(&root.path));
            }
        }
    }
}

#[tokio::test]
async fn virtio_blk_disks_beyond_the_free_slots_are_a_conflict_and_leave_nothing() {
    let host = Host::new();
    let backend = host.backend_with::<Tcg>(serde_json::json!({"hotplug_ports": 2}));
    let spec = machine(&host, &backend, Vec::new()).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(disk(&host, Bus::VirtioBlk, ImageFormat::Raw).await);
    }
    for disk in &all[..2] {
        backend.attach_disk(adding(&spec, disk)).await.unwrap();
    }
    let error = backend.attach_disk(adding(&spec, &all[2])).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("virtio-scsi"), "{error}");
    assert!(!is_open(&all[2].path));
    assert_eq!(backend.detach_disk(removing(&spec, &all[0])).await, Ok(Unplug::Done));
    backend.attach_disk(adding(&spec, &all[2])).await.unwrap();
}

#[tokio::test]
async fn an_image_that_cannot_be_opened_is_named_and_can_be_attached_once_it_can() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = disk(&host, Bus::VirtioScsi, ImageFormat::Qcow2).await;
    let first = machine(&host, &backend, vec![disk.clone()]).await;
    let second = machine(&host, &backend, Vec::new()).await;
    let error = backend.attach_disk(adding(&second, &disk)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict, "{error}");
    assert!(error.message.contains(disk.path.to_str().unwrap()), "{error}");
    backend.kill(first.id).await.unwrap();
    backend.attach_disk(adding(&second, &disk)).await.unwrap();

    let missing = DiskSpec { id: Uuid::new_v4(), path: host.path("no-such"), ..disk.clone() };
    let other_format =
        DiskSpec { id: Uuid::new_v4(), path: host.path("tiny/tiny.img"), ..disk.clone() };
    for (wrong, code) in [(missing, ErrorCode::NotFound), (other_format, ErrorCode::Conflict)] {
        let error = backend.attach_disk(adding(&second, &wrong)).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(wrong.path.to_str().unwrap()), "{error}");
    }
    assert_eq!(disks(&backend, &second).await, Some(vec![disk.id]));
}

#[tokio::test]
async fn a_guest_that_keeps_a_disk_has_it_until_it_lets_go_and_that_is_told() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = disk(&host, Bus::VirtioBlk, ImageFormat::Qcow2).await;
    let spec = machine(&host, &backend, vec![disk.clone()]).await;
    ignore_or_heed(&host, &spec).await;
    let before = Instant::now();
    assert_eq!(backend.detach_disk(removing(&spec, &disk)).await, Ok(Unplug::Waiting));
    assert!(before.elapsed() < BOUND, "{:?}", before.elapsed());
    assert_eq!(disks(&backend, &spec).await, Some(vec![disk.id]));
    assert!(is_open(&disk.path));
    let other = machine(&host, &backend, Vec::new()).await;
    let error = backend.attach_disk(adding(&other, &disk)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict, "{error}");

    ignore_or_heed(&host, &spec).await;
    detached(&host, &spec, &disk).await;
    assert!(!is_open(&disk.path));
    assert_eq!(disks(&backend, &spec).await, Some(vec![]));
    backend.attach_disk(adding(&other, &disk)).await.unwrap();
}

#[tokio::test]
async fn a_reset_makes_a_guest_let_go_of_what_it_was_asked_for() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = disk(&host, Bus::VirtioBlk, ImageFormat::Raw).await;
    let spec = machine(&host, &backend, Vec::new()).await;
    backend.attach_disk(adding(&spec, &disk)).await.unwrap();
    ignore_or_heed(&host, &spec).await;
    // Asked twice at once, as after a lost answer.
    let (first, second) = tokio::join!(
        backend.detach_disk(removing(&spec, &disk)),
        backend.detach_disk(removing(&spec, &disk)),
    );
    assert_eq!((first, second), (Ok(Unplug::Waiting), Ok(Unplug::Waiting)));
    // An instance that asked for nothing hears of it as well.
    drop(backend);
    let new = host.backend::<Tcg>();
    assert_eq!(run_state(&new, spec.id).await, Some(RunState::Running));
    assert_eq!(disks(&new, &spec).await, Some(vec![disk.id]));
    new.reset(spec.id).await.unwrap();
    detached(&host, &spec, &disk).await;
    assert_eq!(disks(&new, &spec).await, Some(vec![]));
    assert!(!is_open(&disk.path));
}

#[tokio::test]
async fn what_a_guest_lets_go_of_while_nobody_listens_is_told_and_closed_later() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = disk(&host, Bus::VirtioBlk, ImageFormat::Raw).await;
    let spec = machine(&host, &backend, vec![disk.clone()]).await;
    ignore_or_heed(&host, &spec).await;
    assert_eq!(backend.detach_disk(removing(&spec, &disk)).await, Ok(Unplug::Waiting));
    drop(backend);
    ignore_or_heed(&host, &spec).await;
    host.console_shows(&spec, "TINY-EJECT").await;
    assert!(is_open(&disk.path), "only who listens closes it");
    let new = host.backend::<Tcg>();
    assert_eq!(run_state(&new, spec.id).await, Some(RunState::Running));
    detached(&host, &spec, &disk).await;
    assert_eq!(disks(&new, &spec).await, Some(vec![]));
    assert!(!is_open(&disk.path));
}

#[tokio::test]
async fn a_paused_guest_gives_back_its_scsi_disks_at_once_and_the_others_when_it_goes_on() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let scsi = disk(&host, Bus::VirtioScsi, ImageFormat::Raw).await;
    let block = disk(&host, Bus::VirtioBlk, ImageFormat::Raw).await;
    let spec = machine(&host, &backend, vec![scsi.clone(), block.clone()]).await;
    backend.pause(spec.id).await.unwrap();
    assert_eq!(backend.detach_disk(removing(&spec, &scsi)).await, Ok(Unplug::Done));
    backend.attach_disk(adding(&spec, &scsi)).await.unwrap();
    assert_eq!(backend.detach_disk(removing(&spec, &block)).await, Ok(Unplug::Waiting));
    assert_eq!(disks(&backend, &spec).await.map(|disks| disks.len()), Some(2));
    backend.resume(spec.id).await.unwrap();
    detached(&host, &spec, &block).await;
    assert_eq!(disks(&backend, &spec).await, Some(vec![scsi.id]));
}

#[tokio::test]
async fn a_disk_in_use_grows_and_never_shrinks() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let scsi = disk(&host, Bus::VirtioScsi, ImageFormat::Qcow2).await;
    let block = disk(&host, Bus::VirtioBlk, ImageFormat::Raw).await;
    let spec = machine(&host, &backend, vec![scsi.clone(), block.clone()]).await;
    let to =
        |disk: &DiskSpec, virtual_size| DiskGrowth { id: spec.id, disk: disk.id, virtual_size };
    for disk in [&scsi, &block] {
        for _ in 0..2 {
            backend.resize_disk(to(disk, 9 * MIB)).await.unwrap();
            let image = ImageRef { path: disk.path.clone(), format: disk.format };
            assert_eq!(backend.inspect_image(image).await.unwrap().virtual_size, 9 * MIB);
        }
        let error = backend.resize_disk(to(disk, 8 * MIB)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid, "{error}");
    }
    assert_eq!(backend.detach_disk(removing(&spec, &scsi)).await, Ok(Unplug::Done));
    let error = backend.resize_disk(to(&scsi, 10 * MIB)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound, "{error}");
}

/// So a machine's end while it is asked for a disk is no failure: the image is closed.
#[tokio::test]
async fn a_machine_that_ends_while_it_is_asked_for_a_disk_has_given_it_back() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = disk(&host, Bus::VirtioBlk, ImageFormat::Raw).await;
    let spec = machine(&host, &backend, vec![disk.clone()]).await;
    ignore_or_heed(&host, &spec).await;
    let before = Instant::now();
    let (answer, ()) = tokio::join!(backend.detach_disk(removing(&spec, &disk)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        backend.kill(spec.id).await.unwrap();
    });
    assert_eq!(answer, Ok(Unplug::Done));
    assert!(before.elapsed() < LONG);
    assert!(!is_open(&disk.path));
}
