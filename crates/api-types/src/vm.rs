//! VMs: machines made from a template.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// `POST /vms`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVm {
    /// The name of the template it is made from.
    #[schema(example = "small")]
    pub vm_template: String,
    /// A label for people, which need not be unique; 1 to 63 letters, digits, `.`, `_` or `-`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "web-1", min_length = 1, max_length = 63)]
    pub name: Option<String>,
    /// Start it by itself when the host was booted anew while it ran; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub autostart: Option<bool>,
}

/// `PATCH /vms/{id}`, a JSON merge patch (RFC 7396); what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmPatch {
    /// Start it by itself when the host was booted anew while it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub autostart: Option<bool>,
}

/// A VM as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    pub id: Uuid,
    #[schema(required = true, example = "web-1")]
    pub name: Option<String>,
    /// The name of the template it was made from.
    #[schema(example = "small")]
    pub vm_template: String,
    /// `stopped`, `starting`, `running`, `paused`, `stopping`, `failed` or `deleting`.
    #[schema(example = "running")]
    pub state: String,
    /// Why it is `failed`: what was tried, and what the host said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_reason: Option<String>,
    /// Whether it is started by itself when the host was booted anew while it ran.
    #[serde(default)]
    #[schema(required = true)]
    pub autostart: bool,
    /// Its address in the network of `GET /network/config`.
    #[schema(example = "10.77.0.2")]
    pub local_ip: String,
    /// The Ethernet address of its card.
    #[schema(example = "52:3f:8a:10:22:9c")]
    pub mac: String,
    /// Counts the changes of its state.
    #[schema(example = 3)]
    pub generation: u64,
    /// The backend that runs its machine; `null` while there is none.
    #[schema(required = true, example = "qemu-kvm")]
    pub backend: Option<String>,
    /// The process that is its machine; `null` while there is none.
    #[schema(required = true)]
    pub process: Option<Process>,
    /// The ids of its disks, in the order of their mount points.
    pub disks: Vec<Uuid>,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub created_at: String,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub updated_at: String,
}

/// A process that is a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    #[schema(example = 4711)]
    pub pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/PID/stat`, proc(5).
    #[schema(example = 8_234_221)]
    pub start_time: u64,
}
