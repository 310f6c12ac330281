//! The machines an instance watches, and how `/proc` and that list are brought together. What a
//! machine's task does is told in `machine`.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use uuid::Uuid;
use vman_plugin::{
    BackendContext, BackendError, Control, Machine, MachineSighting, MachineSpec, ProcessIdentity,
    Survey,
};

use crate::aftermath::Aftermath;
use crate::cgroup::Cgroup;
use crate::exit::Ends;
use crate::failed;
use crate::machine::Watched;
use crate::process::{self, Found, Held};
use crate::spawn::SpawnError;

/// For the cause of an end that was seen just before a survey to be found; usually a millisecond.
const END_DEADLINE: Duration = Duration::from_millis(100);

/// Who looked at `/proc` within this time need not look again for a second process of a machine:
/// there is one only by somebody's mistake. The host looks more often than that, and names what it
/// finds; and a host with thousands of processes takes longer to look at than a machine to end.
const LOOKED_RECENTLY: Duration = Duration::from_secs(10);

/// Bounded by the machines that live: an ended one leaves the list when it is next looked at.
#[derive(Debug)]
pub(crate) struct Registry {
    machines_dir: PathBuf,
    context: BackendContext,
    watched: Mutex<HashMap<Uuid, Arc<Watched>>>,
    /// What `/proc` showed, and when.
    looked: Mutex<Option<(Instant, Vec<Found>)>>,
    ends: Arc<Ends>,
}

impl Registry {
    pub(crate) fn new(machines_dir: PathBuf, context: BackendContext) -> Self {
        let machines_dir = real(&machines_dir);
        let (watched, looked) = (Mutex::default(), Mutex::default());
        Self { machines_dir, context, watched, looked, ends: Arc::default() }
    }

    /// The folder of the machines' directories, without symlinks as far as it existed when this
    /// began: so it is the same in every command line, however the configuration spells it.
    pub(crate) fn machines_dir(&self) -> PathBuf {
        self.machines_dir.clone()
    }

    /// The living machine of this id, watched from now on if it was not; `None` if there is none.
    pub(crate) async fn find(&self, id: Uuid) -> Result<Option<Arc<Watched>>, BackendError> {
        if let Some(watched) = self.watched(id) {
            return Ok(Some(watched));
        }
        let found = self.scan().await?.into_iter().find(|found| found.id == id);
        found.map_or(Ok(None), |found| self.take_up(&found))
    }

    /// The machine of exactly this process; `None` if it is gone.
    pub(crate) fn take_up(&self, found: &Found) -> Result<Option<Arc<Watched>>, BackendError> {
        self.take_up_in(&mut self.list(), found)
    }

    /// The watched machine of `found`'s id, which may be another process than `found`'s.
    fn take_up_in(
        &self,
        list: &mut HashMap<Uuid, Arc<Watched>>,
        found: &Found,
    ) -> Result<Option<Arc<Watched>>, BackendError> {
        if let Some(watched) = list.get(&found.id).filter(|watched| !watched.is_ended()) {
            return Ok(Some(Arc::clone(watched)));
        }
        Ok(hold(found, &self.machines_dir())?
            .map(|held| self.watch(list, found.clone(), held, None)))
    }

    fn watch(
        &self,
        list: &mut HashMap<Uuid, Arc<Watched>>,
        found: Found,
        held: Held,
        launched: Option<BTreeSet<Uuid>>,
    ) -> Arc<Watched> {
        let (id, machines_dir) = (found.id, self.machines_dir());
        let aftermath = Aftermath {
            cgroup: Cgroup::of_process(found.identity.pid, &machines_dir, id),
            directory: machines_dir.join(id.to_string()),
            found,
            held: Arc::new(held),
            witness: Arc::default(),
            ends: Arc::clone(&self.ends),
        };
        let watched = Watched::start(aftermath, launched, self.context.clone());
        list.insert(id, Arc::clone(&watched));
        watched
    }

    /// Starts a machine's process and watches it, so that no survey in between takes it up as a
    /// stranger's: the list is held meanwhile, which fork and exec bound. `spawn` gives the pid of
    /// a child.
    pub(crate) fn start(
        &self,
        spec: &MachineSpec,
        spawn: impl FnOnce() -> Result<u32, SpawnError>,
    ) -> Result<Arc<Watched>, SpawnError> {
        let mut list = self.list();
        let pid = spawn()?;
        let (held, identity) = hold_child(pid).map_err(SpawnError::Prepare)?;
        let disks = spec.disks.iter().map(|disk| disk.id).collect();
        Ok(self.watch(&mut list, Found { id: spec.id, identity }, held, Some(disks)))
    }

