//! What `vman plugin new` writes: it builds as its README says, and what comes of it is a backend
//! that a daemon runs machines with, found by the name that was asked for.
#![cfg(test)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use vman_tests::source::root;
use vman_tests::{PluginFolder, Setup, pid, program, text};

/// The longest name there may be, with all that one may have.
const NAME: &str = "0-nine-to-five-and-all-the-other-words-that-make-this-one-long-x";
/// Builds are kept here from one run to the next: those of foreign crates take longest.
const BUILT: &str = env!("CARGO_TARGET_TMPDIR");

fn vman<I: AsRef<OsStr>>(arguments: &[I]) -> Output {
    Command::new(program()).args(arguments).output().expect("the program can be started")
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

/// Writes a plugin in this language, and tells what was said.
fn written(lang: &str, folder: &Path) -> String {
    let folder = folder.to_str().expect("it is named in ASCII");
    succeeds(&vman(&["plugin", "new", NAME, "--lang", lang, "--dir", folder]))
}

#[track_caller]
fn run_in(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).env_remove("LD_LIBRARY_PATH");
    command.env("CARGO_TARGET_DIR", Path::new(BUILT).join("scaffold-target"));
    succeeds(&command.output().unwrap_or_else(|error| panic!("{program}: {error}")))
}

/// It holds the contract as it is: what its README promises.
fn is_sound(file: &Path) {
    let file = file.to_str().expect("it is named in ASCII");
    succeeds(&vman(&["plugin", "check", file, "--guest-obeys"]));
}

/// A VM's whole life with the plugin that is this file.
fn runs_a_machine(file: &Path) {
    let plugins = PluginFolder::new();
    plugins.install(file);
    let daemon = Setup::backend(NAME).plugins(plugins.path()).boot_file("tiny.rom").start();
    daemon.tiny_template();
    let vm = daemon.new_vm("tiny");
    let started = daemon.act(&vm, "start");
    assert_eq!(text(&started, "backend"), NAME);
    let process = pid(&started).expect("its machines are processes");
    let machines = daemon.machines();
    assert_eq!(machines.len(), 1, "{machines:?}");
    assert_eq!(machines[0].pid, process);
    assert!(machines[0].names(NAME), "{machines:?}");
    daemon.act(&vm, "stop");
    assert_eq!(daemon.machines(), []);
    daemon.delete_all(&[format!("/vms/{vm}"), "/templates/tiny".to_owned()]);
    daemon.assert_nothing_left();
}

#[test]
fn a_new_plugin_in_c_builds_without_a_warning_and_runs_machines() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = folder.path().join("plugin");
    let said = written("c", &folder);
    assert!(said.contains("make"), "{said}");
    run_in(&folder, "make", &["CFLAGS=-O2 -Werror"]);
    let file = folder.join(format!("{NAME}.so"));
    is_sound(&file);
    runs_a_machine(&file);
}

#[test]
fn a_new_plugin_in_rust_builds_without_a_warning_passes_its_tests_and_runs_machines() {
    // At a place of its own, so that the next run builds it over this one.
    let folder = Path::new(BUILT).join("scaffold");
    drop(fs::remove_dir_all(&folder));
    let said = written("rust", &folder);
    assert!(said.contains("cargo build --release"), "{said}");
    // The very versions that this workspace was built with, which are on this host.
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("both are ours");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let said = run_in(&folder, &cargo, &["test", "--offline"]);
    assert!(!said.contains("warning"), "{said}");
    run_in(&folder, &cargo, &["build", "--offline", "--lib"]);
    let file = format!("libvman_plugin_{}.so", NAME.replace('-', "_"));
    let built: PathBuf = Path::new(BUILT).join("scaffold-target/debug").join(file);
    is_sound(&built);
    runs_a_machine(&built);
    fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn a_name_that_is_none_and_a_folder_that_is_taken_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("plugin");
    let path = path.to_str().expect("it is named in ASCII");
    let refused = vman(&["plugin", "new", "Mine", "--lang", "c", "--dir", path]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("\"Mine\"") && said.contains("a-z"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 0);
    written("c", Path::new(path));
    let before = fs::read_dir(path).expect("it was written").count();
    let refused = vman(&["plugin", "new", "mine", "--lang", "rust", "--dir", path]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert_eq!(fs::read_dir(path).expect("it was written").count(), before);
}
