//! Builds the policies of `policies/` into components, with the WebAssembly target of rustup where
//! that is installed, else with Debian's compiler for it. What a policy is, is not known here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;
use crate::tree::{self, Tree};

const TARGET: &str = "wasm32-unknown-unknown";
/// Where Debian's rustc-web installs its compiler, whatever else is called rustc in `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A way to compile to WebAssembly.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// The folder of the linkers that every rustup toolchain brings.
    linkers: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The compiler in use has the target.
    Rustup,
    /// Debian's has no ready-made library for it, but its sources.
    Debian,
}

/// Finds a way to compile to WebAssembly.
///
/// # Errors
/// Says what is missing.
pub(crate) fn toolchain() -> Result<Toolchain> {
    let sysroot = sysroot(Path::new("rustc"))?;
    let libraries = sysroot.join("lib/rustlib");
    let linkers = libraries.join(host()?).join("bin");
    if !linkers.join("wasm-component-ld").is_file() {
        bail!(
            "{} has no wasm-component-ld: a Rust toolchain installed by rustup is needed",
            linkers.display()
        );
    }
    if libraries.join(TARGET).is_dir() {
        return Ok(Toolchain { linkers, kind: Kind::Rustup });
    }
    let debian = self::sysroot(Path::new(DEBIAN_RUSTC)).ok();
    let sources = debian.map(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core"));
    if sources.is_some_and(|sources| sources.is_dir()) {
        return Ok(Toolchain { linkers, kind: Kind::Debian });
    }
    bail!("no compiler for {TARGET}: `cargo xtask setup` installs one");
}

/// Builds every policy and gives the folder that holds them as `<name>.wasm`.
pub(crate) fn build(tree: &Tree) -> Result<PathBuf> {
    let manifest = tree.root.join("policies/Cargo.toml");
    let built = tree.target.join("policies-build");
    run::shown(&mut compile(&toolchain()?, &manifest, &built))?;
    let folder = tree.target.join("policies");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    for name in names(&manifest)? {
        let file = format!("{name}.wasm");
        replace(&built.join(TARGET).join("release").join(&file), &folder.join(&file))?;
    }
    println!("policies: {}", folder.display());
    Ok(folder)
}

/// Runs the tests of the policies' logic, which is ordinary Rust.
pub(crate) fn test(tree: &Tree) -> Result<()> {
    let mut cargo = tree::cargo("test");
    cargo.arg("--quiet").arg("--manifest-path").arg(tree.root.join("policies/Cargo.toml"));
    cargo.arg("--target-dir").arg(tree.target.join("policies-native"));
    run::shown(&mut cargo)
}

/// Puts a copy of `from` where `to` is, in one step: a daemon may be reading it.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension("new");
    fs::copy(from, &beside).with_context(|| format!("copying {}", from.display()))?;
    fs::rename(&beside, to).with_context(|| format!("replacing {}", to.display()))
}

fn compile(toolchain: &Toolchain, manifest: &Path, built: &Path) -> Command {
    let mut cargo = tree::cargo("build");
    cargo.args(["--release", "--target", TARGET]);
    cargo.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(built);
    // With this linker the module that comes out is a finished component.
    let linker = toolchain.linkers.join("wasm-component-ld");
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([toolchain.linkers.join("gcc-ld")]);
    if let Ok(path) = std::env::join_paths(folders) {
        cargo.env("PATH", path);
    }
    match toolchain.kind {
        Kind::Rustup => {}
        Kind::Debian => {
            cargo.arg("-Zbuild-std=core,alloc");
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        }
    }
    cargo
}

/// The file names, without ending, of the workspace's members that become components.
fn names(manifest: &Path) -> Result<Vec<String>> {
    let metadata = tree::metadata(manifest)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let targets = packages.iter().filter_map(|package| package["targets"].as_array()).flatten();
    let components = targets.filter(|target| {
        let kinds = target["kind"].as_array().into_iter().flatten();
        kinds.into_iter().any(|kind| kind == "cdylib")
    });
    let names = components.filter_map(|target| target["name"].as_str());
    Ok(names.map(|name| name.replace('-', "_")).collect())
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    let path = run::captured(Command::new(rustc).args(["--print", "sysroot"]))?;
    Ok(path.trim().into())
}

fn host() -> Result<String> {
    let version = run::captured(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}
