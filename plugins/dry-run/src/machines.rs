//! Simulated machines: what is done with the files of each. A machine lives as long as its
//! `machine.json`, or until the crash that its plan has; what is kept in memory is only what was
//! read. Its disks are in `disks`, what its files mean in `content`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use uuid::Uuid;
use vman_plugin::{
    BackendError, Control, ErrorCode, Machine, MachineSighting, MachineSpec, RunState,
};

use crate::cache::{self, Cache, Found, MACHINE_FILE, SHUTDOWN_FILE};
use crate::clock::Clock;
use crate::content::{Content, End};
use crate::disks::{self, Disk};
use crate::files;
use crate::plan::{self, Planned};

/// How the machine ended, for who watched it: an [`End`] as JSON. Whoever deletes the machine's
/// file may write this one before.
const END_FILE: &str = "machine.end";
/// How often the machine was started. Stays when it ends.
const STARTS_FILE: &str = "machine.starts";

/// The machines below one folder, on one clock.
#[derive(Debug)]
pub(crate) struct Machines {
    dir: PathBuf,
    clock: Clock,
    /// Held for every change of a file, and for each machine that is looked at.
    cache: Mutex<Cache>,
}

/// A living machine as it was looked at.
#[derive(Debug)]
pub(crate) struct Looked {
    pub(crate) sighting: MachineSighting,
    pub(crate) plan: Vec<Planned>,
}

impl Machines {
    pub(crate) fn new(dir: PathBuf, clock: Clock) -> Self {
        Self { dir, clock, cache: Mutex::default() }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn directory(&self, id: Uuid) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// `plan` is asked for what is to go wrong with the start of this number, from 1.
    pub(crate) fn launch(
        &self,
        spec: &MachineSpec,
        plan: impl FnOnce(u64, u64) -> Vec<Planned>,
    ) -> Result<(), BackendError> {
        let directory = &spec.directory;
        if *directory != self.directory(spec.id) {
            let why = format!("it must be {}/{}", self.dir.display(), spec.id);
            return Err(error(ErrorCode::Invalid, directory, &why));
        }
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        if self.living(&mut cache, spec.id, now)?.is_some() {
            return Ok(());
        }
        for disk in &spec.disks {
            self.check_free(&mut cache, disk, now)?;
        }
        let starts = 1 + starts(directory);
        let content = Content {
            id: spec.id,
            state: RunState::Running,
            starts,
            resets: 0,
            disks: Some(spec.disks.iter().map(Disk::of).collect()),
            faults: plan(starts, now),
        };
        remove(directory, SHUTDOWN_FILE)?;
        remove(directory, END_FILE)?;
        write(directory, STARTS_FILE, starts.to_string().as_bytes())?;
        write(directory, MACHINE_FILE, &json(&content))?;
        self.found(&mut cache, spec.id).map(drop)
    }

    /// Which start the next one is, from 1.
    pub(crate) fn next_start(&self, id: Uuid) -> u64 {
        1 + starts(&self.directory(id))
    }

    /// `None` if the machine is gone.
    pub(crate) fn sight(&self, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
        Ok(self.look(id)?.map(|looked| looked.sighting))
    }

    /// As [`sight`](Self::sight), and what is to go wrong with the machine.
    pub(crate) fn look(&self, id: Uuid) -> Result<Option<Looked>, BackendError> {
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        Ok(self.living(&mut cache, id, now)?.map(|found| looked(id, found, now)))
    }

    /// Sorted by id.
    pub(crate) fn survey(&self) -> Result<Vec<MachineSighting>, BackendError> {
        let now = self.clock.now_ms();
        let ids = cache::ids(&self.dir).map_err(|why| self.unreadable(&why))?;
        let mut machines = Vec::new();
        for id in ids {
            // Let go in between, so that no verb waits for them all.
            let mut cache = self.cache();
            let living = self.living(&mut cache, id, now)?;
            machines.extend(living.map(|found| looked(id, found, now).sighting));
        }
        self.cache().is_whole();
        Ok(machines)
    }

    /// What the machine has now; `None` if it is gone. An error if its file does not parse.
    pub(crate) fn content(&self, id: Uuid) -> Result<Option<Content>, BackendError> {
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        let Some(found) = self.living(&mut cache, id, now)? else { return Ok(None) };
        Ok(Some(self.parsed(id, found)?.clone().now(now)))
    }

    /// Changes a living machine that answers, and forgets the disks that have left it. It is not
    /// written to where `how` fails or nothing changes, and not brought back where somebody deletes
    /// it meanwhile.
    pub(crate) fn change<T>(
        &self,
        id: Uuid,
        how: impl FnOnce(&mut Content, &mut Changing<'_>) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        let found = self.living(&mut cache, id, now)?.ok_or_else(|| gone(id))?;
        let before = self.parsed(id, found)?.clone();
        if plan::hangs(&before.faults, now).is_some() {
            return Err(hangs(id));
        }
        let run_state = before.run_state(found.off_at, now);
        let mut content = before.clone().now(now);
        let mut changing = Changing { machines: self, cache: &mut cache, run_state, now };
        let done = how(&mut content, &mut changing)?;
        if content != before && !self.replace(&mut cache, id, &content)? {
            return Err(gone(id));
        }
        Ok(done)
    }

    /// False if the machine's file is gone, and then none is made.
    fn replace(
        &self,
        cache: &mut Cache,
        id: Uuid,
        content: &Content,
    ) -> Result<bool, BackendError> {
        let path = self.directory(id).join(MACHINE_FILE);
        let replaced =
            files::beside(&path, &json(content)).and_then(|file| files::replace(&path, file));
        let replaced = replaced.map_err(|why| unusable(&path, &why))?;
        self.found(cache, id)?;
        Ok(replaced)
    }

    /// A guest that does not run anyway is halted already.
    pub(crate) fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        self.change(id, |content, now| {
            if now.run_state == RunState::Running {
                content.state = RunState::Paused;
            }
            Ok(())
        })
    }

    pub(crate) fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        self.change(id, |content, now| match now.run_state {
            RunState::Running => Ok(()),
            RunState::Paused | RunState::IoError => {
                content.state = RunState::Running;
                Ok(())
            }
            state @ (RunState::GuestShutdown
            | RunState::GuestPanicked
            | RunState::InternalError
            | RunState::Other) => {
                let why =
                    format!("a guest in the state {state:?} cannot go on; reset it, or end it");
                Err(error(ErrorCode::Failed, &self.directory(id), &why))
            }
        })
    }

