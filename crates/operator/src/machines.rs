//! Effects on machines: launching, finding again, and ending them, gracefully and then firmly. Each
//! is idempotent; each stage that was needed is told in the note.

use std::time::{Duration, Instant};

use vman_core::ident::VmId;
use vman_core::operation::MachineEffect;
use vman_core::ports::{Applied, ApplyError, MachineChange, VmTarget};
use vman_core::vm::Vm;
use vman_plugin::host::Client;
use vman_plugin::{BackendError, Control, ErrorCode, RunState};

use crate::survey::recorded_machine;
use crate::watch::{Changes, News};
use crate::{Operator, spec, told};

/// A machine that is being waited for is looked at again at least this often, for an event may be
/// lost; and its power button is pressed again: a press before the guest listens is lost, too, and
/// one that is shutting down already takes no notice.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// Most guests have obeyed by then, or are at it: a machine whose button was pressed is looked at
/// for the first time when it tells something, or after this.
const OBEYS_SOON: Duration = Duration::from_millis(20);

impl Operator {
    pub(crate) async fn apply_to_vm(
        &self,
        effect: MachineEffect,
        target: &VmTarget,
    ) -> Result<Applied, ApplyError> {
        let id = target.vm.id;
        if reaches_machine(effect) {
            self.refuse_foreign(&target.vm)?;
        }
        match effect {
            MachineEffect::PrepareDirectory => {
                self.storage.make_machine(id).await.map(|()| Applied::default())
            }
            MachineEffect::PrepareDisks => self.prepare_disks(target).await,
            MachineEffect::DiscardNewDisks => self.discard_new_disks(target).await,
            MachineEffect::RemoveDirectory => {
                self.storage.remove_machine(id).await.map(|()| Applied::default())
            }
            MachineEffect::Launch => self.launch(target).await,
            MachineEffect::Adopt => self.adopt(id).await,
            MachineEffect::PowerOff => self.power_off(id).await,
            MachineEffect::End => self.end(id, Vec::new()).await,
            MachineEffect::Kill => self.kill(id).await,
            MachineEffect::Pause => self.pause(id).await,
            MachineEffect::Resume => self.resume(id).await,
            MachineEffect::Reset => self.reset(id).await,
        }
    }

    /// A machine that another backend started cannot be seen by this one, so it must not be
    /// believed to be gone.
    pub(crate) fn refuse_foreign(&self, vm: &Vm) -> Result<(), ApplyError> {
        match &vm.machine {
            Some(machine) if machine.backend != self.backend() => Err(ApplyError::failed(format!(
                "the machine was started by backend {}, and the daemon runs with {}; set \
                 `[backend] use = \"{}\"` to reach it",
                machine.backend,
                self.backend(),
                machine.backend
            ))),
            Some(_) | None => Ok(()),
        }
    }

    async fn launch(&self, target: &VmTarget) -> Result<Applied, ApplyError> {
        let spec = spec::machine_spec(&self.storage, target).await?;
        let machine = match self.client().await?.launch(spec).await {
            Ok(machine) => machine,
            Err(error) => {
                let hint = self.storage.machines_full().await;
                return Err(ApplyError::failed(format!("{error}{hint}")));
            }
        };
        let machine = recorded_machine(self.backend(), &machine);
        let note = machine.process.map(|process| format!("pid {}", process.pid));
        if let Some(process) = machine.process {
            self.watch.process(target.vm.id, process);
        }
        Ok(Applied { machine: MachineChange::Lives(machine), note })
    }

    async fn adopt(&self, id: VmId) -> Result<Applied, ApplyError> {
        let client = self.client().await?;
        let Some(sighting) = client.sight(id.0).await.map_err(told)? else {
            return Err(ApplyError::failed(format!("no machine of VM {id} lives")));
        };
        let sighting = client.reattach(sighting.machine).await.map_err(told)?;
        let machine = recorded_machine(self.backend(), &sighting.machine);
        let note = machine.process.map(|process| format!("pid {}", process.pid));
        Ok(Applied { machine: MachineChange::Lives(machine), note })
    }

    /// Power button, grace, quit, kill: as far as needed.
    async fn power_off(&self, id: VmId) -> Result<Applied, ApplyError> {
        let begun = Instant::now();
        let mut stages = Vec::new();
        // Before the button is pressed, so that nothing of what it leads to is missed.
        let changes = self.watch.changes(id);
        let client = self.client().await?;
        match client.power_button(id.0).await {
            Ok(()) => match self.wait_for_guest(&client, id, begun, changes).await {
                Guest::PoweredOff => {
                    stages.push(format!("the guest powered off after {}", since(begun)));
                }
                Guest::Gone => {
                    return Ok(gone(vec![format!("the machine ended after {}", since(begun))]));
                }
                Guest::Halted(run_state) => {
                    stages.push(format!("the guest cannot obey the power button: {run_state:?}"));
                }
                Guest::StillOn => stages.push(format!(
                    "the guest did not obey the power button within {:?}",
                    self.stop_grace
                )),
            },
            Err(error) if error.code == ErrorCode::NotFound => {
                return Ok(gone(vec!["it was gone already".to_owned()]));
            }
            Err(error) => stages.push(format!("the power button failed: {error}")),
        }
        self.end(id, stages).await
    }

