//! What goes wrong on a host, one thing at a time: each is told by name, with what to do, and
//! nothing half-made is left. Programs, files and machines are real ones.
#![cfg(test)]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use vman_tests::{Daemon, LONG, NO_BODY, Setup, guest, text, wait_for};

#[test]
fn a_storage_without_space_makes_no_half_disk_and_says_what_to_do() {
    let daemon = tiny();
    let full = Full::over(&daemon.storage().join("disks"));
    let answer = daemon.post("/disks", &json!({"size": 1, "format": "qcow2"})).expect(503).body;
    assert!(text(&answer, "detail").contains("No space left"), "{answer}");
    let operation = daemon.get("/operations?limit=1").expect(200).body[0].clone();
    let error = failed(&operation);
    assert!(error.contains("No space left") && error.contains("free some"), "{error}");
    let left: Vec<_> = fs::read_dir(full.folder()).expect("readable").flatten().collect();
    assert!(left.iter().all(|entry| entry.file_name() == Full::FILLER), "{left:?}");
    let disk = text(&operation["subject"], "id").to_owned();
    daemon.delete_all(&[format!("/disks/{disk}")]);
}

#[test]
fn a_machine_that_finds_no_space_is_not_half_started() {
    let daemon = tiny();
    let vm = daemon.new_vm("tiny");
    let full = Full::over(&daemon.storage().join("machines"));
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains("full") && error.contains("free some"), "{error}");
    assert_eq!(daemon.machines(), []);
    drop(full);
    daemon.act(&vm, "start");
    daemon.act(&vm, "stop");
}

#[test]
fn a_qemu_that_is_not_there_is_named_with_its_path() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    daemon.terminate();
    let folder = daemon.storage();
    let program = folder.join("qemu-by-link");
    std::os::unix::fs::symlink(which("qemu-system-x86_64"), &program).expect("a link");
    let gone = format!("[backends.qemu-tcg]\nbinary = {program:?}\n");
    daemon.restart_as(&Setup::backend("qemu-tcg").boot_file("tiny.rom").with(&gone));
    fs::remove_file(&program).expect("the link is ours");
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains("qemu-by-link"), "{error}");
    assert!(error.contains("install") || error.contains("binary"), "what to do: {error}");
    assert_eq!(daemon.machines(), []);
}

#[test]
fn an_image_that_is_not_there_is_named_and_not_made_anew() {
    let daemon = tiny();
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    let image = image(&daemon, &disk);
    fs::remove_file(&image).expect("the image is there");
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains(&disk), "{error}");
    assert!(error.contains("restore") || error.contains("detach"), "what to do: {error}");
    assert!(!image.exists(), "an empty image would hide the loss");
    assert_eq!(daemon.machines(), []);
}

#[test]
fn an_image_that_a_foreign_qemu_has_is_named_with_its_holder() {
    let daemon = tiny();
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    let foreign = Foreign::holding(&image(&daemon, &disk));
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains(&foreign.0.id().to_string()), "its process: {error}");
    assert!(error.contains("qemu-system-x86"), "its program: {error}");
    drop(foreign);
    daemon.act(&vm, "start");
    daemon.act(&vm, "stop");
}

#[test]
fn an_image_that_is_corrupt_is_named_and_left_as_it_is() {
    let daemon = tiny();
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    let image = image(&daemon, &disk);
    let broken = vec![0xA5; 4096];
    fs::write(&image, &broken).expect("the image is ours");
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains(&disk) && error.contains("qcow2"), "{error}");
    assert_eq!(fs::read(&image).expect("readable"), broken);
    assert_eq!(daemon.machines(), []);
}

#[test]
fn an_image_of_another_size_than_recorded_is_not_started() {
    let daemon = tiny();
    let vm = daemon.new_vm("tiny");
    let raw = daemon.post("/disks", &json!({"size": 1, "format": "raw"})).expect(201).body;
    let disk = text(&raw, "id").to_owned();
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    let file = File::options().write(true).open(image(&daemon, &disk)).expect("the image");
    file.set_len(1 << 20).expect("it can be cut");
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains(&disk) && error.contains("1048576"), "{error}");
    assert!(error.contains("restore") && error.contains("detach"), "what to do: {error}");
}

#[test]
fn an_image_whose_header_names_another_file_is_not_started() {
    let daemon = tiny();
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    let image = image(&daemon, &disk);
    let other = daemon.storage().join("token");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .arg(&other)
        .arg(&image)
        .arg("1G")
        .status();
    assert!(made.expect("qemu-img is there").success());
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains(&disk) && error.contains("backing"), "{error}");
    assert_eq!(daemon.machines(), []);
}

