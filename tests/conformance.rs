//! Every backend of ours holds the contract, in each way in which one is opened: `vman plugin
//! check` says so of each, and says of what is broken how.
#![cfg(test)]
#![allow(clippy::print_stdout, reason = "the table is what this is for")]

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use vman_tests::{guest, plugins, program, program_with_points, tally, text};

/// A backend of ours: its file, and why a case may be skipped of it.
struct Ours {
    name: &'static str,
    file: &'static str,
    /// Linked into the program that is shipped; the others into that of the crash tests, or not.
    linked: Option<fn() -> PathBuf>,
    lacks: &'static [&'static str],
}

const NO_HOT_PLUG: &str = "it has no hot plug";
const NO_PAUSE: &str = "it cannot pause";
const NO_RESET: &str = "it cannot reset";
const NO_PROCESSES: &str = "its machines are no processes";
const KVM: &str = "qemu-kvm";

const OURS: [Ours; 5] = [
    Ours {
        name: "dry-run",
        file: "libvman_plugin_dry_run.so",
        linked: Some(program),
        lacks: &[NO_PROCESSES],
    },
    Ours {
        name: "qemu-tcg",
        file: "libvman_plugin_qemu_tcg.so",
        linked: Some(program),
        lacks: &[],
    },
    Ours { name: KVM, file: "libvman_plugin_qemu_kvm.so", linked: Some(program), lacks: &[] },
    Ours {
        name: "example-c",
        file: "example-c.so",
        linked: Some(program_with_points),
        lacks: &[NO_HOT_PLUG, NO_PAUSE, NO_RESET],
    },
    Ours {
        name: "example-rust",
        file: "libvman_plugin_example_rust.so",
        linked: None,
        lacks: &[NO_HOT_PLUG, NO_PAUSE, NO_RESET],
    },
];

/// The usual configuration of no host, and a guest that boots on everything.
fn check<A: AsRef<OsStr>>(vman: PathBuf, target: &OsStr, arguments: &[A]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let config = folder.path().join("vman.toml");
    fs::write(&config, "").expect("the folder is ours");
    let mut command = Command::new(vman);
    command.args(["plugin", "check", "--json", "--guest-obeys", "--firmware"]);
    command.arg(guest("tiny.rom")).arg("--config").arg(config).arg(target).args(arguments);
    command.output().expect("the program can be started")
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}{said}", String::from_utf8_lossy(&output.stdout))
    })
}

/// The cases of one check that came to this.
fn of<'a>(check: &'a Value, is: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = &'a Value> {
    let reports = check["reports"].as_array().expect("a check has reports").iter();
    reports.filter(move |report| is(text(report, "verdict")))
}

/// What a cell of the table says; an error is what is not as it must be.
fn cell(ours: &Ours, check: &Value) -> Result<String, String> {
    let (name, mode) = (ours.name, text(check, "mode"));
    let bad: Vec<&Value> = of(check, |word| word != "passed" && word != "skipped").collect();
    if !bad.is_empty() {
        return Err(format!("{name}, {mode}: {bad:#?}"));
    }
    let passed = of(check, |word| word == "passed").count();
    let skipped: Vec<&Value> = of(check, |word| word == "skipped").collect();
    if let Some(why) = check["unable"].as_str() {
        if name != KVM {
            return Err(format!("{name}, {mode}: no machine can be run: {why}"));
        }
        tally::skipped(&format!("{name}, {mode}: {} cases: {why}", skipped.len()));
        return Ok("CANNOT RUN".to_owned());
    }
    let lacks = |report: &&&Value| !ours.lacks.contains(&text(report, "why"));
    if let Some(odd) = skipped.iter().find(lacks) {
        return Err(format!("{name}, {mode}: skipped for no good reason: {odd:#}"));
    }
    if ours.name.starts_with("qemu") {
        tally::started(name);
    }
    Ok(format!("{passed} + {}", skipped.len()))
}

#[test]
fn every_backend_of_ours_holds_the_contract_in_every_mode() {
    let mut faults = Vec::new();
    let mut table = vec!["passed + skipped      static  in-process    isolated".to_owned()];
    for ours in &OURS {
        let mut cells = vec![];
        match ours.linked {
            Some(vman) => {
                let checked = json(&check::<&str>(vman(), ours.name.as_ref(), &[]));
                cells.push(cell(ours, &checked["checks"][0]));
            }
            None => cells.push(Ok("not linked".to_owned())),
        }
        let file = plugins().join(ours.file);
        let checked = json(&check::<&str>(program(), file.as_os_str(), &[]));
        cells.extend(checked["checks"].as_array().expect("a list").iter().map(|c| cell(ours, c)));
        assert_eq!(cells.len(), 3, "{checked:#}");
        let mut row = format!("{:<16}", ours.name);
        for cell in cells {
            let shown = cell.unwrap_or_else(|fault| {
                faults.push(fault);
                "FAILED".to_owned()
            });
            row.push_str(&format!("{shown:>12}"));
        }
        table.push(row);
    }
    let table = table.join("\n");
    println!("{table}");
    tally::conformance(&table);
    assert!(faults.is_empty(), "{table}\n{}", faults.join("\n"));
}

#[test]
fn a_case_that_is_not_there_and_a_backend_that_is_not_are_told_with_the_nearest() {
    for (target, only, told) in [
        ("dry-run", "a-disk-comes-and-goe-s", "`a-disk-comes-and-goes`"),
        ("dryrun", "probe", "`dry-run`"),
        ("./no-such.so", "probe", "No such file"),
    ] {
        let output = check(program(), target.as_ref(), &["--only", only]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn one_odd_request_is_made_again_and_shown() {
    let twice = [0, 1].map(|_| {
        let output = check(program(), "dry-run".as_ref(), &["--reproduce", "7:61"]);
        let checked = json(&output);
        assert!(output.status.success(), "{checked:#}");
        let reports = checked["checks"][0]["reports"].as_array().expect("a list").clone();
        assert_eq!(reports.len(), 1, "{reports:#?}");
        let note = reports[0]["notes"][0].as_str().expect("the request is told").to_owned();
        let folder = note.find("vman-check-").map(|at| note[at..at + 17].to_owned());
        folder.map_or(note.clone(), |folder| note.replace(&folder, "FOLDER"))
    });
    assert!(twice[0].starts_with("request 7:61: "), "{}", twice[0]);
    assert_eq!(twice[0], twice[1]);
}

#[test]
fn a_file_that_is_no_plugin_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("none.so");
    fs::write(&file, "none").expect("the folder is ours");
    let output = check::<&str>(program(), file.as_os_str(), &[]);
    let checked = json(&output);
    assert_eq!((output.status.code(), checked["failed"].as_u64()), (Some(1), Some(2)));
    for check in checked["checks"].as_array().expect("a list") {
        let [report] = &check["reports"].as_array().expect("a list")[..] else {
            panic!("{check:#}");
        };
        assert_eq!((text(report, "case"), text(report, "verdict")), ("loading", "failed"));
        assert!(text(report, "why").contains("none.so"), "{report:#}");
    }
}
