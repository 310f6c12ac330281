//! Where things are in this checkout, and cargo run on it. Nothing here decides what to build.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::run;

/// A checkout and its build folder.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The folder of the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's target folder, wherever the user has put it.
    pub(crate) target: PathBuf,
}

/// How the program is built.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Tree {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let metadata = metadata(&manifest)?;
        Ok(Self {
            root: path_in(&metadata, "workspace_root")?,
            target: path_in(&metadata, "target_directory")?,
        })
    }

    /// A cargo command that runs at the workspace's root.
    pub(crate) fn cargo(&self, command: &str) -> Command {
        let mut cargo = cargo(command);
        cargo.current_dir(&self.root);
        cargo
    }

    /// Builds the vman program alone and tells where it is.
    pub(crate) fn build_vman(&self, profile: Profile) -> Result<PathBuf> {
        let mut cargo = self.cargo("build");
        cargo.args(["--package", "vman"]);
        if let Profile::Release = profile {
            cargo.arg("--release");
        }
        run::shown(&mut cargo)?;
        Ok(self.program(profile))
    }

    /// Where cargo puts the vman program.
    pub(crate) fn program(&self, profile: Profile) -> PathBuf {
        let folder = match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        };
        self.target.join(folder).join("vman")
    }
}

/// The cargo that runs us, or the one in `PATH`, without the library path that it gave us: another
/// compiler must not find the libraries of this one.
pub(crate) fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(command).env_remove("LD_LIBRARY_PATH");
    cargo
}

/// What `cargo metadata` says about a workspace itself, without its dependencies.
pub(crate) fn metadata(manifest: &Path) -> Result<Value> {
    let mut cargo = cargo("metadata");
    cargo.args(["--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    serde_json::from_str(&run::captured(&mut cargo)?).context("cargo metadata is not JSON")
}

fn path_in(metadata: &Value, key: &str) -> Result<PathBuf> {
    let path = metadata[key].as_str();
    Ok(path.with_context(|| format!("cargo metadata names no {key}"))?.into())
}
