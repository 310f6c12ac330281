//! Simulated machines: what is on the disk of each, and what that means. A machine lives as long
//! as its `machine.json`; nothing is kept in memory. Its own disks are in `disks`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vman_plugin::{
    BackendError, Control, ErrorCode, ExitCause, Machine, MachineSighting, MachineSpec, RunState,
};

use crate::disks::{self, Disk};
use crate::files;

/// There while the machine runs.
const MACHINE_FILE: &str = "machine.json";
/// There once the power button was pressed and heard: when the guest is off, in milliseconds
/// after 1970. Apart from the machine's file, which a pressed button thus never brings back.
const SHUTDOWN_FILE: &str = "machine.shutdown";
/// How the machine ended, for who watched it: an [`End`] as JSON. Whoever deletes the machine's
/// file may write this one before.
const END_FILE: &str = "machine.end";
/// How often the machine was started. Stays when it ends.
const STARTS_FILE: &str = "machine.starts";
/// Directories looked at in one survey.
const MAX_MACHINES: usize = 100_000;

/// What `machine.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    id: Uuid,
    /// What the guest does, until it hears its power button.
    state: RunState,
    /// How often it has been started, this time included.
    starts: u64,
    /// How often it was reset since it was started.
    #[serde(default)]
    resets: u64,
    /// Absent: not known.
    #[serde(default)]
    pub(crate) disks: Option<Vec<Disk>>,
}

impl Content {
    /// Without the disks that have left it by now.
    fn now(mut self) -> Self {
        let now = now_ms();
        if let Some(disks) = &mut self.disks {
            disks.retain(|disk| !disk.has_left(now));
        }
        self
    }
}

/// What `machine.end` holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct End {
    pub(crate) cause: ExitCause,
    #[serde(default)]
    pub(crate) detail: String,
}

pub(crate) fn launch(machines_dir: &Path, spec: &MachineSpec) -> Result<(), BackendError> {
    let directory = &spec.directory;
    if *directory != machines_dir.join(spec.id.to_string()) {
        let why = format!("it must be {}/{}", machines_dir.display(), spec.id);
        return Err(error(ErrorCode::Invalid, directory, &why));
    }
    if directory.join(MACHINE_FILE).exists() {
        return Ok(());
    }
    for disk in &spec.disks {
        disks::check_free(machines_dir, disk)?;
    }
    let starts = 1 + starts(directory);
    let disks = Some(spec.disks.iter().map(Disk::of).collect());
    let content = Content { id: spec.id, state: RunState::Running, starts, resets: 0, disks };
    remove(directory, SHUTDOWN_FILE)?;
    remove(directory, END_FILE)?;
    write(directory, STARTS_FILE, starts.to_string().as_bytes())?;
    write(directory, MACHINE_FILE, &json(&content))
}

/// `None` if the machine is gone.
pub(crate) fn sight(directory: &Path, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
    let machine = Machine { id, process: None };
    let (control, disks) = match read_content(directory)? {
        None => return Ok(None),
        Some(Ok(content)) => {
            let run_state = run_state(directory, &content)?;
            (Control::Connected { run_state }, content.now().disks)
        }
        Some(Err(reason)) => (Control::Unreachable { reason }, None),
    };
    let disks = disks.map(|disks| disks.iter().map(|disk| disk.id).collect());
    Ok(Some(MachineSighting { machine, control, age_ms: 0, disks }))
}

/// What the machine has now; `None` if it is gone. An error if its file does not parse.
pub(crate) fn content(directory: &Path) -> Result<Option<Content>, BackendError> {
    Ok(parsed(directory)?.map(Content::now))
}

/// Changes a living machine, and forgets the disks that have left it. It is not written to where
/// `how` fails or nothing changes, and not brought back where somebody deletes it meanwhile.
pub(crate) fn change<T>(
    directory: &Path,
    id: Uuid,
    how: impl FnOnce(&mut Content) -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    let before = parsed(directory)?.ok_or_else(|| gone(id))?;
    let mut content = before.clone().now();
    let done = how(&mut content)?;
    if content != before {
        let path = directory.join(MACHINE_FILE);
        let replaced =
            files::beside(&path, &json(&content)).and_then(|file| files::replace(&path, file));
        if !replaced.map_err(|why| error(ErrorCode::Failed, &path, &why.to_string()))? {
            return Err(gone(id));
        }
    }
    Ok(done)
}

/// A guest that does not run anyway is halted already.
pub(crate) fn pause(directory: &Path, id: Uuid) -> Result<(), BackendError> {
    change(directory, id, |content| {
        if run_state(directory, content)? == RunState::Running {
            content.state = RunState::Paused;
        }
        Ok(())
    })
}

pub(crate) fn resume(directory: &Path, id: Uuid) -> Result<(), BackendError> {
    change(directory, id, |content| match run_state(directory, content)? {
        RunState::Running => Ok(()),
        RunState::Paused | RunState::IoError => {
            content.state = RunState::Running;
            Ok(())
        }
        state @ (RunState::GuestShutdown
        | RunState::GuestPanicked
        | RunState::InternalError
        | RunState::Other) => {
            let why = format!("a guest in the state {state:?} cannot go on; reset it, or end it");
            Err(error(ErrorCode::Failed, directory, &why))
        }
    })
}

