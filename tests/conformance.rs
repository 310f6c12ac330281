//! Every backend of ours holds the contract, in each way in which one is opened: `vman plugin
//! check` says so of each, and says of what is broken how.
#![cfg(test)]
#![allow(clippy::print_stdout, reason = "the table is what this is for")]

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use vman_tests::{
    broken_plugin, guest, plugins, program, program_with_points, tally, text, unusual_plugin,
};

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

fn read(output: &Output) -> Value {
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
                let checked = read(&check::<&str>(vman(), ours.name.as_ref(), &[]));
                cells.push(cell(ours, &checked["checks"][0]));
            }
            None => cells.push(Ok("not linked".to_owned())),
        }
        let file = plugins().join(ours.file);
        let checked = read(&check::<&str>(program(), file.as_os_str(), &[]));
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
        let checked = read(&output);
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
    let checked = read(&output);
    assert_eq!((output.status.code(), checked["failed"].as_u64()), (Some(1), Some(2)));
    for check in checked["checks"].as_array().expect("a list") {
        let [report] = &check["reports"].as_array().expect("a list")[..] else {
            panic!("{check:#}");
        };
        assert_eq!((text(report, "case"), text(report, "verdict")), ("loading", "failed"));
        assert!(text(report, "why").contains("none.so"), "{report:#}");
    }
}

/// What is told of a plugin that is broken.
const BROKEN: [(&str, &str); 20] = [
    ("wrong-magic.so", "begins with"),
    ("wrong-major.so", "ABI version 2"),
    ("truncated-table.so", "24 bytes"),
    ("missing-function.so", "`cancel`"),
    ("null-table.so", "no table"),
    ("manifest-not-json.so", "manifest"),
    ("manifest-bad-name.so", "No such name"),
    ("no-entry.so", "`vman_plugin_entry`"),
    ("aborts-at-load.so", "SIGABRT"),
    ("exits-at-load.so", "its process ended by exit status"),
    ("create-crashes.so", "SIGABRT"),
    ("create-fails-silently.so", "does not parse"),
    ("submit-crashes.so", "its process ended by signal"),
    ("submit-refuses.so", "status 7"),
    ("answers-garbage.so", "does not parse"),
    ("answers-too-long.so", "longer"),
    ("answers-with-a-strange-status.so", "it is strange"),
    ("answers-twice.so", "dropped"),
    ("answers-strangers.so", "dropped"),
    ("floods-events.so", "dropped"),
];
/// Of cases that need no machine.
const WITHOUT_MACHINES: [&str; 4] =
    ["--only", "many-operations-are-under-way-at-once", "--only", "probe-gives-its-reason"];

/// All that is told of the cases that failed.
fn told_bad(checked: &Value) -> String {
    let checks = checked["checks"].as_array().expect("a list").iter();
    let bad = checks.flat_map(|check| of(check, |word| word != "passed" && word != "skipped"));
    bad.map(|report| format!("{report}\n")).collect()
}

#[test]
fn what_is_broken_fails_the_check_by_name_and_ends_nothing_else() {
    let in_process: Vec<&str> = [&["--mode", "in-process"][..], &WITHOUT_MACHINES].concat();
    for (file, told) in BROKEN {
        let output = check(program(), broken_plugin(file).as_os_str(), &in_process);
        let bad = told_bad(&read(&output));
        assert_eq!(output.status.code(), Some(1), "{file}: {bad}");
        assert!(bad.contains(told), "{file}: {told} in {bad}");
    }
}

#[test]
fn a_verb_that_ends_its_process_fails_its_case_alone_in_either_mode() {
    let file = unusual_plugin("libvman_plugin_faulty.so");
    for (fault, in_process, isolated) in [
        ("panic", "`panicked`", "`panicked`"),
        ("abort", "SIGABRT", "signal 6"),
        ("segfault", "SIGSEGV", "signal 11"),
        ("exit", "exit status: 0", "`backend-crashed`"),
    ] {
        let settings = json!({"always": [{"fault": fault, "verb": "pause"}]}).to_string();
        let cases = ["--only", "a-guest-pauses", "--only", "a-machine-lives-again"];
        let arguments = [&["--settings", settings.as_str()][..], &cases].concat();
        let output = check(program(), file.as_os_str(), &arguments);
        let checked = read(&output);
        assert_eq!((&checked["passed"], &checked["failed"]), (&json!(2), &json!(2)), "{checked:#}");
        for (check, told) in
            checked["checks"].as_array().expect("a list").iter().zip([in_process, isolated])
        {
            let [bad] = of(check, |word| word != "passed").collect::<Vec<_>>()[..] else {
                panic!("{check:#}");
            };
            assert_eq!(text(bad, "case"), "a-guest-pauses-and-goes-on");
            assert!(bad.to_string().contains(told), "{fault}: {told} in {bad:#}");
        }
    }
}

#[test]
fn a_plugin_that_is_built_in_an_unusual_way_holds_the_contract_too() {
    let in_process = ["--mode", "in-process"];
    for how in ["unoptimised", "at-link-time", "checked"] {
        let file = unusual_plugin(&format!("example-c-{how}.so"));
        let checked = read(&check(program(), file.as_os_str(), &in_process));
        assert_eq!(checked["failed"], json!(0), "{how}: {}", told_bad(&checked));
        assert!(checked["passed"].as_u64() > Some(40), "{how}: {checked:#}");
    }
    // A release, optimised at link time; it holds no more than its faults need.
    let file = unusual_plugin("libvman_plugin_faulty.so");
    let lives = ["--only", "outlive", "--only", "ends-and-again"];
    let checked = read(&check(program(), file.as_os_str(), &lives));
    assert_eq!(checked["passed"], json!(8), "{}", told_bad(&checked));
    let later = unusual_plugin("later-abi.so");
    let checked = read(&check(program(), later.as_os_str(), &WITHOUT_MACHINES));
    assert_eq!(checked["passed"], json!(4), "{}", told_bad(&checked));
}
