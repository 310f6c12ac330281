//! Templates: a named size and boot recipe.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /templates`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTemplate {
    /// Unique; 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit.
    #[schema(example = "small", min_length = 1, max_length = 63)]
    pub name: String,
    /// Virtual CPUs, 1 to 255.
    #[schema(example = 1, minimum = 1, maximum = 255)]
    pub cpu_count: u32,
    /// MiB, 8 to 4194304.
    #[schema(example = 512, minimum = 8, maximum = 4_194_304)]
    pub ram_amount: u64,
    /// What its VMs start from; absent: each VM's first disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
    /// GiB, 1 to 65536: the size of the empty disk that a VM without one at `/dev/sda` gets when
    /// it is first started; only without `boot`. Absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 10, minimum = 1, maximum = 65_536)]
    pub root_disk_size: Option<u64>,
}

/// A template as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    #[schema(example = "small")]
    pub name: String,
    /// Virtual CPUs.
    #[schema(example = 1)]
    pub cpu_count: u32,
    /// MiB
    #[schema(example = 512)]
    pub ram_amount: u64,
    /// `null`: each VM's first disk.
    #[schema(required = true)]
    pub boot: Option<Boot>,
    /// GiB: the size of the disk that its VMs boot from, where they have none; `null` with `boot`.
    #[serde(default)]
    #[schema(required = true, example = 10)]
    pub root_disk_size: Option<u64>,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub created_at: String,
}

/// What a machine starts from. Files are named without a folder; they are in `<storage>/boot/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Boot {
    /// A Linux kernel, started directly.
    Kernel {
        #[schema(example = "vmlinuz-6.1.0-amd64")]
        kernel: String,
        /// The initial RAM disk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "initrd.img-6.1.0-amd64")]
        initrd: Option<String>,
        /// The kernel's command line, at most 2047 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(example = "console=ttyS0 quiet", max_length = 2047)]
        cmdline: Option<String>,
    },
    /// A firmware image, which finds the rest by itself.
    Firmware {
        #[schema(example = "OVMF.fd")]
        firmware: String,
    },
}
