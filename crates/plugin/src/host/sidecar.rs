//! The file that may lie beside a plugin's, `libmine.json` beside `libmine.so`: what is in there
//! can be known, and refused, before any of the plugin's code runs. It proves nothing: who can
//! write the one file can write the other.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::LoadError;
use crate::Manifest;
use crate::abi::ABI_MAJOR;

const SUFFIX: &str = "json";
/// More than any sidecar needs.
const LENGTH_MAX: u64 = 64 * 1024;

/// What it says; fields that are not known are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Sidecar {
    name: String,
    version: String,
    abi_major: u32,
}

/// `None` where there is none.
pub(crate) fn read(plugin: &Path) -> Result<Option<Sidecar>, LoadError> {
    let mut text = Vec::new();
    match File::open(path(plugin)) {
        Ok(file) => file.take(LENGTH_MAX).read_to_end(&mut text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    }
    .map_err(|error| refused(plugin, error.to_string()))?;
    let sidecar: Sidecar =
        serde_json::from_slice(&text).map_err(|error| refused(plugin, error.to_string()))?;
    if sidecar.abi_major != ABI_MAJOR {
        let theirs = sidecar.abi_major;
        let why = format!("it is for ABI version {theirs}, this host speaks {ABI_MAJOR}");
        return Err(refused(plugin, why));
    }
    Ok(Some(sidecar))
}

impl Sidecar {
    /// Does the plugin say the same of itself?
    pub(crate) fn check(&self, plugin: &Path, manifest: &Manifest) -> Result<(), LoadError> {
        for (what, here, there) in
            [("name", &self.name, &manifest.name), ("version", &self.version, &manifest.version)]
        {
            if here != there {
                let why = format!("the {what} is {here:?} there, and {there:?} in the plugin");
                return Err(refused(plugin, why));
            }
        }
        Ok(())
    }
}

fn path(plugin: &Path) -> PathBuf {
    plugin.with_extension(SUFFIX)
}

fn refused(plugin: &Path, why: String) -> LoadError {
    LoadError::Sidecar { path: plugin.to_owned(), sidecar: path(plugin), why }
}
