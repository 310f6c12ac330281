//! Disks that come to running machines and go from them, as the guests see it: a guest that gives a
//! disk back, and one that does not and keeps it until it does. Machines are real ones.
#![cfg(test)]

use std::fs;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};
use vman_tests::{Daemon, LONG, NO_BODY, Setup, tally, text, wait_for};

/// What the Linux guest is started with.
const CMDLINE: &str = "console=ttyS0 quiet";
/// The tiny guest takes no notice of its power button and of unplugging, or does again.
const IGNORE: &[u8] = b"i";

#[test]
fn a_linux_guest_sees_disks_come_and_go_and_keeps_what_it_wrote() {
    let daemon = Setup::backend("qemu-tcg").boot_file("vmlinuz").boot_file("initrd.gz").start();
    let boot = json!({"kernel": "vmlinuz", "initrd": "initrd.gz", "cmdline": CMDLINE});
    let template = json!({"name": "linux", "cpu_count": 1, "ram_amount": 256, "boot": boot});
    daemon.post("/templates", &template).expect(201);
    let vm = daemon.new_vm("linux");
    daemon.start_process(&vm);
    let guest = Console::of(&daemon, &vm);
    guest.shows("GUEST-UP");
    // What is said before its shell has taken the console is lost.
    guest.shows("# ");
    for (bus, name, by_id) in [
        ("virtio-scsi", "sda", "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_"),
        ("virtio-blk", "vda", "/dev/disk/by-id/virtio-"),
    ] {
        let disk = daemon.post("/disks", &json!({"size": 1, "bus": bus})).expect(201).body;
        let (id, serial) = (text(&disk, "id").to_owned(), text(&disk, "serial").to_owned());
        assert_eq!(disk["device_path"], format!("{by_id}{serial}"));
        let attach = || {
            daemon.operate(&format!("/disks/{id}/attach"), &json!({"vm_id": vm}));
            assert_eq!(daemon.disk(&id)["state"], "attached");
        };
        let detach = || {
            daemon.operate(&format!("/disks/{id}/detach"), &NO_BODY);
            assert_eq!(daemon.disk(&id)["state"], "available");
        };
        attach();
        guest.shows(&format!("GUEST-DISK-ADDED {name} 1073741824 serial={serial}"));
        guest.say(format!("disk write {name} kept on {bus}\n").as_bytes());
        guest.shows(&format!("GUEST-DISK-WRITTEN {name}"));

        daemon.operate(&format!("/disks/{id}/resize"), &json!({"size": 2}));
        guest.shows(&format!("GUEST-DISK-RESIZED {name} 2147483648"));
        assert_eq!(daemon.disk(&id)["size"], 2);

        detach();
        guest.shows(&format!("GUEST-DISK-REMOVED {name} serial={serial}"));
        guest.forget();
        attach();
        guest.shows(&format!("GUEST-DISK-ADDED {name} 2147483648 serial={serial}"));
        guest.say(format!("disk read {name}\n").as_bytes());
        guest.shows(&format!("GUEST-DISK-READ {name} kept on {bus}"));
        detach();
        daemon.delete_all(&[format!("/disks/{id}")]);
    }
    daemon.act(&vm, "stop");
    daemon.delete_all(&[format!("/vms/{vm}"), "/templates/linux".to_owned()]);
    daemon.assert_nothing_left();
}

#[test]
fn a_guest_that_ignores_unplug_keeps_the_disk_until_it_lets_go() {
    let daemon = tiny();
    let (vm, disk) = deaf_with_a_disk(&daemon);
    let detach = daemon.post(&format!("/disks/{disk}/detach"), &NO_BODY).expect(202);
    assert_eq!(detach.body["state"], "detaching");
    let ended = daemon.operation(detach.header("location"));
    assert_eq!(ended["state"], "failed", "the call is bounded: {ended}");
    assert!(text(&ended, "error").contains("not let go"), "{ended}");
    assert_eq!(daemon.disk(&disk)["state"], "detaching");
    let is_open = |issue: &Value| issue["state"] == "open";
    daemon.issue_when("disk.unplug-unanswered", &disk, "open", is_open);
    assert_is_not_freed(&daemon, &disk);

    // The guest listens again: a reset takes what was asked for.
    Console::of(&daemon, &vm).say(IGNORE);
    daemon.operate(&format!("/vms/{vm}/actions/reset"), &NO_BODY);
    disk_becomes(&daemon, &disk, "available");
    let is_resolved = |issue: &Value| issue["state"] == "resolved";
    daemon.issue_when("disk.unplug-unanswered", &disk, "resolved", is_resolved);
    let other = daemon.new_vm("tiny");
    daemon.start_process(&other);
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": other}));
}

