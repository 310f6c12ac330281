//! The disks of one running machine: which it has, giving it one, and asking for one back. An image
//! is closed only after its device is gone, for QEMU writes to it until then. How QEMU is told is
//! in `block`; how long a caller waits is in `machine`.

use std::collections::{BTreeSet, HashMap};

use tokio::sync::oneshot;
use uuid::Uuid;
use vman_plugin::{BackendError, Bus, DiskSpec, ErrorCode};

use crate::block::{Asked, Devices};
use crate::devices::{self, Slot};
use crate::failure::is_locked;
use crate::qmp::{Connection, QmpError};
use crate::{conflict, failed, invalid, not_found};

/// What became of a disk that the guest was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Release {
    /// The device is gone and the image closed.
    Done,
    /// The guest says that it will not.
    Refused,
    /// The device is gone, and QEMU does not close the image; its words.
    StillOpen(String),
}

/// What asking for a disk came to at once.
#[derive(Debug)]
pub(crate) enum Unplugging {
    Done,
    /// The guest is asked; this tells.
    Asked(oneshot::Receiver<Release>),
}

/// Why a command was not carried out.
#[derive(Debug)]
pub(crate) enum Fault {
    /// QEMU's own words, or the connection's end.
    Qmp(QmpError),
    Told(BackendError),
}

impl From<QmpError> for Fault {
    fn from(error: QmpError) -> Self {
        Self::Qmp(error)
    }
}

impl From<BackendError> for Fault {
    fn from(error: BackendError) -> Self {
        Self::Told(error)
    }
}

/// What is known of one machine's disks. Bounded by the disks that QEMU has.
#[derive(Debug)]
pub(crate) struct Disks {
    machine: Uuid,
    /// Those with a device or an open image.
    known: BTreeSet<Uuid>,
    /// Who waits for the guest to let go; nobody may by now.
    asked: HashMap<Uuid, oneshot::Sender<Release>>,
}

impl Disks {
    /// `known` are those it begins with, as far as that is known.
    pub(crate) fn new(machine: Uuid, known: BTreeSet<Uuid>) -> Self {
        Self { machine, known, asked: HashMap::new() }
    }

    pub(crate) fn known(&self) -> &BTreeSet<Uuid> {
        &self.known
    }

    /// Takes stock on a new connection, since events are lost while there is none. Returns the
    /// disks that the machine turned out not to have any more.
    pub(crate) async fn recall(&mut self, qmp: &mut Connection) -> Result<Vec<Uuid>, QmpError> {
        let devices = BTreeSet::from_iter(qmp.devices().await?.disks);
        let nodes = BTreeSet::from_iter(qmp.nodes().await?.into_iter().map(|node| node.disk));
        let before = std::mem::replace(&mut self.known, &devices | &nodes);
        let mut gone: Vec<_> = before.difference(&self.known).copied().collect();
        // The guest has let go of these, or somebody did not finish attaching them.
        for &disk in nodes.difference(&devices) {
            match self.close(qmp, disk).await {
                Ok(()) => gone.push(disk),
                // It stays known, and the next detach tries again.
                Err(QmpError::Refused(_) | QmpError::NoDevice(_)) => {}
                Err(error @ QmpError::Broken(_)) => return Err(error),
            }
        }
        gone.retain(|&disk| !self.tell(disk, Release::Done));
        Ok(gone)
    }

    /// Takes stock where only the guest itself can have changed something: it may eject a disk
    /// that nobody asked for, and QEMU tells no one. Returns as [`recall`](Self::recall) does.
    pub(crate) async fn look(&mut self, qmp: &mut Connection) -> Result<Vec<Uuid>, QmpError> {
        let devices = BTreeSet::from_iter(qmp.devices().await?.disks);
        if devices == self.known { Ok(Vec::new()) } else { self.recall(qmp).await }
    }

    /// The device of a disk is gone. True if that is news to be told: nobody waits for it.
    pub(crate) async fn unplugged(
        &mut self,
        qmp: &mut Connection,
        disk: Uuid,
    ) -> Result<bool, QmpError> {
        if !self.known.contains(&disk) {
            return Ok(false);
        }
        match self.close(qmp, disk).await {
            Ok(()) => Ok(!self.tell(disk, Release::Done)),
            Err(QmpError::Refused(why) | QmpError::NoDevice(why)) => {
                self.tell(disk, Release::StillOpen(why));
                Ok(false)
            }
            Err(error @ QmpError::Broken(_)) => Err(error),
        }
    }

    pub(crate) fn refused(&mut self, disk: Uuid) {
        self.tell(disk, Release::Refused);
    }

