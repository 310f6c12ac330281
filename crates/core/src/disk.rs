//! A disk: an image with a record. Nothing here reads an image.

use std::str::FromStr;

use crate::ident::{DiskId, Generation, Invalid, Timestamp, VmId};
use crate::vm::FailureReason;
use crate::words::words;

/// GiB: 64 TiB.
pub const SIZE_GIB_MAX: u64 = 64 * 1024;
const BYTES_PER_GIB: u64 = 1 << 30;
/// The letter of the disk a VM boots from.
const ROOT_LETTER: char = 'a';
/// virtio-blk cuts a serial number at this many characters
/// (VIRTIO_BLK_ID_BYTES, virtio 1.2, 5.2.6.1).
const SERIAL_LENGTH: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    pub id: DiskId,
    /// GiB, 1 ..= [`SIZE_GIB_MAX`]
    pub size_gib: u64,
    pub format: ImageFormat,
    pub bus: Bus,
    pub state: DiskState,
    /// Asked for at creation, or where it was attached last.
    pub mount_point: Option<MountPoint>,
    /// The VM it belongs to now; kept while it is `missing` or `failed`.
    pub vm: Option<VmId>,
    pub generation: Generation,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Disk {
    /// The image's size in bytes, as the guest sees it.
    pub fn virtual_size(&self) -> u64 {
        self.size_gib * BYTES_PER_GIB
    }

    /// The serial number the guest reads: stable, and short enough for virtio-blk.
    pub fn serial(&self) -> String {
        let mut serial = self.id.0.simple().to_string();
        serial.truncate(SERIAL_LENGTH);
        serial
    }

    /// Where a guest with udev finds the disk, whatever its kernel calls it: systemd's
    /// 60-persistent-storage.rules, and for SCSI the T10 vendor identification that QEMU makes of
    /// `device_id` (its hw/scsi/scsi-disk.c).
    pub fn device_path(&self) -> String {
        let prefix = match self.bus {
            Bus::VirtioScsi => "scsi-0QEMU_QEMU_HARDDISK_",
            Bus::VirtioBlk => "virtio-",
        };
        format!("/dev/disk/by-id/{prefix}{}", self.serial())
    }

    /// Whether it is what its VM boots from.
    pub fn is_root(&self) -> bool {
        self.mount_point.as_ref().is_some_and(|at| at.letter == ROOT_LETTER)
    }

    /// The name of the image in `<storage>/disks/`.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.id, self.format.word())
    }
}

/// GiB, 1 ..= [`SIZE_GIB_MAX`]
pub fn check_size_gib(gib: i128) -> Result<u64, Invalid> {
    u64::try_from(gib)
        .ok()
        .filter(|gib| (1..=SIZE_GIB_MAX).contains(gib))
        .ok_or_else(|| Invalid(format!("must be from 1 to {SIZE_GIB_MAX} GiB")))
}

words!(
    /// What a disk is attached to in the guest.
    Bus {
        /// A SCSI disk on a virtio-scsi controller: taken away without the guest's help.
        VirtioScsi = "virtio-scsi",
        /// A PCI device of its own: taken away once the guest lets go.
        VirtioBlk = "virtio-blk",
    }
);

impl FromStr for Bus {
    type Err = Invalid;

