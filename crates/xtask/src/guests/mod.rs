//! The guests that the demo and the tests run: a tiny one assembled from this repository and a real
//! Linux made of the distribution's packages. The latter also for tests that need its kernel.

mod archive;
mod linux;
mod modules;
mod suite;
#[cfg(test)]
mod tests;
mod tiny;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

pub(crate) use self::suite::test;
use crate::tree::Tree;

/// Builds both guests and gives the folder that holds them.
pub(crate) fn build(tree: &Tree) -> Result<PathBuf> {
    let folder = tree.target.join("guests");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    tiny::build(tree, &folder)?;
    linux::build(tree, &folder)?;
    println!("guests: {}", folder.display());
    Ok(folder)
}
