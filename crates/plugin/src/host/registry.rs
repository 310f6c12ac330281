//! Which backends there are: those linked into this program and those in a folder. Which of them
//! is used, and when, is decided elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::isolated::{Helper, Isolated};
use super::trust::Pin;
use super::{Client, LoadError, Mismatch, sidecar, trust, worker};
use crate::abi::{self, ABI_MAJOR, Entry, Functions};
use crate::export::StaticBackend;
use crate::{BackendConfig, BackendError, Event, Manifest};

/// Plugin files looked at in one folder.
pub(crate) const MAX_PLUGIN_FILES: usize = 64;
/// How a plugin file's name ends.
const FILE_SUFFIX: &str = "so";
const MAX_NAME_BYTES: usize = 64;

/// The backends linked into this program.
#[derive(Debug)]
pub struct Registry;

impl Registry {
    /// Sorted by name. A crate that no code names is not linked and not found here: say
    /// `use its_crate as _;`.
    pub fn linked() -> Vec<Offer> {
        let mut offers: Vec<Offer> = inventory::iter::<StaticBackend>
            .into_iter()
            .map(|backend| {
                Offer::new(backend.entry(), Source::Linked)
                    .expect("a linked-in backend is built for the host that links it")
            })
            .collect();
        offers.sort_by(|a, b| a.manifest().name.cmp(&b.manifest().name));
        offers
    }
}

/// How a plugin file is to be opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Runs it in a process of its own; `None` runs it in this one, with all that this one may do.
    pub helper: Option<Helper>,
    /// What the file's hash must be.
    pub pin: Option<Pin>,
}

/// Loads one plugin file into this process, for ever: a library is never closed. A new version is
/// loaded beside it where the file was replaced by another one, as rename(2) does, and not written
/// over.
pub fn open_file(path: &Path) -> Result<Offer, LoadError> {
    open(path, &Terms::default())
}

/// Has a helper load one plugin file, each time an instance is made.
pub fn open_isolated(path: &Path, helper: &Helper) -> Result<Offer, LoadError> {
    open(path, &Terms { helper: Some(helper.clone()), pin: None })
}

/// Opens one plugin file.
pub fn open(path: &Path, terms: &Terms) -> Result<Offer, LoadError> {
    let source = Source::File(path.to_owned());
    let Some(helper) = &terms.helper else {
        let Loaded { functions, manifest } = load(path, terms.pin.as_ref())?;
        let minor = functions.minor;
        let way = Way::InProcess(functions);
        return Ok(Offer { way, manifest: Arc::new(manifest), source, minor });
    };
    let isolated = Isolated { helper: helper.clone(), file: path.to_owned(), pin: terms.pin };
    let (manifest, minor) = isolated.look()?;
    let way = Way::Isolated(Arc::new(isolated));
    Ok(Offer { way, manifest: Arc::new(manifest), source, minor })
}

/// A plugin file that is loaded into this process.
pub(crate) struct Loaded {
    pub(crate) functions: Functions,
    pub(crate) manifest: Manifest,
}

/// Whether the file can be trusted is known before its code runs, and so is what the sidecar says.
pub(crate) fn load(path: &Path, pin: Option<&Pin>) -> Result<Loaded, LoadError> {
    let sidecar = sidecar::read(path)?;
    let (real, file) = trust::open(path)?;
    if let Some(pin) = pin {
        trust::check_pin(path, &file, pin)?;
    }
    let table = abi::entry_of(&real, file)?;
    let (functions, manifest) = checked(table)
        .map_err(|mismatch| LoadError::Mismatch { path: path.to_owned(), mismatch })?;
    if let Some(sidecar) = sidecar {
        sidecar.check(path, &manifest)?;
    }
    Ok(Loaded { functions, manifest })
}

fn checked(table: Entry) -> Result<(Functions, Manifest), Mismatch> {
    let (functions, manifest) = abi::check(table)?;
    check_name(&manifest)?;
    Ok((functions, manifest))
}

/// The `.so` files of a folder, in the order of their names, each with why it is not to be opened,
/// if so. A folder that cannot be read is its own only entry; beyond 64 files each is left out.
pub fn plugin_files_in(folder: &Path) -> Vec<(PathBuf, Result<(), LoadError>)> {
    let files = match plugin_files(folder) {
        Ok(files) => files,
        Err(source) => {
            let path = folder.to_owned();
            return vec![(path.clone(), Err(LoadError::Folder { path, source }))];
        }
    };
    let fits = |(position, path): (usize, PathBuf)| {
        let too_many = || LoadError::TooMany { path: path.clone() };
        let fits = (position < MAX_PLUGIN_FILES).then_some(()).ok_or_else(too_many);
        (path, fits)
    };
    files.into_iter().enumerate().map(fits).collect()
}

fn plugin_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == FILE_SUFFIX) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Where a backend comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Linked into this program.
    Linked,
    File(PathBuf),
}

/// How a backend's code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Linked into this program.
    Static,
    /// A file, loaded into this process.
    InProcess,
    /// A file, loaded into a process of its own.
    Isolated,
}

impl Mode {
    pub fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::InProcess => "in-process",
            Self::Isolated => "isolated",
        }
    }
}

/// A backend that can be started. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Offer {
    way: Way,
    manifest: Arc<Manifest>,
    source: Source,
    minor: u32,
}

#[derive(Debug, Clone)]
enum Way {
    InProcess(Functions),
    Isolated(Arc<Isolated>),
}

impl Offer {
    pub(crate) fn new(table: Entry, source: Source) -> Result<Self, Mismatch> {
        let (functions, manifest) = checked(table)?;
        let minor = functions.minor;
        let way = Way::InProcess(functions);
        Ok(Self { way, manifest: Arc::new(manifest), source, minor })
    }

    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Linked in, or which file.
    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn mode(&self) -> Mode {
        match (&self.way, &self.source) {
            (Way::Isolated(_), _) => Mode::Isolated,
            (Way::InProcess(_), Source::Linked) => Mode::Static,
            (Way::InProcess(_), Source::File(_)) => Mode::InProcess,
        }
    }

    /// The ABI version spoken with it: the major, and the smaller of both sides' minors.
    pub fn abi(&self) -> (u32, u32) {
        (ABI_MAJOR, self.minor)
    }

    #[cfg(test)]
    pub(crate) fn functions(&self) -> Functions {
        match &self.way {
            Way::InProcess(functions) => *functions,
            Way::Isolated(_) => panic!("its functions are in another process"),
        }
    }

    /// Makes an instance; any number of them, at any time. Blocks until the plugin's `create`
    /// returned, 10 s at most, and of an isolated one 10 s more for its helper. The instance lives
    /// until the last clone of the client is dropped; the machines live on. The channel holds 1024
    /// events; one that finds it full is dropped and counted. It is closed when the instance has
    /// ended.
    pub fn start(
        &self,
        config: BackendConfig,
    ) -> Result<(Client, mpsc::Receiver<Event>), BackendError> {
        let manifest = Arc::clone(&self.manifest);
        match &self.way {
            Way::InProcess(functions) => worker::start(*functions, manifest, &config),
            Way::Isolated(isolated) => isolated.start(manifest, &config),
        }
    }
}

/// The name stands in configuration files, logs and thread names.
fn check_name(manifest: &Manifest) -> Result<(), Mismatch> {
    let name = &manifest.name;
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(());
    }
    Err(Mismatch::Manifest(format!(
        "the name {name:?} is not 1 to {MAX_NAME_BYTES} of a-z, 0-9 and `-`"
    )))
}
