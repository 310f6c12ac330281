//! The life of one machine, in rounds: start, graceful stop, and a death that has to be noticed;
//! by hand and by vman in turns, so that both see the same moments of the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::figures::{Figures, Rounds, Step};
use super::raw::Recipe;
use crate::demo::{Client, text};

/// What the tiny guest says once it listens to its power button.
const UP: &str = "TINY-UP";
const WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// Runs `rounds` rounds of each step. `scratch` is an empty folder of the benchmark's own.
pub(super) fn run(
    client: &Client,
    storage: &Path,
    scratch: &Path,
    guests: &Path,
    rounds: u32,
) -> Result<Figures> {
    fs::copy(guests.join("tiny.rom"), storage.join("boot/tiny.rom")).context("the tiny guest")?;
    let boot = json!({"firmware": "tiny.rom"});
    let template = json!({"name": "tiny", "cpu_count": 1, "ram_amount": 64, "boot": boot});
    client.post("/templates", &template)?;
    let vm = Vm::new(client, storage)?;
    let recipe = vm.recipe(&scratch.join("raw"))?;

    let (mut raw_start, mut raw_stop) = (Rounds::default(), Rounds::default());
    let (mut start, mut stop) = (Rounds::default(), Rounds::default());
    let (mut noticed, mut repaired) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        let (machine, took) = timed(|| recipe.start())?;
        raw_start.add(took);
        until_up(&recipe.console())?;
        raw_stop.add(timed(|| machine.power_off())?.1);

        vm.forget_console();
        start.add(timed(|| vm.act("start"))?.1);
        until_up(&vm.console())?;
        stop.add(timed(|| vm.act("stop"))?.1);

        let (seen, running) = die(client, storage)?;
        noticed.add(seen);
        repaired.add(running);
    }
    Ok(Figures(vec![
        Step { name: "start, until it answers", raw: Some(raw_start), vman: start },
        Step { name: "power button, until gone", raw: Some(raw_stop), vman: stop },
        Step { name: "killed, until it is an issue", raw: None, vman: noticed },
        Step { name: "killed, until it runs again", raw: None, vman: repaired },
    ]))
}

/// A VM of its own for every death, since repairs of one are limited.
fn die(client: &Client, storage: &Path) -> Result<(Duration, Duration)> {
    let vm = Vm::new(client, storage)?;
    vm.act("start")?;
    let pid = vm.pid()?;
    let victim = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process id")?;
    let killed = Instant::now();
    kill_process(victim, Signal::KILL).context("sending SIGKILL to QEMU")?;
    until("an issue", || {
        let issues = client.get("/issues?limit=10")?;
        let about = |issue: &Value| issue["subject"]["id"] == vm.id.as_str();
        Ok(issues.as_array().is_some_and(|issues| issues.iter().any(about)))
    })?;
    let noticed = killed.elapsed();
    until("the repair", || Ok(vm.is_running()? && vm.pid()? != pid))?;
    let repaired = killed.elapsed();
    client.delete(&vm.path())?;
    Ok((noticed, repaired))
}

/// A VM of the daemon.
struct Vm<'c> {
    client: &'c Client,
    id: String,
    folder: PathBuf,
}

impl<'c> Vm<'c> {
    fn new(client: &'c Client, storage: &Path) -> Result<Self> {
        let vm = client.post("/vms", &json!({"vm_template": "tiny"}))?.body;
        let id = text(&vm, "id")?.to_owned();
        let folder = storage.join("machines").join(&id);
        Ok(Self { client, id, folder })
    }

    fn path(&self) -> String {
        format!("/vms/{}", self.id)
    }

    /// Returns once the operation has ended.
    fn act(&self, verb: &str) -> Result<()> {
        self.client.post(&format!("{}/actions/{verb}", self.path()), &json!({})).map(drop)
    }

    fn is_running(&self) -> Result<bool> {
        Ok(self.client.get(&self.path())?["state"] == "running")
    }

    fn pid(&self) -> Result<u64> {
        let vm = self.client.get(&self.path())?;
        vm["process"]["pid"].as_u64().with_context(|| format!("no process: {vm}"))
    }

    fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    fn forget_console(&self) {
        // Not there before the first start.
        drop(fs::remove_file(self.console()));
    }

    /// How vman starts its machine, to be done by hand in `folder`.
    fn recipe(&self, folder: &Path) -> Result<Recipe> {
        fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        self.act("start")?;
        let recipe = Recipe::of_process(self.pid()?, &self.folder, folder)?;
        self.act("stop")?;
        Ok(recipe)
    }
}

fn timed<T>(step: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let made = step()?;
    Ok((made, begun.elapsed()))
}

fn until_up(console: &Path) -> Result<()> {
    until("the guest", || Ok(fs::read_to_string(console).is_ok_and(|text| text.contains(UP))))
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + WITHIN;
    while !is_so()? {
        if Instant::now() > end {
            bail!("{what} did not come within {WITHIN:?}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
