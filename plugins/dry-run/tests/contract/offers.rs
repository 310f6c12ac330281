//! The two ways to the backend, and that they offer the same.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use vman_plugin::host::{Offer, Registry, Source, open_file, plugin_files_in};
use vman_plugin_dry_run as _;

/// A file built beforehand; unset, the tests build it.
const FILE_VARIABLE: &str = "VMAN_DRY_RUN_SO";

pub(crate) fn linked() -> Offer {
    let offers = Registry::linked();
    assert_eq!(offers.len(), 1, "{offers:?}");
    offers.into_iter().next().unwrap()
}

/// Opened once; an open library needs its file no longer.
pub(crate) fn file() -> Offer {
    static OFFER: OnceLock<Offer> = OnceLock::new();
    let open = || open_file(&copy_into(tempfile::tempdir().unwrap().path())).unwrap();
    OFFER.get_or_init(open).clone()
}

/// With a mode that is trusted, whatever this user's umask.
fn copy_into(folder: &Path) -> PathBuf {
    let copy = folder.join("dry-run.so");
    let built = std::env::var_os(FILE_VARIABLE).map_or_else(build, PathBuf::from);
    std::fs::copy(&built, &copy).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
    std::fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    copy
}

fn build() -> PathBuf {
    let target = target_dir();
    let built = cargo(&["build", "--lib", "--features", "export"], &target);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("debug/libvman_plugin_dry_run.so")
}

/// Its own: the one in use may be locked, and holds this package without the feature.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-file")
}

fn cargo(arguments: &[&str], target: &Path) -> std::process::Output {
    Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--quiet", "--package", "vman-plugin-dry-run", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

#[test]
fn both_ways_offer_the_same_backend() {
    let (linked, file) = (linked(), file());
    assert_eq!(linked.manifest(), file.manifest());
    assert_eq!(linked.manifest().name, "dry-run");
    assert!(!linked.manifest().capabilities.processes);
    assert_eq!(linked.abi(), file.abi());
    assert_eq!(linked.source(), &Source::Linked);
    assert!(matches!(file.source(), Source::File(path) if path.ends_with("dry-run.so")));
}

#[test]
fn opening_the_file_registers_nothing_in_this_program() {
    file();
    assert_eq!(Registry::linked().len(), 1);
}

#[test]
fn a_folder_with_the_file_and_with_junk_offers_the_file_alone() {
    let folder = tempfile::tempdir().unwrap();
    copy_into(folder.path());
    std::fs::write(folder.path().join("a.so"), "junk").unwrap();
    let found = plugin_files_in(folder.path());
    let found: Vec<_> = found.iter().map(|(path, _)| open_file(path)).collect();
    assert_eq!(found.len(), 2);
    found[0].as_ref().unwrap_err();
    assert_eq!(found[1].as_ref().unwrap().manifest().name, "dry-run");
}

#[test]
fn a_build_without_unwinding_is_refused_when_it_is_compiled() {
    let arguments = ["rustc", "--lib", "--profile", "check", "--features", "export"];
    let flags = ["--config", "profile.dev.panic=\"abort\""];
    let built = cargo(&[&arguments[..], &flags[..]].concat(), &target_dir());
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(!built.status.success());
    assert!(said.contains("must be built with panic = \"unwind\""), "{said}");
}
