//! The plain data that crosses the border between host and plugin, as JSON. Evolution is additive:
//! a reader ignores fields it does not know, and every field added later has a default. No
//! behaviour lives here.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a plugin says of itself before an instance exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name used in `[backend] use`, e.g. `qemu-tcg`.
    pub name: String,
    /// The plugin's own version (semver).
    pub version: String,
    /// One line for people.
    pub description: String,
    pub capabilities: Capabilities,
    /// The version of this SDK the plugin was built with; information only.
    #[serde(default)]
    pub sdk: String,
}

/// What a backend can do, as data: a power it lacks is never a verb that fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Every machine is a process of its own, named by [`Machine::process`].
    pub processes: bool,
    /// The guest can be asked to power off.
    pub power_button: bool,
    /// Image formats that `create_image` makes.
    pub image_formats: Vec<ImageFormat>,
}

/// Given once, when an instance is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendConfig {
    /// The folder that holds one directory per machine, named by its id. Everything a backend
    /// leaves on the host for a machine is in there or carries the machine's id.
    pub machines_dir: PathBuf,
    /// The `[backends.<name>]` table of the configuration file, as JSON; `{}` where absent.
    #[serde(default)]
    pub settings: serde_json::Value,
}

/// Whether this backend can run machines on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub usable: bool,
    /// Why (not), for people: what was tried and what it showed.
    pub reason: String,
    /// The version of the hypervisor found, where there is one.
    #[serde(default)]
    pub hypervisor: Option<String>,
}

/// Everything needed to launch one machine. Paths are absolute and were checked by the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    pub id: Uuid,
    /// The machine's own directory; it exists, is empty of foreign files, and stays until the
    /// machine is deleted.
    pub directory: PathBuf,
    /// 1 ..= 256
    pub cpu_count: u32,
    /// MiB
    pub ram_mib: u64,
    pub boot: Boot,
    /// In the order of their guest device names.
    pub disks: Vec<DiskSpec>,
    pub nic: Nic,
}

/// What a machine starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Boot {
    Kernel {
        kernel: PathBuf,
        initrd: Option<PathBuf>,
        cmdline: String,
    },
    Firmware {
        firmware: PathBuf,
    },
    /// The first disk, through the backend's default firmware.
    RootDisk,
}

/// One disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    pub id: Uuid,
    pub path: PathBuf,
    pub format: ImageFormat,
    /// At most 20 characters: virtio-blk cuts it there. The guest finds the disk by it.
    pub serial: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageFormat {
    Qcow2,
    Raw,
}

impl ImageFormat {
    /// The name QEMU and `qemu-img` use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The machine's network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "mode")]
pub enum Nic {
    None,
    /// User-mode networking: the backend itself is the router and DHCP server of a private
    /// network that holds this one machine.
    User {
        /// Lower-case, colon-separated.
        mac: String,
        /// In CIDR form.
        network: String,
        gateway: Ipv4Addr,
        /// The address the guest gets by DHCP.
        address: Ipv4Addr,
        dns: Option<Ipv4Addr>,
    },
}

/// A machine that runs, as it can be found again after the daemon was restarted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub id: Uuid,
    /// Absent for a backend without [`Capabilities::processes`].
    pub process: Option<ProcessIdentity>,
}

/// Names one process for ever: a pid alone is reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/PID/stat`, proc(5).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: Uuid,
}

/// What the guest is doing, as the hypervisor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Running,
    Paused,
    /// The guest powered itself off; the machine waits to be ended.
    GuestShutdown,
    GuestPanicked,
    IoError,
    InternalError,
    /// A state this host does not know.
    #[serde(other)]
    Other,
}

/// Whether the backend can speak with the machine now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "control")]
pub enum Control {
    /// What is told was true within the backend's own deadline.
    Connected { run_state: RunState },
    /// The machine is alive, its control channel does not answer: the guest's state is unknown.
    Unreachable { reason: String },
}

/// One living machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSighting {
    pub machine: Machine,
    #[serde(flatten)]
    pub control: Control,
}

/// Every living machine below the instance's `machines_dir`; one that is not listed is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    pub machines: Vec<MachineSighting>,
}

/// An image to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    pub path: PathBuf,
    pub format: ImageFormat,
    /// Bytes; a multiple of 512.
    pub virtual_size: u64,
}

/// An image that is there. The format comes from the record: it is never probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    pub path: PathBuf,
    pub format: ImageFormat,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    pub format: ImageFormat,
    /// Bytes, as the guest sees them.
    pub virtual_size: u64,
    /// Bytes allocated on the host.
    pub actual_size: u64,
}

/// Told by a backend without being asked. An event is a hint: one may be lost, so whoever needs
/// the truth surveys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The guest's run state changed.
    MachineChanged { id: Uuid, run_state: RunState },
    /// The machine is no more.
    MachineEnded { id: Uuid, reason: String },
    #[serde(other)]
    Other,
}
