//! Plugin files: where they are, how each is run, and whether one was replaced. Which backend is
//! used is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vman_plugin::host::{Helper, LoadError, Offer, Pin, Terms, open, plugin_files_in};

/// Where plugin files are, and how each is run.
#[derive(Debug, Clone, Default)]
pub struct Plugins {
    /// `None`: there are none.
    pub dir: Option<PathBuf>,
    /// Runs them in processes of their own; `None` runs all of them in this one.
    pub helper: Option<Helper>,
    /// Names of files that are run in this process all the same.
    pub in_process: BTreeSet<String>,
    /// What the files' hashes must be, by their names; those that are not here may be any.
    pub pins: BTreeMap<String, Pin>,
}

impl Plugins {
    /// The files there are, each with what would change with its content, or why it is left out.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Result<Stamp, LoadError>)> {
        let found = self.dir.as_deref().map(plugin_files_in).unwrap_or_default();
        let stamped = |(path, fits): (PathBuf, Result<(), _>)| {
            let stamp = fits.map(|()| Stamp::of(&path));
            (path, stamp)
        };
        found.into_iter().map(stamped).collect()
    }

    /// Loads a file, or has it loaded. Blocks, with a bound if there is a helper.
    pub(crate) fn open(&self, file: &Path) -> Result<Offer, LoadError> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let here = self.in_process.contains(&*name);
        let helper = self.helper.clone().filter(|_| !here);
        open(file, &Terms { helper, pin: self.pins.get(&*name).copied() })
    }

    /// A name of a file is one in the folder.
    pub(crate) fn path(&self, file: &Path) -> PathBuf {
        self.dir.as_deref().unwrap_or(Path::new("")).join(file)
    }
}

/// What of a file changes with its content, stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// Of a file that cannot be looked at it is told when it is opened.
    pub(crate) fn of(file: &Path) -> Self {
        let none = Self { inode: 0, length: 0, changed: (0, 0) };
        file.metadata().map_or(none, |data| {
            let changed = (data.ctime(), data.ctime_nsec());
            Self { inode: data.ino(), length: data.len(), changed }
        })
    }
}
