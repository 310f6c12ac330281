//! Machines and images as files. A machine lives while its file is there, so whatever becomes of an
//! instance, the next one finds what the last one had started.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vman_plugin::{
    BackendError, Control, ErrorCode, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec,
    Machine, MachineSighting, RunState, Survey,
};

/// In the machine's directory.
const MACHINE: &str = "faulty.json";

/// What is kept of a machine that lives.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) run_state: RunState,
    pub(crate) disks: Vec<Uuid>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    format: ImageFormat,
    virtual_size: u64,
}

/// One that lives already is left as it is.
pub(crate) fn launch(folder: &Path, id: Uuid, disks: Vec<Uuid>) -> Result<Machine, BackendError> {
    let file = file_of(folder, id);
    if read::<Content>(&file)?.is_none() {
        write(&file, &Content { run_state: RunState::Running, disks })?;
    }
    Ok(machine(id))
}

pub(crate) fn sight(folder: &Path, id: Uuid) -> Result<Option<MachineSighting>, BackendError> {
    let content: Option<Content> = read(&file_of(folder, id))?;
    Ok(content.map(|Content { run_state, disks }| {
        let control = Control::Connected { run_state };
        MachineSighting { machine: machine(id), control, age_ms: 0, disks: Some(disks) }
    }))
}

pub(crate) fn survey(folder: &Path) -> Result<Survey, BackendError> {
    let failed = |why: std::io::Error| failed(folder, "listed", &why);
    let mut machines = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(id) = name.to_str().and_then(|name| Uuid::parse_str(name).ok()) {
            machines.extend(sight(folder, id)?);
        }
    }
    Ok(Survey { machines, ended: vec![] })
}

/// `false` if there is no such machine.
pub(crate) fn change(
    folder: &Path,
    id: Uuid,
    how: impl FnOnce(&mut Content),
) -> Result<bool, BackendError> {
    let file = file_of(folder, id);
    let Some(mut content) = read(&file)? else { return Ok(false) };
    how(&mut content);
    write(&file, &content)?;
    Ok(true)
}

pub(crate) fn end(folder: &Path, id: Uuid) -> Result<(), BackendError> {
    remove(&file_of(folder, id))
}

pub(crate) fn create_image(spec: &ImageSpec) -> Result<(), BackendError> {
    let wanted = Image { format: spec.format, virtual_size: spec.virtual_size };
    match read::<Image>(&spec.path)? {
        None => write(&spec.path, &wanted),
        Some(there) if there == wanted => Ok(()),
        Some(there) => {
            let why = format!("the image {} is there: {there:?}", spec.path.display());
            Err(BackendError::new(ErrorCode::Conflict, why))
        }
    }
}

pub(crate) fn inspect_image(image: &ImageRef) -> Result<ImageInfo, BackendError> {
    let shown = image.path.display();
    let Some(Image { format, virtual_size }) = read(&image.path)? else {
        let why = format!("the image {shown} is not there");
        return Err(BackendError::new(ErrorCode::NotFound, why));
    };
    if format != image.format {
        let why = format!("the image {shown} is {}", format.name());
        return Err(BackendError::new(ErrorCode::Conflict, why));
    }
    Ok(ImageInfo { format, virtual_size, actual_size: 0 })
}

pub(crate) fn grow_image(growth: &ImageGrowth) -> Result<(), BackendError> {
    let ImageGrowth { path, format, virtual_size } = growth;
    let now = inspect_image(&ImageRef { path: path.clone(), format: *format })?.virtual_size;
    if *virtual_size < now {
        let why = format!("the image {} has {now} bytes already", path.display());
        return Err(BackendError::new(ErrorCode::Invalid, why));
    }
    write(path, &Image { format: *format, virtual_size: *virtual_size })
}

/// Gone already is a success.
pub(crate) fn remove(path: &Path) -> Result<(), BackendError> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(failed(path, "removed", &why)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn machine(id: Uuid) -> Machine {
    Machine { id, process: None }
}

fn file_of(folder: &Path, id: Uuid) -> PathBuf {
    folder.join(id.to_string()).join(MACHINE)
}

/// `None` if it is not there.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, BackendError> {
    match fs::read(path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|why| failed(path, "understood", &why.into())),
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(why) => Err(failed(path, "read", &why)),
    }
}

/// Wholly or not at all: the process may end at any moment.
fn write(path: &Path, content: &impl Serialize) -> Result<(), BackendError> {
    let json = serde_json::to_vec(content).expect("states, numbers and ids are JSON");
    let beside = path.with_extension("new");
    fs::write(&beside, json)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|why| failed(path, "written", &why))
}

fn failed(path: &Path, what: &str, why: &std::io::Error) -> BackendError {
    BackendError::new(ErrorCode::Failed, format!("{} cannot be {what}: {why}", path.display()))
}
