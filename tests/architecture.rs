//! Holds which crate may use which: the edges between ours, the home of every foreign library, and
//! the files that may say `unsafe`. What the crates do with each other is for reviews to judge.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cargo_metadata::{DependencyKind, MetadataCommand};
use proc_macro2::{TokenStream, TokenTree};
use vman_tests::source::{assert_none, root, sources};

/// A package of ours and what it may use of ours: as part of it, and in its tests alone.
type Edges = (&'static str, &'static [&'static str], &'static [&'static str]);
/// A foreign library and the packages that may use it.
type Home = (&'static str, &'static [&'static str]);

const EDGES: &[Edges] = &[
    ("vman-core", &[], &["vman-core"]),
    ("vman-plugin", &[], &["vman-plugin"]),
    ("vman-store", &["vman-core"], &["vman-core"]),
    ("vman-network", &["vman-core"], &["vman-core"]),
    ("vman-operator", &["vman-core", "vman-plugin"], &["vman-core", "vman-plugin-dry-run"]),
    ("vman-observer", &["vman-core"], &["vman-core"]),
    ("vman-policy", &["vman-core"], &["vman-core"]),
    ("vman-engine", &["vman-core"], &["vman-core"]),
    ("vman-api-types", &[], &[]),
    ("vman-api", &["vman-core", "vman-engine", "vman-api-types"], &["vman-core"]),
    ("vman", VMAN_USES, &[]),
    ("xtask", &[], &[]),
    ("vman-plugin-qemu", &["vman-plugin"], &["vman-plugin"]),
    ("vman-plugin-qemu-kvm", &["vman-plugin", "vman-plugin-qemu"], &["vman-plugin"]),
    ("vman-plugin-qemu-tcg", &["vman-plugin", "vman-plugin-qemu"], &["vman-plugin"]),
    ("vman-plugin-dry-run", &["vman-plugin"], &["vman-plugin"]),
    ("vman-plugin-example-c", &["vman-plugin"], &["vman-plugin"]),
    ("vman-plugin-example-rust", &["vman-plugin"], &["vman-plugin"]),
    ("vman-plugin-faulty", &["vman-plugin", "vman-plugin-dry-run"], &[]),
    ("vman-tests", &[], &[]),
    ("vman-policy-sdk", &[], &[]),
    ("log-only", &["vman-policy-sdk"], &[]),
    ("restart-crashed", &["vman-policy-sdk"], &[]),
    ("misbehaving", &["vman-policy-sdk"], &[]),
    ("obedient", &["vman-policy-sdk"], &[]),
];

/// The program wires everything that serves; `vman-plugin-qemu` it has through the two backends.
const VMAN_USES: &[&str] = &[
    "vman-api",
    "vman-api-types",
    "vman-core",
    "vman-engine",
    "vman-network",
    "vman-observer",
    "vman-operator",
    "vman-plugin",
    "vman-plugin-dry-run",
    // In the crash tests' program alone.
    "vman-plugin-example-c",
    "vman-plugin-qemu-kvm",
    "vman-plugin-qemu-tcg",
    "vman-policy",
    "vman-store",
];

/// Every foreign library there is. A new one is put here by hand, with its one home, or it fails.
const HOMES: &[Home] = &[
    // The crash tests spoil records, as somebody may who edits them by hand.
    ("rusqlite", &["vman-store", "vman-tests"]),
    ("rusqlite_migration", &["vman-store"]),
    ("axum", &["vman-api"]),
    ("tower", &["vman-api"]),
    ("tower-http", &["vman-api"]),
    ("subtle", &["vman-api"]),
    ("utoipa", &["vman-api-types", "vman-api"]),
    ("utoipa-axum", &["vman-api"]),
    ("wasmtime", &["vman-policy"]),
    // Fingerprints: of policies, of requests, of plugin files.
    ("sha2", &["vman-api", "vman-plugin", "vman-policy"]),
    ("rtnetlink", &["vman-network"]),
    ("libloading", &["vman-plugin"]),
    // Plugins register themselves through the macro of vman-plugin.
    ("inventory", &["vman-plugin"]),
    ("kvm-bindings", &["vman-plugin-qemu"]),
    ("kvm-ioctls", &["vman-plugin-qemu"]),
    ("qapi", &["vman-plugin-qemu"]),
    ("bytes", &["vman-plugin-qemu"]),
    ("tokio-util", &["vman-plugin-qemu"]),
    ("clap", &["vman", "xtask"]),
    ("toml", &["vman"]),
    ("tracing-subscriber", &["vman"]),
    ("comfy-table", &["vman"]),
    ("strsim", &["vman"]),
    ("getrandom", &["vman"]),
    ("ureq", &["vman", "xtask", "vman-tests"]),
    ("anyhow", &["xtask"]),
    ("cpio", &["xtask"]),
    ("flate2", &["xtask"]),
    ("semver", &["vman-operator"]),
    // Of a backend in C that a program links.
    ("cc", &["vman-plugin-example-c"]),
    ("cargo_metadata", &["vman-tests"]),
    ("proc-macro2", &["vman-tests"]),
    ("syn", &["vman-tests"]),
    ("walkdir", &["vman-tests"]),
    ("fastrand", &["vman-plugin", "vman-tests"]),
    ("wit-bindgen", &["vman-policy-sdk"]),
    ("dlmalloc", &["vman-policy-sdk"]),
    ("ipnet", &["vman-core", "vman-network", "vman"]),
    ("jiff", &["vman-api", "vman", "xtask"]),
    ("humantime", &["vman-api", "vman"]),
    ("nix", &["vman-operator", "vman-plugin-qemu"]),
    ("procfs", &["vman-operator", "vman-plugin-qemu", "vman-plugin-example-rust"]),
    ("rustix", RUSTIX),
    ("tempfile", &["vman-plugin", "vman-plugin-dry-run", "vman", "xtask", "vman-tests"]),
    // Shared vocabulary: values and errors.
    ("uuid", UUID),
    ("thiserror", THISERROR),
    // What `vman-core` and `vman-observer` must do without.
    ("serde", SERDE),
    ("serde_json", SERDE_JSON),
    // What `vman-core` must do without.
    ("tokio", TOKIO),
    ("tracing", TRACING),
    ("async-trait", ASYNC_TRAIT),
    ("futures-util", FUTURES_UTIL),
];

const RUSTIX: &[&str] = &[
    "vman-plugin",
    "vman-operator",
    "vman-plugin-qemu",
    "vman-plugin-dry-run",
    "vman-plugin-example-rust",
    "vman-plugin-faulty",
    "vman",
    "xtask",
    "vman-tests",
];
const UUID: &[&str] = &[
    "vman-core",
    "vman-plugin",
    "vman-store",
    "vman-network",
    "vman-operator",
    "vman-engine",
    "vman-api-types",
    "vman-api",
    "vman-plugin-qemu",
    "vman-plugin-dry-run",
    "vman-plugin-example-rust",
    "vman-plugin-faulty",
    "vman",
];
const THISERROR: &[&str] = &[
    "vman-core",
    "vman-plugin",
    "vman-store",
    "vman-network",
    "vman-operator",
    "vman-policy",
    "vman-engine",
    "vman-plugin-qemu",
    "vman",
];
const SERDE: &[&str] = &[
    "vman-plugin",
    "vman-api-types",
    "vman-api",
    "vman-plugin-qemu",
    "vman-plugin-dry-run",
    "vman-plugin-example-rust",
    "vman-plugin-faulty",
    "vman",
];
const SERDE_JSON: &[&str] = &[
    "vman-plugin",
    "vman-store",
    "vman-operator",
    "vman-api",
    "vman-plugin-qemu",
    "vman-plugin-dry-run",
    "vman-plugin-example-rust",
    "vman-plugin-faulty",
    "vman",
    "xtask",
    "vman-tests",
    "vman-policy-sdk",
];
const TOKIO: &[&str] = &[
    "vman-plugin",
    "vman-store",
    "vman-network",
    "vman-operator",
    "vman-observer",
    "vman-policy",
    "vman-engine",
    "vman-api",
    "vman-plugin-qemu",
    "vman-plugin-dry-run",
    "vman-plugin-example-rust",
    "vman-plugin-faulty",
    "vman",
];
const TRACING: &[&str] = &[
    "vman-plugin",
    "vman-store",
    "vman-network",
    "vman-operator",
    "vman-observer",
    "vman-policy",
    "vman-engine",
    "vman-api",
    "vman",
];
const ASYNC_TRAIT: &[&str] = &[
    "vman-core",
    "vman-plugin",
    "vman-store",
    "vman-network",
    "vman-operator",
    "vman-policy",
    "vman-engine",
    "vman-plugin-qemu",
    "vman-plugin-dry-run",
    "vman-plugin-example-rust",
    "vman-plugin-faulty",
    "vman",
];

const FUTURES_UTIL: &[&str] = &[
    "vman-plugin",
    "vman-network",
    "vman-operator",
    "vman-observer",
    "vman-engine",
    "vman-plugin-qemu",
];

/// What the tests of any package may use besides: none of it touches what a home keeps together.
const IN_TESTS: &[&str] = &[
    "async-trait",
    "futures-util",
    // Namespaces of their own for tests that would change the host's network.
    "nix",
    "proptest",
    "serde_json",
    "tempfile",
    "tokio",
    "tower",
    // To read what was logged; where the program's log goes is for vman to say.
    "tracing-subscriber",
    "uuid",
];

/// The feature of the crash tests' program, and what stands above whatever names its module.
const POINTS: &str = "crash-points";
const POINTS_ALONE: &str = "#[cfg(feature = \"crash-points\")]";

/// Where `unsafe` may stand; a folder's files are named by its path and a slash.
const UNSAFE: &[&str] = &[
    "crates/plugin/src/abi.rs",
    "crates/plugin/src/export.rs",
    "plugins/qemu/src/kvm_probe.rs",
    "plugins/qemu/src/spawn.rs",
    // The symbols that a component exports, in the macro that makes them.
    "policies/sdk/src/export.rs",
];

#[test]
fn packages_use_each_other_only_as_the_table_says() {
    assert_none(edges_broken(&packages(), EDGES));
}

#[test]
fn foreign_libraries_stay_in_their_homes() {
    assert_none(homes_broken(&packages(), HOMES, IN_TESTS));
}

#[test]
fn every_package_has_the_lints_of_its_workspace() {
    let broken = packages().into_iter().filter(|package| !package.inherits_lints);
    assert_none(broken.map(|package| format!("{}: [lints] workspace = true", package.name)));
}

#[test]
fn unsafe_stands_only_in_the_files_that_may_have_it() {
    let broken =
        sources().into_iter().flat_map(|file| unsafe_broken(&file.path, &file.text, UNSAFE));
    assert_none(broken);
}

/// The crash tests' program is the one that ships with something added, which must stay apart.
#[test]
fn what_the_crash_tests_add_to_the_program_is_in_no_build_that_does_not_ask_for_it() {
    let mut command = MetadataCommand::new();
    let metadata = command.manifest_path(root().join("Cargo.toml")).no_deps().exec();
    let packages = metadata.expect("cargo reads our own manifests").packages;
    let has_points = |package: &&cargo_metadata::Package| package.features.contains_key(POINTS);
    let with_points: Vec<&str> =
        packages.iter().filter(has_points).map(|package| package.name.as_str()).collect();
    assert_eq!(with_points, ["vman"]);
    let vman = packages.iter().find(has_points).expect("it was just found");
    assert!(!vman.features.contains_key("default"), "{:?}", vman.features);
    for package in &packages {
        let mut asked = package.dependencies.iter().flat_map(|used| &used.features);
        assert!(asked.all(|feature| feature != POINTS), "{} asks for it", package.name);
    }
    let needs_points = |target: &&cargo_metadata::Target| !target.required_features.is_empty();
    let bins = vman.targets.iter().filter(|target| target.is_bin());
    let bins: Vec<(&str, bool)> =
        bins.map(|target| (target.name.as_str(), needs_points(&target))).collect();
    assert_eq!(bins, [("vman", false), ("vman-crash-points", true)]);
    for file in sources().iter().filter(|file| file.path.starts_with("crates/vman/src/")) {
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        for (above, line) in lines.iter().zip(&lines[1..]) {
            let names_it = line.starts_with("mod points") || line.contains("crate::points");
            assert!(!names_it || *above == POINTS_ALONE, "{}: {line}", file.path);
        }
    }
}

#[test]
fn a_doctored_table_of_edges_is_noticed() {
    let real = packages();
    let without_store: Vec<Edges> =
        EDGES.iter().copied().filter(|(name, ..)| *name != "vman-store").collect();
    assert!(edges_broken(&real, &without_store).iter().any(|text| text.starts_with("vman-store:")));
    let without_uses: Vec<Edges> =
        EDGES.iter().map(|(name, _, in_tests)| (*name, &[][..], *in_tests)).collect();
    let broken = edges_broken(&real, &without_uses);
    assert!(broken.contains(&"vman-store uses vman-core".to_owned()), "{broken:?}");
    let mut with_stranger = EDGES.to_vec();
    with_stranger.push(("vman-gone", &[], &[]));
    let broken = edges_broken(&real, &with_stranger);
    assert!(broken.contains(&"vman-gone: there is no such package".to_owned()), "{broken:?}");
}

#[test]
fn a_doctored_table_of_homes_is_noticed() {
    let real = packages();
    let moved: Vec<Home> = HOMES
        .iter()
        .map(|(name, homes)| (*name, if *name == "rusqlite" { &["vman-engine"] } else { *homes }))
        .collect();
    let broken = homes_broken(&real, &moved, IN_TESTS);
    assert!(broken.contains(&"vman-store uses rusqlite".to_owned()), "{broken:?}");
    let unknown: Vec<Home> = HOMES.iter().copied().filter(|(name, _)| *name != "axum").collect();
    let broken = homes_broken(&real, &unknown, IN_TESTS);
    assert!(broken.contains(&"vman-api uses axum".to_owned()), "{broken:?}");
}

#[test]
fn a_library_of_the_tests_is_not_one_of_the_package() {
    let uses = |name: &str, in_tests| Use { name: name.to_owned(), in_tests };
    let package = |uses| Package { name: "vman-core".to_owned(), uses, inherits_lints: true };
    let in_tests = package(vec![uses("tokio", true)]);
    assert!(homes_broken(&[in_tests], HOMES, IN_TESTS).is_empty());
    let as_part = package(vec![uses("tokio", false)]);
    assert_eq!(homes_broken(&[as_part], HOMES, IN_TESTS), ["vman-core uses tokio"]);
    let home_in_tests = package(vec![uses("rusqlite", true)]);
    assert_eq!(homes_broken(&[home_in_tests], HOMES, IN_TESTS), ["vman-core uses rusqlite"]);
}

#[test]
fn unsafe_is_found_wherever_it_stands_and_not_in_words_about_it() {
    let path = "crates/core/src/lib.rs";
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe impl Send for X {}",
        "macro_rules! m { () => { unsafe { g() } } }",
        "#[unsafe(no_mangle)] fn f() {}",
    ] {
        assert_eq!(unsafe_broken(path, text, UNSAFE), [format!("{path}:1: unsafe")], "{text}");
    }
    let words = "//! unsafe\n#![deny(unsafe_code)]\nconst X: &str = \"unsafe\";";
    assert!(unsafe_broken(path, words, UNSAFE).is_empty());
    assert!(unsafe_broken(UNSAFE[0], "unsafe fn f() {}", UNSAFE).is_empty());
}

/// A package of ours, as its manifest has it.
struct Package {
    name: String,
    uses: Vec<Use>,
    inherits_lints: bool,
}

/// A dependency, ours or foreign.
struct Use {
    name: String,
    in_tests: bool,
}

/// The packages of both workspaces: the program's, and that of the policies.
fn packages() -> Vec<Package> {
    ["Cargo.toml", "policies/Cargo.toml"].iter().flat_map(|file| workspace(file)).collect()
}

fn workspace(manifest: &str) -> Vec<Package> {
    let mut command = MetadataCommand::new();
    let metadata = command.manifest_path(root().join(manifest)).no_deps().exec();
    let packages = metadata.expect("cargo reads our own manifests").packages;
    packages.into_iter().map(read).collect()
}

fn read(package: cargo_metadata::Package) -> Package {
    let manifest = fs::read_to_string(&package.manifest_path).expect("cargo has just read it");
    let uses = package.dependencies.into_iter().map(|dependency| Use {
        name: dependency.name,
        in_tests: dependency.kind == DependencyKind::Development,
    });
    Package {
        name: package.name.to_string(),
        uses: uses.collect(),
        inherits_lints: manifest.contains("\n[lints]\nworkspace = true\n"),
    }
}

/// Each edge that the table does not have, and each package without a row and row without a
/// package.
fn edges_broken(packages: &[Package], table: &[Edges]) -> Vec<String> {
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut broken = Vec::new();
    for (name, ..) in table.iter().filter(|(name, ..)| !ours.contains(name)) {
        broken.push(format!("{name}: there is no such package"));
    }
    for package in packages {
        let row = table.iter().find(|(name, ..)| *name == package.name);
        let Some((name, as_part, in_tests)) = row else {
            broken.push(format!("{}: the table of edges has no row for it", package.name));
            continue;
        };
        for used in package.uses.iter().filter(|used| ours.contains(used.name.as_str())) {
            let other = used.name.as_str();
            let allowed = as_part.contains(&other) || used.in_tests && in_tests.contains(&other);
            if !allowed {
                broken.push(format!("{name} uses {other}"));
            }
        }
    }
    broken
}

/// Each use of a foreign library outside of its homes; one without a home is at home nowhere.
fn homes_broken(packages: &[Package], homes: &[Home], in_tests: &[&str]) -> Vec<String> {
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, ..)| *name).collect();
    let homes: BTreeMap<&str, &[&str]> = homes.iter().copied().collect();
    let mut broken = Vec::new();
    for package in packages {
        for used in package.uses.iter().filter(|used| !ours.contains(used.name.as_str())) {
            let name = used.name.as_str();
            let home = homes.get(name).is_some_and(|homes| homes.contains(&package.name.as_str()));
            let allowed = home || used.in_tests && in_tests.contains(&name);
            if !allowed {
                broken.push(format!("{} uses {name}", package.name));
            }
        }
    }
    broken
}

/// Each `unsafe` of a file that is not on the list, also inside of macros.
fn unsafe_broken(path: &str, text: &str, allowed: &[&str]) -> Vec<String> {
    if allowed.contains(&path) {
        return Vec::new();
    }
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut lines = Vec::new();
    unsafe_lines(tokens, &mut lines);
    lines.into_iter().map(|line| format!("{path}:{line}: unsafe")).collect()
}

fn unsafe_lines(tokens: TokenStream, lines: &mut Vec<usize>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => unsafe_lines(group.stream(), lines),
            TokenTree::Ident(word) if word == "unsafe" => lines.push(word.span().start().line),
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}
