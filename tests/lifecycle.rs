//! The life of a machine and its disk, by the workflows of the original system (A001 to D001): the
//! same functions over every backend, of which only the `use =` line of the configuration differs.
#![cfg(test)]

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use vman_tests::{Daemon, NO_BODY, SOON, Setup, guest, pid, tally, text, wait_for};

const DRY_RUN: &str = "dry-run";
const KVM: &str = "kvm";

/// Makes a module of tests for each backend.
macro_rules! over_every_backend {
    ($($module:ident: $backend:literal;)+) => {$(
        mod $module {
            over_every_backend!(@tests $backend: a001_create, a002_stop_and_check, a003_restart,
                b001_attach, c001_detach, d001_records_agree_with_the_host, whole_life,
                a_failed_start_leaves_nothing_and_can_be_repeated);
        }
    )+};
    (@tests $backend:literal: $($test:ident),+) => {$(
        #[test]
        fn $test() {
            super::over($backend, super::$test);
        }
    )+};
}

over_every_backend! {
    dry_run_linked: "dry-run";
    dry_run_file: "libvman_plugin_dry_run.so";
    qemu_tcg_linked: "qemu-tcg";
    qemu_tcg_file: "libvman_plugin_qemu_tcg.so";
    qemu_kvm_linked: "qemu-kvm";
}

fn over(backend: &str, test: fn(&Daemon)) {
    if backend.contains(KVM)
        && let Some(why) = tally::no_kvm()
    {
        return tally::skipped(&why);
    }
    let daemon = Setup::backend(backend).boot_file("tiny.rom").start();
    daemon.tiny_template();
    test(&daemon);
}

/// A VM that does not run yet.
fn a001_create(daemon: &Daemon) {
    let made = daemon.post("/vms", &json!({"vm_template": "tiny", "name": "first"})).expect(201);
    let id = text(&made.body, "id");
    assert_eq!(made.header("location"), format!("/vms/{id}"));
    assert_eq!(made.body["state"], "stopped");
    assert_eq!(made.body["vm_template"], "tiny");
    assert_eq!(made.body["name"], "first");
    assert!(text(&made.body, "local_ip").starts_with("10.77.0."), "{}", made.body);
    assert!(made.body["process"].is_null(), "{}", made.body);
    assert_eq!(daemon.vm(id), made.body);
    assert!(!lives(daemon, id), "nothing is started before it is asked for");
}

fn a002_stop_and_check(daemon: &Daemon) {
    let id = daemon.new_vm("tiny");
    let vm = daemon.act(&id, "start");
    assert_eq!(vm["state"], "running");
    guest_is_up(daemon, &vm, 1);
    daemon.post(&action(&id, "start"), &NO_BODY).expect(200);
    let operation = daemon.operate(&action(&id, "stop"), &NO_BODY);
    assert_eq!(operation["kind"], "vm.stop");
    let note = text(&operation["steps"][0], "note");
    assert!(note.contains("the guest powered off"), "it was not graceful: {operation}");
    let vm = daemon.vm(&id);
    assert_eq!(vm["state"], "stopped");
    assert!(vm["process"].is_null(), "{vm}");
    assert!(!lives(daemon, &id));
    daemon.post(&action(&id, "stop"), &NO_BODY).expect(200);
}

fn a003_restart(daemon: &Daemon) {
    let id = daemon.new_vm("tiny");
    let denied = daemon.post(&action(&id, "restart"), &NO_BODY).expect(409);
    assert_eq!(denied.body["code"], "not-running");
    let first = daemon.act(&id, "start");
    guest_is_up(daemon, &first, 1);
    let second = daemon.act(&id, "restart");
    assert_eq!(second["state"], "running");
    guest_is_up(daemon, &second, 2);
    if second["backend"] != DRY_RUN {
        assert_ne!(first["process"], second["process"], "it is another process");
    }
    assert!(lives(daemon, &id));
}