    /// A guest boots again, unless it is halted. Disks it was asked for are given back.
    pub(crate) fn reset(&self, id: Uuid) -> Result<(), BackendError> {
        self.change(id, |content, now| {
            if content.state != RunState::Paused {
                content.state = RunState::Running;
            }
            content.resets += 1;
            plan::forget_panics(&mut content.faults, now.now);
            if let Some(disks) = &mut content.disks {
                disks.retain(|disk| disk.asked.is_none());
            }
            Ok(())
        })?;
        remove(&self.directory(id), SHUTDOWN_FILE)
    }

    /// The guest is off after `wait_ms`; without, it does not listen. When it is off, if it will.
    pub(crate) fn press_power_button(
        &self,
        id: Uuid,
        wait_ms: Option<u64>,
    ) -> Result<Option<u64>, BackendError> {
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        let found = self.living(&mut cache, id, now)?.ok_or_else(|| gone(id))?;
        if found.content.is_ok_and(|content| plan::hangs(&content.faults, now).is_some()) {
            return Err(hangs(id));
        }
        let Some(wait_ms) = wait_ms else { return Ok(None) };
        if found.off_at.is_some() {
            return Ok(found.off_at);
        }
        let off_at = now.saturating_add(wait_ms);
        write(&self.directory(id), SHUTDOWN_FILE, off_at.to_string().as_bytes())?;
        Ok(Some(off_at))
    }

