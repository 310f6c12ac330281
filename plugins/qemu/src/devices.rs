//! How a disk looks to QEMU: the name it goes by, its block node and its guest device, as JSON that
//! the command line and the control socket both take. Nothing is started or asked here.

use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;
use vman_plugin::{BackendError, DiskSpec, ImageFormat};

use crate::invalid;

/// The controller of all SCSI disks.
pub(crate) const SCSI_CONTROLLER: &str = "scsi0";

/// QEMU's type of a slot that a PCI device can be taken from while the guest runs.
pub(crate) const PORT_DRIVER: &str = "pcie-root-port";

/// virtio-blk cuts longer serials.
const MAX_SERIAL: usize = 20;

/// Bits of one digit in a disk's name, and how many digits 128 bits need.
const DIGIT_BITS: u32 = 5;
const DIGITS: u32 = u128::BITS.div_ceil(DIGIT_BITS);
const RADIX: u32 = 1 << DIGIT_BITS;

const NAME_START: &str = "disk-";

// QEMU's `node_name` is a `char[32]` (include/block/block_int-common.h).
const _: () = assert!(NAME_START.len() + DIGITS as usize <= 31);

/// What QEMU knows a disk by, both its block node and its guest device: so whoever finds either
/// knows the disk. A node's name holds 31 characters, one too few for a UUID's 32 digits: hence
/// base 32.
pub(crate) fn disk_name(disk: Uuid) -> String {
    let digit = |place: u32| {
        let value = (disk.as_u128() >> (place * DIGIT_BITS)) & u128::from(RADIX - 1);
        u32::try_from(value).ok().and_then(|value| char::from_digit(value, RADIX))
    };
    (0..DIGITS).rev().filter_map(digit).fold(NAME_START.to_owned(), |mut name, digit| {
        name.push(digit);
        name
    })
}

/// The disk that [`disk_name`] gives this name; `None` for a name of something else.
pub(crate) fn disk_of(name: &str) -> Option<Uuid> {
    let digits = name.strip_prefix(NAME_START)?;
    let disk = Uuid::from_u128(u128::from_str_radix(digits, RADIX).ok()?);
    (disk_name(disk) == name).then_some(disk)
}

pub(crate) fn port_name(index: usize) -> String {
    format!("port{index}")
}

/// A slot for one PCI device, as an argument of `-device`.
pub(crate) fn port(index: usize) -> String {
    // The chassis tells the ports' slots apart; it counts from 1.
    json!({"driver": PORT_DRIVER, "id": port_name(index), "chassis": index + 1}).to_string()
}

/// Where in the machine a disk's device is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slot {
    /// On the SCSI controller, as this target; without one QEMU takes the lowest that is free.
    Scsi(Option<usize>),
    /// In the root port of this name.
    Port(String),
    /// On the root bus, from which nothing is taken while the guest runs.
    Fixed,
}

/// The image, opened by QEMU with its recorded format.
pub(crate) fn block_node(disk: &DiskSpec) -> Result<Value, BackendError> {
    let mut node = json!({
        "driver": disk.format.name(),
        "node-name": disk_name(disk.id),
        "file": {"driver": "file", "filename": text("disk", &disk.path)?},
    });
    if disk.format == ImageFormat::Qcow2 {
        // Whatever backing file the header names is not opened: chains come from records only.
        node["backing"] = json!(null);
    }
    Ok(node)
}

/// The guest's device. A `bootindex` of 1 is tried first; 0 is what a kernel given to QEMU takes.
pub(crate) fn guest_device(
    disk: &DiskSpec,
    slot: &Slot,
    bootindex: Option<usize>,
) -> Result<Value, BackendError> {
    if disk.serial.chars().count() > MAX_SERIAL {
        return Err(invalid(format!(
            "disk {}: the serial {:?} has over {MAX_SERIAL} characters: shorten it",
            disk.id, disk.serial
        )));
    }
    let name = disk_name(disk.id);
    let mut device = json!({"id": name, "drive": name, "serial": disk.serial});
    device["driver"] = match slot {
        Slot::Scsi(_) => json!("scsi-hd"),
        Slot::Port(_) | Slot::Fixed => json!("virtio-blk-pci"),
    };
    match slot {
        Slot::Scsi(target) => {
            device["bus"] = json!(format!("{SCSI_CONTROLLER}.0"));
            // udev makes the name under /dev/disk/by-id/ of it, not of the serial.
            device["device_id"] = json!(disk.serial);
            if let Some(target) = target {
                device["scsi-id"] = json!(target);
            }
        }
        Slot::Port(port) => device["bus"] = json!(port),
        Slot::Fixed => {}
    }
    if let Some(bootindex) = bootindex {
        device["bootindex"] = json!(bootindex);
    }
    Ok(device)
}

/// A path as QEMU takes it.
pub(crate) fn text<'p>(what: &str, path: &'p Path) -> Result<&'p str, BackendError> {
    if !path.is_absolute() {
        return Err(invalid(format!("the {what}'s path {path:?} is not absolute")));
    }
    path.to_str()
        .ok_or_else(|| invalid(format!("the {what}'s path {path:?} is not UTF-8: rename it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disks_name_fits_qemu_and_leads_back_to_the_disk() {
        let ids = [0, 1, u128::MAX, 0x1234_5678_9abc_def0_1234_5678_9abc_def0];
        for disk in ids.map(Uuid::from_u128).into_iter().chain([Uuid::new_v4()]) {
            let name = disk_name(disk);
            assert_eq!(name.len(), 31, "{name}");
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
            assert_eq!(disk_of(&name), Some(disk), "{name}");
        }
    }

    #[test]
    fn a_name_of_something_else_is_no_disks() {
        let name = disk_name(Uuid::from_u128(7));
        for other in ["", "scsi0", "disk-", "disk-7", "#block012", &name.to_uppercase(), &name[1..]]
        {
            assert_eq!(disk_of(other), None, "{other}");
        }
        assert_eq!(disk_of(&format!("{NAME_START}+{}", &name[6..])), None);
        assert_eq!(disk_of(&format!("{NAME_START}{}", "v".repeat(26))), None, "130 bits");
    }
}
