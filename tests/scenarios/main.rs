//! Scenarios: a text file has the settings of a daemon with simulated machines, a story of what is
//! done with it and what is waited for, and the log that must come of it. Each is played twice, on
//! a clock that the story tells, and must come to that log both times. What the words of a story
//! mean is told in README.md beside the files.
#![cfg(test)]

mod log;
mod scenario;
mod stage;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use vman_tests::source::root;

use crate::scenario::Scenario;
use crate::stage::Stage;

/// Makes a test of each file.
macro_rules! scenarios {
    ($($name:ident),+ $(,)?) => {
        const NAMES: &[&str] = &[$(stringify!($name)),+];

        $(#[test]
        fn $name() {
            play(stringify!($name));
        })+
    };
}

scenarios! {
    a_crash_is_repaired,
    a_crash_loop_ends_with_the_budget,
    a_hang_is_found_and_passes,
    a_hung_machine_is_killed,
    a_lost_event_delays_nothing_for_ever,
    a_lost_image_is_an_issue,
    a_slow_unplug_ends_when_the_guest_lets_go,
    a_probe_fails_and_passes,
    a_panicked_guest_is_reset,
}

#[test]
fn every_file_is_played() {
    let files = fs::read_dir(folder()).expect("the scenarios are there");
    let names = files.map(|file| file.expect("readable").file_name().into_string().expect("text"));
    let played = NAMES.iter().map(|name| format!("{name}.txt"));
    let stories: BTreeSet<String> = names.filter(|name| name.ends_with(".txt")).collect();
    assert_eq!(stories, played.collect());
}

#[test]
fn a_story_that_says_something_unknown_is_refused() {
    let scenario = Scenario::parse("# x\n--- settings\n--- story\njump 1\n--- log\n");
    let error = scenario.expect_err("there is no such step");
    assert_eq!(error, "line 4: `jump 1` is no step");
    for (text, part) in [("# x\n--- story\n", "--- settings"), ("--- settings\n", "# ")] {
        let error = Scenario::parse(text).expect_err("a part is missing");
        assert!(error.contains(part), "{error}");
    }
}

fn play(name: &str) {
    let file = folder().join(format!("{name}.txt"));
    let text = fs::read_to_string(&file).expect("the scenario is there");
    let scenario = Scenario::parse(&text).unwrap_or_else(|why| panic!("{name}.txt, {why}"));
    for time in ["first", "second"] {
        let log = Stage::new(&scenario.settings).play(&scenario.story);
        let differs = format!("the {time} time, {name} came to:\n{}\n", log.join("\n"));
        assert!(log == scenario.log, "{differs}instead of:\n{}\n", scenario.log.join("\n"));
    }
}

fn folder() -> PathBuf {
    root().join("tests/scenarios")
}
