//! What a command leads to for a VM: every state meets every command. Disks have a file of their
//! own; what an ended operation leaves is told in `ends`.

use super::{Decided, Denied, VmCommand, to};
use crate::operation::{Effect, Step};
use crate::vm::VmState;

/// What `command` leads to for a VM in `state`; `None` means that it is already so.
pub fn decide_vm(state: &VmState, command: VmCommand) -> Decided<VmState> {
    match state {
        VmState::Stopped => from_stopped(command),
        VmState::Starting => from_starting(command),
        VmState::Running => from_running(command),
        VmState::Paused => from_paused(command),
        VmState::Stopping => from_stopping(command),
        VmState::Failed(_) => from_failed(command),
        VmState::Deleting => from_deleting(command),
    }
}

fn from_stopped(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Start => to(VmState::Starting, boot()),
        // A VM the user stopped stays stopped.
        VmCommand::Stop
        | VmCommand::Kill
        | VmCommand::MarkStopped
        | VmCommand::GuestEnded
        | VmCommand::Autostart => Ok(None),
        VmCommand::Restart | VmCommand::Pause | VmCommand::Resume | VmCommand::Reset => {
            Err(Denied::NotRunning)
        }
        // A machine nobody recorded must not outlive the record either.
        VmCommand::Delete => delete(Effect::End),
        VmCommand::MarkRunning => adopt(),
        VmCommand::StopStray => stop(Effect::PowerOff),
    }
}

fn from_starting(command: VmCommand) -> Decided<VmState> {
    match command {
        // What a daemon had begun before the host went down goes on by itself.
        VmCommand::Start | VmCommand::Autostart => Ok(None),
        VmCommand::Stop => stop(Effect::PowerOff),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Delete => delete(Effect::PowerOff),
        VmCommand::Restart
        | VmCommand::Pause
        | VmCommand::Resume
        | VmCommand::Reset
        | VmCommand::MarkStopped
        | VmCommand::MarkRunning
        | VmCommand::StopStray
        | VmCommand::GuestEnded => Err(Denied::BeingStarted),
    }
}

fn from_running(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Start | VmCommand::MarkRunning => Ok(None),
        // Carried out also where it is recorded to be so: a pause that failed may have halted the
        // guest, and a full disk does.
        VmCommand::Resume => in_place(VmState::Running, Effect::Resume),
        VmCommand::Stop => stop(Effect::PowerOff),
        VmCommand::Restart => restart(Effect::PowerOff),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Pause => in_place(VmState::Running, Effect::Pause),
        VmCommand::Reset => in_place(VmState::Running, Effect::Reset),
        VmCommand::Delete => delete(Effect::PowerOff),
        VmCommand::Autostart => restart(Effect::End),
        VmCommand::MarkStopped => to(VmState::Stopping, release()),
        VmCommand::StopStray => Err(Denied::Running),
        VmCommand::GuestEnded => stop(Effect::End),
    }
}

fn from_paused(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Start => Err(Denied::Paused),
        // A paused guest cannot answer a power button.
        VmCommand::Stop => stop(Effect::End),
        VmCommand::Restart | VmCommand::Autostart => restart(Effect::End),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Pause => in_place(VmState::Paused, Effect::Pause),
        VmCommand::Resume => in_place(VmState::Paused, Effect::Resume),
        VmCommand::Reset => in_place(VmState::Paused, Effect::Reset),
        VmCommand::Delete => delete(Effect::End),
        VmCommand::MarkStopped => to(VmState::Stopping, release()),
        VmCommand::MarkRunning => adopt(),
        VmCommand::StopStray => Err(Denied::Paused),
        VmCommand::GuestEnded => stop(Effect::End),
    }
}

fn from_stopping(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Stop | VmCommand::GuestEnded | VmCommand::Autostart => Ok(None),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Delete => delete(Effect::End),
        VmCommand::Start
        | VmCommand::Restart
        | VmCommand::Pause
        | VmCommand::Resume
        | VmCommand::Reset
        | VmCommand::MarkStopped
        | VmCommand::MarkRunning
        | VmCommand::StopStray => Err(Denied::BeingStopped),
    }
}

fn from_failed(command: VmCommand) -> Decided<VmState> {
    match command {
        // Whatever the failure left behind goes first.
        VmCommand::Start | VmCommand::Restart => restart(Effect::End),
        VmCommand::Stop => stop(Effect::PowerOff),
        VmCommand::Kill => stop(Effect::Kill),
        VmCommand::Pause | VmCommand::Resume | VmCommand::Reset | VmCommand::Autostart => {
            Err(Denied::Failed)
        }
        VmCommand::Delete => delete(Effect::End),
        VmCommand::MarkStopped => to(VmState::Stopping, release()),
        VmCommand::MarkRunning => adopt(),
        VmCommand::StopStray | VmCommand::GuestEnded => stop(Effect::End),
    }
}

fn from_deleting(command: VmCommand) -> Decided<VmState> {
    match command {
        VmCommand::Delete => Ok(None),
        VmCommand::Start
        | VmCommand::Stop
        | VmCommand::Restart
        | VmCommand::Kill
        | VmCommand::Pause
        | VmCommand::Resume
        | VmCommand::Reset
        | VmCommand::Autostart
        | VmCommand::MarkStopped
        | VmCommand::MarkRunning
        | VmCommand::StopStray
        | VmCommand::GuestEnded => Err(Denied::BeingDeleted),
    }
}

fn boot() -> Vec<Step> {
    vec![
        Step::new(Effect::PrepareDirectory, None),
        Step::new(Effect::PrepareDisks, Some(Effect::DiscardNewDisks)),
        Step::new(Effect::ConnectNetwork, Some(Effect::DisconnectNetwork)),
        Step::new(Effect::Launch, Some(Effect::End)),
    ]
}

fn release() -> Vec<Step> {
    vec![Step::new(Effect::DisconnectNetwork, None)]
}

fn stop(how: Effect) -> Decided<VmState> {
    let mut steps = vec![Step::new(how, None)];
    steps.extend(release());
    to(VmState::Stopping, steps)
}

fn restart(how: Effect) -> Decided<VmState> {
    let mut steps = vec![Step::new(how, None)];
    steps.extend(boot());
    to(VmState::Starting, steps)
}

/// The VM is what it was until it is done, and if it fails.
fn in_place(state: VmState, effect: Effect) -> Decided<VmState> {
    to(state, vec![Step::new(effect, None)])
}

fn adopt() -> Decided<VmState> {
    to(VmState::Starting, vec![Step::new(Effect::Adopt, None)])
}

fn delete(how: Effect) -> Decided<VmState> {
    let mut steps = vec![Step::new(how, None)];
    steps.extend(release());
    steps.push(Step::new(Effect::RemoveDirectory, None));
    to(VmState::Deleting, steps)
}
