//! Tells the host when a simulated machine changes or ends, also when a person did it by editing
//! or deleting its file. An event is a hint; what is true is said by `machines`.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;
use vman_plugin::{
    BackendContext, Control, Event, LogLevel, Machine, MachineEnd, MachineSighting, RunState,
};

use crate::machines::{self, End};

/// How often the files of the machines known here are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Ends that are kept; the oldest go first.
const MAX_ENDS: usize = 1000;
/// What the clock on the wall and a timer may differ by when a guest does what it is to
/// do at a time.
pub(crate) const CLOCK_SLACK: Duration = Duration::from_millis(2);

/// Watches every machine that was launched or found again here, until it ends.
#[derive(Debug, Clone)]
pub(crate) struct Watch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    machines_dir: PathBuf,
    context: BackendContext,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// What was told of each.
    known: HashMap<Uuid, Known>,
    /// How those ended that are known no more; one end of each.
    ended: VecDeque<MachineEnd>,
}

/// What was last read of a machine; what cannot be read any more is kept.
#[derive(Debug, Default)]
struct Known {
    run_state: Option<RunState>,
    disks: Vec<Uuid>,
}

impl Watch {
    /// Must be called inside the instance's runtime, and ends with it.
    pub(crate) fn start(machines_dir: PathBuf, context: BackendContext) -> Self {
        let watch = Self(Arc::new(Inner { machines_dir, context, watched: Mutex::default() }));
        let watching = watch.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(WATCH_INTERVAL);
            loop {
                ticks.tick().await;
                let round = watching.clone();
                // It ends with the runtime alone.
                let _ = tokio::task::spawn_blocking(move || round.look_at_all()).await;
            }
        });
        watch
    }

    /// Looks at a machine that is new here or was just changed.
    pub(crate) fn look(&self, id: Uuid) {
        self.0.look(id);
    }

    /// Looks again when the guest has had this long.
    pub(crate) fn look_after(&self, id: Uuid, wait: Duration) {
        let watch = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait + CLOCK_SLACK).await;
            watch.look(id);
        });
    }

    fn look_at_all(&self) {
        let known: Vec<Uuid> = self.0.watched().known.keys().copied().collect();
        for id in known {
            self.look(id);
        }
    }

    /// The ends of the machines watched here, but for those that were just `seen` alive.
    pub(crate) fn ended(&self, seen: &[MachineSighting]) -> Vec<MachineEnd> {
        let is_seen = |id: Uuid| seen.iter().any(|sighting| sighting.machine.id == id);
        let known = self.0.watched().known.keys().copied().collect::<Vec<_>>();
        for id in known.into_iter().filter(|id| !is_seen(*id)) {
            self.look(id);
        }
        let watched = self.0.watched();
        watched.ended.iter().filter(|end| !is_seen(end.machine.id)).cloned().collect()
    }
}

impl Inner {
    fn look(&self, id: Uuid) {
        let directory = self.machines_dir.join(id.to_string());
        // Held while looking, so that an older look never overtakes a newer one.
        let mut watched = self.watched();
        match machines::sight(&directory, id) {
            Ok(Some(sighting)) => self.told(&mut watched, sighting),
            Ok(None) if watched.known.remove(&id).is_some() => {
                let End { cause, detail } = machines::how_it_ended(&directory);
                self.context.emit(Event::MachineEnded { id, reason: detail.clone() });
                if watched.ended.len() == MAX_ENDS {
                    watched.ended.pop_front();
                }
                let machine = Machine { id, process: None };
                watched.ended.push_back(MachineEnd { machine, cause, detail });
            }
            Ok(None) => {}
            Err(error) => self.context.log(LogLevel::Warn, &error.message),
        }
    }

    fn told(&self, watched: &mut Watched, sighting: MachineSighting) {
        let id = sighting.machine.id;
        // It was started again: how it ended before says nothing of the next time.
        watched.ended.retain(|end| end.machine.id != id);
        let known = watched.known.entry(id).or_default();
        if let Control::Connected { run_state } = sighting.control {
            let before = known.run_state.replace(run_state);
            if before.is_some_and(|before| before != run_state) {
                self.context.emit(Event::MachineChanged { id, run_state });
            }
        }
        if let Some(disks) = sighting.disks {
            for disk in std::mem::replace(&mut known.disks, disks) {
                if !known.disks.contains(&disk) {
                    self.context.emit(Event::DiskDetached { id, disk });
                }
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