fn b001_attach(daemon: &Daemon) {
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    let body = json!({"vm_id": vm, "mount_point": "/dev/sdc"});
    let accepted = daemon.post(&format!("/disks/{disk}/attach"), &body).expect(202);
    daemon.operation(accepted.header("location"));
    let record = daemon.disk(&disk);
    assert_eq!(record["state"], "attached");
    assert_eq!(record["vm_id"], vm.as_str());
    assert_eq!(record["mount_point"], "/dev/sdc");
    assert_eq!(daemon.vm(&vm)["disks"], json!([disk]));
    let running = daemon.act(&vm, "start");
    assert!(has_image(daemon, &running, &record), "the machine has no such disk");

    // While it runs, and again after a restart.
    let late = daemon.new_disk();
    daemon.operate(&format!("/disks/{late}/attach"), &json!({"vm_id": vm}));
    let late = daemon.disk(&late);
    assert_eq!((&late["state"], &late["vm_id"]), (&json!("attached"), &json!(vm)));
    assert!(has_image(daemon, &daemon.vm(&vm), &late), "it was not plugged in");
    let restarted = daemon.act(&vm, "restart");
    assert!(has_image(daemon, &restarted, &late) && has_image(daemon, &restarted, &record));
    let other = json!({"vm_id": daemon.new_vm("tiny")});
    let path = format!("/disks/{disk}/attach");
    let denied = daemon.post(&path, &other).expect(409);
    assert_eq!(denied.body["code"], "attached-elsewhere");
}

fn c001_detach(daemon: &Daemon) {
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    let (attach, detach) = (format!("/disks/{disk}/attach"), format!("/disks/{disk}/detach"));
    daemon.operate(&attach, &json!({"vm_id": vm}));
    let freed = || {
        daemon.operate(&detach, &NO_BODY);
        let record = daemon.disk(&disk);
        assert_eq!(record["state"], "available");
        assert!(record["vm_id"].is_null(), "{record}");
        assert_eq!(daemon.vm(&vm)["disks"], json!([]));
        assert!(image(daemon, &record).exists(), "a detached disk keeps its image");
        record
    };
    // While it runs ...
    let running = daemon.act(&vm, "start");
    assert!(has_image(daemon, &running, &daemon.disk(&disk)));
    let record = freed();
    let running = daemon.vm(&vm);
    assert_eq!(running["state"], "running");
    assert!(!has_image(daemon, &running, &record), "the machine has it still");
    // ... and while it does not.
    daemon.operate(&attach, &json!({"vm_id": vm}));
    daemon.act(&vm, "stop");
    let record = freed();
    assert!(!has_image(daemon, &daemon.act(&vm, "start"), &record));
    daemon.post(&detach, &NO_BODY).expect(200);
}

/// What the records say is what the host shows, at every step, and nothing is an issue.
fn d001_records_agree_with_the_host(daemon: &Daemon) {
    let vms = [daemon.new_vm("tiny"), daemon.new_vm("tiny")];
    let disk = daemon.new_disk();
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vms[0]}));
    let agree = |running: [bool; 2]| {
        for (id, running) in vms.iter().zip(running) {
            let vm = daemon.vm(id);
            assert_eq!(vm["state"], if running { "running" } else { "stopped" });
            assert_eq!(lives(daemon, id), running, "{vm}");
        }
        assert!(image(daemon, &daemon.disk(&disk)).exists());
        daemon.look_again();
        assert_eq!(daemon.get("/issues").expect(200).text, "[]");
    };
    agree([false, false]);
    daemon.act(&vms[0], "start");
    agree([true, false]);
    daemon.act(&vms[1], "start");
    daemon.act(&vms[0], "stop");
    agree([false, true]);
}

/// From nothing to nothing.
fn whole_life(daemon: &Daemon) {
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    let (vm_path, disk_path) = (format!("/vms/{vm}"), format!("/disks/{disk}"));
    daemon.operate(&format!("{disk_path}/attach"), &json!({"vm_id": vm}));
    let running = daemon.act(&vm, "start");
    guest_is_up(daemon, &running, 1);
    let in_use = daemon.delete("/templates/tiny").expect(409);
    assert_eq!(in_use.body["code"], "in-use");
    assert_eq!(daemon.delete(&disk_path).expect(409).body["code"], "attached");
    // Stops the machine, and frees the disk.
    daemon.delete_all(&[vm_path]);
    assert_eq!(daemon.disk(&disk)["state"], "available");
    daemon.delete_all(&[disk_path, "/templates/tiny".to_owned()]);
    daemon.assert_nothing_left();
}

