//! Which backends there are: those linked into this program and those in a folder. Which of them
//! is used, and when, is decided elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Client, LoadError, Mismatch, trust, worker};
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
                backend
                    .table()
                    .ok_or(Mismatch::NoTable)
                    .and_then(|table| Offer::new(table.into(), Source::Linked))
                    .expect("a linked-in backend has a table of this very version")
            })
            .collect();
        offers.sort_by(|a, b| a.manifest().name.cmp(&b.manifest().name));
        offers
    }
}

/// Loads one plugin file, for ever: a library is never closed. To replace a plugin, give the new
/// file another name and start the daemon anew.
pub fn open_file(path: &Path) -> Result<Offer, LoadError> {
    let real = trust::trusted(path)?;
    let table = abi::entry_of(&real)?;
    Offer::new(table, Source::File(path.to_owned()))
        .map_err(|mismatch| LoadError::Mismatch { path: path.to_owned(), mismatch })
}

/// Every `.so` of a folder, in the order of their names, each loaded or with the reason why not.
/// A folder that cannot be read is its own only entry; beyond 64 files each is refused unread.
pub fn scan(folder: &Path) -> Vec<(PathBuf, Result<Offer, LoadError>)> {
    let files = match plugin_files(folder) {
        Ok(files) => files,
        Err(source) => {
            let path = folder.to_owned();
            return vec![(path.clone(), Err(LoadError::Folder { path, source }))];
        }
    };
    files
        .into_iter()
        .enumerate()
        .map(|(position, path)| {
            let offer = if position < MAX_PLUGIN_FILES {
                open_file(&path)
            } else {
                Err(LoadError::TooMany { path: path.clone() })
            };
            (path, offer)
        })
        .collect()
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

/// A backend that can be started. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Offer {
    functions: Functions,
    manifest: Arc<Manifest>,
    source: Source,
}

impl Offer {
    pub(crate) fn new(table: Entry, source: Source) -> Result<Self, Mismatch> {
        let (functions, manifest) = abi::check(table)?;
        check_name(&manifest)?;
        Ok(Self { functions, manifest: Arc::new(manifest), source })
    }

    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Linked in, or which file.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The ABI version spoken with it: the major, and the smaller of both sides' minors.
    pub fn abi(&self) -> (u32, u32) {
        (ABI_MAJOR, self.functions.minor)
    }

    /// Makes an instance; any number of them, at any time. Blocks until the plugin's `create`
    /// returned, 10 s at most. The instance lives until the last clone of the client is dropped;
    /// the machines live on. The channel holds 1024 events; one that finds it full is dropped and
    /// counted.
    pub fn start(
        &self,
        config: BackendConfig,
    ) -> Result<(Client, mpsc::Receiver<Event>), BackendError> {
        worker::start(self.functions, Arc::clone(&self.manifest), &config)
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
