//! Tells the host when a simulated machine changes or ends, also when a person did it by editing
//! or deleting its file, and sees to it that what is planned comes about. An event is a hint; what
//! is true is said by `machines`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;
use vman_plugin::{
    BackendContext, Control, Event, LogLevel, Machine, MachineEnd, MachineSighting, RunState,
};

use crate::content::End;
use crate::machines::{Looked, Machines};
use crate::plan::{self, Planned};

/// How often the files of the machines known here are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Machines looked at each time, in turns: so few that ten thousand cost next to nothing, and no
/// more than the time that the host has between two surveys to come round to all of them.
const LOOKED_AT_ONCE: usize = 500;
/// Ends that are kept; the oldest go first.
const MAX_ENDS: usize = 1000;

/// Watches every machine that was launched or found here, until it ends.
#[derive(Debug, Clone)]
pub(crate) struct Watch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    machines: Arc<Machines>,
    context: BackendContext,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// What was told of each.
    known: BTreeMap<Uuid, Known>,
    /// The last of those that were looked at in turn.
    turn: Option<Uuid>,
    /// How those ended that are known no more; one end of each.
    ended: VecDeque<MachineEnd>,
}

/// What was last read of a machine; what cannot be read any more is kept.
#[derive(Debug, Default)]
struct Known {
    run_state: Option<RunState>,
    disks: Vec<Uuid>,
    plan: Vec<Planned>,
}

impl Watch {
    /// Must be called inside the instance's runtime, and ends with it.
    pub(crate) fn start(machines: Arc<Machines>, context: BackendContext) -> Self {
        let watch = Self(Arc::new(Inner { machines, context, watched: Mutex::default() }));
        let watching = watch.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(WATCH_INTERVAL);
            loop {
                ticks.tick().await;
                let round = watching.clone();
                let looking = tokio::task::spawn_blocking(move || round.look_at_some());
                // It ends with the runtime alone.
                let turns = looking.await.unwrap_or_default();
                for (id, at) in turns {
                    watching.look_at(id, at);
                }
            }
        });
        watch
    }

    /// Looks at a machine that is new here or was just changed. Must be called inside the runtime.
    pub(crate) fn look(&self, id: Uuid) {
        for at in self.0.look(id) {
            self.look_at(id, at);
        }
    }

    /// Looks again at that time of the machine's clock.
    pub(crate) fn look_at(&self, id: Uuid, at: u64) {
        let watch = self.clone();
        tokio::spawn(async move {
            watch.0.machines.clock().until(at).await;
            watch.look(id);
        });
    }

    /// Times at which they are to be looked at again.
    fn look_at_some(&self) -> Vec<(Uuid, u64)> {
        let some = self.0.watched().next_turn();
        let turns = |id: Uuid| self.0.look(id).into_iter().map(move |at| (id, at));
        some.into_iter().flat_map(turns).collect()
    }

    /// Looks at the machines watched here that were not just `seen` alive, and at those `seen` that
    /// are not watched yet, and gives the ends of those that are gone.
    pub(crate) fn ended(&self, seen: &[MachineSighting]) -> Vec<MachineEnd> {
        let seen: BTreeSet<Uuid> = seen.iter().map(|sighting| sighting.machine.id).collect();
        let known: BTreeSet<Uuid> = self.0.watched().known.keys().copied().collect();
        for id in known.symmetric_difference(&seen) {
            self.look(*id);
        }
        let watched = self.0.watched();
        let ended = watched.ended.iter();
        ended.filter(|end| !seen.contains(&end.machine.id)).cloned().collect()
    }
}

impl Watched {
    fn next_turn(&mut self) -> Vec<Uuid> {
        let after = self.turn.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.known.range((after, Bound::Unbounded));
        let next: Vec<Uuid> = next.map(|(id, _)| *id).take(LOOKED_AT_ONCE).collect();
        // After the last comes the first.
        self.turn = next.last().copied().filter(|_| next.len() == LOOKED_AT_ONCE);
        next
    }
}

impl Inner {
    /// Times at which it is to be looked at again, if they are news.
    fn look(&self, id: Uuid) -> Vec<u64> {
        // Held while looking, so that an older look never overtakes a newer one.
        let mut watched = self.watched();
        let carried_out = self.machines.carry_out_plan(id);
        match carried_out.and_then(|()| self.machines.look(id)) {
            Ok(Some(looked)) => self.told(&mut watched, id, looked),
            Ok(None) => {
                if let Some(known) = watched.known.remove(&id) {
                    self.told_ended(&mut watched, id, &known);
                }
                Vec::new()
            }
            Err(error) => {
                self.context.log(LogLevel::Warn, &error.message);
                Vec::new()
            }
        }
    }

    fn told_ended(&self, watched: &mut Watched, id: Uuid, known: &Known) {
        let End { cause, detail } = self.machines.how_it_ended(id);
        self.emit(known, Event::MachineEnded { id, reason: detail.clone() });
        if watched.ended.len() == MAX_ENDS {
            watched.ended.pop_front();
        }
        let machine = Machine { id, process: None };
        watched.ended.push_back(MachineEnd { machine, cause, detail });
    }

    fn told(&self, watched: &mut Watched, id: Uuid, looked: Looked) -> Vec<u64> {
        let Looked { sighting, plan } = looked;
        if !watched.known.contains_key(&id) {
            // It was started again: how it ended before says nothing of the next time.
            watched.ended.retain(|end| end.machine.id != id);
        }
        let known = watched.known.entry(id).or_default();
        let is_news = known.plan != plan;
        known.plan = plan;
        if let Control::Connected { run_state } = sighting.control {
            let before = known.run_state.replace(run_state);
            if before.is_some_and(|before| before != run_state) {
                self.emit(known, Event::MachineChanged { id, run_state });
            }
        }
        if let Some(disks) = sighting.disks {
            for disk in std::mem::replace(&mut known.disks, disks) {
                if !known.disks.contains(&disk) {
                    self.emit(known, Event::DiskDetached { id, disk });
                }
            }
        }
        if is_news { plan::turns(&known.plan, self.machines.clock().now_ms()) } else { Vec::new() }
    }

    /// Unless events of the machine are lost.
    fn emit(&self, known: &Known, event: Event) {
        if !plan::is_mute(&known.plan, self.machines.clock().now_ms()) {
            self.context.emit(event);
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn_and_then_the_first_again() {
        let mut watched = Watched::default();
        let count = 2 * LOOKED_AT_ONCE + 7;
        for number in 0..count {
            watched.known.insert(Uuid::from_u128(number as u128), Known::default());
        }
        let lengths: Vec<usize> = (0..4).map(|_| watched.next_turn().len()).collect();
        assert_eq!(lengths, [LOOKED_AT_ONCE, LOOKED_AT_ONCE, 7, LOOKED_AT_ONCE]);
        watched.known.clear();
        assert!(watched.next_turn().is_empty());
        assert!(watched.next_turn().is_empty());
    }
}
