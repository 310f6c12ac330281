//! The life of a machine, in rounds: its start, its end by power button and by kill, disks that
//! come and go, and a death that has to be noticed; by hand and by vman in turns, so that both see
//! the same moments of the host.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::console::Console;
use super::figures::{Figures, Rounds, Step};
use super::managed::{Disk, Vm};
use super::{raw, until};
use crate::demo::Client;

/// What the tiny guest says once it listens to its power button.
const TINY_UP: &str = "TINY-UP";
/// What the Linux guest says of itself and of its disks.
const LINUX_UP: &str = "GUEST-UP";
const ADDED: &str = "GUEST-DISK-ADDED";
const REMOVED: &str = "GUEST-DISK-REMOVED";
const DISK_GIB: u64 = 1;
/// An emulated guest is busy with a disk that it was given for so long, and the daemon with looking
/// at what a start has left: nothing tells when they are done, and what they compute meanwhile is
/// no part of what comes next.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
const WITHIN: Duration = Duration::from_secs(20);
/// Asking more often would take from the daemon the processors that it is measured on.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a benchmark runs on.
pub(super) struct Bench<'a> {
    pub(super) client: &'a Client,
    /// The daemon's.
    pub(super) storage: &'a Path,
    /// An empty folder for the machines that are run by hand.
    pub(super) scratch: &'a Path,
    pub(super) guests: &'a Path,
    pub(super) rounds: u32,
}

impl Bench<'_> {
    /// All steps.
    pub(super) fn run(&self) -> Result<Figures> {
        self.templates().context("making the templates")?;
        let [start, stop, plain_stop, kill] =
            self.machines().context("starting and ending machines")?;
        let [attach, detach] = self.disks().context("attaching and detaching disks")?;
        let [noticed, repaired] = self.deaths().context("killing QEMU behind vman's back")?;
        Ok(Figures(vec![start, stop, plain_stop, kill, attach, detach, noticed, repaired]))
    }

    fn templates(&self) -> Result<()> {
        for file in ["tiny.rom", "vmlinuz", "initrd.gz"] {
            let from = self.guests.join(file);
            let copied = fs::copy(&from, self.storage.join("boot").join(file));
            copied.with_context(|| format!("copying {}", from.display()))?;
        }
        let tiny = json!({"firmware": "tiny.rom"});
        let cmdline = "console=ttyS0 quiet panic=-1";
        let linux = json!({"kernel": "vmlinuz", "initrd": "initrd.gz", "cmdline": cmdline});
        for (name, ram, boot) in [("tiny", 64, tiny), ("linux", 256, linux)] {
            let template = json!({"name": name, "cpu_count": 1, "ram_amount": ram, "boot": boot});
            self.client.post("/templates", &template)?;
        }
        Ok(())
    }

    fn machines(&self) -> Result<[Step; 4]> {
        let vm = Vm::new(self.client, self.storage, "tiny")?;
        vm.start()?;
        let recipe = vm.recipe(&self.scratch.join("tiny"))?;
        vm.kill()?;
        let mut start = Step::beside_raw("start, until it answers");
        let mut stop = Step::beside_raw("power button, until off");
        let mut plain_stop = Step::by_hand("  by hand without a pid file");
        let mut kill = Step::beside_raw("kill, until gone");
        let plain = recipe.clone().without_pid_file();
        for _ in 0..self.rounds {
            let mut machine = plain.start()?;
            up(&mut machine.console)?;
            plain_stop.raw(|| machine.power_off())?;

            let mut machine = start.raw(|| recipe.start())?;
            up(&mut machine.console)?;
            stop.raw(|| machine.power_off())?;

            let mut console = vm.new_console();
            start.vman(|| vm.start())?;
            up(&mut console)?;
            stop.vman(|| vm.stop())?;

            let mut machine = start.raw(|| recipe.start())?;
            up(&mut machine.console)?;
            kill.raw(|| machine.kill())?;

            let mut console = vm.new_console();
            start.vman(|| vm.start())?;
            up(&mut console)?;
            kill.vman(|| vm.kill())?;
        }
        vm.delete()?;
        Ok([start, stop, plain_stop, kill])
    }

    fn disks(&self) -> Result<[Step; 2]> {
        let vm = Vm::new(self.client, self.storage, "linux")?;
        let mut console = vm.new_console();
        vm.start()?;
        let recipe = vm.recipe(&self.scratch.join("linux"))?;
        let mut machine = recipe.start()?;
        let image = raw::image(self.scratch, DISK_GIB)?;
        let disk = Disk::new(self.client, DISK_GIB)?;
        machine.console.line(LINUX_UP)?;
        console.line(LINUX_UP)?;
        let mut attach = Step::beside_raw("attach, until the guest has it");
        let mut detach = Step::beside_raw("detach, until it is free");
        for _ in 0..self.rounds {
            attach.raw(|| {
                machine.attach(&image)?;
                machine.console.line(ADDED)
            })?;
            std::thread::sleep(SETTLED_AFTER);
            detach.raw(|| machine.detach())?;
            machine.console.line(REMOVED)?;

            attach.vman(|| {
                disk.attach(&vm)?;
                console.line(ADDED)
            })?;
            std::thread::sleep(SETTLED_AFTER);
            detach.vman(|| disk.detach())?;
            console.line(REMOVED)?;
        }
        vm.delete()?;
        Ok([attach, detach])
    }

    fn deaths(&self) -> Result<[Step; 2]> {
        let (mut noticed, mut repaired) = (Rounds::default(), Rounds::default());
        for _ in 0..self.rounds {
            let (seen, running) = self.death()?;
            noticed.add(seen);
            repaired.add(running);
        }
        Ok([
            Step::of_vman("QEMU dies, until it is an issue", noticed),
            Step::of_vman("QEMU dies, until it runs again", repaired),
        ])
    }

    /// A VM of its own for every death, since repairs of one are limited.
    fn death(&self) -> Result<(Duration, Duration)> {
        let vm = Vm::new(self.client, self.storage, "tiny")?;
        vm.start()?;
        let pid = vm.pid()?;
        let victim = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
        std::thread::sleep(SETTLED_AFTER);
        let killed = Instant::now();
        kill_process(victim, Signal::KILL).context("sending SIGKILL to QEMU")?;
        until(WITHIN, LOOK_EVERY, "an issue", || {
            // The newest, and no more: what is asked for takes from the daemon's processors, too.
            let issues = self.client.get("/issues?limit=1")?;
            let about = |issue: &Value| issue["subject"]["id"] == vm.id.as_str();
            Ok(issues.as_array().is_some_and(|issues| issues.iter().any(about)))
        })?;
        let noticed = killed.elapsed();
        until(WITHIN, LOOK_EVERY, "the repair", || Ok(vm.is_running()? && vm.pid()? != pid))?;
        let repaired = killed.elapsed();
        vm.delete()?;
        Ok((noticed, repaired))
    }
}

/// Waits until the tiny guest is up, and all is quiet again.
fn up(console: &mut Console) -> Result<()> {
    console.line(TINY_UP)?;
    std::thread::sleep(SETTLED_AFTER);
    Ok(())
}
