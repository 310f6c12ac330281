//! Tells the runner, in the file that `VMAN_TEST_TALLY` names, which machines were really started
//! and which tests this host cannot run. A line is `<backend> <test>`, `skipped <test>: <why>`,
//! `crash <row of the crash tests' table>` or `conformance <line of the conformance table>`.
#![allow(clippy::print_stderr, reason = "a test that did not run must not look like one that did")]

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::thread;

const VARIABLE: &str = "VMAN_TEST_TALLY";
const KVM: &str = "/dev/kvm";

/// A machine of this backend was started by the test that calls.
pub fn started(backend: &str) {
    note(&format!("{backend} {}", test()));
}

/// The test that calls cannot run on this host.
pub fn skipped(why: &str) {
    eprintln!("\n*** NOT RUN: {}: {why}\n", test());
    note(&format!("skipped {}: {why}", test()));
}

/// Why no machine can be run by KVM here; `None` if it can be tried.
pub fn no_kvm() -> Option<String> {
    let opened = OpenOptions::new().read(true).write(true).open(KVM);
    opened.err().map(|error| format!("{KVM} does not open: {error}"))
}

/// What became of one verb at all the points of the crash tests: the row of their table.
pub fn crashes(row: &[String]) {
    note(&format!("crash {}", row.join(" ")));
}

/// The table of what each backend of ours came to in each mode: a line for each of its lines.
pub fn conformance(table: &str) {
    table.lines().for_each(|line| note(&format!("conformance {line}")));
}

/// The test's name: its thread has it.
fn test() -> String {
    thread::current().name().unwrap_or("a test").to_owned()
}

fn note(line: &str) {
    let Some(path) = env::var_os(VARIABLE) else { return };
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
