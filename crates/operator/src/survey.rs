//! Looks at machines (through the backend) and at files, and translates what is seen into the words
//! of `vman-core`. What is missing or too much is for the observer to say.

use std::collections::BTreeMap;

use vman_core::ident::{Timestamp, VmId};
use vman_core::sighting::{FileSeen, Guest, MachineSeen, Sightings, Surveyed};
use vman_core::vm::{Machine, Process};
use vman_plugin::{Control, MachineSighting, RunState};

use crate::Operator;

impl Operator {
    pub(crate) async fn look(&self) -> Sightings {
        // Side by side, so that a look takes no longer than the slower of the two.
        let (files, machines) = tokio::join!(self.storage.look(), self.client.survey());
        let files = files.map_or_else(Surveyed::Unknown, Surveyed::Known);
        // Once for all machines: the kernel gathers much for it.
        let booted_at = procfs::boot_time_secs().ok().map(|booted| booted.saturating_mul(1000));
        let machines = match machines {
            Ok(survey) => {
                let seen = |sighting| self.seen(sighting, &files, booted_at);
                Surveyed::Known(survey.machines.iter().map(seen).collect())
            }
            Err(error) => Surveyed::Unknown(format!("backend {}: {error}", self.backend)),
        };
        let backend = Some(self.backend.clone());
        Sightings { backend, machines, files, ..Sightings::default() }
    }

    /// Also sees to it that the machine's end will be noticed, whoever started it.
    fn seen(
        &self,
        sighting: &MachineSighting,
        files: &Surveyed<BTreeMap<String, FileSeen>>,
        booted_at: Option<u64>,
    ) -> (VmId, MachineSeen) {
        let id = VmId(sighting.machine.id);
        let machine = recorded_machine(&self.backend, &sighting.machine);
        let started_at = match machine.process {
            Some(process) => {
                self.watch.process(id, process);
                booted_at.map(|booted_at| started_at(booted_at, process))
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
fn started_at(booted_at_ms: u64, process: Process) -> Timestamp {
    let after_boot_ms = process.start_time.saturating_mul(1000) / procfs::ticks_per_second().max(1);
    Timestamp(booted_at_ms.saturating_add(after_boot_ms))
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