    /// Every living machine, and the last ends. A machine that is watched is told by its held
    /// process, not by `/proc`: so it is never missed.
    pub(crate) async fn survey(&self) -> Result<Survey, BackendError> {
        let all = self.scan().await?;
        let mut twins = Vec::new();
        for found in all {
            if let Some(watched) = self.take_up_in(&mut self.list(), &found)?
                && watched.found() != &found
            {
                twins.push(twin(found, &watched));
            }
        }
        self.forget_ended().await;
        let list = self.list();
        let machines = list.values().filter_map(|watched| watched.sighting()).chain(twins);
        Ok(Survey { machines: machines.collect(), ended: self.ends.all() })
    }

    /// Waits a little for each machine that has just ended to be among the ends: absent without
    /// one, it would be told as one that nobody watched.
    async fn forget_ended(&self) {
        let ended = |list: &HashMap<Uuid, Arc<Watched>>| -> Vec<_> {
            list.values().filter(|watched| watched.is_ended()).cloned().collect()
        };
        let ended = ended(&self.list());
        join_all(ended.iter().map(|watched| watched.judged_within(END_DEADLINE))).await;
        let gone = |watched: &Arc<Watched>| ended.iter().any(|other| Arc::ptr_eq(watched, other));
        // The next machine of its id has to wait for what is not done yet.
        self.list().retain(|_, watched| !(gone(watched) && watched.is_cleared()));
    }

    /// Waits, at most `deadline`, until nothing is left of the last machine of this id, which must
    /// have ended.
    pub(crate) async fn cleared_within(&self, id: Uuid, deadline: Duration) {
        let last = self.list().get(&id).cloned();
        if let Some(last) = last {
            last.cleared_within(deadline).await;
        }
    }

    /// The machine of this id, if it is watched and lives.
    pub(crate) fn watched(&self, id: Uuid) -> Option<Arc<Watched>> {
        self.list().get(&id).filter(|watched| !watched.is_ended()).cloned()
    }

    /// Every process of this machine but the one that is `known`, held and verified; usually none.
    /// Where one is known, as of the last [`LOOKED_RECENTLY`].
    pub(crate) async fn others(
        &self,
        id: Uuid,
        known: Option<&Found>,
    ) -> Result<Vec<(Found, Held)>, BackendError> {
        if known.is_some_and(|known| self.is_alone(known)) {
            return Ok(Vec::new());
        }
        let mut others = Vec::new();
        for found in self.scan().await? {
            if found.id == id && known != Some(&found) {
                let held = hold(&found, &self.machines_dir())?;
                others.extend(held.map(|held| (found, held)));
            }
        }
        Ok(others)
    }

    /// No other process of its machine was seen when somebody last looked, not long ago.
    fn is_alone(&self, known: &Found) -> bool {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.as_ref().is_some_and(|(at, all)| {
            let is_other = |found: &Found| found.id == known.id && found != known;
            at.elapsed() < LOOKED_RECENTLY && !all.iter().any(is_other)
        })
    }

    /// Every living process of a machine below the folder.
    pub(crate) async fn scan(&self) -> Result<Vec<Found>, BackendError> {
        let (machines_dir, begun) = (self.machines_dir(), Instant::now());
        let all = tokio::task::spawn_blocking(move || process::scan(&machines_dir))
            .await
            .map_err(|error| failed(format!("looking for machines in /proc: {error}")))?
            .map_err(|why| failed(format!("looking for machines in /proc: {why}")))?;
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        *looked = Some((begun, all.clone()));
        Ok(all)
    }

    fn list(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Watched>>> {
        // Nothing panics while it holds the list half changed.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn real(path: &Path) -> PathBuf {
    let real = path.ancestors().find_map(|there| {
        let below = path.strip_prefix(there).ok()?;
        Some(std::fs::canonicalize(there).ok()?.join(below).components().collect())
    });
    real.unwrap_or_else(|| path.to_owned())
}

fn hold(found: &Found, machines_dir: &Path) -> Result<Option<Held>, BackendError> {
    let pid = found.identity.pid;
    Held::machine(found, machines_dir)
        .map_err(|error| failed(format!("machine {}: process {pid}: {error}", found.id)))
}

/// A child that was not waited for, so that its pid is its own.
fn hold_child(pid: u32) -> io::Result<(Held, ProcessIdentity)> {
    let held = Held::child(pid)
        .and_then(|held| Ok((held, process::identity_of_child(pid).map_err(io::Error::other)?)));
    held.inspect_err(|_| {
        // If this fails it has ended already.
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
            // It was killed, and nobody else waits for it.
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    })
}

fn twin(found: Found, watched: &Watched) -> MachineSighting {
    let reason = format!(
        "process {} also runs this machine and is the one spoken with",
        watched.found().identity.pid
    );
    MachineSighting {
        machine: Machine { id: found.id, process: Some(found.identity) },
        control: Control::Unreachable { reason },
        age_ms: 0,
        disks: None,
    }
}
