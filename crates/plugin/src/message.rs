//! The plain data that crosses the border between host and plugin, as JSON. Evolution is additive:
//! a reader ignores fields it does not know, and every field added later has a default. No
//! behaviour lives here.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
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
    #[serde(deserialize_with = "known")]
    pub image_formats: Vec<ImageFormat>,
    /// The guest can be halted and let go on: `pause` and `resume`.
    pub pause: bool,
    /// The guest can be reset as by its reset button.
    pub reset: bool,
    /// The buses on which a running machine gains and loses disks: `attach_disk`, `detach_disk`,
    /// and `resize_disk`.
    #[serde(deserialize_with = "known")]
    pub hot_plug: Vec<Bus>,
    /// `resize_image` grows images that no machine has open.
    pub resize: bool,
}

/// What this side knows of a list that the other side may know more of.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(list: D) -> Result<Vec<T>, D::Error> {
    let all = Vec::<serde_json::Value>::deserialize(list)?;
    Ok(all.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect())
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
    /// What is done, or cannot be done on this host, beyond running machines: e.g. how they are
    /// confined. A sentence each, for people.
    #[serde(default)]
    pub notes: Vec<String>,
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
    #[serde(default)]
    pub bus: Bus,
}

/// What a disk is attached to in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bus {
    /// A SCSI disk on a virtio-scsi controller: taken away without the guest's help.
    #[default]
    VirtioScsi,
    /// A PCI device of its own: taken away when the guest lets go.
    VirtioBlk,
}

/// A disk that a running machine gains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskAttachment {
    /// The machine's.
    pub id: Uuid,
    pub disk: DiskSpec,
}

/// A disk that a running machine is to lose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRemoval {
    /// The machine's.
    pub id: Uuid,
    /// The disk's.
    pub disk: Uuid,
    /// Its image, for a backend that takes back what it gave the machine access to. Absent from a
    /// host that does not tell.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// What asking a machine for a disk back came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unplug {
    /// The machine has no such disk any more, and its image is closed.
    Done,
    /// The guest was asked and has not let go within the backend's own wait: the image is still in
    /// use. [`Event::DiskDetached`] may come at any time later.
    Waiting,
}

/// The new size of a disk that a running machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskGrowth {
    /// The machine's.
    pub id: Uuid,
    /// The disk's.
    pub disk: Uuid,
    /// Bytes; not less than now.
    pub virtual_size: u64,
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
    /// Milliseconds since the machine last answered what is told here; 0 where nothing is kept.
    #[serde(default)]
    pub age_ms: u64,
    /// The disks the machine has, those included that the guest was asked for and has not given
    /// back. Absent: not known.
    #[serde(default)]
    pub disks: Option<Vec<Uuid>>,
}

/// A machine that has ended, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineEnd {
    pub machine: Machine,
    pub cause: ExitCause,
    /// One line for people: a signal, an exit status, the hypervisor's last words.
    pub detail: String,
}

/// Why a machine is no more. An open set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitCause {
    /// The guest had powered itself off.
    GuestShutdown,
    /// The guest had panicked.
    GuestPanic,
    /// It was asked to end by `quit` or `kill`.
    Asked,
    /// Somebody else's signal.
    Killed,
    /// The kernel took its memory back.
    OutOfMemory,
    /// The hypervisor gave up by itself.
    Failed,
    /// Nobody was there to see it, or a cause this host does not know.
    #[serde(other)]
    Unknown,
}

/// Every living machine below the instance's `machines_dir`; one that is not listed is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    pub machines: Vec<MachineSighting>,
    /// The last machines that ended while this instance watched them, as far as they are kept: one
    /// end of each machine id, the newest.
    #[serde(default)]
    pub ended: Vec<MachineEnd>,
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

/// An image to make larger, which no machine has open. The format comes from the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageGrowth {
    pub path: PathBuf,
    pub format: ImageFormat,
    /// Bytes; a multiple of 512, and not less than now.
    pub virtual_size: u64,
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
    /// The guest has let go of a disk it was asked for, and its image is closed.
    DiskDetached { id: Uuid, disk: Uuid },
    #[serde(other)]
    Other,
}
