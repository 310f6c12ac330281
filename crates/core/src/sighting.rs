//! What is on the host, as seen in one look. Three-valued: a thing is present, absent, or (when it
//! could not be looked at) unknown, which is never absent. How one looks is not known here.

use std::collections::{BTreeMap, BTreeSet};

use crate::ident::{DiskId, Timestamp, VmId};
use crate::vm::{Machine, Vm};
use crate::words::words;

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting<T> {
    Present(T),
    Absent,
    /// Why it could not be looked at.
    Unknown(String),
}

/// All things of one kind, or why they could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Surveyed<T> {
    Known(T),
    Unknown(String),
}

impl<T> Default for Surveyed<T> {
    fn default() -> Self {
        Self::Unknown("not looked at".to_owned())
    }
}

impl<T> Surveyed<T> {
    /// What was seen; `None` if it could not be looked at.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(seen) => Some(seen),
            Self::Unknown(_) => None,
        }
    }
}

/// One look over the host. Every part begins unknown, so what nobody surveyed accuses nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sightings {
    /// The backend whose machines were looked for; a machine of another one is not its to see.
    pub backend: Option<String>,
    /// Living machines of the chosen backend.
    pub machines: Surveyed<BTreeMap<VmId, MachineSeen>>,
    /// Files below the storage folder that a record could own, by path relative to it.
    pub files: Surveyed<BTreeMap<String, FileSeen>>,
    /// Network devices marked as ours, by name.
    pub devices: Surveyed<BTreeMap<String, DeviceSeen>>,
    /// Machines that were seen to end, as far as that is kept: the last of each VM.
    pub ended: BTreeMap<VmId, MachineEnded>,
}

impl Sightings {
    pub fn machine(&self, id: VmId) -> Sighting<&MachineSeen> {
        look_up(&self.machines, &id)
    }

    /// As [`machine`](Self::machine), for one that is recorded: unknown if another backend runs it.
    pub fn recorded_machine(&self, vm: &Vm) -> Sighting<&MachineSeen> {
        match (&vm.machine, &self.backend) {
            (Some(machine), Some(backend)) if machine.backend != *backend => {
                Sighting::Unknown(format!("it runs on {}, not on {backend}", machine.backend))
            }
            (Some(_) | None, _) => self.machine(vm.id),
        }
    }

    /// `path` is relative to the storage folder.
    pub fn file(&self, path: &str) -> Sighting<&FileSeen> {
        look_up(&self.files, path)
    }

    /// Joins what two surveyors saw of different parts; a part both saw is taken from `other`.
    pub fn merge(self, other: Self) -> Self {
        Self {
            backend: other.backend.or(self.backend),
            machines: prefer(other.machines, self.machines),
            files: prefer(other.files, self.files),
            devices: prefer(other.devices, self.devices),
            ended: if other.ended.is_empty() { self.ended } else { other.ended },
        }
    }
}

fn look_up<'a, K: Ord + std::borrow::Borrow<Q>, Q: Ord + ?Sized, V>(
    surveyed: &'a Surveyed<BTreeMap<K, V>>,
    key: &Q,
) -> Sighting<&'a V> {
    match surveyed {
        Surveyed::Known(all) => all.get(key).map_or(Sighting::Absent, Sighting::Present),
        Surveyed::Unknown(reason) => Sighting::Unknown(reason.clone()),
    }
}

fn prefer<T: PartialEq>(first: Surveyed<T>, second: Surveyed<T>) -> Surveyed<T> {
    match (&first, &second) {
        (Surveyed::Unknown(_), Surveyed::Known(_)) => second,
        (Surveyed::Known(_), _) => first,
        // Of two reasons the one that was given beats the default.
        (Surveyed::Unknown(_), Surveyed::Unknown(_)) if first == Surveyed::default() => second,
        (Surveyed::Unknown(_), Surveyed::Unknown(_)) => first,
    }
}

/// A living machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineSeen {
    pub machine: Machine,
    pub guest: Guest,
    /// Absent where the backend's machines are not processes.
    pub started_at: Option<Timestamp>,
    /// Milliseconds since the hypervisor last said what is told here.
    pub age_ms: u64,
    /// The disks the machine has; absent where that is not known.
    pub disks: Option<BTreeSet<DiskId>>,
}

/// A machine that is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineEnded {
    pub machine: Machine,
    pub cause: ExitCause,
    /// One line for people: a signal, an exit status, the hypervisor's last words.
    pub detail: String,
}

words!(
    /// Why a machine is no more.
    ExitCause {
        /// The guest had powered itself off.
        GuestShutdown = "guest-shutdown",
        GuestPanic = "guest-panic",
        /// It was asked to end.
        Asked = "asked",
        /// Somebody else's signal.
        Killed = "killed",
        OutOfMemory = "out-of-memory",
        /// The hypervisor gave up by itself.
        Failed = "failed",
        /// Nobody was there to see it.
        Unknown = "unknown",
    }
);

/// What the guest does, as its hypervisor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guest {
    Running,
    Paused,
    /// It powered itself off; the machine waits to be ended.
    ShutDown,
    Panicked,
    IoError,
    InternalError,
    /// The machine lives, its guest's state could not be learned.
    Unknown(String),
}

impl Guest {
    /// The stable word in evidence.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShutDown => "shut-down",
            Self::Panicked => "panicked",
            Self::IoError => "io-error",
            Self::InternalError => "internal-error",
            Self::Unknown(_) => "unknown",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSeen {
    pub kind: FileKind,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// When it or its name last changed.
    pub changed_at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// In `disks/`.
    Image,
    /// A directory in `machines/`.
    MachineDirectory,
}

/// A network device marked as ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSeen {
    /// The VM it is marked for.
    pub owner: VmId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_surveyed_is_unknown_and_not_absent() {
        let sightings = Sightings::default();
        let vm = VmId(uuid::Uuid::from_u128(1));
        assert!(matches!(sightings.machine(vm), Sighting::Unknown(_)));
        assert!(matches!(sightings.file("disks/x.raw"), Sighting::Unknown(_)));
    }

    #[test]
    fn merging_keeps_what_either_side_knows_and_the_reason_of_what_neither_does() {
        let operator = Sightings {
            machines: Surveyed::Unknown("the backend does not answer".to_owned()),
            files: Surveyed::Known(BTreeMap::new()),
            ..Sightings::default()
        };
        let network =
            Sightings { devices: Surveyed::Known(BTreeMap::new()), ..Sightings::default() };
        for merged in [operator.clone().merge(network.clone()), network.merge(operator)] {
            assert!(merged.files.known().is_some());
            assert!(merged.devices.known().is_some());
            assert_eq!(
                merged.machines,
                Surveyed::Unknown("the backend does not answer".to_owned())
            );
        }
    }
}
