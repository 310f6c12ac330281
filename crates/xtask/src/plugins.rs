//! Builds the backends as files of their own, as a third party would ship them. The program links
//! the same crates in; tests run both.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::tree::Tree;
use crate::{policies, run};

const PLUGINS: [&str; 3] = ["vman-plugin-dry-run", "vman-plugin-qemu-tcg", "vman-plugin-qemu-kvm"];

/// Builds every plugin and gives the folder that holds them as `lib<name>.so`.
pub(crate) fn build(tree: &Tree) -> Result<PathBuf> {
    let mut cargo = tree.cargo("build");
    for plugin in PLUGINS {
        cargo.args(["--package", plugin, "--features", &format!("{plugin}/export")]);
    }
    run::shown(cargo.arg("--lib"))?;
    let folder = tree.target.join("plugins");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for plugin in PLUGINS {
        let file = format!("lib{}.so", plugin.replace('-', "_"));
        policies::replace(&tree.target.join("debug").join(&file), &folder.join(&file))?;
    }
    println!("plugins: {}", folder.display());
    Ok(folder)
}