    async fn wait_for_guest(
        &self,
        client: &Client,
        id: VmId,
        begun: Instant,
        mut changes: Changes,
    ) -> Guest {
        let mut pressed = begun;
        let mut wait = OBEYS_SOON;
        // Bounded by the grace: every turn waits at most for what is left of it.
        loop {
            let left = self.stop_grace.saturating_sub(begun.elapsed());
            match changes.next(left.min(wait)).await {
                News::GuestShutdown => return Guest::PoweredOff,
                News::Look => {}
            }
            if let Some(guest) = seen_after_button(client, id).await {
                return guest;
            }
            if left.is_zero() {
                return Guest::StillOn;
            }
            wait = TRY_AGAIN;
            if pressed.elapsed() >= TRY_AGAIN {
                pressed = Instant::now();
                // It was pressed once: what fails now shows in what is seen next.
                let _ = client.power_button(id.0).await;
            }
        }
    }

    /// Quits it, and kills it if that does not help; `stages` is what was tried before.
    async fn end(&self, id: VmId, mut stages: Vec<String>) -> Result<Applied, ApplyError> {
        let begun = Instant::now();
        let client = self.client().await?;
        match client.quit(id.0).await {
            Ok(()) => {
                stages.push(format!("quit in {}", since(begun)));
                Ok(gone(stages))
            }
            Err(error) => {
                stages.push(format!("quit failed: {error}"));
                client.kill(id.0).await.map_err(|error| {
                    ApplyError::failed(format!("{}; kill failed: {error}", stages.join("; ")))
                })?;
                stages.push("killed".to_owned());
                Ok(gone(stages))
            }
        }
    }

    pub(crate) async fn kill(&self, id: VmId) -> Result<Applied, ApplyError> {
        self.client().await?.kill(id.0).await.map_err(told)?;
        Ok(gone(vec!["killed".to_owned()]))
    }

    async fn pause(&self, id: VmId) -> Result<Applied, ApplyError> {
        let client = self.client().await?;
        if !client.manifest().capabilities.pause {
            return Err(self.lacks("pause machines", "stop the VM"));
        }
        controlled(id, client.pause(id.0).await)
    }

    async fn resume(&self, id: VmId) -> Result<Applied, ApplyError> {
        let client = self.client().await?;
        if !client.manifest().capabilities.pause {
            return Err(self.lacks("resume machines", "stop the VM and start it"));
        }
        controlled(id, client.resume(id.0).await)
    }

    async fn reset(&self, id: VmId) -> Result<Applied, ApplyError> {
        let client = self.client().await?;
        if !client.manifest().capabilities.reset {
            return Err(self.lacks("reset machines", "restart the VM"));
        }
        controlled(id, client.reset(id.0).await)
    }
}

/// Whether it is done to the machine, not to what it needs.
fn reaches_machine(effect: MachineEffect) -> bool {
    match effect {
        MachineEffect::Launch
        | MachineEffect::Adopt
        | MachineEffect::PowerOff
        | MachineEffect::End
        | MachineEffect::Kill
        | MachineEffect::Pause
        | MachineEffect::Resume
        | MachineEffect::Reset => true,
        MachineEffect::PrepareDirectory
        | MachineEffect::PrepareDisks
        | MachineEffect::DiscardNewDisks
        | MachineEffect::RemoveDirectory => false,
    }
}

fn controlled(id: VmId, done: Result<(), BackendError>) -> Result<Applied, ApplyError> {
    match done {
        Ok(()) => Ok(Applied::default()),
        Err(error) if error.code == ErrorCode::NotFound => Err(ApplyError::failed(format!(
            "the machine of VM {id} is gone: {error}; start the VM again"
        ))),
        Err(error) => Err(told(error)),
    }
}

/// What has become of a guest whose power button was pressed; none while it may yet obey. Not seen
/// is not gone: it has the rest of its grace, and is then ended.
async fn seen_after_button(client: &Client, id: VmId) -> Option<Guest> {
    let Some(sighting) = client.sight(id.0).await.ok()? else {
        return Some(Guest::Gone);
    };
    match sighting.control {
        Control::Connected { run_state: RunState::GuestShutdown } => Some(Guest::PoweredOff),
        Control::Connected {
            run_state:
                run_state @ (RunState::Paused
                | RunState::GuestPanicked
                | RunState::IoError
                | RunState::InternalError),
        } => Some(Guest::Halted(run_state)),
        Control::Connected { run_state: RunState::Running | RunState::Other }
        | Control::Unreachable { .. } => None,
    }
}

/// What became of a guest whose power button was pressed.
enum Guest {
    PoweredOff,
    Gone,
    /// It does not run, so it will not hear of it.
    Halted(RunState),
    StillOn,
}

fn gone(stages: Vec<String>) -> Applied {
    Applied { machine: MachineChange::Gone, note: Some(stages.join("; ")) }
}

pub(crate) fn since(begun: Instant) -> String {
    format!("{} ms", begun.elapsed().as_millis())
}
