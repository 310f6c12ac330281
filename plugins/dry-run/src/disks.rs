//! The disks of a simulated machine: given, taken back when the guest lets go, made larger. When it
//! lets go stands in the machine's file, so that it does whether an instance is there or not.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vman_plugin::{
    BackendError, Bus, DiskAttachment, DiskGrowth, DiskRemoval, DiskSpec, ErrorCode, ImageFormat,
    ImageGrowth, ImageRef, Unplug,
};

use crate::machines::{self, Machines};
use crate::{images, plan};

/// One disk in `machine.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    pub(crate) id: Uuid,
    path: PathBuf,
    format: ImageFormat,
    bus: Bus,
    /// What the guest made of being asked for it, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked: Option<Asked>,
}

/// A guest that was asked for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Asked {
    /// It lets go of it then, on the machine's clock: past that the machine has it no more.
    LeavesAt(u64),
    /// It does nothing about it, until it is reset.
    Ignored,
}

/// What a guest does that is asked for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// Milliseconds.
    LetsGoAfter(u64),
    Ignores,
    Refuses,
}

impl Disk {
    pub(crate) fn of(spec: &DiskSpec) -> Self {
        let DiskSpec { id, path, format, serial: _, bus } = spec.clone();
        Self { id, path, format, bus, asked: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn has_left(&self, now_ms: u64) -> bool {
        matches!(self.asked, Some(Asked::LeavesAt(then)) if then <= now_ms)
    }
}

impl Asked {
    /// When it lets go, in milliseconds of the machine's clock; `None` if it never does.
    pub(crate) fn leaves_at(self) -> Option<u64> {
        match self {
            Self::LeavesAt(then) => Some(then),
            Self::Ignored => None,
        }
    }

    /// Asked twice, it lets go when it first would.
    fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::LeavesAt(one), Self::LeavesAt(two)) => Self::LeavesAt(one.min(two)),
            (Self::Ignored, either) | (either, Self::Ignored) => either,
        }
    }
}

/// Is the image there, and of this format?
pub(crate) fn check_image(disk: &DiskSpec) -> Result<(), BackendError> {
    images::inspect(&ImageRef { path: disk.path.clone(), format: disk.format }).map(drop)
}

pub(crate) fn attach(machines: &Machines, attachment: &DiskAttachment) -> Result<(), BackendError> {
    let DiskAttachment { id, disk } = attachment;
    machines.change(*id, |content, changing| {
        let disks = content.disks.get_or_insert_default();
        match disks.iter().find(|one| one.id == disk.id) {
            Some(Disk { asked: None, .. }) => return Ok(()),
            Some(_) => {
                let why = "its guest was asked for it and has not let go yet; attach it after that";
                return Err(error(ErrorCode::Conflict, *id, disk.id, why));
            }
            None => {}
        }
        changing.check_free(disk)?;
        disks.push(Disk::of(disk));
        Ok(())
    })
}

/// Asks the guest for a disk; `None` if the machine, or the disk in it, is gone then.
pub(crate) fn ask_for(
    machines: &Machines,
    removal: &DiskRemoval,
    guest: Guest,
) -> Result<Option<Asked>, BackendError> {
    let DiskRemoval { id, disk, path: _ } = *removal;
    let asked = machines.change(id, |content, changing| {
        let delay_ms = plan::unplug_delay(&content.faults, changing.now);
        let disks = content.disks.iter_mut().flatten();
        let Some(found) = disks.into_iter().find(|one| one.id == disk) else {
            return Ok(None);
        };
        let answer = match (guest, delay_ms) {
            (Guest::LetsGoAfter(wait_ms), Some(delay_ms)) => {
                let wait_ms = wait_ms.saturating_add(delay_ms);
                Asked::LeavesAt(changing.now.saturating_add(wait_ms))
            }
            (Guest::LetsGoAfter(_), None) | (Guest::Ignores, _) => Asked::Ignored,
            (Guest::Refuses, _) => {
                let why = "the guest will not let go of it";
                return Err(error(ErrorCode::Refused, id, disk, why));
            }
        };
        let asked = found.asked.map_or(answer, |before| before.sooner(answer));
        found.asked = Some(asked);
        Ok(Some(asked))
    });
    unless_gone(asked, None)
}

/// What has become of a disk that the guest was asked for.
pub(crate) fn unplug(machines: &Machines, removal: &DiskRemoval) -> Result<Unplug, BackendError> {
    let unplug = machines.change(removal.id, |content, _| {
        let mut disks = content.disks.iter().flatten();
        let there = disks.any(|disk| disk.id == removal.disk);
        Ok(if there { Unplug::Waiting } else { Unplug::Done })
    });
    unless_gone(unplug, Unplug::Done)
}

fn unless_gone<T>(result: Result<T, BackendError>, gone: T) -> Result<T, BackendError> {
    match result {
        Err(error) if error.code == ErrorCode::NotFound => Ok(gone),
        result => result,
    }
}

/// Makes the image of a machine's disk larger.
pub(crate) fn grow(machines: &Machines, growth: &DiskGrowth) -> Result<(), BackendError> {
    let DiskGrowth { id, disk, virtual_size } = *growth;
    let content = machines.content(id)?.ok_or_else(|| machines::gone(id))?;
    let disks = content.disks.unwrap_or_default();
    let Some(Disk { path, format, .. }) = disks.into_iter().find(|one| one.id == disk) else {
        return Err(error(ErrorCode::NotFound, id, disk, "it has no such disk"));
    };
    images::grow(&ImageGrowth { path, format, virtual_size })
}

fn error(code: ErrorCode, machine: Uuid, disk: Uuid, why: &str) -> BackendError {
    BackendError::new(code, format!("simulated machine {machine}, disk {disk}: {why}"))
}