    /// Through its control channel, which one that hangs does not answer.
    pub(crate) fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        self.end(id, true)
    }

    pub(crate) fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        self.end(id, false)
    }

    fn end(&self, id: Uuid, asks: bool) -> Result<(), BackendError> {
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        let end = match self.found(&mut cache, id)? {
            None => return remove(&self.directory(id), SHUTDOWN_FILE),
            Some(Found { content: Ok(content), off_at }) => {
                match plan::crash(&content.faults, now) {
                    Some(cause) => End::crashed(cause),
                    None if asks && plan::hangs(&content.faults, now).is_some() => {
                        return Err(hangs(id));
                    }
                    None => End::of(content.run_state(off_at, now)),
                }
            }
            Some(Found { content: Err(_), .. }) => End::of(RunState::Other),
        };
        self.put_away(&mut cache, id, &end)
    }

    /// Lets come true what the plan of a machine has for now and what does not come by itself.
    pub(crate) fn carry_out_plan(&self, id: Uuid) -> Result<(), BackendError> {
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        let found = self.found(&mut cache, id)?;
        let Some(Found { content: Ok(content), .. }) = found else { return Ok(()) };
        if let Some(cause) = plan::crash(&content.faults, now) {
            return self.put_away(&mut cache, id, &End::crashed(cause));
        }
        let mut changed = content.clone();
        let lost = plan::take_losses(&mut changed.faults, now);
        if lost.is_empty() {
            return Ok(());
        }
        for disk in lost {
            if let Some(disk) = changed.disks.iter().flatten().nth(disk) {
                files::remove(disk.path()).map_err(|why| unusable(disk.path(), &why))?;
            }
        }
        // Afterwards: whoever is killed in between loses the image once more, which is once.
        self.replace(&mut cache, id, &changed).map(drop)
    }

    fn put_away(&self, cache: &mut Cache, id: Uuid, end: &End) -> Result<(), BackendError> {
        let directory = self.directory(id);
        write(&directory, END_FILE, &json(end))?;
        remove(&directory, MACHINE_FILE)?;
        remove(&directory, SHUTDOWN_FILE)?;
        self.found(cache, id).map(drop)
    }

    /// How a machine that is gone has ended, as far as that was left behind.
    pub(crate) fn how_it_ended(&self, id: Uuid) -> End {
        match read(&self.directory(id), END_FILE) {
            Ok(Some(json)) => serde_json::from_slice(&json).unwrap_or_else(|why| {
                End::unknown(format!("its {END_FILE} does not parse: {why}"))
            }),
            Ok(None) => End::unknown(format!("its {MACHINE_FILE} was removed")),
            Err(why) => End::unknown(why.message),
        }
    }

    /// Is the image there, of this format, and no machine's?
    fn check_free(
        &self,
        cache: &mut Cache,
        disk: &vman_plugin::DiskSpec,
        now: u64,
    ) -> Result<(), BackendError> {
        disks::check_image(disk)?;
        self.check_unused(cache, &disk.path, now)
    }

    /// Makes an image larger that no machine has.
    pub(crate) fn grow_unused(
        &self,
        image: &Path,
        grow: impl FnOnce() -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let now = self.clock.now_ms();
        let mut cache = self.cache();
        self.check_unused(&mut cache, image, now)?;
        grow()
    }

    fn check_unused(&self, cache: &mut Cache, image: &Path, now: u64) -> Result<(), BackendError> {
        let users = cache.users(&self.dir, image).map_err(|why| self.unreadable(&why))?;
        for id in users {
            // Of one whose file does not parse nothing is known.
            let Some(Found { content: Ok(content), .. }) = self.living(cache, id, now)? else {
                continue;
            };
            if content.has(now).any(|disk| disk.path() == image) {
                let why = format!(
                    "the image {} is in use by the simulated machine {id}; \
                     detach it there or end that machine",
                    image.display()
                );
                return Err(BackendError::new(ErrorCode::Conflict, why));
            }
        }
        Ok(())
    }

    /// `None` if its file is gone, or its crash is due.
    fn living<'c>(
        &self,
        cache: &'c mut Cache,
        id: Uuid,
        now: u64,
    ) -> Result<Option<Found<'c>>, BackendError> {
        let found = self.found(cache, id)?;
        Ok(found.filter(|found| {
            found.content.map_or(true, |content| plan::crash(&content.faults, now).is_none())
        }))
    }

    fn found<'c>(&self, cache: &'c mut Cache, id: Uuid) -> Result<Option<Found<'c>>, BackendError> {
        let found = cache.look(&self.dir, id);
        found.map_err(|why| unusable(&self.directory(id).join(MACHINE_FILE), &why))
    }

    fn parsed<'c>(&self, id: Uuid, found: Found<'c>) -> Result<&'c Content, BackendError> {
        let content = found.content;
        content.map_err(|why| error(ErrorCode::Failed, &self.directory(id), why))
    }

    fn unreadable(&self, why: &std::io::Error) -> BackendError {
        let what = format!("the machines folder {} cannot be read: {why}", self.dir.display());
        BackendError::new(ErrorCode::Failed, what)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // What was read is looked at again before it is used.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine that is being changed.
pub(crate) struct Changing<'m> {
    machines: &'m Machines,
    cache: &'m mut Cache,
    pub(crate) run_state: RunState,
    pub(crate) now: u64,
}

