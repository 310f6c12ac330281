//! The machines an instance watches, and how `/proc` and that list are brought together. What a
//! machine's task does is told in `machine`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::process::Child;
use uuid::Uuid;
use vman_plugin::{
    BackendContext, BackendError, Control, Machine, MachineSighting, ProcessIdentity,
};

use crate::failed;
use crate::machine::Watched;
use crate::process::{self, Found, Held};

/// Bounded by the machines that live: an ended one leaves the list when it is next looked at.
#[derive(Debug)]
pub(crate) struct Registry {
    machines_dir: PathBuf,
    context: BackendContext,
    watched: Mutex<HashMap<Uuid, Arc<Watched>>>,
}

impl Registry {
    pub(crate) fn new(machines_dir: PathBuf, context: BackendContext) -> Self {
        Self { machines_dir, context, watched: Mutex::default() }
    }

    /// The folder of the machines' directories, without symlinks where it exists: so it is the
    /// same in every command line, however the configuration spells it.
    pub(crate) fn machines_dir(&self) -> PathBuf {
        std::fs::canonicalize(&self.machines_dir).unwrap_or_else(|_| self.machines_dir.clone())
    }

    /// The living machine of this id, watched from now on if it was not; `None` if there is none.
    pub(crate) async fn find(&self, id: Uuid) -> Result<Option<Arc<Watched>>, BackendError> {
        if let Some(watched) = self.list().get(&id).filter(|watched| !watched.is_ended()) {
            return Ok(Some(Arc::clone(watched)));
        }
        let found = self.scan().await?.into_iter().find(|found| found.id == id);
        found.map_or(Ok(None), |found| self.take_up(&found))
    }

    /// The machine of exactly this process; `None` if it is gone.
    pub(crate) fn take_up(&self, found: &Found) -> Result<Option<Arc<Watched>>, BackendError> {
        take_up(&mut self.list(), found, &self.machines_dir(), &self.context)
    }

    /// Starts a process and watches it, so that no survey in between takes it up without its
    /// child: the list is held meanwhile, which fork and exec bound.
    pub(crate) fn start(
        &self,
        id: Uuid,
        directory: PathBuf,
        spawn: impl FnOnce() -> io::Result<Child>,
    ) -> Result<Arc<Watched>, String> {
        let mut list = self.list();
        let mut child = spawn().map_err(|error| error.to_string())?;
        let (held, identity) = hold_child(&child).inspect_err(|_| {
            // It was not waited for, so its pid is its own. If this fails it has ended already.
            let _ = child.start_kill();
        })?;
        let found = Found { id, identity };
        let watched =
            Watched::start(found, directory, Arc::new(held), Some(child), self.context.clone());
        list.insert(id, Arc::clone(&watched));
        Ok(watched)
    }

    /// Every living machine. One that is watched is told by its held process, not by `/proc`: so
    /// it is never missed.
    pub(crate) async fn survey(&self) -> Result<Vec<MachineSighting>, BackendError> {
        let all = self.scan().await?;
        let (mut list, machines_dir) = (self.list(), self.machines_dir());
        let mut twins = Vec::new();
        for found in all {
            if let Some(watched) = take_up(&mut list, &found, &machines_dir, &self.context)?
                && watched.found() != &found
            {
                twins.push(twin(found, &watched));
            }
        }
        list.retain(|_, watched| !watched.is_ended());
        Ok(list.values().filter_map(|watched| watched.sighting()).chain(twins).collect())
    }

    /// Every process of this machine, held and verified; usually one.
    pub(crate) async fn held(&self, id: Uuid) -> Result<Vec<(Found, Arc<Held>)>, BackendError> {
        let watched = self.list().get(&id).filter(|watched| !watched.is_ended()).cloned();
        let mut all: Vec<_> =
            watched.iter().map(|watched| (watched.found().clone(), watched.held())).collect();
        for found in self.scan().await? {
            if found.id != id || all.iter().any(|(known, _)| known == &found) {
                continue;
            }
            let held = hold(&found, &self.machines_dir())?;
            all.extend(held.map(|held| (found, Arc::new(held))));
        }
        Ok(all)
    }

    /// Every living process of a machine below the folder.
    pub(crate) async fn scan(&self) -> Result<Vec<Found>, BackendError> {
        let machines_dir = self.machines_dir();
        tokio::task::spawn_blocking(move || process::scan(&machines_dir))
            .await
            .map_err(|error| failed(format!("looking for machines in /proc: {error}")))?
            .map_err(|why| failed(format!("looking for machines in /proc: {why}")))
    }

    fn list(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Watched>>> {
        // Nothing panics while it holds the list half changed.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hold(found: &Found, machines_dir: &Path) -> Result<Option<Held>, BackendError> {
    let pid = found.identity.pid;
    Held::machine(found, machines_dir)
        .map_err(|error| failed(format!("machine {}: process {pid}: {error}", found.id)))
}

fn hold_child(child: &Child) -> Result<(Held, ProcessIdentity), String> {
    let pid = child.id().ok_or("QEMU has no process id")?;
    let held = Held::child(pid).map_err(|error| format!("pidfd_open({pid}): {error}"))?;
    Ok((held, process::identity_of_child(pid)?))
}

/// The watched machine of `found`'s id, which may be another process than `found`'s.
fn take_up(
    list: &mut HashMap<Uuid, Arc<Watched>>,
    found: &Found,
    machines_dir: &Path,
    context: &BackendContext,
) -> Result<Option<Arc<Watched>>, BackendError> {
    if let Some(watched) = list.get(&found.id).filter(|watched| !watched.is_ended()) {
        return Ok(Some(Arc::clone(watched)));
    }
    Ok(hold(found, machines_dir)?.map(|held| {
        let directory = machines_dir.join(found.id.to_string());
        let watched =
            Watched::start(found.clone(), directory, Arc::new(held), None, context.clone());
        list.insert(found.id, Arc::clone(&watched));
        watched
    }))
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