/// A guest boots again, unless it is halted. Disks it was asked for are given back.
pub(crate) fn reset(directory: &Path, id: Uuid) -> Result<(), BackendError> {
    change(directory, id, |content| {
        if content.state != RunState::Paused {
            content.state = RunState::Running;
        }
        content.resets += 1;
        if let Some(disks) = &mut content.disks {
            disks.retain(|disk| disk.asked.is_none());
        }
        Ok(())
    })?;
    remove(directory, SHUTDOWN_FILE)
}

/// The guest is off after `wait`; without, it does not listen.
pub(crate) fn press_power_button(
    directory: &Path,
    id: Uuid,
    wait: Option<Duration>,
) -> Result<(), BackendError> {
    if read(directory, MACHINE_FILE)?.is_none() {
        return Err(gone(id));
    }
    match wait {
        Some(wait) if read(directory, SHUTDOWN_FILE)?.is_none() => {
            write(directory, SHUTDOWN_FILE, after(wait).to_string().as_bytes())
        }
        Some(_) | None => Ok(()),
    }
}

pub(crate) fn end(directory: &Path) -> Result<(), BackendError> {
    let guest = match read_content(directory)? {
        None => return remove(directory, SHUTDOWN_FILE),
        Some(Ok(content)) => run_state(directory, &content)?,
        Some(Err(_)) => RunState::Other,
    };
    let (cause, detail) = match guest {
        RunState::GuestShutdown => (ExitCause::GuestShutdown, "the guest had powered itself off"),
        RunState::GuestPanicked => (ExitCause::GuestPanic, "the guest had panicked"),
        RunState::Running
        | RunState::Paused
        | RunState::IoError
        | RunState::InternalError
        | RunState::Other => (ExitCause::Asked, "it was asked to end"),
    };
    let detail = detail.to_owned();
    write(directory, END_FILE, &json(&End { cause, detail }))?;
    remove(directory, MACHINE_FILE)?;
    remove(directory, SHUTDOWN_FILE)
}

/// How a machine that is gone has ended, as far as that was left behind.
pub(crate) fn how_it_ended(directory: &Path) -> End {
    let unknown = |detail: String| End { cause: ExitCause::Unknown, detail };
    match read(directory, END_FILE) {
        Ok(Some(json)) => serde_json::from_slice(&json)
            .unwrap_or_else(|why| unknown(format!("its {END_FILE} does not parse: {why}"))),
        Ok(None) => unknown(format!("its {MACHINE_FILE} was removed")),
        Err(why) => unknown(why.message),
    }
}

/// Sorted by id.
pub(crate) fn survey(machines_dir: &Path) -> Result<Vec<MachineSighting>, BackendError> {
    let mut machines = Vec::new();
    for (id, directory) in directories(machines_dir)? {
        machines.extend(sight(&directory, id)?);
    }
    Ok(machines)
}

/// Where machines may be, sorted by id.
pub(crate) fn directories(machines_dir: &Path) -> Result<Vec<(Uuid, PathBuf)>, BackendError> {
    let unreadable = |why: std::io::Error| {
        BackendError::new(
            ErrorCode::Failed,
            format!("the machines folder {} cannot be read: {why}", machines_dir.display()),
        )
    };
    let mut found = Vec::new();
    for (count, entry) in fs::read_dir(machines_dir).map_err(unreadable)?.enumerate() {
        if count == MAX_MACHINES {
            let why = format!("it holds more than {MAX_MACHINES} directories");
            return Err(error(ErrorCode::Failed, machines_dir, &why));
        }
        let entry = entry.map_err(unreadable)?;
        // Other names are not machines'.
        if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push((id, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn gone(id: Uuid) -> BackendError {
    BackendError::new(
        ErrorCode::NotFound,
        format!("the simulated machine {id} does not run: its {MACHINE_FILE} is not there"),
    )
}

/// Milliseconds after 1970, as files tell times: they must mean the same to the next instance.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that is `wait` from now.
pub(crate) fn after(wait: Duration) -> u64 {
    now_ms().saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

/// As it stands there. `None` if the machine is gone; why not, if its file does not parse.
fn read_content(directory: &Path) -> Result<Option<Result<Content, String>>, BackendError> {
    let Some(json) = read(directory, MACHINE_FILE)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(&json);
    let path = directory.join(MACHINE_FILE);
    Ok(Some(parsed.map_err(|why| format!("{} does not parse: {why}", path.display()))))
}

fn parsed(directory: &Path) -> Result<Option<Content>, BackendError> {
    let content = read_content(directory)?.transpose();
    content.map_err(|reason| error(ErrorCode::Failed, directory, &reason))
}

fn run_state(directory: &Path, content: &Content) -> Result<RunState, BackendError> {
    let off = content.state == RunState::Running && is_off(directory)?;
    Ok(if off { RunState::GuestShutdown } else { content.state })
}

fn is_off(directory: &Path) -> Result<bool, BackendError> {
    let off = read(directory, SHUTDOWN_FILE)?;
    let off = off.and_then(|text| String::from_utf8(text).ok()?.parse::<u64>().ok());
    Ok(off.is_some_and(|off| off <= now_ms()))
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
    work(&path).map_err(|why| error(ErrorCode::Failed, &path, &why.to_string()))
}

fn error(code: ErrorCode, path: &Path, why: &str) -> BackendError {
    BackendError::new(code, format!("simulated machine, {}: {why}", path.display()))
}
