//! What can be in a machine's way, each named with what to do about it, and nothing left behind.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::host::{Host, Tcg, pid, run_state, wait_until};
use uuid::Uuid;
use vman_plugin::{
    Backend, Boot, Bus, DiskAttachment, DiskSpec, ErrorCode, ImageFormat, ImageGrowth, ImageRef,
    ImageSpec, MachineSpec,
};
use vman_plugin_qemu::{PID_FILE, Qemu};

const MIB: u64 = 1 << 20;

async fn image(backend: &Qemu<Tcg>, path: PathBuf, format: ImageFormat) -> DiskSpec {
    let spec = ImageSpec { path: path.clone(), format, virtual_size: MIB };
    backend.create_image(spec).await.unwrap();
    DiskSpec { id: Uuid::new_v4(), path, format, serial: "disk".to_owned(), bus: Bus::default() }
}

/// Launching says all of `words`, and leaves no machine.
async fn refused(backend: &Qemu<Tcg>, spec: &MachineSpec, code: ErrorCode, words: &[&str]) {
    let launched = backend.launch(spec.clone()).await;
    backend.kill(spec.id).await.unwrap();
    let error = launched.unwrap_err();
    assert_eq!(error.code, code, "{error}");
    for word in words {
        assert!(error.message.contains(word), "{error} has no {word:?}");
    }
    assert_eq!(run_state(backend, spec.id).await, None);
    assert!(!spec.directory.join(PID_FILE).exists());
}

/// A `qemu-system-x86_64` of nobody's that holds the image; ended when dropped.
struct Foreign(Child);

impl Foreign {
    async fn start(image: &Path) -> Self {
        let drive =
            format!("driver=raw,node-name=d,file.driver=file,file.filename={}", image.display());
        let child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-display", "none", "-S", "-machine", "none", "-blockdev"])
            .arg(drive)
            .args(["-device", "virtio-blk,drive=d"])
            .args(["-machine", "q35,accel=tcg"])
            .spawn();
        let foreign = Self(child.unwrap());
        let fds = PathBuf::from(format!("/proc/{}/fd", foreign.0.id()));
        let locks = || {
            let all = fs::read_to_string("/proc/locks").unwrap();
            let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(image).unwrap());
            all.lines().any(|line| line.contains(&format!(":{inode} "))).then_some(())
        };
        wait_until(&format!("the lock of {}", fds.display()), locks).await;
        foreign
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_image_that_a_foreign_qemu_has_open_is_a_conflict_with_its_name() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = image(&backend, host.path("disk.raw"), ImageFormat::Raw).await;
    let foreign = Foreign::start(&disk.path).await;
    let holder = format!("process {} (qemu-system-x86), which is not a machine", foreign.0.id());
    let path = disk.path.to_str().unwrap().to_owned();
    let words = [path.as_str(), &holder, "end it first"];
    let spec = MachineSpec { disks: vec![disk.clone()], ..host.spec(Uuid::new_v4()) };
    refused(&backend, &spec, ErrorCode::Conflict, &words).await;

    let other = host.spec(Uuid::new_v4());
    host.launch(&backend, &other).await;
    let attachment = DiskAttachment { id: other.id, disk: disk.clone() };
    let growth = ImageGrowth { path: disk.path, format: disk.format, virtual_size: 2 * MIB };
    for error in [
        backend.attach_disk(attachment).await.unwrap_err(),
        backend.resize_image(growth).await.unwrap_err(),
    ] {
        assert_eq!(error.code, ErrorCode::Conflict, "{error}");
        assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
    }
    drop(foreign);
    host.launch(&backend, &spec).await;
}

#[tokio::test]
async fn an_image_that_another_machine_has_is_a_conflict_with_that_machines_id() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = image(&backend, host.path("disk.qcow2"), ImageFormat::Qcow2).await;
    let first = MachineSpec { disks: vec![disk.clone()], ..host.spec(Uuid::new_v4()) };
    let machine = host.launch(&backend, &first).await;
    let second = MachineSpec { disks: vec![disk], ..host.spec(Uuid::new_v4()) };
    let (id, process) = (first.id.to_string(), format!("process {}", pid(&machine)));
    refused(&backend, &second, ErrorCode::Conflict, &[&id, &process, "stop that one"]).await;
}