impl Changing<'_> {
    /// Is the image there, of this format, and no machine's?
    pub(crate) fn check_free(&mut self, disk: &vman_plugin::DiskSpec) -> Result<(), BackendError> {
        self.machines.check_free(self.cache, disk, self.now)
    }
}

fn looked(id: Uuid, found: Found<'_>, now: u64) -> Looked {
    let machine = Machine { id, process: None };
    let seen = |control, age_ms, disks| MachineSighting { machine, control, age_ms, disks };
    let content = match found.content {
        Ok(content) => content,
        Err(why) => {
            let control = Control::Unreachable { reason: why.to_owned() };
            return Looked { sighting: seen(control, 0, None), plan: Vec::new() };
        }
    };
    let plan = content.faults.clone();
    if let Some(since) = plan::hangs(&plan, now) {
        let reason = "it hangs, as the dry-run settings ask".to_owned();
        let sighting = seen(Control::Unreachable { reason }, now.saturating_sub(since), None);
        return Looked { sighting, plan };
    }
    let control = Control::Connected { run_state: content.run_state(found.off_at, now) };
    let known = content.disks.is_some();
    let disks = known.then(|| content.has(now).map(|disk| disk.id).collect());
    Looked { sighting: seen(control, 0, disks), plan }
}

pub(crate) fn gone(id: Uuid) -> BackendError {
    BackendError::new(
        ErrorCode::NotFound,
        format!("the simulated machine {id} does not run: its {MACHINE_FILE} is not there"),
    )
}

fn hangs(id: Uuid) -> BackendError {
    let why = "it hangs, as the dry-run settings ask; it can be killed";
    BackendError::new(ErrorCode::Timeout, format!("simulated machine {id}: {why}"))
}

/// A counter that cannot be read begins again.
fn starts(directory: &Path) -> u64 {
    fs::read_to_string(directory.join(STARTS_FILE))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn json(content: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(content).expect("names, numbers and paths from JSON are JSON")
}

fn read(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, BackendError> {
    named(directory, name, files::read)
}

fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), BackendError> {
    named(directory, name, |path| files::write(path, content))
}

fn remove(directory: &Path, name: &str) -> Result<(), BackendError> {
    named(directory, name, files::remove)
}

/// An error names the file.
fn named<T>(
    directory: &Path,
    name: &str,
    work: impl FnOnce(&Path) -> std::io::Result<T>,
) -> Result<T, BackendError> {
    let path = directory.join(name);
    work(&path).map_err(|why| unusable(&path, &why))
}

fn unusable(path: &Path, why: &std::io::Error) -> BackendError {
    error(ErrorCode::Failed, path, &why.to_string())
}

fn error(code: ErrorCode, path: &Path, why: &str) -> BackendError {
    BackendError::new(code, format!("simulated machine, {}: {why}", path.display()))
}
