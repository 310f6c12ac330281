//! Simulated machines: what is on the disk of each, and what that means. A machine lives as long
//! as its `machine.json`; nothing is kept in memory.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use uuid::Uuid;
use vman_plugin::{
    BackendError, Control, ErrorCode, ImageRef, Machine, MachineSighting, MachineSpec, RunState,
    Survey,
};

use crate::images;

/// There while the machine runs.
const MACHINE_FILE: &str = "machine.json";
/// There once the power button was pressed and heard: when the guest is off, in milliseconds
/// after 1970. Apart from the machine's file, which is thus never written while it may be deleted.
const SHUTDOWN_FILE: &str = "machine.shutdown";
/// How often the machine was started. Stays when it ends.
const STARTS_FILE: &str = "machine.starts";
/// Directories looked at in one survey.
const MAX_MACHINES: usize = 100_000;

/// What `machine.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    id: Uuid,
    /// What the guest does, until it hears its power button.
    state: RunState,
    /// How often it has been started, this time included.
    starts: u64,
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
        let image = ImageRef { path: disk.path.clone(), format: disk.format };
        images::inspect(&image)?;
    }
    let starts = 1 + starts(directory);
    let content = Content { id: spec.id, state: RunState::Running, starts };
    remove(directory, SHUTDOWN_FILE)?;
    write(directory, STARTS_FILE, starts.to_string().as_bytes())?;
    let json = serde_json::to_vec_pretty(&content).expect("names and numbers are JSON");
    write(directory, MACHINE_FILE, &json)
}

/// `None` if the machine is gone.
pub(crate) fn sight(directory: &Path, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
    let Some(json) = read(directory, MACHINE_FILE)? else {
        return Ok(None);
    };
    let control = match serde_json::from_slice::<Content>(&json) {
        Ok(content) => Control::Connected {
            run_state: if content.state == RunState::Running && is_off(directory)? {
                RunState::GuestShutdown
            } else {
                content.state
            },
        },
        Err(why) => Control::Unreachable {
            reason: format!("{} does not parse: {why}", directory.join(MACHINE_FILE).display()),
        },
    };
    let machine = Machine { id, process: None };
    Ok(Some(MachineSighting { machine, control, age_ms: 0, disks: None }))
}

/// `false` if the machine is gone. The guest is off after `wait`; without, it does not listen.
pub(crate) fn press_power_button(
    directory: &Path,
    wait: Option<Duration>,
) -> Result<bool, BackendError> {
    if read(directory, MACHINE_FILE)?.is_none() {
        return Ok(false);
    }
    if let Some(wait) = wait
        && read(directory, SHUTDOWN_FILE)?.is_none()
    {
        let off = now_ms().saturating_add(wait.as_millis());
        write(directory, SHUTDOWN_FILE, off.to_string().as_bytes())?;
    }
    Ok(true)
}

pub(crate) fn end(directory: &Path) -> Result<(), BackendError> {
    remove(directory, MACHINE_FILE)?;
    remove(directory, SHUTDOWN_FILE)
}

pub(crate) fn survey(machines_dir: &Path) -> Result<Survey, BackendError> {
    let unreadable = |why: std::io::Error| {
        BackendError::new(
            ErrorCode::Failed,
            format!("the machines folder {} cannot be read: {why}", machines_dir.display()),
        )
    };
    let mut machines = Vec::new();
    for (count, entry) in fs::read_dir(machines_dir).map_err(unreadable)?.enumerate() {
        if count == MAX_MACHINES {
            let why = format!("it holds more than {MAX_MACHINES} directories");
            return Err(error(ErrorCode::Failed, machines_dir, &why));
        }
        let entry = entry.map_err(unreadable)?;
        // Other names are not machines'.
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        machines.extend(sight(&entry.path(), id)?);
    }
    machines.sort_by_key(|sighting| sighting.machine.id);
    Ok(Survey { machines, ended: vec![] })
}

/// A counter that cannot be read begins again.
fn starts(directory: &Path) -> u64 {
    fs::read_to_string(directory.join(STARTS_FILE))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn is_off(directory: &Path) -> Result<bool, BackendError> {
    let off = read(directory, SHUTDOWN_FILE)?;
    let off = off.and_then(|text| String::from_utf8(text).ok()?.parse::<u128>().ok());
    Ok(off.is_some_and(|off| off <= now_ms()))
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// `None` if the file, or the directory, is not there.
fn read(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, BackendError> {
    match fs::read(directory.join(name)) {
        Ok(content) => Ok(Some(content)),
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(why) => Err(file_error(directory, name, &why)),
    }
}

/// The file is there wholly or not at all.
fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), BackendError> {
    NamedTempFile::new_in(directory)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.persist(directory.join(name)).map_err(|kept| kept.error)
        })
        .map(drop)
        .map_err(|why| file_error(directory, name, &why))
}

fn remove(directory: &Path, name: &str) -> Result<(), BackendError> {
    match fs::remove_file(directory.join(name)) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(file_error(directory, name, &why)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn file_error(directory: &Path, name: &str, why: &std::io::Error) -> BackendError {
    error(ErrorCode::Failed, &directory.join(name), &why.to_string())
}

fn error(code: ErrorCode, path: &Path, why: &str) -> BackendError {
    BackendError::new(code, format!("simulated machine, {}: {why}", path.display()))
}
