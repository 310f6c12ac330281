//! Disks: images with a record.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /disks`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDisk {
    /// GiB, 1 to 65536.
    #[schema(example = 10, minimum = 1, maximum = 65_536)]
    pub size: u64,
    /// Where it is wanted in a guest: `/dev/sdX` or `/dev/vdX` with X from a to z. Absent: the
    /// first free one, when it is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/dev/sdb", pattern = "^/dev/[sv]d[a-z]$")]
    pub mount_point: Option<String>,
    /// `qcow2` or `raw`, as the backend makes them. If absent: `qcow2` where it makes that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "qcow2", pattern = "^(qcow2|raw)$")]
    pub format: Option<String>,
    /// What it is attached to in a guest: `virtio-scsi` (if absent), whose disks are taken away
    /// without the guest's help, or `virtio-blk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "virtio-scsi", pattern = "^virtio-(scsi|blk)$")]
    pub bus: Option<String>,
}

/// `POST /disks/{id}/resize`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeDisk {
    /// GiB, more than it has: a disk only grows.
    #[schema(example = 20, minimum = 1, maximum = 65_536)]
    pub size: u64,
}

/// `POST /disks/{id}/attach`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachDisk {
    /// The VM that gets the disk.
    pub vm_id: Uuid,
    /// Absent: the disk's own if it has one, else the first free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/dev/sdb", pattern = "^/dev/[sv]d[a-z]$")]
    pub mount_point: Option<String>,
}

/// A disk as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    pub id: Uuid,
    /// GiB
    #[schema(example = 10)]
    pub size: u64,
    /// Where it is wanted in the guest. The guest's driver may choose another name; `device_path`
    /// is always right.
    #[schema(required = true, example = "/dev/sdb")]
    pub mount_point: Option<String>,
    /// `creating`, `available`, `attaching`, `attached`, `detaching`, `resizing`, `missing`,
    /// `failed` or `deleting`. While it is `detaching`, the guest has been asked for it and has not
    /// let go.
    #[schema(example = "attached")]
    pub state: String,
    /// Why it is `failed`: what was tried, and what the host said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// The VM it belongs to.
    #[schema(required = true)]
    pub vm_id: Option<Uuid>,
    /// `qcow2` or `raw`.
    #[schema(example = "qcow2")]
    pub format: String,
    /// `virtio-scsi` or `virtio-blk`.
    #[schema(example = "virtio-scsi")]
    pub bus: String,
    /// The serial number the guest reads.
    #[schema(example = "5f2b6c1e7a444c0e9d2f")]
    pub serial: String,
    /// Where a guest with udev finds it, whatever its kernel calls it.
    #[schema(example = "/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_5f2b6c1e7a444c0e9d2f")]
    pub device_path: String,
    /// Counts the changes of its state.
    #[schema(example = 2)]
    pub generation: u64,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub created_at: String,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub updated_at: String,
}
