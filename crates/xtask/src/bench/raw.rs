//! The peer of the benchmark: a machine that vman started, started again by hand with the same
//! command line, and driven over its control socket with as little as will do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const STARTS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// Lines of the control socket that are passed over while waiting for one.
const LINES_MAX: usize = 100;

/// How to start a machine.
#[derive(Debug)]
pub(super) struct Recipe {
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
        Ok(Self { arguments: words.collect(), folder: folder.to_path_buf() })
    }

    /// Starts it; ready once it answers its first command.
    pub(super) fn start(&self) -> Result<Machine> {
        let (program, arguments) = self.arguments.split_first().context("an empty command line")?;
        drop(std::fs::remove_file(self.folder.join("qmp.sock")));
        drop(std::fs::remove_file(self.console()));
        let process = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        // From here on dropping it ends the process, whatever fails next.
        let mut machine = Machine { process, control: None };
        machine.connect(&self.folder.join("qmp.sock"))?;
        machine.command("qmp_capabilities")?;
        machine.command("query-status")?;
        Ok(machine)
    }

    /// What the guest wrote.
    pub(super) fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }
}

/// A machine that runs; ended when dropped.
#[derive(Debug)]
pub(super) struct Machine {
    process: Child,
    control: Option<BufReader<UnixStream>>,
}

impl Machine {
    fn connect(&mut self, socket: &Path) -> Result<()> {
        let until = Instant::now() + STARTS_WITHIN;
        let stream = loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                break stream;
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("QEMU ended ({status})");
            }
            if Instant::now() > until {
                bail!("no control socket within {STARTS_WITHIN:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        };
        stream.set_read_timeout(Some(STARTS_WITHIN))?;
        self.control = Some(BufReader::new(stream));
        self.line(|line| line.get("QMP").is_some()).map(drop)
    }

    fn command(&mut self, name: &str) -> Result<()> {
        self.say(name)?;
        self.line(|line| line.get("return").is_some()).map(drop)
    }

    fn say(&mut self, name: &str) -> Result<()> {
        let control = self.control.as_mut().context("not connected")?;
        // In one write: QEMU may be gone before the second, since a command ends with its brace.
        let line = format!("{}\n", json!({"execute": name}));
        let told = control.get_mut().write_all(line.as_bytes());
        told.with_context(|| format!("telling QEMU to {name}"))
    }

    fn line(&mut self, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let control = self.control.as_mut().context("not connected")?;
        for _ in 0..LINES_MAX {
            let mut text = String::new();
            control.read_line(&mut text).context("reading the control socket")?;
            let value: Value = serde_json::from_str(&text).context("the control socket's line")?;
            if is(&value) {
                return Ok(value);
            }
        }
        bail!("not among {LINES_MAX} lines of the control socket")
    }

    /// Power button, the guest's own end, quit, gone.
    pub(super) fn power_off(mut self) -> Result<()> {
        self.say("system_powerdown")?;
        self.line(|line| line["event"] == "SHUTDOWN")?;
        self.say("quit")?;
        self.process.wait().context("waiting for QEMU").map(drop)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
