//! What is done once a machine's process has ended: the cause is found, kept and told, and its
//! cgroup removed. That it has ended is known before this begins.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vman_plugin::{Machine, MachineEnd};

use crate::cgroup::Cgroup;
use crate::command_line::QEMU_LOG;
use crate::exit::{Ends, Witness, judge};
use crate::log;
use crate::process::{Found, Held};

/// For what is read on the host: an end is told without it rather than late.
const DEADLINE: Duration = Duration::from_secs(2);

/// What the end of one machine needs, gathered while it lives.
#[derive(Debug)]
pub(crate) struct Aftermath {
    pub(crate) found: Found,
    pub(crate) held: Arc<Held>,
    pub(crate) directory: PathBuf,
    /// Where the machine has one of its own.
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) ends: Arc<Ends>,
}

impl Aftermath {
    /// Returns the line for people. Afterwards the end is in the list of ends.
    pub(crate) async fn settle(&self) -> String {
        let Self { found, held, directory, cgroup, witness, ends } = self;
        let status = held.status(&found.identity);
        let (place, log) = (cgroup.clone(), directory.join(QEMU_LOG));
        let looking = tokio::task::spawn_blocking(move || {
            (place.as_ref().map_or(0, Cgroup::oom_kills), log::tail(&log))
        });
        let seen = tokio::time::timeout(DEADLINE, looking).await;
        let (oom_kills, words) = seen.ok().and_then(Result::ok).unwrap_or_default();
        let (cause, detail) = judge(&witness.evidence(status, oom_kills, words));
        let machine = Machine { id: found.id, process: Some(found.identity.clone()) };
        ends.add(MachineEnd { machine, cause, detail: detail.clone() });
        detail
    }

    /// Leaves nothing of the machine but its directory. Nobody need wait for it to hear of the end.
    pub(crate) async fn clear(self) {
        let Some(cgroup) = self.cgroup else { return };
        let asked = self.witness.was_asked();
        let clearing = tokio::task::spawn_blocking(move || {
            if asked {
                // Whoever is left in there was started by the machine.
                cgroup.kill();
            }
            cgroup.remove();
        });
        // One that did not end well is swept up at the next start.
        let _ = clearing.await;
    }
}
