//! Benchmarks of the whole program, beside what it is made of, in one run: so that the figures of a
//! busy machine still compare. Nothing here fails because something is slow.

mod console;
mod figures;
mod lifecycle;
mod managed;
mod qmp;
mod raw;
mod scale;
mod usage;

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::demo::Daemon;
use crate::tree::{Profile, Tree};
use crate::{guests, packages, plugins, policies, run};

#[cfg(test)]
pub(crate) use self::raw::{Machine, Recipe, image};

/// Rounds of every benchmark, unless asked for others.
pub(crate) const ROUNDS: u32 = 100;
/// Simulated machines, and how many of them crash at once, unless asked for others.
pub(crate) const MACHINES: usize = 10_000;
pub(crate) const CRASHED: usize = 1_000;

/// Calls of a plugin that are measured, unless asked for others.
pub(crate) const CALLS: u32 = 20_000;
/// The backend that they are calls of: what they cost is the same for any.
const CALLED: &str = "dry-run";

/// What a call of a plugin costs on its way there and back, in each way that one can be run.
///
/// # Errors
/// What could not be built, or measured.
pub(crate) fn plugin(tree: &Tree, calls: u32) -> Result<()> {
    let file = plugins::build_as_shipped(tree, CALLED)?;
    let program = tree.build_vman(Profile::Release)?;
    let folder = tempfile::Builder::new().prefix("vman-bench-").tempdir().context("a folder")?;
    for target in [OsStr::new(CALLED), file.as_os_str()] {
        let mut bench = Command::new(&program);
        bench.arg("--storage").arg(folder.path()).args(["plugin", "bench", "--rounds"]);
        run::shown(bench.arg(calls.to_string()).arg(target))?;
    }
    Ok(())
}

/// One machine's life over REST beside the very same QEMU started by hand.
///
/// # Errors
/// The step that failed.
pub(crate) fn lifecycle(tree: &Tree, rounds: u32, yes: bool) -> Result<()> {
    packages::ensure(yes)?;
    policies::build(tree)?;
    let guests = guests::build(tree)?;
    let program = tree.build_vman(Profile::Release)?;
    // Machines run as users of their own, who must reach their files.
    let searched = Permissions::from_mode(0o711);
    let folder = tempfile::Builder::new().prefix("vman-bench-").permissions(searched).tempdir();
    let folder = folder.context("a folder")?;
    let mut daemon = Daemon::start(&program, folder.path())?;
    let client = daemon.client()?;
    let (storage, scratch) = (daemon.storage(), folder.path());
    let bench =
        lifecycle::Bench { client: &client, storage: &storage, scratch, guests: &guests, rounds };
    let figures = bench.run()?;
    daemon.stop()?;
    print!("{figures}");
    Ok(())
}

/// Many simulated machines in one daemon: all started, listed, some crashed at once, all repaired.
///
/// # Errors
/// The phase that failed; the daemon's folder is then kept.
pub(crate) fn scale(tree: &Tree, machines: usize, crashed: usize) -> Result<()> {
    policies::build(tree)?;
    let program = tree.build_vman(Profile::Release)?;
    let folder = tempfile::Builder::new().prefix("vman-bench-").tempdir().context("a folder")?;
    let config = Daemon::config("dry-run") + scale::CONFIG;
    let mut daemon = Daemon::start_as(&program, folder.path(), &config)?;
    let client = daemon.client()?;
    let (storage, pid) = (daemon.storage(), daemon.pid()?);
    let bench = scale::Bench { client: &client, storage: &storage, pid, machines, crashed };
    let phases = match bench.run() {
        Ok(phases) => phases,
        Err(error) => {
            let log = folder.keep().join("vman.log");
            bail!("{error:#}\nthe daemon's log is {}", log.display());
        }
    };
    daemon.stop()?;
    print!("\n{phases}");
    Ok(())
}

/// Looks every so often until it `is_so`.
///
/// # Errors
/// It is not so `within` this time, or cannot be looked at.
fn until(
    within: Duration,
    every: Duration,
    what: &str,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = Instant::now() + within;
    while !is_so()? {
        if Instant::now() > end {
            bail!("{what} did not come within {within:?}");
        }
        std::thread::sleep(every);
    }
    Ok(())
}
