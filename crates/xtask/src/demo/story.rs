//! The demo's story, told through the REST interface: a real machine lives, dies, is repaired, is
//! stopped and deleted. What it says of the host it has looked up on the host.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::client::{Client, text};
use super::console::Console;
use super::daemon::Daemon;
use super::leftovers;
use super::report::{self, Report};

const LOOK_EVERY: Duration = Duration::from_millis(5);
const BOOT_WITHIN: Duration = Duration::from_secs(120);
const REPAIR_WITHIN: Duration = Duration::from_secs(120);
const BUTTON_WITHIN: Duration = Duration::from_secs(10);
const UP: &str = "GUEST-UP";

/// Tells the whole story on a daemon that was just started.
pub(super) fn tell(daemon: &mut Daemon, guests: &Path, report: &mut Report) -> Result<()> {
    let client = daemon.client().context("waiting for the daemon")?;
    report.step(&format!("`vman serve` answers (process {})", daemon.pid()?));
    lend_boot_files(&daemon.storage(), guests)?;
    let story = Story::make(client, daemon, report).context("making template, disk and machine")?;
    let mut console = story.console(daemon);
    let pid = story.boot(&mut console, report).context("booting the guest")?;
    story.crash_and_repair(pid, &mut console, report).context("crash and repair")?;
    story.power_off(&mut console, report).context("stopping the machine")?;
    story.delete(report).context("deleting everything")?;
    story.nothing_left(daemon, report).context("looking for leftovers")?;
    let status = daemon.stop()?;
    ensure!(status.success(), "the daemon ended with {status}");
    leftovers::no_process(&[story.vm, story.folder], &[])?;
    report.step("SIGTERM: the daemon ended, and no process is left");
    Ok(())
}

