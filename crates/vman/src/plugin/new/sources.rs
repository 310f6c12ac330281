//! The files of a new plugin: the example of its language under another name and, in Rust, the very
//! SDK that this vman was built with, which no registry has. How they are written is not known
//! here.

use std::path::PathBuf;

use super::{File, manifest};

/// The name of the example in C, wherever it stands in its files.
const C: &str = "example-c";
/// The name of the example in Rust, wherever it stands in its files; with `_`, in those of code.
const RUST: &str = "example-rust";
const RUST_CRATE: &str = "example_rust";
/// The folder of the SDK, in the one of the plugin.
const SDK: &str = "vman-plugin";

/// A file by its path below the plugin's folder, and its text.
type Source = (&'static str, &'static str);

macro_rules! sources {
    ($from:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../../../", $from, "/", $path)))),+]
    };
}

const C_SOURCES: &[Source] = sources!("plugins/example-c":
    "backend.c", "images.c", "json.c", "json.h", "machines.c", "process.c", "process.h", "verbs.h");
const HEADER: &[Source] = sources!("plugins": "vman_backend.h");
const RUST_SOURCES: &[Source] = sources!("plugins/example-rust":
    "src/images.rs", "src/lib.rs", "src/process.rs", "src/settings.rs", "src/watch.rs",
    "tests/life.rs");
/// Without what hosts alone need, and without its own tests.
const SDK_SOURCES: &[Source] = sources!("crates/plugin":
    "src/abi.rs", "src/backend.rs", "src/deadline.rs", "src/export.rs", "src/instance.rs",
    "src/lib.rs", "src/message.rs", "src/wire.rs");

const C_README: &str = include_str!("templates/c.md");
const MAKEFILE: &str = include_str!("templates/Makefile");
const RUST_README: &str = include_str!("templates/rust.md");
/// Of both languages' READMEs.
const DUTIES: &str = include_str!("templates/duties.md");

/// A plugin in C.
pub(super) fn c(name: &str) -> Vec<File> {
    let named = |text: &str| text.replace(C, name);
    let readme = format!("{C_README}{DUTIES}");
    let mut files: Vec<File> =
        C_SOURCES.iter().map(|(path, text)| file(path, named(text))).collect();
    files.extend(HEADER.iter().map(|(path, text)| file(path, (*text).to_owned())));
    files.push(file("Makefile", named(MAKEFILE)));
    files.push(file("README.md", named(&readme)));
    files.push(file(".gitignore", "*.so\n".to_owned()));
    files
}

/// A plugin in Rust, with the SDK in a folder of its own.
pub(super) fn rust(name: &str) -> Vec<File> {
    let named = |text: &str| text.replace(RUST, name).replace(RUST_CRATE, &name.replace('-', "_"));
    let readme = format!("{RUST_README}{DUTIES}");
    let mut files: Vec<File> =
        RUST_SOURCES.iter().map(|(path, text)| file(path, named(text))).collect();
    for (path, text) in SDK_SOURCES {
        files.push(file(&format!("{SDK}/{path}"), (*text).to_owned()));
    }
    files.push(file(&format!("{SDK}/Cargo.toml"), manifest::sdk()));
    files.push(file("Cargo.toml", manifest::plugin(name, SDK)));
    files.push(file("README.md", named(&readme)));
    files.push(file(".gitignore", "/target/\n".to_owned()));
    files
}

/// What `make` builds, from the plugin's folder.
pub(super) fn c_library(name: &str) -> String {
    format!("{name}.so")
}

/// What `cargo build --release` builds, from the plugin's folder.
pub(super) fn rust_library(name: &str) -> String {
    format!("target/release/lib{}.so", manifest::package(name).replace('-', "_"))
}

fn file(path: &str, text: String) -> File {
    File { path: PathBuf::from(path), text }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// The files of a folder that are named so, below `prefix`.
    fn there(folder: &str, prefix: &str, suffixes: &[&str]) -> BTreeSet<String> {
        let entries = fs::read_dir(root().join(folder).join(prefix)).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names
            .filter(|name| suffixes.iter().any(|suffix| name.ends_with(suffix)))
            .map(|name| format!("{prefix}{name}"))
            .collect()
    }

    fn listed(sources: &[Source]) -> BTreeSet<String> {
        sources.iter().map(|(path, _)| (*path).to_owned()).collect()
    }

    #[test]
    fn every_source_of_the_examples_is_copied() {
        assert_eq!(there("plugins/example-c", "", &[".c", ".h"]), listed(C_SOURCES));
        let mut rust = there("plugins/example-rust", "src/", &[".rs"]);
        rust.extend(there("plugins/example-rust", "tests/", &[".rs"]));
        assert_eq!(rust, listed(RUST_SOURCES));
    }

    #[test]
    fn every_module_of_the_sdk_is_copied_but_for_those_behind_a_feature_or_for_its_tests() {
        let text = fs::read_to_string(root().join("crates/plugin/src/lib.rs")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let mut wanted = BTreeSet::from(["src/lib.rs".to_owned()]);
        for (above, line) in lines.iter().zip(&lines[1..]) {
            let module = line.trim_start_matches("pub ").strip_prefix("mod ");
            let module = module.and_then(|module| module.strip_suffix(';'));
            if let (Some(module), false) = (module, above.contains("#[cfg(")) {
                wanted.insert(format!("src/{module}.rs"));
            }
        }
        assert_eq!(wanted, listed(SDK_SOURCES));
        for (path, text) in SDK_SOURCES.iter().filter(|(path, _)| *path != "src/lib.rs") {
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            for (above, line) in lines.iter().zip(&lines[1..]) {
                let is_module = line.ends_with(';')
                    && line.trim_start_matches("pub(crate) ").starts_with("mod ");
                assert!(!is_module || *above == "#[cfg(test)]", "{path}: {line} is not copied");
            }
        }
    }

    #[test]
    fn nothing_of_the_examples_own_name_is_left() {
        for files in [c("mine"), rust("mine")] {
            for file in files.iter().filter(|file| !file.path.starts_with(SDK)) {
                let is_header = file.path == Path::new("vman_backend.h");
                for name in [C, RUST, RUST_CRATE] {
                    assert!(is_header || !file.text.contains(name), "{}", file.path.display());
                }
            }
        }
    }
}
