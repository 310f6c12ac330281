//! Why a plugin is not used, each reason by name and with both sides' values. Errors of verbs are
//! `BackendError`.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::registry::MAX_PLUGIN_FILES;
use super::trust::Pin;
use crate::abi::{ABI_MAJOR, MAGIC, PLUGIN_TABLE_1_0_SIZE};

/// Why a file is not used as a plugin.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("the plugin folder {} cannot be read: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "the plugin folder {} holds more than {MAX_PLUGIN_FILES} plugins; this one was left out",
        path.display()
    )]
    TooMany { path: PathBuf },
    #[error("the plugin {} cannot be looked at: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Somebody else could have put code there, which would run as this user.
    #[error("the plugin {} is not loaded: {why}", path.display())]
    Untrusted { path: PathBuf, why: String },
    /// The dynamic linker's own words.
    #[error("the plugin {} cannot be opened: {reason}", path.display())]
    Open { path: PathBuf, reason: String },
    #[error(
        "{} is not a vman plugin: it does not export `vman_plugin_entry`; \
         was it built with `--features export`?",
        path.display()
    )]
    NoEntry { path: PathBuf },
    #[error("the plugin {} is not loaded: {mismatch}", path.display())]
    Mismatch { path: PathBuf, mismatch: Mismatch },
    /// It is another file than the one that somebody looked at.
    #[error(
        "the plugin {} is not loaded: its SHA-256 hash is {found}, and it is pinned to {pinned}; \
         if you trust this version, pin its hash",
        path.display()
    )]
    Pinned { path: PathBuf, pinned: Pin, found: Pin },
    /// The file beside it says something else, or nothing that can be read.
    #[error("the plugin {} is not loaded: its {}: {why}", path.display(), sidecar.display())]
    Sidecar { path: PathBuf, sidecar: PathBuf, why: String },
    /// What the helper says of the file; it names the file itself.
    #[error("{reason}")]
    Isolated { reason: String },
    #[error("the plugin {} ended the process that opened it: {how}", path.display())]
    Crashed { path: PathBuf, how: String },
    #[error("no process can be started or spoken with for the plugin {}: {source}", path.display())]
    Helper { path: PathBuf, source: io::Error },
}

/// Why a plugin's table cannot be used by this host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mismatch {
    #[error("it gave no table; its `manifest` may have panicked, see the log")]
    NoTable,
    #[error("its table begins with {theirs:#018x}, a vman plugin's with {MAGIC:#018x}")]
    Magic { theirs: u64 },
    #[error(
        "it speaks ABI version {theirs}, this host {ABI_MAJOR}; \
         build it with the vman-plugin of this host"
    )]
    Major { theirs: u32 },
    #[error("its table has {theirs} bytes, this host needs {PLUGIN_TABLE_1_0_SIZE}")]
    Size { theirs: u32 },
    #[error("its table lacks the function `{0}`")]
    Missing(&'static str),
    #[error("its manifest is not one: {0}")]
    Manifest(String),
}
