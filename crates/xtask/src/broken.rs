//! Builds plugins for tests that no daemon should be given otherwise: those that are broken, and
//! those that are sound and built in an unusual way. What the host must make of each is told in
//! `tests/plugins/README.md`.

use std::path::PathBuf;

use anyhow::Result;

use crate::plugins::{Folder, example_in_c, library};
use crate::run;
use crate::tree::Tree;

/// Goes wrong where its settings say.
const FAULTY: &str = "vman-plugin-faulty";
const EXAMPLE: &str = "vman-plugin-example-rust";
/// The profile of the workspace with other options for the compiler than any that is used else.
const UNUSUAL_PROFILE: &str = "unusual";

/// What `tests/plugins/broken.c` can be broken in, as its file is named.
const FAULTS: [&str; 28] = [
    "wrong-magic",
    "wrong-major",
    "truncated-table",
    "missing-function",
    "null-table",
    "null-manifest",
    "manifest-not-json",
    "manifest-bad-name",
    "no-entry",
    "aborts-at-load",
    "exits-at-load",
    "hangs-at-load",
    "create-blocks",
    "create-fails-silently",
    "create-crashes",
    "submit-blocks",
    "submit-refuses",
    "submit-crashes",
    "never-answers",
    "answers-late",
    "answers-garbage",
    "answers-too-long",
    "answers-with-a-strange-status",
    "answers-twice",
    "answers-strangers",
    "answers-after-destroy",
    "floods-events",
    "floods-the-log",
];
/// As it names a table of a later version, which is not broken.
const LATER: &str = "later-abi";

/// The example in C by other options.
const UNUSUAL_IN_C: [(&str, &[&str]); 3] = [
    ("example-c-unoptimised", &["-O0"]),
    ("example-c-at-link-time", &["-O3", "-flto"]),
    ("example-c-checked", &["-O1", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]),
];

/// Builds them into `<target>/plugins-broken` and `<target>/plugins-unusual`, never among those
/// that can be used.
pub(crate) fn build(tree: &Tree) -> Result<()> {
    run::shown(tree.cargo("build").args(["--package", FAULTY, "--lib"]))?;
    let broken = Folder::make(tree.target.join("plugins-broken"))?;
    broken.take(&built(tree, "debug", FAULTY), &library(FAULTY))?;
    for fault in FAULTS {
        broken.compile(&broken_in_c(tree, fault), &format!("{fault}.so"))?;
    }

    let with_profile = ["--package", FAULTY, "--lib", "--profile", UNUSUAL_PROFILE];
    run::shown(tree.cargo("build").args(with_profile).args(["--package", EXAMPLE]))?;
    let unusual = Folder::make(tree.target.join("plugins-unusual"))?;
    for package in [FAULTY, EXAMPLE] {
        unusual.take(&built(tree, UNUSUAL_PROFILE, package), &library(package))?;
    }
    unusual.compile(&broken_in_c(tree, LATER), &format!("{LATER}.so"))?;
    for (name, options) in UNUSUAL_IN_C {
        unusual.compile(&example_in_c(tree, options)?, &format!("{name}.so"))?;
    }
    println!("broken plugins: {}\nunusual plugins: {}", broken.0.display(), unusual.0.display());
    Ok(())
}

fn built(tree: &Tree, profile: &str, package: &str) -> PathBuf {
    tree.target.join(profile).join(library(package))
}

/// The words for the compiler.
fn broken_in_c(tree: &Tree, fault: &str) -> Vec<String> {
    let plugins = tree.root.join("plugins");
    let source = tree.root.join("tests/plugins/broken.c");
    vec![
        "-std=c11".to_owned(),
        "-O2".to_owned(),
        "-Wall".to_owned(),
        "-Wextra".to_owned(),
        "-Werror".to_owned(),
        format!("-I{}", plugins.display()),
        format!("-DFAULT={}", fault.replace('-', "_").to_uppercase()),
        format!("-DNAME=\"{fault}\""),
        source.display().to_string(),
    ]
}