#[test]
fn a_kernel_that_the_machine_may_not_read_is_named() {
    let daemon = Setup::backend("qemu-tcg").boot_file("tiny.elf").start();
    daemon.template("kernel", &json!({"kernel": "tiny.elf"}));
    let vm = daemon.new_vm("kernel");
    let kernel = daemon.storage().join("boot/tiny.elf");
    fs::remove_file(&kernel).expect("it was lent");
    let error = failed(&start(&daemon, &vm)).to_owned();
    assert!(error.contains("tiny.elf") && error.contains("copy"), "{error}");
    fs::copy(guest("tiny.elf"), &kernel).expect("copied");
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o000)).expect("ours");
    // Only a machine that runs as another user than root is kept from reading it.
    if daemon.get("/backends").expect(200).text.contains("as a user of its own") {
        let error = failed(&start(&daemon, &vm)).to_owned();
        assert!(error.contains("tiny.elf") && error.contains("chmod"), "{error}");
    }
    assert_eq!(daemon.machines(), []);
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o644)).expect("ours");
    daemon.act(&vm, "start");
    daemon.act(&vm, "stop");
}

#[test]
fn a_port_in_use_is_named_before_anything_is_touched() {
    let mut daemon = tiny();
    let vm = daemon.new_vm("tiny");
    daemon.act(&vm, "start");
    daemon.terminate();
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("bound").to_string();
    let (status, said) = daemon.refused_as(&Setup::backend("qemu-tcg").listen(&address));
    assert!(!status.success(), "{said}");
    assert!(said.contains(&address) && said.contains("[server] listen"), "{said}");
    assert_eq!(daemon.machines().len(), 1, "the machine is left alone");
    drop(other);
    daemon.restart_as(&Setup::backend("qemu-tcg"));
    daemon.act(&vm, "stop");
}

/// A small file system over a folder, with no room left in it.
struct Full(PathBuf);

impl Full {
    const FILLER: &str = "filler";

    fn over(folder: &Path) -> Self {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=0711", "vman-test"])
            .arg(folder)
            .output()
            .expect("util-linux has mount");
        let said = String::from_utf8_lossy(&mount.stderr).into_owned();
        assert!(mount.status.success(), "these tests need to mount: {said}");
        let full = Self(folder.to_owned());
        let filler = fs::write(folder.join(Self::FILLER), vec![1; 1 << 20]);
        filler.expect_err("more than it holds");
        full
    }

    fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still be in there.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A QEMU that is not a machine of vman and has an image open.
struct Foreign(Child);

impl Foreign {
    fn holding(image: &Path) -> Self {
        let drive = format!("file={},format=qcow2,if=none,id=d", image.display());
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", "none", "-nodefaults", "-display", "none", "-drive", &drive])
            .stdin(Stdio::null())
            .spawn()
            .expect("QEMU is installed");
        let held = format!("/proc/{}/fd", qemu.id());
        let foreign = Self(qemu);
        wait_for("it has the image open", LONG, || {
            let open = fs::read_dir(&held).ok()?.flatten();
            let mut files = open.filter_map(|entry| fs::read_link(entry.path()).ok());
            files.any(|file| file == image).then_some(())
        });
        foreign
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // Our own child, which has nothing to lose.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn tiny() -> Daemon {
    let daemon = Setup::backend("qemu-tcg").boot_file("tiny.rom").start();
    daemon.tiny_template();
    daemon
}

/// The operation of a start that must be let in, once it has ended.
fn start(daemon: &Daemon, vm: &str) -> Value {
    let accepted = daemon.post(&format!("/vms/{vm}/actions/start"), &NO_BODY).expect(202);
    daemon.operation(accepted.header("location"))
}

#[track_caller]
fn failed(operation: &Value) -> &str {
    assert_eq!(operation["state"], "failed", "{operation}");
    text(operation, "error")
}

fn image(daemon: &Daemon, disk: &str) -> PathBuf {
    let format = daemon.disk(disk)["format"].as_str().expect("it has one").to_owned();
    daemon.storage().join("disks").join(format!("{disk}.{format}"))
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").expect("there is a PATH");
    let found = std::env::split_paths(&path).map(|folder| folder.join(program));
    found.into_iter().find(|file| file.exists()).expect("it is installed")
}
