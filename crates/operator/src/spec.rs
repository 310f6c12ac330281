//! From the records of a VM to the machine a backend is asked to launch: resolves names to paths.

use vman_core::disk::{Bus, Disk, DiskState, ImageFormat};
use vman_core::network::Nic;
use vman_core::ports::{ApplyError, VmTarget};
use vman_core::template::Boot;
use vman_plugin::{DiskSpec, MachineSpec};

use crate::files::Storage;

/// Fails if a boot file is not there.
pub(crate) async fn machine_spec(
    storage: &Storage,
    target: &VmTarget,
) -> Result<MachineSpec, ApplyError> {
    let disks = target.disks.iter().filter(|disk| starts_with(disk));
    Ok(MachineSpec {
        id: target.vm.id.0,
        directory: storage.machine(target.vm.id),
        cpu_count: target.template.cpu_count,
        ram_mib: target.template.ram_mib,
        boot: boot(storage, &target.template.boot).await?,
        disks: disks.map(|disk| disk_spec(storage, disk)).collect(),
        nic: nic(&target.nic),
    })
}

/// Whether a machine has this disk of its VM from the start: not if it is to lose it, nor if an
/// operation of its own is to give it.
pub(crate) fn starts_with(disk: &Disk) -> bool {
    match disk.state {
        DiskState::Detaching | DiskState::Attaching => false,
        DiskState::Creating
        | DiskState::Available
        | DiskState::Attached
        | DiskState::Resizing(_)
        | DiskState::Missing
        | DiskState::Failed(_)
        | DiskState::Deleting => true,
    }
}

pub(crate) fn disk_spec(storage: &Storage, disk: &Disk) -> DiskSpec {
    DiskSpec {
        id: disk.id.0,
        path: storage.image(disk),
        format: plugin_format(disk.format),
        serial: disk.serial(),
        bus: plugin_bus(disk.bus),
    }
}

pub(crate) fn plugin_bus(bus: Bus) -> vman_plugin::Bus {
    match bus {
        Bus::VirtioScsi => vman_plugin::Bus::VirtioScsi,
        Bus::VirtioBlk => vman_plugin::Bus::VirtioBlk,
    }
}

pub(crate) fn plugin_format(format: ImageFormat) -> vman_plugin::ImageFormat {
    match format {
        ImageFormat::Qcow2 => vman_plugin::ImageFormat::Qcow2,
        ImageFormat::Raw => vman_plugin::ImageFormat::Raw,
    }
}

async fn boot(storage: &Storage, boot: &Boot) -> Result<vman_plugin::Boot, ApplyError> {
    Ok(match boot {
        Boot::Kernel { kernel, initrd, cmdline } => vman_plugin::Boot::Kernel {
            kernel: storage.boot_file(kernel).await?,
            initrd: match initrd {
                Some(initrd) => Some(storage.boot_file(initrd).await?),
                None => None,
            },
            cmdline: cmdline.as_str().to_owned(),
        },
        Boot::Firmware { firmware } => {
            vman_plugin::Boot::Firmware { firmware: storage.boot_file(firmware).await? }
        }
        Boot::RootDisk { size_gib: _ } => vman_plugin::Boot::RootDisk,
    })
}

fn nic(nic: &Nic) -> vman_plugin::Nic {
    match nic {
        Nic::None => vman_plugin::Nic::None,
        Nic::User { lease, subnet, dns } => vman_plugin::Nic::User {
            mac: lease.mac.to_string(),
            network: subnet.network().to_string(),
            gateway: subnet.gateway(),
            address: lease.address,
            dns: *dns,
        },
    }
}
