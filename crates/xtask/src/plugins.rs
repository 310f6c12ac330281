//! Builds the backends as files of their own, as a third party would ship them. The program links
//! some of the same crates in; tests run both.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tree::Tree;
use crate::{policies, run};

const PLUGINS: [&str; 4] = [
    "vman-plugin-dry-run",
    "vman-plugin-example-rust",
    "vman-plugin-qemu-tcg",
    "vman-plugin-qemu-kvm",
];
/// The folder of the one in C, whose file is named by it.
const IN_C: &str = "example-c";
/// Below the target folder.
const FOLDER: &str = "plugins";

/// Builds every plugin and gives the folder that holds them as `lib<name>.so`, and the one in C as
/// `example-c.so`.
pub(crate) fn build(tree: &Tree) -> Result<PathBuf> {
    let mut cargo = tree.cargo("build");
    for plugin in PLUGINS {
        cargo.args(["--package", plugin, "--features", &format!("{plugin}/export")]);
    }
    run::shown(cargo.arg("--lib"))?;
    let folder = Folder::make(tree.target.join(FOLDER))?;
    for plugin in PLUGINS {
        let file = library(plugin);
        folder.take(&tree.target.join("debug").join(&file), &file)?;
    }
    folder.compile(&example_in_c(tree, &["-O2", "-Werror"])?, &format!("{IN_C}.so"))?;
    println!("plugins: {}", folder.0.display());
    Ok(folder.0)
}

/// Builds one backend of ours in release profile, and gives its file.
pub(crate) fn build_as_shipped(tree: &Tree, name: &str) -> Result<PathBuf> {
    let package = format!("vman-plugin-{name}");
    let mut cargo = tree.cargo("build");
    cargo.args(["--release", "--lib", "--package", &package]);
    run::shown(cargo.args(["--features", &format!("{package}/export")]))?;
    let file = tree.target.join("release").join(library(&package));
    only_the_owner_writes(&file)?;
    Ok(file)
}

/// What cargo calls a package's file.
pub(crate) fn library(package: &str) -> String {
    format!("lib{}.so", package.replace('-', "_"))
}

/// The words of the command in the README of the example in C, without the file to make, and with
/// these options.
pub(crate) fn example_in_c(tree: &Tree, options: &[&str]) -> Result<Vec<String>> {
    let plugins = tree.root.join("plugins");
    let mut words = vec!["-std=c11".to_owned(), "-Wall".to_owned(), "-Wextra".to_owned()];
    words.extend(options.iter().map(|option| (*option).to_owned()));
    words.push(format!("-I{}", plugins.display()));
    words.extend(sources(&plugins.join(IN_C))?);
    Ok(words)
}

fn sources(folder: &Path) -> Result<Vec<String>> {
    let listing = || format!("listing {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(listing)? {
        let path = entry.with_context(listing)?.path();
        if path.extension().is_some_and(|suffix| suffix == "c") {
            files.push(path.display().to_string());
        }
    }
    files.sort();
    Ok(files)
}

/// A folder of plugin files. The daemon refuses a plugin that others could have written, which a
/// umask of 002 would make of each.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        only_the_owner_writes(&path)?;
        Ok(Self(path))
    }

    /// Puts a file that was built into the place of the one before it: a daemon that has that one
    /// open keeps it.
    pub(crate) fn take(&self, built: &Path, name: &str) -> Result<()> {
        let file = self.0.join(name);
        policies::replace(built, &file)?;
        only_the_owner_writes(&file)
    }

    /// Compiles a plugin file in C; `words` are the options and sources.
    pub(crate) fn compile(&self, words: &[String], name: &str) -> Result<()> {
        let beside = self.0.join(name).with_extension("built");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-pthread", "-fvisibility=hidden", "-o"]).arg(&beside);
        run::shown(cc.args(words))?;
        self.take(&beside, name)?;
        fs::remove_file(&beside).with_context(|| format!("removing {}", beside.display()))
    }
}

fn only_the_owner_writes(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("setting the mode of {}", path.display()))
}
