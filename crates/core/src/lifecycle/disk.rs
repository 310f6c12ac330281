//! What a command leads to for a disk: every state meets every command. VMs have a file of their
//! own; what an ended operation leaves is told in `ends`.

use super::{Decided, Denied, DiskCommand, to};
use crate::disk::{Disk, DiskState};
use crate::operation::{Effect, Step};
use crate::vm::VmState;

/// What `command` leads to for a disk. `vm_state` is the state of the VM the command concerns: the
/// one named, or the one that holds the disk.
pub fn decide_disk(
    disk: &Disk,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match &disk.state {
        DiskState::Creating => Err(Denied::BeingCreated),
        DiskState::Attaching => Err(Denied::BeingMoved),
        DiskState::Detaching => from_detaching(command),
        DiskState::Resizing(_) => Err(Denied::BeingResized),
        DiskState::Deleting => match command {
            DiskCommand::Delete => Ok(None),
            DiskCommand::Attach(_)
            | DiskCommand::Detach
            | DiskCommand::Resize(_)
            | DiskCommand::Released
            | DiskCommand::MarkMissing
            | DiskCommand::MarkAvailable => Err(Denied::BeingDeleted),
        },
        DiskState::Available => from_available(disk, vm_state, command),
        DiskState::Attached => from_attached(disk, vm_state, command),
        DiskState::Missing => from_missing(disk, vm_state, command),
        DiskState::Failed(_) => match command {
            DiskCommand::Delete => delete_image(disk, vm_state),
            DiskCommand::Detach => let_go(disk, vm_state),
            DiskCommand::Attach(_)
            | DiskCommand::Resize(_)
            | DiskCommand::Released
            | DiskCommand::MarkMissing
            | DiskCommand::MarkAvailable => Err(Denied::Failed),
        },
    }
}

fn from_available(
    disk: &Disk,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match command {
        DiskCommand::Attach(_) => match machine(vm_state)? {
            Machine::AtRest => to(DiskState::Attached, vec![]),
            Machine::Lives => {
                let step = Step::new(Effect::AttachDisk, Some(Effect::DetachDisk));
                to(DiskState::Attaching, vec![step])
            }
        },
        // A holder beside `available` is a disagreement that detaching mends.
        DiskCommand::Detach => match disk.vm {
            Some(_) => let_go(disk, vm_state),
            None => Ok(None),
        },
        DiskCommand::Resize(size_gib) => resize(disk, vm_state, size_gib),
        DiskCommand::Delete => delete_image(disk, vm_state),
        DiskCommand::Released => Ok(None),
        DiskCommand::MarkMissing => to(DiskState::Missing, vec![]),
        DiskCommand::MarkAvailable => match disk.vm {
            Some(_) => to(DiskState::Available, vec![]),
            None => Ok(None),
        },
    }
}

fn from_attached(
    disk: &Disk,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match command {
        DiskCommand::Attach(vm) if disk.vm == Some(vm) => Ok(None),
        DiskCommand::Attach(_) => Err(Denied::AttachedElsewhere),
        DiskCommand::Detach => let_go(disk, vm_state),
        // Believing is for what no machine has.
        DiskCommand::MarkAvailable => {
            not_held(disk, vm_state)?;
            to(DiskState::Available, vec![])
        }
        DiskCommand::Resize(size_gib) => resize(disk, vm_state, size_gib),
        DiskCommand::Delete | DiskCommand::Released => Err(Denied::Attached),
        DiskCommand::MarkMissing => to(DiskState::Missing, vec![]),
    }
}

/// The guest was asked and has not let go: it can be asked again.
fn from_detaching(command: DiskCommand) -> Decided<DiskState> {
    match command {
        DiskCommand::Detach => ask_for_it(),
        DiskCommand::Released => to(DiskState::Available, vec![]),
        DiskCommand::Attach(_)
        | DiskCommand::Resize(_)
        | DiskCommand::Delete
        | DiskCommand::MarkMissing
        | DiskCommand::MarkAvailable => Err(Denied::BeingMoved),
    }
}

fn from_missing(
    disk: &Disk,
    vm_state: Option<&VmState>,
    command: DiskCommand,
) -> Decided<DiskState> {
    match command {
        DiskCommand::Attach(_) | DiskCommand::Resize(_) => Err(Denied::ImageMissing),
        DiskCommand::Detach => {
            not_held(disk, vm_state)?;
            to(DiskState::Missing, vec![])
        }
        DiskCommand::Delete => delete_image(disk, vm_state),
        DiskCommand::Released | DiskCommand::MarkMissing => Ok(None),
        DiskCommand::MarkAvailable => match disk.vm {
            Some(_) => to(DiskState::Attached, vec![]),
            None => to(DiskState::Available, vec![]),
        },
    }
}

/// Whether a machine has to be asked.
enum Machine {
    AtRest,
    Lives,
}

/// In a transition of its VM a disk neither comes nor goes.
fn machine(vm_state: Option<&VmState>) -> Result<Machine, Denied> {
    match vm_state {
        None | Some(VmState::Stopped | VmState::Failed(_)) => Ok(Machine::AtRest),
        Some(VmState::Running | VmState::Paused) => Ok(Machine::Lives),
        Some(VmState::Starting | VmState::Stopping | VmState::Deleting) => {
            Err(Denied::VmInTransition)
        }
    }
}

/// A machine may have an image open, also one without a name any more, and also one that a failure
/// left.
fn not_held(disk: &Disk, vm_state: Option<&VmState>) -> Result<(), Denied> {
    match (disk.vm, machine(vm_state)?, vm_state) {
        (None, _, _) => Ok(()),
        (Some(_), Machine::Lives, _) | (Some(_), _, Some(VmState::Failed(_))) => Err(Denied::Held),
        (Some(_), Machine::AtRest, _) => Ok(()),
    }
}

fn let_go(disk: &Disk, vm_state: Option<&VmState>) -> Decided<DiskState> {
    // What a failure left of a machine may still have the image open.
    if let (Some(VmState::Failed(_)), DiskState::Attached) = (vm_state, &disk.state) {
        return ask_for_it();
    }
    match (machine(vm_state)?, &disk.state) {
        (Machine::AtRest, DiskState::Failed(_)) => to(disk.state.clone(), vec![]),
        (Machine::AtRest, _) => to(DiskState::Available, vec![]),
        (Machine::Lives, _) => ask_for_it(),
    }
}

fn ask_for_it() -> Decided<DiskState> {
    to(DiskState::Detaching, vec![Step::new(Effect::DetachDisk, None)])
}

fn resize(disk: &Disk, vm_state: Option<&VmState>, size_gib: u64) -> Decided<DiskState> {
    if size_gib == disk.size_gib {
        return Ok(None);
    }
    if size_gib < disk.size_gib {
        return Err(Denied::Smaller);
    }
    machine(vm_state)?;
    to(DiskState::Resizing(size_gib), vec![Step::new(Effect::ResizeImage, None)])
}

fn delete_image(disk: &Disk, vm_state: Option<&VmState>) -> Decided<DiskState> {
    if disk.vm.is_some() {
        machine(vm_state)?;
        return Err(Denied::Attached);
    }
    to(DiskState::Deleting, vec![Step::new(Effect::DeleteImage, None)])
}

/// The steps of an operation that makes a disk.
pub fn disk_creation() -> Vec<Step> {
    vec![Step::new(Effect::CreateImage, Some(Effect::DeleteImage))]
}
