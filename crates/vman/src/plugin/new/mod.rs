//! `vman plugin new`: writes a plugin that builds and keeps the contract as it is, for an author to
//! begin from. It is one of the two examples of this version under another name. What is in the
//! files is told in `sources`; nothing is built here.

mod manifest;
mod sources;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use vman_plugin::host::Registry;

use crate::cli::{PluginLanguage, PluginNew};
use crate::client::Output;
use crate::failure::Failure;

/// Bytes of a name, as the host takes it from a manifest.
const NAME_BYTES_MAX: usize = 64;

pub(crate) fn run<W: Write>(new: &PluginNew, out: &mut Output<W>) -> Result<(), Failure> {
    let name = &new.name;
    check_name(name)?;
    let folder = new.dir.clone().unwrap_or_else(|| PathBuf::from(name));
    check_folder(&folder)?;
    let files = match new.lang {
        PluginLanguage::Rust => sources::rust(name),
        PluginLanguage::C => sources::c(name),
    };
    let count = files.len();
    write(&files, &folder).map_err(|why| {
        Failure::Failed(format!("the plugin cannot be written to {}: {why}", folder.display()))
    })?;
    let shown = folder.display();
    if out.is_json() {
        let paths: Vec<&Path> = files.iter().map(|file| file.path.as_path()).collect();
        return Ok(out.json(&json!({"name": name, "folder": folder, "files": paths}))?);
    }
    let (build, file) = match new.lang {
        PluginLanguage::Rust => ("cargo build --release", sources::rust_library(name)),
        PluginLanguage::C => ("make", sources::c_library(name)),
    };
    out.line(&format!("wrote the plugin {name} to {shown}: {count} files"))?;
    out.line("next:")?;
    out.line(&format!("  cd {shown} && {build}"))?;
    out.line(&format!("  vman plugin check {file}"))?;
    out.line("  and its README.md, which says what to change first and how it is installed")?;
    Ok(())
}

/// What a manifest may say (the host refuses another), and what names no backend of vman's own,
/// which would be used instead.
fn check_name(name: &str) -> Result<(), Failure> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits {
        return Err(Failure::Usage(format!(
            "the name {name:?} cannot be a plugin's: take 1 to {NAME_BYTES_MAX} of a-z, 0-9 and `-`"
        )));
    }
    if Registry::linked().iter().any(|offer| offer.manifest().name == name) {
        return Err(Failure::Usage(format!(
            "the name {name:?} is that of a backend that is part of vman, which would be used \
             instead: take another name"
        )));
    }
    Ok(())
}

/// Nothing that is there is written over.
fn check_folder(folder: &Path) -> Result<(), Failure> {
    let shown = folder.display();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(Failure::Usage(format!("{shown} cannot be written to: {why}"))),
    };
    if entries.count() == 0 {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{shown} is there and not empty: name a folder that is not, with --dir"
    )))
}

/// One file of the plugin to be.
#[derive(Debug)]
struct File {
    /// Below the plugin's folder.
    path: PathBuf,
    text: String,
}

/// All of them or none: they are written beside the folder, and put in its place once they are
/// whole.
fn write(files: &[File], folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    fs::create_dir_all(parent)?;
    let beside = tempfile::Builder::new().prefix(".vman-plugin-").tempdir_in(parent)?;
    // Not the temporary folder itself, which is open to its owner alone.
    let whole = beside.path().join("plugin");
    fs::create_dir(&whole)?;
    for file in files {
        let path = whole.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(&whole))?;
        fs::write(path, &file.text)?;
    }
    if !folder.exists() {
        return fs::rename(whole, folder);
    }
    // It is empty, and somebody may be in it.
    let moved = move_all(&whole, folder);
    if moved.is_err() {
        // Back again, as far as that goes: the first error is the one to tell.
        let _ = move_all(folder, &whole);
    }
    moved
}

fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::rename(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    fn new(name: &str, lang: PluginLanguage, dir: &Path) -> Result<String, Failure> {
        let mut said = Vec::new();
        let new = PluginNew { name: name.to_owned(), lang, dir: Some(dir.to_owned()) };
        run(&new, &mut Output::new(Format::Table, &mut said))?;
        Ok(String::from_utf8(said).unwrap())
    }

    #[test]
    fn a_name_that_no_manifest_may_have_is_refused_and_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in ["", "A", "a_b", "a.b", "a/b", "ä", &long, "qemu-tcg", "dry-run"] {
            let folder = root.path().join("x");
            let refusal = new(name, PluginLanguage::Rust, &folder).unwrap_err();
            assert!(matches!(refusal, Failure::Usage(_)), "{name}: {refusal}");
            assert!(refusal.to_string().contains(&format!("{name:?}")), "{refusal}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused_and_left_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("mine.txt"), "mine").unwrap();
        let refusal = new("mine", PluginLanguage::C, root.path()).unwrap_err();
        assert!(refusal.to_string().contains("not empty"), "{refusal}");
        let file = root.path().join("mine.txt");
        let refusal = new("mine", PluginLanguage::C, &file).unwrap_err();
        assert!(matches!(refusal, Failure::Usage(_)), "{refusal}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(file).unwrap(), "mine");
    }

    #[test]
    fn a_folder_that_is_missing_or_empty_is_filled_and_nothing_is_left_beside_it() {
        let root = tempfile::tempdir().unwrap();
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        for folder in [empty, root.path().join("not/there/yet")] {
            let said = new("mine", PluginLanguage::C, &folder).unwrap();
            assert!(said.contains("vman plugin check mine.so"), "{said}");
            assert!(folder.join("backend.c").is_file());
            let beside = folder.parent().unwrap();
            let hidden = fs::read_dir(beside).unwrap().flatten();
            let hidden = hidden.filter(|it| it.file_name().to_string_lossy().starts_with('.'));
            assert_eq!(hidden.count(), 0, "left in {}", beside.display());
        }
    }
}