/// The boot file is missing, and then it is not.
fn a_failed_start_leaves_nothing_and_can_be_repeated(daemon: &Daemon) {
    daemon.template("late", &json!({"firmware": "late.rom"}));
    let id = daemon.new_vm("late");
    let accepted = daemon.post(&action(&id, "start"), &NO_BODY).expect(202);
    let operation = daemon.operation(accepted.header("location"));
    assert_eq!(operation["state"], "failed");
    assert!(text(&operation, "error").contains("late.rom"), "{operation}");
    let vm = daemon.vm(&id);
    assert_eq!(vm["state"], "failed");
    assert!(text(&vm, "state_reason").contains("late.rom"), "{vm}");
    assert!(!lives(daemon, &id));
    daemon.look_again();
    assert_eq!(daemon.issues_of(&id), [Value::Null; 0], "what failed was told already");
    let file = daemon.storage().join("boot/late.rom");
    fs::copy(guest("tiny.rom"), file).expect("the folder of boot files is there");
    guest_is_up(daemon, &daemon.act(&id, "start"), 1);
    daemon.delete_all(&[format!("/vms/{id}")]);
}

#[test]
fn a_guest_that_ignores_the_power_button_is_ended_after_the_grace() {
    let setup = Setup::backend("qemu-tcg").stop_grace("400ms").boot_file("tiny.rom");
    let daemon = setup.start();
    daemon.tiny_template();
    let id = daemon.new_vm("tiny");
    guest_is_up(&daemon, &daemon.act(&id, "start"), 1);
    let folder = daemon.machine_folder(&id);
    let mut console = UnixStream::connect(folder.join("console.sock")).expect("QEMU listens");
    console.write_all(b"ip").expect("QEMU reads");
    wait_for("the guest ignores the button from now on", SOON, || {
        let told = fs::read_to_string(folder.join("console.log")).unwrap_or_default();
        told.contains("TINY-PONG").then_some(())
    });
    let stop = daemon.operate(&action(&id, "stop"), &NO_BODY);
    let note = text(&stop["steps"][0], "note");
    assert!(note.contains("did not obey") && note.contains("quit"), "{stop}");
    assert_eq!(daemon.vm(&id)["state"], "stopped");
    assert!(!lives(&daemon, &id));
}

fn action(vm: &str, action: &str) -> String {
    format!("/vms/{vm}/actions/{action}")
}

/// A machine of this VM is on the host: for QEMU one process that names it, for the dry-run its
/// file.
fn lives(daemon: &Daemon, vm: &str) -> bool {
    let folder = daemon.machine_folder(vm);
    let count = daemon.machines().iter().filter(|one| one.command.iter().any(|w| w == vm)).count();
    assert!(count <= 1, "{count} processes run the machine {vm}");
    count == 1 || folder.join("machine.json").exists()
}

/// The guest has started this many times, as it says itself.
fn guest_is_up(daemon: &Daemon, vm: &Value, times: usize) {
    let folder = daemon.machine_folder(text(vm, "id"));
    if vm["backend"] == DRY_RUN {
        let starts = fs::read_to_string(folder.join("machine.starts"));
        assert_eq!(starts.expect("the simulated machine counts").trim(), times.to_string());
        return;
    }
    guest("tiny.rom");
    wait_for(&format!("TINY-UP for the {times}. time"), SOON, || {
        let console = fs::read_to_string(folder.join("console.log")).unwrap_or_default();
        (console.matches("TINY-UP").count() == times).then_some(())
    });
}

/// The running machine has the disk's image open; the dry-run's says so in its file.
fn has_image(daemon: &Daemon, vm: &Value, disk: &Value) -> bool {
    let Some(pid) = pid(vm) else {
        let file = daemon.machine_folder(text(vm, "id")).join("machine.json");
        return fs::read_to_string(file).expect("it runs").contains(text(disk, "id"));
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
    let image = image(daemon, disk);
    open.into_iter().any(|entry| fs::read_link(entry.path()).is_ok_and(|file| file == image))
}

fn image(daemon: &Daemon, disk: &Value) -> std::path::PathBuf {
    let name = format!("{}.{}", text(disk, "id"), text(disk, "format"));
    daemon.storage().join("disks").join(name)
}
