//! What cannot be used is refused when it is loaded, with a text that says what to do.

use std::fs;

use vman_policy::limits::COMPONENT_SIZE_MAX;
use vman_policy::{LoadError, Problem};

use super::*;

fn refused(name: &str, path: PathBuf, config: &str) -> (Problem, String) {
    let (name, config_json) = (name.to_owned(), config.to_owned());
    let binding = PolicyBinding { name, path, mode: Mode::Enforce, config_json };
    let error = Policies::load(vec![binding]).unwrap_err();
    let text = error.to_string();
    match error {
        LoadError::Policy { problem, .. } => (problem, text),
        LoadError::Runtime(_) | LoadError::SameName(_) => panic!("{text}"),
    }
}

/// Loads `bytes` as a file; the text must name policy and file.
fn refused_bytes(bytes: &[u8]) -> (Problem, String) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("some.wasm");
    fs::write(&path, bytes).unwrap();
    let (problem, text) = refused("some-name", path.clone(), "{}");
    let begin = format!("policy some-name cannot be loaded from {}: ", path.display());
    assert!(text.starts_with(&begin), "{text}");
    (problem, text)
}

/// `log_only` with one word replaced by another of the same length, wherever it stands.
fn edited(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(component("log_only")).unwrap();
    let places: Vec<usize> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from.as_bytes())
        .map(|(place, _)| place)
        .collect();
    assert!(!places.is_empty(), "{from} is not in the component");
    for place in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

#[test]
fn a_file_that_is_not_there_or_not_a_file_is_named() {
    let missing = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-such.wasm");
    let (problem, text) = refused("gone", missing, "{}");
    assert!(matches!(problem, Problem::Unreadable(_)), "{text}");
    assert!(text.contains("no-such.wasm") && text.contains("check the path"), "{text}");
    let (problem, text) = refused("folder", PathBuf::from(env!("CARGO_TARGET_TMPDIR")), "{}");
    assert!(matches!(problem, Problem::Unreadable(_)), "{text}");
}

#[test]
fn what_is_no_component_is_told_apart_from_a_core_module_and_a_broken_one() {
    let (problem, text) = refused_bytes(b"#!/bin/sh\n");
    assert_eq!(problem, Problem::NotWebAssembly, "{text}");
    let (problem, text) = refused_bytes(b"\0asm\x01\0\0\0");
    assert_eq!(problem, Problem::CoreModule, "{text}");
    assert!(text.contains("wasm-tools component new"), "{text}");
    let mut half = fs::read(component("log_only")).unwrap();
    half.truncate(half.len() / 2);
    let (problem, text) = refused_bytes(&half);
    assert!(matches!(problem, Problem::DoesNotCompile(_)), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn a_component_that_is_too_large_is_not_compiled() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("huge.wasm");
    fs::File::create(&path).unwrap().set_len(COMPONENT_SIZE_MAX + 1).unwrap();
    let (problem, text) = refused("huge", path, "{}");
    assert_eq!(problem, Problem::TooLarge, "{text}");
    assert!(text.contains("10 MiB"), "{text}");
}

#[test]
fn an_import_that_is_not_offered_is_refused_by_name() {
    let (problem, text) = refused_bytes(&edited("vman:policy/log@1.0.0", "wasi:clocks/now@0.2.6"));
    let names = vec!["wasi:clocks/now@0.2.6".to_owned()];
    assert_eq!(problem, Problem::Imports { names }, "{text}");
    assert!(text.contains("without WASI"), "{text}");
}

#[test]
fn another_major_version_is_refused_by_name() {
    for name in ["vman:policy/log@", "vman:policy/policy@"] {
        let (from, to) = (format!("{name}1.0.0"), format!("{name}2.0.0"));
        let (problem, text) = refused_bytes(&edited(&from, &to));
        assert_eq!(problem, Problem::UnknownMajor(to), "{text}");
        assert!(text.contains("knows version 1"), "{text}");
    }
}

#[test]
fn a_missing_function_is_named() {
    let (problem, text) = refused_bytes(&edited("validate-config", "validate-konfig"));
    let missing = vec!["vman:policy/policy@1.0.0#validate-config".to_owned()];
    assert_eq!(problem, Problem::MissingExports(missing), "{text}");
}

#[test]
fn a_changed_record_is_told() {
    let (problem, text) = refused_bytes(&edited("recheck-after-ms", "recheck-under-ms"));
    assert!(matches!(problem, Problem::DoesNotFit(_)), "{text}");
    assert!(text.contains("recheck-after-ms"), "{text}");
}

#[test]
fn every_problem_of_a_configuration_is_listed_by_its_key() {
    let config = r#"{"max_attempts": 0, "retry": 1}"#;
    let (problem, text) = refused("restarts", component("restart_crashed"), config);
    let Problem::Config(problems) = problem else {
        panic!("{text}");
    };
    let mut paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["max_attempts", "retry"]);
    assert!(text.contains("max_attempts: ") && text.contains("retry: "), "{text}");
}

#[test]
fn two_policies_of_one_name_are_refused() {
    let one = || binding("same", "log_only", Mode::Off, "{}");
    let error = Policies::load(vec![one(), one()]).unwrap_err();
    assert_eq!(error, LoadError::SameName("same".to_owned()));
}

#[test]
fn the_report_has_every_policy_in_order_and_reads_none_that_is_off() {
    let off = PolicyBinding {
        name: "broken-but-off".to_owned(),
        path: PathBuf::from("no-such.wasm"),
        mode: Mode::Off,
        config_json: "not even JSON".to_owned(),
    };
    let restart = binding("restart", "restart_crashed", Mode::Shadow, "{}");
    let log = binding("log", "log_only", Mode::Enforce, "{}");
    let report = Policies::load(vec![off, restart, log]).unwrap().report();
    let names: Vec<&str> = report.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["broken-but-off", "restart", "log"]);
    assert_eq!((report[0].mode, &report[0].hash), (Mode::Off, &None));
    assert_eq!(report[1].kinds, ["vm.process-missing"]);
    assert_eq!(report[2].version.as_deref(), Some("0.1.0"));
    let hash = report[2].hash.as_deref().unwrap();
    assert!(hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{hash}");
    assert_ne!(report[1].hash, report[2].hash);
}
