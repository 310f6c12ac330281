//! Looks at machines (through the backend) and at files, and translates what is seen into the words
//! of `vman-core`. What is missing or too much is for the observer to say.

use vman_core::ident::{Timestamp, VmId};
use vman_core::sighting::{FileSeen, Guest, MachineSeen, Sightings, Surveyed};
use vman_core::vm::{Machine, Process};
use vman_plugin::{Control, MachineSighting, RunState};

use crate::Operator;

impl Operator {
    pub(crate) async fn look(&self) -> Sightings {
        let storage = self.storage.clone();
        let files = tokio::task::spawn_blocking(move || storage.survey());
        let machines = self.client.survey().await;
        let files = match files.await {
            Ok(Ok(files)) => Surveyed::Known(files),
            Ok(Err(error)) => Surveyed::Unknown(format!("cannot read the storage folder: {error}")),
            Err(error) => Surveyed::Unknown(format!("looking at the files failed: {error}")),
        };
        let machines = match machines {
            Ok(survey) => Surveyed::Known(
                survey.machines.iter().map(|sighting| self.seen(sighting, &files)).collect(),
            ),
            Err(error) => Surveyed::Unknown(format!("backend {}: {error}", self.backend)),
        };
        let backend = Some(self.backend.clone());
        Sightings { backend, machines, files, ..Sightings::default() }
    }

    /// Also sees to it that the machine's end will be noticed, whoever started it.
    fn seen(
        &self,
        sighting: &MachineSighting,
        files: &Surveyed<std::collections::BTreeMap<String, FileSeen>>,
    ) -> (VmId, MachineSeen) {
        let id = VmId(sighting.machine.id);
        let machine = recorded_machine(&self.backend, &sighting.machine);
        let started_at = match machine.process {
            Some(process) => {
                self.watch.process(id, process);
                started_at(process)
            }
            // Its directory was made for it.
            None => files
                .known()
                .and_then(|files| files.get(&format!("machines/{id}")))
                .map(|directory| directory.changed_at),
        };
        (id, MachineSeen { machine, guest: guest(&sighting.control), started_at })
    }
}

/// When a process began, from its start time in ticks after boot; proc(5), fields 22 and btime.
fn started_at(process: Process) -> Option<Timestamp> {
    let booted_s = procfs::boot_time_secs().ok()?;
    let after_boot_ms = process.start_time.saturating_mul(1000) / procfs::ticks_per_second().max(1);
    Some(Timestamp(booted_s.saturating_mul(1000).saturating_add(after_boot_ms)))
}

fn guest(control: &Control) -> Guest {
    match control {
        Control::Connected { run_state } => match run_state {
            RunState::Running => Guest::Running,
            RunState::Paused => Guest::Paused,
            RunState::GuestShutdown => Guest::ShutDown,
            RunState::GuestPanicked => Guest::Panicked,
            RunState::IoError => Guest::IoError,
            RunState::InternalError => Guest::InternalError,
            RunState::Other => Guest::Unknown("a state this version does not know".to_owned()),
        },
        Control::Unreachable { reason } => Guest::Unknown(reason.clone()),
    }
}

pub(crate) fn recorded_machine(backend: &str, machine: &vman_plugin::Machine) -> Machine {
    let process = machine.process.as_ref().map(|process| Process {
        pid: process.pid,
        start_time: process.start_time,
        boot_id: process.boot_id,
    });
    Machine { backend: backend.to_owned(), process }
}
