//! Runs every test there is and counts the machines that were really started. Which tests there
//! are, it does not know.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::tree::{Profile, Tree};
use crate::{broken, guests, packages, plugins, policies, run};

mod crashes;
mod tally;

use self::crashes::Crashes;
use self::tally::Tally;

/// Sets up, builds what the tests run, runs them with `arguments` for the runner, and reports.
pub(crate) fn run(tree: &Tree, yes: bool, arguments: &[String]) -> Result<()> {
    packages::ensure(yes)?;
    let policies = policies::build(tree)?;
    let guests = guests::build(tree)?;
    let plugins = plugins::build(tree)?;
    broken::build(tree)?;
    // Libraries, programs and tests in one go: they then share their dependencies' builds.
    run::shown(tree.cargo("build").args(["--workspace", "--lib", "--bins", "--tests"]))?;
    // The same program with points to be killed at, beside the one that ships. Asked for together
    // with the tests, so that it shares the builds of all the others too.
    let with_points = ["--features", "vman/crash-points", "--bin", "vman-crash-points"];
    run::shown(tree.cargo("build").args(["--workspace", "--tests"]).args(with_points))?;
    let tally = tempfile::Builder::new().prefix("vman-tally-").tempfile().context("a file")?;
    let mut runner = runner(tree);
    runner.args(arguments);
    runner.env("VMAN_BIN", tree.program(Profile::Dev));
    runner.env("VMAN_PLUGIN_DIR", plugins).env("VMAN_POLICY_DIR", policies);
    runner.env("VMAN_GUEST_DIR", &guests).env("VMAN_TEST_TALLY", tally.path());
    let tests = run::shown(&mut runner);
    let logic = self::policies::test(tree);
    let inside = self::guests::test(tree, &guests);
    report(tally.path())?;
    tests.and(logic).and(inside)
}

/// nextest runs each test in a process of its own, which tells better what went wrong.
fn runner(tree: &Tree) -> Command {
    let nextest = run::captured(tree.cargo("nextest").arg("--version")).is_ok();
    let mut runner = if nextest {
        let mut runner = tree.cargo("nextest");
        runner.args(["run", "--no-fail-fast"]);
        runner
    } else {
        let mut runner = tree.cargo("test");
        runner.arg("--no-fail-fast");
        runner
    };
    runner.arg("--workspace");
    runner
}

fn report(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    println!("\n{}", tally::conformance(&text));
    println!("{}{}", Crashes::parse(&text), Tally::parse(&text));
    Ok(())
}
