//! From the records of a VM to the machine a backend is asked to launch: resolves names to paths.

use vman_core::network::Nic;
use vman_core::ports::{ApplyError, VmTarget};
use vman_core::template::Boot;
use vman_plugin::{DiskSpec, MachineSpec};

use crate::files::Storage;
use crate::images::plugin_format;

/// Fails if a boot file is not there.
pub(crate) async fn machine_spec(
    storage: &Storage,
    target: &VmTarget,
) -> Result<MachineSpec, ApplyError> {
    let disk = |disk: &vman_core::disk::Disk| DiskSpec {
        id: disk.id.0,
        path: storage.image(disk),
        format: plugin_format(disk.format),
        serial: disk.serial(),
        bus: vman_plugin::Bus::VirtioBlk,
    };
    Ok(MachineSpec {
        id: target.vm.id.0,
        directory: storage.machine(target.vm.id),
        cpu_count: target.template.cpu_count,
        ram_mib: target.template.ram_mib,
        boot: boot(storage, &target.template.boot).await?,
        disks: target.disks.iter().map(disk).collect(),
        nic: nic(&target.nic),
    })
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
        Boot::RootDisk => vman_plugin::Boot::RootDisk,
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