#[tokio::test]
async fn an_image_that_is_gone_foreign_corrupt_or_no_file_is_named_before_qemu_starts() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let disk = image(&backend, host.path("disk.qcow2"), ImageFormat::Qcow2).await;
    let spec = MachineSpec { disks: vec![disk.clone()], ..host.spec(Uuid::new_v4()) };
    let (id, path) = (disk.id.to_string(), disk.path.to_str().unwrap().to_owned());
    let (whole, file) =
        (fs::read(&path).unwrap(), fs::File::options().write(true).open(&path).unwrap());
    // Incompatible feature 1.
    file.write_all_at(&[0b10], 79).unwrap();
    let corrupt = [&*id, &*path, "marked as corrupt", "qemu-img check -r all"];
    refused(&backend, &spec, ErrorCode::Failed, &corrupt).await;
    file.write_all_at(b"KDMV", 0).unwrap();
    refused(&backend, &spec, ErrorCode::Failed, &[&path, "not a qcow2 image"]).await;
    file.set_len(50).unwrap();
    file.write_all_at(&whole[..50], 0).unwrap();
    refused(&backend, &spec, ErrorCode::Failed, &[&path, "cut short"]).await;
    fs::rename(&path, host.path("elsewhere")).unwrap();
    refused(&backend, &spec, ErrorCode::Failed, &[&id, &path, "is not there", "restore"]).await;
    symlink(host.path("elsewhere"), &path).unwrap();
    refused(&backend, &spec, ErrorCode::Failed, &[&path, "symbolic link"]).await;
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused(&backend, &spec, ErrorCode::Failed, &[&path, "regular file"]).await;
}

/// `qemu-img` would open the named file, and so would QEMU.
#[tokio::test]
async fn an_image_whose_header_leads_to_another_file_is_refused() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (base, top) = (host.path("base.raw"), host.path("top.qcow2"));
    fs::write(&base, vec![0; 1 << 20]).unwrap();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&base, &top])
        .status();
    assert!(made.unwrap().success());
    let image = ImageRef { path: top.clone(), format: ImageFormat::Qcow2 };
    let growth = ImageGrowth { path: top, format: ImageFormat::Qcow2, virtual_size: 2 * MIB };
    for error in [
        backend.inspect_image(image).await.unwrap_err(),
        backend.resize_image(growth).await.unwrap_err(),
    ] {
        assert_eq!(error.code, ErrorCode::Failed, "{error}");
        assert!(error.message.contains("backing file"), "{error}");
    }
}

#[tokio::test]
async fn a_kernel_that_is_gone_or_closed_to_the_machines_user_is_named_with_what_to_do() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let kernel = host.path("kernel");
    let boot = Boot::Kernel { kernel: kernel.clone(), initrd: None, cmdline: String::new() };
    let spec = MachineSpec { boot, ..host.spec(Uuid::new_v4()) };
    let path = kernel.to_str().unwrap();
    refused(&backend, &spec, ErrorCode::Failed, &["kernel", path, "is not there"]).await;
    fs::copy(host.path("tiny/tiny.elf"), &kernel).unwrap();
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        refused(&backend, &spec, ErrorCode::Failed, &["kernel", path, "chmod o+r"]).await;
        fs::set_permissions(&kernel, fs::Permissions::from_mode(0o644)).unwrap();
    }
    host.launch(&backend, &spec).await;
}

/// A file system of 1 MiB over the machines' folder, gone when dropped. Only root can mount one.
struct Small(PathBuf);

impl Small {
    fn over(folder: PathBuf) -> Self {
        let mount = ["-t", "tmpfs", "-o", "size=1m,mode=711", "tmpfs"];
        let mounted = Command::new("mount").args(mount).arg(&folder).status();
        assert!(mounted.unwrap().success());
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_storage_is_named_and_nothing_half_made_is_left() {
    let host = Host::new();
    if !rustix::process::geteuid().is_root() {
        // Without root there is no file system to fill; the words are tested beside their reader.
        return;
    }
    let small = Small::over(host.machines_dir());
    let backend = host.backend::<Tcg>();
    let spec = host.spec(Uuid::new_v4());
    let filler = small.0.join("filler");
    let full = fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    refused(&backend, &spec, ErrorCode::Failed, &["storage is full", "free some space"]).await;
    let path = small.0.join("disk.raw");
    let format = ImageFormat::Qcow2;
    let made = backend.create_image(ImageSpec { path, format, virtual_size: 64 * MIB }).await;
    let error = made.unwrap_err();
    assert!(error.message.contains("free some space"), "{error}");
    fs::remove_file(filler).unwrap();
    host.launch(&backend, &spec).await;
    let left = fs::read_dir(&small.0).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), [spec.id.to_string().as_str()]);
    backend.kill(spec.id).await.unwrap();
}

#[tokio::test]
async fn an_image_grows_and_never_shrinks() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    for format in [ImageFormat::Qcow2, ImageFormat::Raw] {
        let path = image(&backend, host.path(format.name()), format).await.path;
        let growth = |size| ImageGrowth { path: path.clone(), format, virtual_size: size };
        for size in [MIB, 5 * MIB, 5 * MIB] {
            backend.resize_image(growth(size)).await.unwrap();
            let image = ImageRef { path: path.clone(), format };
            assert_eq!(backend.inspect_image(image).await.unwrap().virtual_size, size);
        }
        for (size, words) in [(MIB, "cannot shrink"), (0, "multiple"), (6 * MIB + 1, "multiple")] {
            let error = backend.resize_image(growth(size)).await.unwrap_err();
            assert_eq!(error.code, ErrorCode::Invalid, "{error}");
            assert!(error.message.contains(words), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = backend.resize_image(growth(6 * MIB)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound, "{error}");
    }
}