    /// Gives the machine a disk; one it has is a success. `abandoned` tells that nobody wants it
    /// any more.
    pub(crate) async fn attach(
        &mut self,
        qmp: &mut Connection,
        disk: &DiskSpec,
        abandoned: impl Fn() -> bool + Send,
    ) -> Result<(), Fault> {
        let devices = qmp.devices().await?;
        if devices.disks.contains(&disk.id) {
            return Ok(());
        }
        let slot = self.slot(qmp, disk, &devices).await?;
        let device = devices::guest_device(disk, &slot, None)?;
        let node = devices::block_node(disk)?;
        if self.known.contains(&disk.id) {
            self.close(qmp, disk.id).await?;
        }
        qmp.open_node(node).await.map_err(|error| self.not_opened(disk, error))?;
        self.known.insert(disk.id);
        let added = if abandoned() {
            Err(QmpError::Refused("it was given up meanwhile".to_owned()))
        } else {
            qmp.add_device(device).await
        };
        match added {
            Ok(()) => Ok(()),
            Err(error @ QmpError::Broken(_)) => Err(error.into()),
            Err(QmpError::Refused(why) | QmpError::NoDevice(why)) => {
                self.close(qmp, disk.id).await?;
                let (machine, disk) = (self.machine, disk.id);
                Err(failed(format!("machine {machine}: disk {disk} was not attached: {why}"))
                    .into())
            }
        }
    }

    async fn slot(
        &self,
        qmp: &mut Connection,
        disk: &DiskSpec,
        devices: &Devices,
    ) -> Result<Slot, Fault> {
        match disk.bus {
            Bus::VirtioScsi => return Ok(Slot::Scsi(None)),
            Bus::VirtioBlk => {}
        }
        for port in &devices.ports {
            if qmp.is_free(port).await? {
                return Ok(Slot::Port(port.clone()));
            }
        }
        Err(Fault::Told(conflict(format!(
            "machine {}: no free slot for disk {} on virtio-blk (it has {}, set by \
             `hotplug_ports`): use virtio-scsi, or stop the VM and attach it then",
            self.machine,
            disk.id,
            devices.ports.len()
        ))))
    }

    fn not_opened(&self, disk: &DiskSpec, error: QmpError) -> Fault {
        let QmpError::Refused(why) = error else { return error.into() };
        // Who has it open is for the caller to find out.
        let code = if is_locked(&why) { ErrorCode::Conflict } else { ErrorCode::Failed };
        let (machine, id, path) = (self.machine, disk.id, disk.path.display());
        let words = format!("machine {machine}: disk {id}: {path} was not opened: {why}");
        BackendError::new(code, words).into()
    }

    /// Asks the guest for a disk, again if it was asked before.
    pub(crate) async fn ask_back(
        &mut self,
        qmp: &mut Connection,
        disk: Uuid,
    ) -> Result<Unplugging, Fault> {
        if !self.known.contains(&disk) {
            return Ok(Unplugging::Done);
        }
        match qmp.ask_for_device(disk).await {
            Ok(Asked::Unplugging) => {
                let (release, released) = oneshot::channel();
                self.asked.insert(disk, release);
                Ok(Unplugging::Asked(released))
            }
            Ok(Asked::NoDevice) => {
                self.close(qmp, disk).await?;
                self.tell(disk, Release::Done);
                Ok(Unplugging::Done)
            }
            // qdev_unplug(): the bus is none that a device can be taken from.
            Err(QmpError::Refused(why)) if why.contains("does not support hotplugging") => {
                Err(Fault::Told(conflict(format!(
                    "machine {}: disk {disk} cannot be taken away while it runs ({why}): stop the \
                     VM and detach it then",
                    self.machine
                ))))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn resize(
        &mut self,
        qmp: &mut Connection,
        disk: Uuid,
        virtual_size: u64,
    ) -> Result<(), Fault> {
        let machine = self.machine;
        let nodes = qmp.nodes().await?;
        let node = nodes.iter().find(|node| node.disk == disk).ok_or_else(|| {
            not_found(format!("machine {machine} has no disk {disk}: resize its image instead"))
        })?;
        if node.virtual_size > virtual_size {
            return Err(Fault::Told(invalid(format!(
                "machine {machine}: disk {disk} has {} bytes and cannot be made smaller, to \
                 {virtual_size}: what is beyond would be lost",
                node.virtual_size
            ))));
        }
        if node.virtual_size < virtual_size {
            qmp.resize_node(disk, virtual_size).await?;
        }
        Ok(())
    }

    /// Closes a disk's image; one that is closed is a success.
    async fn close(&mut self, qmp: &mut Connection, disk: Uuid) -> Result<(), QmpError> {
        match qmp.close_node(disk).await {
            Ok(()) => {}
            Err(error @ QmpError::Broken(_)) => return Err(error),
            Err(error @ (QmpError::Refused(_) | QmpError::NoDevice(_))) => {
                if qmp.nodes().await?.iter().any(|node| node.disk == disk) {
                    return Err(error);
                }
            }
        }
        self.known.remove(&disk);
        Ok(())
    }

    /// Tells who waits for a disk; false if nobody does.
    fn tell(&mut self, disk: Uuid, release: Release) -> bool {
        self.asked.remove(&disk).is_some_and(|waiting| waiting.send(release).is_ok())
    }
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
