//! The demo: builds the program, runs it in a folder of its own, and tells the story of one machine
//! on it. It fails if anything is not as told.

mod client;
mod console;
mod daemon;
mod leftovers;
mod report;
mod story;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::tree::{Profile, Tree};
use crate::{guests, packages, policies};

pub(crate) use self::client::{Client, text};
pub(crate) use self::daemon::Daemon;
use self::report::Report;

/// Sets up, builds and shows.
///
/// # Errors
/// The step that failed, why, and where the log is; the demo's folder is then kept.
pub(crate) fn show(tree: &Tree, yes: bool) -> Result<()> {
    packages::ensure(yes)?;
    policies::build(tree)?;
    let guests = guests::build(tree)?;
    let program = tree.build_vman(Profile::Release)?;
    println!("built {}\n", program.display());
    let folder = tempfile::Builder::new().prefix("vman-demo-").tempdir().context("a folder")?;
    if let Err(error) = play(&program, folder.path(), &guests) {
        let log = folder.keep().join("vman.log");
        bail!("the demo failed: {error:#}\nthe daemon's log is {}", log.display());
    }
    folder.close().context("removing the demo's folder")?;
    println!("\nthe demo succeeded");
    Ok(())
}

fn play(program: &Path, folder: &Path, guests: &Path) -> Result<()> {
    let mut report = Report::new();
    let mut daemon = Daemon::start(program, folder)?;
    story::tell(&mut daemon, guests, &mut report)
}
