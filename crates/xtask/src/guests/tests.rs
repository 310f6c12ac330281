//! What other tests rely on in the guests, seen with QEMU alone: that they tell of the disks that
//! come and go, and that the tiny one can be told to let no disk go.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::bench::{self, Machine, Recipe};
use crate::tree::Tree;

/// A machine with a SCSI controller and one slot for a PCI disk, and a shell or such on its
/// console.
struct Host {
    machine: Machine,
    keyboard: UnixStream,
}

impl Host {
    fn boot(folder: &Path, guest: &[&str]) -> Result<Self> {
        let machine = [
            "qemu-system-x86_64 -nodefaults -no-user-config -machine q35,accel=tcg -display none",
            "-m 256 -qmp unix:qmp.sock,server=on,wait=off -serial chardev:console",
            "-chardev socket,id=console,path=tty.sock,server=on,wait=off,logfile=console.log",
            "-device virtio-scsi-pci,id=scsi0 -device pcie-root-port,id=port0,chassis=1",
        ];
        let words = machine.iter().flat_map(|line| line.split(' ')).chain(guest.iter().copied());
        let machine = Recipe::new(words.map(Into::into).collect(), folder).start()?;
        let keyboard = UnixStream::connect(folder.join("tty.sock"))?;
        // The guest's console stands still while nobody reads what it wrote. This ends with QEMU.
        let mut screen = keyboard.try_clone()?;
        std::thread::spawn(move || io::copy(&mut screen, &mut io::sink()));
        Ok(Self { machine, keyboard })
    }

    /// Makes an image of one MiB and puts it into the slot.
    fn plug(&mut self, image: &Path) -> Result<()> {
        File::create(image)?.set_len(1 << 20)?;
        let file = json!({"driver": "file", "filename": image});
        let node = json!({"driver": "raw", "node-name": "node", "file": file});
        self.machine.control.command("blockdev-add", node)?;
        let device = json!({
            "driver": "virtio-blk-pci", "id": "disk", "drive": "node", "bus": "port0",
            "serial": "S1",
        });
        self.machine.control.command("device_add", device).map(drop)
    }

    fn ask_back(&mut self) -> Result<()> {
        self.machine.control.command("device_del", json!({"id": "disk"})).map(drop)
    }

    fn is_given_back(&mut self) -> Result<()> {
        let gone =
            |event: &Value| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == "disk";
        self.machine.control.event(gone)?;
        self.free().map(drop)
    }

    fn free(&mut self) -> Result<Value> {
        self.machine.control.command("blockdev-del", json!({"node-name": "node"}))
    }

    /// Types it, and waits for the line that answers.
    fn type_for(&mut self, keys: &str, answer: &str) -> Result<String> {
        self.keyboard.write_all(keys.as_bytes())?;
        self.machine.console.line(answer)
    }
}

/// A file of the guests; `cargo xtask test` has built them.
fn guest(name: &str) -> Result<String> {
    let path = Tree::find()?.target.join("guests").join(name);
    ensure!(path.is_file(), "{} is not there: run `cargo xtask guests`", path.display());
    Ok(path.to_string_lossy().into_owned())
}

#[test]
fn linux_tells_of_disks_that_come_grow_and_go_and_keeps_what_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (kernel, initrd) = (guest("vmlinuz")?, guest("initrd.gz")?);
    let boot = ["-kernel", &kernel, "-initrd", &initrd, "-append", "console=ttyS0 quiet"];
    let mut host = Host::boot(folder.path(), &boot)?;
    host.machine.console.line("GUEST-UP")?;

    let image = bench::image(folder.path(), 1)?;
    host.machine.attach(&image)?;
    let identity = "serial=bench000000000000001 id=bench000000000000001";
    let line = host.machine.console.line("GUEST-DISK-ADDED")?;
    assert_eq!(line, format!("GUEST-DISK-ADDED sda {} {identity}", 1 << 30));
    host.type_for("disk write sda kept words\n", "GUEST-DISK-WRITTEN sda")?;
    host.machine.detach()?;
    let line = host.machine.console.line("GUEST-DISK-REMOVED")?;
    assert_eq!(line, format!("GUEST-DISK-REMOVED sda {identity}"));
    host.machine.attach(&image)?;
    host.machine.console.line("GUEST-DISK-ADDED sda")?;
    host.type_for("disk read sda\n", "GUEST-DISK-READ sda kept words")?;

    host.plug(&folder.path().join("disk.raw"))?;
    let line = host.machine.console.line("GUEST-DISK-ADDED")?;
    assert_eq!(line, format!("GUEST-DISK-ADDED vda {} serial=S1", 1 << 20));
    let grown = json!({"node-name": "node", "size": 1 << 21});
    host.machine.control.command("block_resize", grown)?;
    let line = host.machine.console.line("GUEST-DISK-RESIZED")?;
    assert_eq!(line, format!("GUEST-DISK-RESIZED vda {} serial=S1", 1 << 21));
    host.ask_back()?;
    host.machine.console.line("GUEST-DISK-REMOVED vda serial=S1")?;
    host.is_given_back()
}

#[test]
fn the_tiny_guest_lets_no_disk_go_while_it_is_told_to_ignore() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut host = Host::boot(folder.path(), &["-bios", &guest("tiny.rom")?])?;
    host.machine.console.line("TINY-UP")?;
    let image = folder.path().join("disk.raw");

    host.plug(&image)?;
    host.ask_back()?;
    host.is_given_back()?;

    host.type_for("i", "TINY-IGNORE")?;
    host.plug(&image)?;
    host.ask_back()?;
    // It has heard of it when it answers what it was asked later.
    host.type_for("p", "TINY-PONG")?;
    let refused = host.free().expect_err("the guest still has the disk");
    assert!(refused.to_string().contains("in use"), "{refused}");
    host.type_for("i", "TINY-EJECT")?;
    host.is_given_back()
}