/// Puts the guest's kernel and user space where templates can name them.
fn lend_boot_files(storage: &Path, guests: &Path) -> Result<()> {
    let boot = storage.join("boot");
    fs::create_dir_all(&boot).with_context(|| format!("creating {}", boot.display()))?;
    for name in ["vmlinuz", "initrd.gz"] {
        let from = guests.join(name);
        fs::copy(&from, boot.join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    Ok(())
}

/// The objects of the story, by their ids.
struct Story {
    client: Client,
    vm: String,
    disk: String,
    /// The daemon's folder, which its processes name in their command lines.
    folder: String,
}

impl Story {
    fn make(client: Client, daemon: &Daemon, report: &mut Report) -> Result<Self> {
        let cmdline = "console=ttyS0 quiet panic=-1";
        let boot = json!({"kernel": "vmlinuz", "initrd": "initrd.gz", "cmdline": cmdline});
        let template = json!({"name": "demo", "cpu_count": 1, "ram_amount": 256, "boot": boot});
        let answer = client.post("/templates", &template)?;
        ensure!(answer.status == 201, "POST /templates answered {}", answer.status);
        report.step("template demo: 1 CPU, 256 MiB, Debian's kernel");
        let disk = client.post("/disks", &json!({"size": 1}))?.body;
        let disk = text(&disk, "id")?.to_owned();
        report.step(&format!("disk {disk}: 1 GiB"));
        let vm = client.post("/vms", &json!({"vm_template": "demo", "name": "demo"}))?.body;
        let vm = text(&vm, "id")?.to_owned();
        report.step(&format!("machine {vm}"));
        let folder = daemon.storage().to_string_lossy().into_owned();
        let story = Self { client, vm, disk, folder };
        let path = format!("/disks/{}/attach", story.disk);
        story.operate(&path, &json!({"vm_id": story.vm}))?;
        report.step("disk attached");
        Ok(story)
    }

    fn console(&self, daemon: &Daemon) -> Console {
        Console::new(daemon.storage().join("machines").join(&self.vm).join("console.log"))
    }

    fn boot(&self, console: &mut Console, report: &mut Report) -> Result<i32> {
        self.operate(&self.action("start"), &json!({}))?;
        let pid = self.running()?;
        report.step(&format!("QEMU runs (process {pid})"));
        let disk = console.line("GUEST-DISK", BOOT_WITHIN)?;
        let up = console.line(UP, BOOT_WITHIN)?;
        report.step(&format!("the guest on its console: {disk} | {up}"));
        Ok(pid)
    }

    fn crash_and_repair(&self, pid: i32, console: &mut Console, report: &mut Report) -> Result<()> {
        let victim = Pid::from_raw(pid).context("the machine has the process id 0")?;
        let killed = Timestamp::now();
        kill_process(victim, Signal::KILL).context("sending SIGKILL to QEMU")?;
        report.step(&format!("SIGKILL to process {pid}"));
        let issue = self.issue(|_| true)?;
        report.step(&format!("the observer: {}", text(&issue, "kind")?));
        let issue = self.issue(|issue| issue["state"] == "resolved")?;
        let now = self.running()?;
        ensure!(now != pid, "the machine still claims process {pid}");
        report.step(&format!("repaired: QEMU runs (process {now})"));
        let up = console.line(UP, BOOT_WITHIN)?;
        report.step(&format!("the guest on its console: {up}"));
        report::story(&self.client, &issue, killed)
    }

    fn power_off(&self, console: &mut Console, report: &mut Report) -> Result<()> {
        let operation = self.operate(&self.action("stop"), &json!({}))?;
        let state = self.machine()?;
        ensure!(state["state"] == "stopped", "the machine is {}", state["state"]);
        let button = console.line("GUEST-BUTTON", BUTTON_WITHIN)?;
        report.step(&format!("stopped by the power button, the guest: {button}"));
        report::steps(&operation)
    }

    fn delete(&self, report: &mut Report) -> Result<()> {
        for path in [format!("/vms/{}", self.vm), format!("/disks/{}", self.disk)] {
            self.gone(&path)?;
        }
        self.gone("/templates/demo")?;
        report.step("machine, disk and template deleted");
        Ok(())
    }

    fn nothing_left(&self, daemon: &Daemon, report: &mut Report) -> Result<()> {
        let marks = [self.vm.clone(), self.folder.clone()];
        leftovers::no_process(&marks, &[daemon.pid()?])?;
        let kept = leftovers::no_file(&daemon.storage())?;
        report.step("no process, no socket, no file is left but the daemon's own:");
        Report::detail(&kept.join(", "));
        Ok(())
    }

    /// Starts an operation, waits for it, and gives it.
    fn operate(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.client.post(path, body)?;
        let location = answer.location.with_context(|| format!("{path} names no operation"))?;
        let operation = self.client.get(&format!("{location}?wait=60s"))?;
        if operation["state"] != "succeeded" {
            bail!("{path}: the operation is {operation}");
        }
        Ok(operation)
    }

    fn gone(&self, path: &str) -> Result<()> {
        let status = self.client.delete(path)?.status;
        ensure!(status == 204, "DELETE {path} answered {status} instead of 204");
        Ok(())
    }

    fn machine(&self) -> Result<Value> {
        self.client.get(&format!("/vms/{}", self.vm))
    }

    /// The process of the machine, which has to be running.
    fn running(&self) -> Result<i32> {
        let vm = self.machine()?;
        ensure!(vm["state"] == "running", "the machine is {vm}");
        let pid = vm["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.with_context(|| format!("no process in {vm}"))?;
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        let command = command.with_context(|| format!("process {pid} is not there"))?;
        ensure!(command.contains(&self.vm), "process {pid} is not of this machine: {command}");
        Ok(pid)
    }

    /// Waits for the issue that the crash caused to be as wanted.
    fn issue(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + REPAIR_WITHIN;
        loop {
            let issues = self.client.get("/issues")?;
            let issues = issues.as_array().context("GET /issues is no list")?;
            let ours = |issue: &&Value| {
                issue["kind"] == "vm.process-missing" && issue["subject"]["id"] == *self.vm
            };
            let ours = issues.iter().find(ours);
            if let Some(issue) = ours.filter(|issue| wanted(issue)) {
                return self.client.get(&format!("/issues/{}", text(issue, "id")?));
            }
            if Instant::now() > until {
                bail!("no such issue within {REPAIR_WITHIN:?}; the last seen was {ours:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn action(&self, verb: &str) -> String {
        format!("/vms/{}/actions/{verb}", self.vm)
    }
}