#[test]
fn a_guest_that_lets_go_while_no_daemon_is_there_is_believed_by_the_next_one() {
    let mut daemon = tiny();
    let (vm, disk) = deaf_with_a_disk(&daemon);
    let detach = daemon.post(&format!("/disks/{disk}/detach"), &NO_BODY).expect(202);
    daemon.operation(detach.header("location"));
    assert_eq!(daemon.disk(&disk)["state"], "detaching");
    daemon.kill9();
    // Reset by itself: what it was asked for is gone after that.
    let guest = Console::of(&daemon, &vm);
    guest.forget();
    guest.say(b"r");
    guest.shows("TINY-UP");
    daemon.restart();
    disk_becomes(&daemon, &disk, "available");
    assert_eq!(daemon.vm(&vm)["state"], "running");
    daemon.delete_all(&[format!("/disks/{disk}")]);
}

#[test]
fn a_disk_that_was_asked_for_is_free_once_its_machine_is_stopped() {
    let daemon = tiny();
    let (vm, disk) = deaf_with_a_disk(&daemon);
    let detach = daemon.post(&format!("/disks/{disk}/detach"), &NO_BODY).expect(202);
    daemon.operation(detach.header("location"));
    daemon.operate(&format!("/vms/{vm}/actions/kill"), &NO_BODY);
    disk_becomes(&daemon, &disk, "available");
    daemon.delete_all(&[format!("/disks/{disk}")]);
}

#[test]
fn a_data_disk_on_scsi_goes_without_the_help_of_its_guest() {
    let daemon = tiny();
    let vm = daemon.new_vm("tiny");
    daemon.start_process(&vm);
    let guest = Console::of(&daemon, &vm);
    guest.shows("TINY-UP");
    guest.say(IGNORE);
    let disk = daemon.new_disk();
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    daemon.operate(&format!("/vms/{vm}/actions/pause"), &NO_BODY);
    daemon.operate(&format!("/disks/{disk}/detach"), &NO_BODY);
    assert_eq!(daemon.disk(&disk)["state"], "available", "also from a guest that is paused");
}

/// A running VM whose guest ignores unplugging, and a virtio-blk disk it got while it ran.
fn deaf_with_a_disk(daemon: &Daemon) -> (String, String) {
    let vm = daemon.new_vm("tiny");
    daemon.start_process(&vm);
    let guest = Console::of(daemon, &vm);
    guest.shows("TINY-UP");
    let disk = daemon.post("/disks", &json!({"size": 1, "bus": "virtio-blk"})).expect(201).body;
    let disk = text(&disk, "id").to_owned();
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    guest.say(IGNORE);
    guest.shows("TINY-IGNORE");
    (vm, disk)
}

fn assert_is_not_freed(daemon: &Daemon, disk: &str) {
    let refused = daemon.delete(&format!("/disks/{disk}")).expect(409).body;
    assert_eq!(refused["code"], "being-moved", "{refused}");
    let other = daemon.new_vm("tiny");
    let refused = daemon.post(&format!("/disks/{disk}/attach"), &json!({"vm_id": other}));
    assert_eq!(refused.expect(409).body["code"], "being-moved");
    let image = daemon.storage().join("disks").join(format!("{disk}.qcow2"));
    assert!(image.exists(), "the image belongs to the guest still");
}

fn disk_becomes(daemon: &Daemon, disk: &str, state: &str) {
    wait_for(&format!("disk {disk} is {state}"), LONG, || {
        (daemon.disk(disk)["state"] == state).then_some(())
    });
}

fn tiny() -> Daemon {
    let daemon = Setup::backend("qemu-tcg").boot_file("tiny.rom").start();
    daemon.tiny_template();
    tally::started("qemu-tcg");
    daemon
}

/// The serial console of a machine: QEMU takes one at a time.
struct Console {
    log: PathBuf,
    input: UnixStream,
}

impl Console {
    fn of(daemon: &Daemon, vm: &str) -> Self {
        let folder = daemon.machine_folder(vm);
        let input = UnixStream::connect(folder.join("console.sock")).expect("QEMU listens");
        // A guest waits for whoever is connected to read what it says, as on a real serial line.
        let mut output = input.try_clone().expect("a descriptor is free");
        thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        Self { log: folder.join("console.log"), input }
    }

    fn shows(&self, wanted: &str) {
        wait_for(&format!("the guest says {wanted:?}"), LONG, || {
            fs::read_to_string(&self.log).unwrap_or_default().contains(wanted).then_some(())
        });
    }

    /// What it said until now shows no more.
    fn forget(&self) {
        // QEMU appends to it.
        let log = fs::File::options().write(true).open(&self.log).expect("the log is there");
        log.set_len(0).expect("it can be cut");
    }

    fn say(&self, words: &[u8]) {
        (&self.input).write_all(words).expect("QEMU reads");
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Ends the reading, so that QEMU takes the next one.
        drop(self.input.shutdown(Shutdown::Both));
    }
}
