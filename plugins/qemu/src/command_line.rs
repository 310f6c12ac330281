//! QEMU's argument list from a machine's specification: typed values in, one string per argument
//! out; there is no shell. Nothing is started and no file is looked at here.
//!
//! Values that may hold commas (paths, serials) never stand in an option list: they are whole
//! arguments, relative to QEMU's working directory (the machine's), or JSON.

use std::path::{Path, PathBuf};

use serde_json::json;
use uuid::Uuid;
use vman_plugin::{BackendError, Boot, Bus, DiskSpec, MachineSpec, Nic};

use crate::accelerator::Accelerator;
use crate::devices::{SCSI_CONTROLLER, Slot, block_node, guest_device, port, port_name, text};
use crate::invalid;

/// QEMU's control socket, in the machine's directory.
pub const QMP_SOCKET: &str = "qmp.sock";
/// The guest's first serial line as a socket, for one client at a time.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// What the guest wrote to its first serial line.
pub const CONSOLE_LOG: &str = "console.log";
/// QEMU's own words.
pub const QEMU_LOG: &str = "qemu.log";
/// Locked by QEMU while it lives, so that a second one cannot start on the same directory. Emptied
/// once QEMU answers: its content is nobody's source.
pub const PID_FILE: &str = "qemu.pid";

/// Everything denied that QEMU's seccomp filter can deny: a machine needs none of it.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The option before the machine's id; `process` knows a machine by it.
pub(crate) const UUID_OPTION: &str = "-uuid";
/// The option before the pid file's path; `process` knows a machine by it.
pub(crate) const PID_FILE_OPTION: &str = "-pidfile";

/// The pid file of a machine, by which its process is known.
pub(crate) fn pid_file(machines_dir: &Path, id: Uuid) -> PathBuf {
    machines_dir.join(id.to_string()).join(PID_FILE)
}

/// The arguments, without the program. `pid_file` is absolute; `free_ports` is how many virtio-blk
/// disks the running machine can gain.
pub(crate) fn build(
    accelerator: Accelerator,
    cpu: &str,
    spec: &MachineSpec,
    pid_file: &Path,
    free_ports: usize,
) -> Result<Vec<String>, BackendError> {
    let mut args = Args::default();
    // First, so that no later value can be taken for them.
    args.pair(UUID_OPTION, spec.id.to_string());
    args.pair(PID_FILE_OPTION, text("pid file", pid_file)?);
    args.pair("-name", name(spec.id));
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    args.pair("-sandbox", SANDBOX);
    args.pair("-machine", format!("q35,accel={}", accelerator.name()));
    args.pair("-cpu", cpu);
    args.pair("-smp", spec.cpu_count.to_string());
    args.pair("-m", spec.ram_mib.to_string());
    args.pair("-display", "none");
    // The guest's own end stays readable after a daemon that was not there to hear of it.
    args.flag("-no-shutdown");
    args.pair("-qmp", format!("unix:{QMP_SOCKET},server=on,wait=off"));
    args.pair(
        "-chardev",
        format!(
            "socket,id=console,path={CONSOLE_SOCKET},server=on,wait=off,\
             logfile={CONSOLE_LOG},logappend=on"
        ),
    );
    args.pair("-serial", "chardev:console");
    args.pair("-device", "pvpanic");
    boot(&mut args, &spec.boot)?;
    add_disks(&mut args, spec, free_ports)?;
    add_nic(&mut args, &spec.nic)?;
    Ok(args.0)
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.to_owned(), value.into()]);
    }
}

/// `process=` is what `ps` and `top` show: Linux keeps 15 characters of it.
fn name(id: Uuid) -> String {
    let id = id.to_string();
    let short = id.get(..8).expect("a UUID has 36 characters");
    format!("guest={id},process=vman-{short}")
}

fn boot(args: &mut Args, boot: &Boot) -> Result<(), BackendError> {
    match boot {
        Boot::Kernel { kernel, initrd, cmdline } => {
            args.pair("-kernel", text("kernel", kernel)?);
            if let Some(initrd) = initrd {
                args.pair("-initrd", initrd_text(initrd)?);
            }
            args.pair("-append", cmdline);
        }
        Boot::Firmware { firmware } => args.pair("-bios", text("firmware", firmware)?),
        // Without a disk, or with an empty one, the firmware says so on the screen: as a machine
        // would.
        Boot::RootDisk => {}
    }
    Ok(())
}

/// QEMU splits `-initrd` at commas for a Multiboot kernel and not for others, so a comma has no
/// spelling that is right for both.
fn initrd_text(path: &Path) -> Result<&str, BackendError> {
    let name = text("initrd", path)?;
    if name.contains(',') {
        return Err(invalid(format!("the initrd's path {path:?} has a comma: rename it")));
    }
    Ok(name)
}

/// The SCSI controller is always there, since none can be added to a running machine without a
/// slot, which costs the same.
fn add_disks(args: &mut Args, spec: &MachineSpec, free_ports: usize) -> Result<(), BackendError> {
    args.pair("-device", format!("virtio-scsi-pci,id={SCSI_CONTROLLER}"));
    let slots = slots(spec);
    let taken = slots.iter().filter(|slot| matches!(slot, Slot::Port(_))).count();
    for index in 0..taken + free_ports {
        args.pair("-device", port(index));
    }
    for (index, (disk, slot)) in spec.disks.iter().zip(&slots).enumerate() {
        args.pair("-blockdev", block_node(disk)?.to_string());
        // A kernel given by `-kernel` takes 0.
        args.pair("-device", guest_device(disk, slot, Some(index + 1))?.to_string());
    }
    Ok(())
}

/// A slot for each disk, in their order: the guest numbers SCSI disks by their targets.
fn slots(spec: &MachineSpec) -> Vec<Slot> {
    let (mut targets, mut ports) = (0, 0);
    let next = |count: &mut usize| std::mem::replace(count, *count + 1);
    let slot = |(index, disk): (usize, &DiskSpec)| match disk.bus {
        Bus::VirtioScsi => Slot::Scsi(Some(next(&mut targets))),
        // What the machine boots from is not taken away while it runs: it needs no port.
        Bus::VirtioBlk if index == 0 && spec.boot == Boot::RootDisk => Slot::Fixed,
        Bus::VirtioBlk => Slot::Port(port_name(next(&mut ports))),
    };
    spec.disks.iter().enumerate().map(slot).collect()
}

fn add_nic(args: &mut Args, nic: &Nic) -> Result<(), BackendError> {
    let Nic::User { mac, network, gateway, address, dns } = nic else {
        // Without the default devices QEMU adds none itself.
        return Ok(());
    };
    let plain = |c: char| c.is_ascii_digit() || ".:/".contains(c);
    if !network.chars().all(plain) {
        return Err(invalid(format!(
            "the network {network:?} is not an IPv4 network in CIDR form"
        )));
    }
    let dns = dns.map(|dns| format!(",dns={dns}")).unwrap_or_default();
    args.pair(
        "-netdev",
        format!(
            "user,id=net0,net={network},host={gateway},dhcpstart={address}{dns},\
             ipv6=off,restrict=off"
        ),
    );
    let device = json!({
        "driver": "virtio-net-pci",
        "netdev": "net0",
        "mac": mac,
        // No network boot: its option ROM costs seconds, and under an emulating KVM the machine.
        "romfile": "",
    });
    args.pair("-device", device.to_string());
    Ok(())
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