    fn from_str(word: &str) -> Result<Self, Invalid> {
        Self::from_word(word).ok_or_else(|| Invalid("must be virtio-scsi or virtio-blk".to_owned()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Qcow2,
    Raw,
}

impl ImageFormat {
    /// The stable word, which is QEMU's own.
    pub fn word(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

impl FromStr for ImageFormat {
    type Err = Invalid;

    fn from_str(word: &str) -> Result<Self, Invalid> {
        match word {
            "qcow2" => Ok(Self::Qcow2),
            "raw" => Ok(Self::Raw),
            _ => Err(Invalid("must be qcow2 or raw".to_owned())),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskState {
    /// The record is there, the image may not be yet.
    Creating,
    Available,
    Attaching,
    Attached,
    /// Unplug was asked for, the guest has not let go.
    Detaching,
    /// It is being made as large as this, in GiB.
    Resizing(u64),
    /// The record says there is an image, the host says there is none.
    Missing,
    Failed(FailureReason),
    Deleting,
}

impl DiskState {
    /// The stable word for this state in the API and the store.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Resizing(_) => "resizing",
            Self::Missing => "missing",
            Self::Failed(_) => "failed",
            Self::Deleting => "deleting",
        }
    }

    /// The inverse of [`word`](Self::word); `reason` is used by `failed` alone, `size_gib` by
    /// `resizing`, which needs it.
    pub fn from_word(word: &str, reason: Option<&str>, size_gib: Option<u64>) -> Option<Self> {
        Some(match word {
            "creating" => Self::Creating,
            "available" => Self::Available,
            "attaching" => Self::Attaching,
            "attached" => Self::Attached,
            "detaching" => Self::Detaching,
            "resizing" => Self::Resizing(size_gib?),
            "missing" => Self::Missing,
            "failed" => Self::Failed(FailureReason(reason.unwrap_or_default().to_owned())),
            "deleting" => Self::Deleting,
            _ => return None,
        })
    }

    /// Why it failed, if it did.
    pub fn reason(&self) -> Option<&FailureReason> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Creating
            | Self::Available
            | Self::Attaching
            | Self::Attached
            | Self::Detaching
            | Self::Resizing(_)
            | Self::Missing
            | Self::Deleting => None,
        }
    }

    /// How large it is to become, in GiB, while it is `resizing`.
    pub fn wanted_gib(&self) -> Option<u64> {
        match self {
            Self::Resizing(size_gib) => Some(*size_gib),
            Self::Creating
            | Self::Available
            | Self::Attaching
            | Self::Attached
            | Self::Detaching
            | Self::Missing
            | Self::Failed(_)
            | Self::Deleting => None,
        }
    }
}

/// The guest device a disk is asked to be, e.g. `/dev/sdb`. The letter orders the disks of a VM;
/// the guest's driver chooses the name it really uses: [`Disk::device_path`] is the one to trust.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MountPoint {
    letter: char,
    text: String,
}

impl MountPoint {
    /// Where a VM boots from: `/dev/sda`.
    pub fn root() -> Self {
        Self { letter: ROOT_LETTER, text: format!("/dev/sd{ROOT_LETTER}") }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first `/dev/sdX` from `b` on whose letter is not in `taken`; `a` is left to the disk a
    /// VM boots from, which has to be asked for.
    pub fn first_free<'a>(taken: impl Iterator<Item = &'a MountPoint> + Clone) -> Option<Self> {
        ('b'..='z')
            .find(|letter| taken.clone().all(|other| other.letter != *letter))
            .map(|letter| Self { letter, text: format!("/dev/sd{letter}") })
    }

    /// Two mount points of one letter cannot be told apart by a guest.
    pub fn clashes_with(&self, other: &Self) -> bool {
        self.letter == other.letter
    }
}

impl FromStr for MountPoint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let letter = text.strip_prefix("/dev/sd").or_else(|| text.strip_prefix("/dev/vd"));
        match letter.map(|rest| rest.chars().collect::<Vec<_>>()).as_deref() {
            Some([letter @ 'a'..='z']) => Ok(Self { letter: *letter, text: text.to_owned() }),
            Some(_) | None => {
                Err(Invalid("must be /dev/sdX or /dev/vdX with X from a to z".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_one_lettered_disk_device() {
        for bad in ["", "sdb", "/dev/sd", "/dev/sdbb", "/dev/sdB", "/dev/../sda", "/etc/passwd"] {
            bad.parse::<MountPoint>().expect_err(bad);
        }
        assert_eq!(
            "/dev/vdc".parse::<MountPoint>().map(|m| m.to_owned().text),
            Ok("/dev/vdc".into())
        );
    }

    #[test]
    fn the_first_free_letter_begins_at_b_and_ends_at_z() {
        let mut taken: Vec<MountPoint> = vec!["/dev/vdb".parse().expect("valid")];
        let mut given = 0;
        while let Some(next) = MountPoint::first_free(taken.iter()) {
            assert!(taken.iter().all(|other| !other.clashes_with(&next)));
            taken.push(next);
            given += 1;
        }
        assert_eq!(given, 24);
    }

    #[test]
    fn sizes_are_whole_gibibytes_within_the_limit() {
        for bad in [-1, 0, i128::from(SIZE_GIB_MAX) + 1, i128::MAX] {
            check_size_gib(bad).expect_err(&bad.to_string());
        }
        assert_eq!(check_size_gib(2), Ok(2));
    }
}
