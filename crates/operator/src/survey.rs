//! Looks at machines (through the backend) and at files, and translates what is seen into the words
//! of `vman-core`. What is missing or too much is for the observer to say.

use std::collections::BTreeMap;

use vman_core::ident::{DiskId, Timestamp, VmId};
use vman_core::ports::ApplyError;
use vman_core::sighting::{
    ExitCause, FileSeen, Guest, MachineEnded, MachineSeen, Sightings, Surveyed,
};
use vman_core::vm::{Machine, Process};
use vman_plugin::{Control, MachineEnd, MachineSighting, RunState, Survey};

use crate::{Operator, told};

impl Operator {
    pub(crate) async fn look(&self) -> Sightings {
        // Side by side, so that a look takes no longer than the slower of the two.
        let (files, survey) = tokio::join!(self.storage.look(), self.surveyed());
        let files = files.map_or_else(Surveyed::Unknown, Surveyed::Known);
        let backend = Some(self.backend().to_owned());
        let survey = match survey {
            Ok(survey) => survey,
            Err(why) => {
                let machines = Surveyed::Unknown(format!("backend {}: {why}", self.backend()));
                return Sightings { backend, machines, files, ..Sightings::default() };
            }
        };
        // Once for all machines: the kernel gathers much for it.
        let booted_at = procfs::boot_time_secs().ok().map(|booted| booted.saturating_mul(1000));
        let seen = |sighting| self.seen(sighting, &files, booted_at);
        // Of two processes of one machine the first is the one that is spoken with.
        let machines = Surveyed::Known(survey.machines.iter().rev().map(seen).collect());
        let ended = survey.ended.iter().map(|end| self.ended(end)).collect();
        Sightings { backend, machines, files, ended, ..Sightings::default() }
    }

    async fn surveyed(&self) -> Result<Survey, ApplyError> {
        self.present_client().await?.survey().await.map_err(told)
    }

    fn ended(&self, end: &MachineEnd) -> (VmId, MachineEnded) {
        let machine = recorded_machine(self.backend(), &end.machine);
        let ended = MachineEnded { machine, cause: cause(end.cause), detail: end.detail.clone() };
        (VmId(end.machine.id), ended)
    }

    /// Also sees to it that the machine's end will be noticed, whoever started it.
    fn seen(
        &self,
        sighting: &MachineSighting,
        files: &Surveyed<BTreeMap<String, FileSeen>>,
        booted_at: Option<u64>,
    ) -> (VmId, MachineSeen) {
        let id = VmId(sighting.machine.id);
        let machine = recorded_machine(self.backend(), &sighting.machine);
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
        let disks = sighting.disks.as_ref();
        let seen = MachineSeen {
            machine,
            guest: guest(&sighting.control),
            started_at,
            age_ms: sighting.age_ms,
            disks: disks.map(|disks| disks.iter().copied().map(DiskId).collect()),
        };
        (id, seen)
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

fn cause(cause: vman_plugin::ExitCause) -> ExitCause {
    match cause {
        vman_plugin::ExitCause::GuestShutdown => ExitCause::GuestShutdown,
        vman_plugin::ExitCause::GuestPanic => ExitCause::GuestPanic,
        vman_plugin::ExitCause::Asked => ExitCause::Asked,
        vman_plugin::ExitCause::Killed => ExitCause::Killed,
        vman_plugin::ExitCause::OutOfMemory => ExitCause::OutOfMemory,
        vman_plugin::ExitCause::Failed => ExitCause::Failed,
        vman_plugin::ExitCause::Unknown => ExitCause::Unknown,
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
