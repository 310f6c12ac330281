//! Effects on machines: launching, finding again, and ending them, gracefully and then firmly. Each
//! is idempotent; each stage that was needed is told in the note.

use std::time::{Duration, Instant};

use vman_core::ident::VmId;
use vman_core::operation::MachineEffect;
use vman_core::ports::{Applied, ApplyError, MachineChange, VmTarget};
use vman_plugin::{BackendError, Control, ErrorCode, MachineSighting, RunState};

use crate::survey::recorded_machine;
use crate::{Operator, spec};

/// A machine that is being waited for is looked at again at least this often, for an event may be
/// lost; and its power button is pressed again: a press before the guest listens is lost, too, and
/// one that is shutting down already takes no notice. Each look is one over the whole host.
const TRY_AGAIN: Duration = Duration::from_secs(2);

impl Operator {
    pub(crate) async fn apply_to_vm(
        &self,
        effect: MachineEffect,
        target: &VmTarget,
    ) -> Result<Applied, ApplyError> {
        let id = target.vm.id;
        match effect {
            MachineEffect::PrepareDirectory => self.prepare_directory(id).await,
            MachineEffect::RemoveDirectory => self.remove_directory(id).await,
            MachineEffect::Launch => self.launch(target).await,
            MachineEffect::Adopt => self.adopt(id).await,
            MachineEffect::PowerOff => {
                self.refuse_foreign(target)?;
                self.power_off(id).await
            }
            MachineEffect::End => {
                self.refuse_foreign(target)?;
                self.end(id, Vec::new()).await
            }
            MachineEffect::Kill => {
                self.refuse_foreign(target)?;
                self.kill(id).await
            }
        }
    }

    /// A machine that another backend started cannot be seen by this one, so it must not be
    /// believed to be gone.
    fn refuse_foreign(&self, target: &VmTarget) -> Result<(), ApplyError> {
        match &target.vm.machine {
            Some(machine) if machine.backend != self.backend => Err(ApplyError(format!(
                "the machine was started by backend {}, and the daemon runs with {}; set \
                 `[backend] use = \"{}\"` to reach it",
                machine.backend, self.backend, machine.backend
            ))),
            Some(_) | None => Ok(()),
        }
    }

    async fn prepare_directory(&self, id: VmId) -> Result<Applied, ApplyError> {
        self.storage.make_machine(id).await.map(|()| Applied::default()).map_err(|error| {
            let directory = self.storage.machine(id);
            ApplyError(format!("cannot make the directory {}: {error}", directory.display()))
        })
    }

    async fn remove_directory(&self, id: VmId) -> Result<Applied, ApplyError> {
        let directory = self.storage.machine(id);
        match tokio::fs::remove_dir_all(&directory).await {
            Ok(()) => Ok(Applied::default()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Applied::default()),
            Err(error) => Err(ApplyError(format!(
                "cannot remove the directory {}: {error}",
                directory.display()
            ))),
        }
    }

    async fn launch(&self, target: &VmTarget) -> Result<Applied, ApplyError> {
        self.refuse_foreign(target)?;
        let spec = spec::machine_spec(&self.storage, target).await?;
        let machine = self.client.launch(spec).await.map_err(told)?;
        let machine = recorded_machine(&self.backend, &machine);
        let note = machine.process.map(|process| format!("pid {}", process.pid));
        if let Some(process) = machine.process {
            self.watch.process(target.vm.id, process);
        }
        Ok(Applied { machine: MachineChange::Lives(machine), note })
    }

    async fn adopt(&self, id: VmId) -> Result<Applied, ApplyError> {
        let Some(sighting) = self.sighted(id).await? else {
            return Err(ApplyError(format!("no machine of VM {id} lives")));
        };
        let sighting = self.client.reattach(sighting.machine).await.map_err(told)?;
        let machine = recorded_machine(&self.backend, &sighting.machine);
        let note = machine.process.map(|process| format!("pid {}", process.pid));
        Ok(Applied { machine: MachineChange::Lives(machine), note })
    }

    /// Power button, grace, quit, kill: as far as needed.
    async fn power_off(&self, id: VmId) -> Result<Applied, ApplyError> {
        let begun = Instant::now();
        let mut stages = Vec::new();
        match self.client.power_button(id.0).await {
            Ok(()) => match self.wait_for_guest(id, begun).await {
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

    async fn wait_for_guest(&self, id: VmId, begun: Instant) -> Guest {
        let mut pressed = begun;
        // Bounded by the grace: every turn waits at most for what is left of it.
        loop {
            let mut changes = self.watch.changes(id);
            let run_state = match self.sighted(id).await {
                Ok(None) => return Guest::Gone,
                Ok(Some(sighting)) => sighting.control,
                // Not seen is not gone: it has the rest of its grace, and is then ended.
                Err(ApplyError(reason)) => Control::Unreachable { reason },
            };
            match run_state {
                Control::Connected { run_state: RunState::GuestShutdown } => {
                    return Guest::PoweredOff;
                }
                Control::Connected {
                    run_state:
                        run_state @ (RunState::Paused
                        | RunState::GuestPanicked
                        | RunState::IoError
                        | RunState::InternalError),
                } => return Guest::Halted(run_state),
                Control::Connected { run_state: RunState::Running | RunState::Other }
                | Control::Unreachable { .. } => {}
            }
            let left = self.stop_grace.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Guest::StillOn;
            }
            changes.next(left.min(TRY_AGAIN)).await;
            if pressed.elapsed() >= TRY_AGAIN {
                pressed = Instant::now();
                // It was pressed once: what fails now shows in what is seen next.
                let _ = self.client.power_button(id.0).await;
            }
        }
    }

    /// Quits it, and kills it if that does not help; `stages` is what was tried before.
    async fn end(&self, id: VmId, mut stages: Vec<String>) -> Result<Applied, ApplyError> {
        let begun = Instant::now();
        match self.client.quit(id.0).await {
            Ok(()) => {
                stages.push(format!("quit in {}", since(begun)));
                Ok(gone(stages))
            }
            Err(error) => {
                stages.push(format!("quit failed: {error}"));
                self.client.kill(id.0).await.map_err(|error| {
                    ApplyError(format!("{}; kill failed: {error}", stages.join("; ")))
                })?;
                stages.push("killed".to_owned());
                Ok(gone(stages))
            }
        }
    }

    pub(crate) async fn kill(&self, id: VmId) -> Result<Applied, ApplyError> {
        self.client.kill(id.0).await.map_err(told)?;
        Ok(gone(vec!["killed".to_owned()]))
    }

    async fn sighted(&self, id: VmId) -> Result<Option<MachineSighting>, ApplyError> {
        let survey = self.client.survey().await.map_err(told)?;
        Ok(survey.machines.into_iter().find(|sighting| sighting.machine.id == id.0))
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

fn since(begun: Instant) -> String {
    format!("{} ms", begun.elapsed().as_millis())
}

fn told(error: BackendError) -> ApplyError {
    ApplyError(error.message)
}
