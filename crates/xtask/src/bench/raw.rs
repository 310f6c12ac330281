//! The peer of the benchmark: a machine that vman started, started again by hand with the same
//! command line, and driven over its control socket.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::console::Console;
use super::qmp::Control;
use crate::run;

const STARTS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// The names of the one disk that is plugged in: its block node and its device.
const NODE: &str = "bench-node";
const DEVICE: &str = "bench-disk";
/// What vman calls its SCSI controller's bus.
const SCSI_BUS: &str = "scsi0.0";
/// The option that is left out, with its value.
const PID_FILE: &str = "-pidfile";
/// As long as the serial of a disk of vman's.
const SERIAL: &str = "bench000000000000001";

/// How to start a machine.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    arguments: Vec<String>,
    folder: PathBuf,
}

impl Recipe {
    /// Reads how the process was started; the copy runs in `folder`, which must exist.
    pub(super) fn of_process(pid: u64, machine_folder: &Path, folder: &Path) -> Result<Self> {
        let file = format!("/proc/{pid}/cmdline");
        let bytes = std::fs::read(&file).with_context(|| format!("reading {file}"))?;
        let line = String::from_utf8(bytes).context("a command line that is not UTF-8")?;
        let (from, to) = (machine_folder.to_string_lossy(), folder.to_string_lossy());
        let words = line.split_terminator('\0').map(|word| word.replace(&*from, &to));
        Ok(Self::new(words.collect(), folder))
    }

    /// Without a pid file: only a manager needs one, and where it is not seen to as vman does, QEMU
    /// ends later for it.
    pub(super) fn without_pid_file(mut self) -> Self {
        if let Some(at) = self.arguments.iter().position(|word| word == PID_FILE) {
            drop(self.arguments.drain(at..=(at + 1).min(self.arguments.len() - 1)));
        }
        self
    }

    /// The program, and its arguments with paths relative to `folder`: it must name the control
    /// socket `qmp.sock` and the console's log `console.log`.
    pub(crate) fn new(arguments: Vec<String>, folder: &Path) -> Self {
        Self { arguments, folder: folder.to_path_buf() }
    }

    /// Starts it; ready once it answers its first command.
    pub(crate) fn start(&self) -> Result<Machine> {
        let (program, arguments) = self.arguments.split_first().context("an empty command line")?;
        let console = self.folder.join("console.log");
        drop(std::fs::remove_file(self.folder.join("qmp.sock")));
        drop(std::fs::remove_file(&console));
        let process = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        // From here on dropping it ends the process, whatever fails next.
        let mut process = Process(process);
        let pidfd = process.pidfd()?;
        let mut control = process.control(&self.folder.join("qmp.sock"))?;
        control.command("query-status", json!({}))?;
        Ok(Machine { process, pidfd, control, console: Console::new(&console) })
    }
}

/// An empty image in `folder` as vman makes them, to be attached.
pub(crate) fn image(folder: &Path, gib: u64) -> Result<PathBuf> {
    let image = folder.join("disk.qcow2");
    let mut make = Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2"]).arg(&image).arg(format!("{gib}G"));
    run::captured(&mut make)?;
    Ok(image)
}

/// A machine that runs; ended when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    process: Process,
    pidfd: OwnedFd,
    pub(crate) control: Control,
    pub(crate) console: Console,
}

impl Machine {
    /// Power button, the guest's own end, quit, gone.
    pub(super) fn power_off(mut self) -> Result<()> {
        self.control.say("system_powerdown", json!({}))?;
        self.control.event(|line| line["event"] == "SHUTDOWN")?;
        self.control.say("quit", json!({}))?;
        self.process.gone()
    }

    /// SIGKILL, gone.
    pub(super) fn kill(mut self) -> Result<()> {
        pidfd_send_signal(&self.pidfd, Signal::KILL).context("sending SIGKILL to QEMU")?;
        self.process.gone()
    }

    /// Gives a qcow2 image to the SCSI controller; the guest sees it somewhat later.
    pub(crate) fn attach(&mut self, image: &Path) -> Result<()> {
        let node = json!({
            "driver": "qcow2",
            "node-name": NODE,
            "file": {"driver": "file", "filename": image},
            "backing": null,
        });
        self.control.command("blockdev-add", node)?;
        let device = json!({
            "driver": "scsi-hd",
            "id": DEVICE,
            "drive": NODE,
            "bus": SCSI_BUS,
            "serial": SERIAL,
            "device_id": SERIAL,
        });
        self.control.command("device_add", device).map(drop)
    }

    /// Until the image is free.
    pub(crate) fn detach(&mut self) -> Result<()> {
        self.control.command("device_del", json!({"id": DEVICE}))?;
        let gone =
            |event: &Value| event["event"] == "DEVICE_DELETED" && event["data"]["device"] == DEVICE;
        self.control.event(gone)?;
        self.control.command("blockdev-del", json!({"node-name": NODE})).map(drop)
    }
}

/// A child process that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn pidfd(&self) -> Result<OwnedFd> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("QEMU's process id is out of range")?;
        pidfd_open(pid, PidfdFlags::empty()).context("opening QEMU's pidfd")
    }

    fn control(&mut self, socket: &Path) -> Result<Control> {
        let until = Instant::now() + STARTS_WITHIN;
        loop {
            if let Some(control) = Control::connect(socket)? {
                return Ok(control);
            }
            if let Some(status) = self.0.try_wait()? {
                bail!("QEMU ended ({status})");
            }
            if Instant::now() > until {
                bail!("no control socket within {STARTS_WITHIN:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn gone(&mut self) -> Result<()> {
        self.0.wait().context("waiting for QEMU").map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
