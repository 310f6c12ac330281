//! Builds the backends as files of their own, as a third party would ship them. The program links
//! the same crates in; tests run both.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
        only_the_owner_writes(&folder.join(&file))?;
    }
    only_the_owner_writes(&folder)?;
    println!("plugins: {}", folder.display());
    Ok(folder)
}

/// The daemon refuses a plugin that others could have written, which a umask of 002 would make of
/// it.
fn only_the_owner_writes(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("setting the mode of {}", path.display()))
}
