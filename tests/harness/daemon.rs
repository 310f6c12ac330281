//! One daemon of one test: `vman serve` in a fresh folder, its address, its sudden and its orderly
//! end, and what it leaves. A daemon is ended with the test, and with it every machine of its
//! folder.
#![allow(clippy::print_stderr, reason = "a test that fails shows the end of its daemon's log")]

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::cgroups::{self, Cgroup};
use crate::leftovers::leftovers;
use crate::paths;
use crate::points::Points;
use crate::process::{Process, end_all, processes};
use crate::rest::Client;
use crate::setup::Setup;
use crate::wait::{LONG, SOON, wait_for};

/// Lines of its log that a failed test shows.
const LOG_TAIL: usize = 60;
const LOG: &str = "daemon.log";
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Where the test build writes down the points that it passes.
const POINTS: &str = "points";
/// A file system that is no disk, shm_overview(7).
const MEMORY: &str = "/dev/shm";
/// Environment that would override the configuration.
const OVERRIDES: &[&str] = &[
    "VMAN_STORAGE_PATH",
    "VMAN_OPERATOR_DRY_RUN",
    "VMAN_LOG_LEVEL",
    "VMAN_LOG_FILE",
    "VMAN_LOG_DIR",
    "VMAN_VLAN_ID",
    "VMAN_BRIDGE_NAME",
    "VMAN_SUBNET",
    "VMAN_GATEWAY",
    "VMAN_DNS",
];

/// A daemon, running or ended.
#[derive(Debug)]
pub struct Daemon {
    folder: TempDir,
    child: Child,
    client: Client,
    /// Its machines are simulated: no process is one of them.
    simulates: bool,
}

impl Daemon {
    pub(crate) fn start(setup: &Setup) -> Self {
        let folder = new_folder(setup.simulates());
        fs::write(folder.path().join("vman.toml"), setup.toml()).expect("the folder is ours");
        setup.lend_boot_files(&folder.path().join("storage"));
        Self::start_in(folder, None, setup.simulates())
    }

    /// Starts one on a copy of all that this one, which has ended, keeps. Simulated machines are
    /// copied too.
    pub fn start_copy(&self, points: Option<&Points>) -> Self {
        let folder = new_folder(self.simulates);
        copy(self.folder.path(), folder.path());
        Self::start_in(folder, points, self.simulates)
    }

    fn start_in(folder: TempDir, points: Option<&Points>, simulates: bool) -> Self {
        let child = spawn(folder.path(), points);
        let mut daemon = Self { folder, child, client: Client::new("", None), simulates };
        daemon.connect();
        daemon
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The folder in which the daemon keeps everything.
    pub fn storage(&self) -> PathBuf {
        self.folder.path().join("storage")
    }

    /// The folder of a machine.
    pub fn machine_folder(&self, vm: &str) -> PathBuf {
        self.machines_folder().join(vm)
    }

    /// SIGKILL, waited for.
    pub fn kill9(&mut self) {
        self.child.kill().expect("our child may be killed");
        self.child.wait().expect("our child is waited for");
    }

    /// SIGTERM, waited for.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        let pid = Pid::from_raw(pid).expect("process ids begin at 1");
        kill_process(pid, Signal::TERM).expect("our child may be signalled");
        let child = &mut self.child;
        wait_for("SIGTERM ends the daemon", SOON, || child.try_wait().expect("it is our child"))
    }

    /// Waits for its end, which somebody else has caused.
    pub fn ends(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the daemon ends", SOON, || child.try_wait().expect("it is our child"))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }

    /// Starts it again after its end, on the same folder.
    pub fn restart(&mut self) {
        self.restart_with(None);
    }

    /// As [`restart`](Self::restart); the test build, if it is told of points.
    pub fn restart_with(&mut self, points: Option<&Points>) {
        // Left by a killed one; the port may be another daemon's by now.
        drop(fs::remove_file(self.storage().join("run/address")));
        self.child = spawn(self.folder.path(), points);
        self.connect();
    }

    /// As [`restart_with`](Self::restart_with), of one that may end before it answers.
    pub fn try_restart_with(&mut self, points: &Points) {
        drop(fs::remove_file(self.storage().join("run/address")));
        self.child = spawn(self.folder.path(), Some(points));
        self.try_connect();
    }

    /// As [`restart`](Self::restart), with another configuration.
    pub fn restart_as(&mut self, setup: &Setup) {
        self.configure(setup);
        self.simulates &= setup.simulates();
        self.restart();
    }

    /// Tries to start a second daemon on the same folder; how it ended, and what it said.
    pub fn second(&self) -> (ExitStatus, String) {
        let mut command = command(self.folder.path(), None);
        let output = command.stdin(Stdio::null()).output().expect("the program can be started");
        let said = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&said).into_owned())
    }

    /// Tries to start it after its end, with another configuration; how that ended, and what it
    /// said.
    pub fn refused_as(&self, setup: &Setup) -> (ExitStatus, String) {
        self.configure(setup);
        self.second()
    }

    /// Writes the configuration for the next start.
    pub fn configure(&self, setup: &Setup) {
        let file = self.folder.path().join("vman.toml");
        fs::write(file, setup.toml()).expect("the folder is ours");
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default()
    }

    /// The end of what it has logged.
    pub fn log_tail(&self) -> String {
        tail(&self.folder.path().join(LOG))
    }

    /// The points that its test build has passed, in their order.
    pub fn points(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(POINTS)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Every living process of its machines.
    pub fn machines(&self) -> Vec<Process> {
        let mut all = processes(&self.mark());
        all.retain(|process| u32::try_from(process.pid).ok() != Some(self.child.id()));
        all
    }

    /// The ids of the VMs, also of those that it has no more, which have a cgroup.
    pub fn cgroups(&self) -> Vec<String> {
        for machine in self.machines() {
            let is_known = cgroups::is_known(machine.pid, &self.machines_folder());
            assert!(is_known, "{machine:?} is in a cgroup of a name that is not known here");
        }
        self.cgroups_left().iter().map(Cgroup::vm).collect()
    }

    fn cgroups_left(&self) -> Vec<Cgroup> {
        if self.simulates { Vec::new() } else { cgroups::cgroups(&self.machines_folder()) }
    }

    fn machines_folder(&self) -> PathBuf {
        self.storage().join("machines")
    }

    /// Neither records nor processes, cgroups, sockets or files of machines and disks are there.
    pub fn assert_nothing_left(&self) {
        for list in ["/vms", "/disks", "/templates"] {
            assert_eq!(self.get(list).expect(200).text, "[]", "{list}");
        }
        wait_for("every machine's process is gone", SOON, || {
            self.machines().is_empty().then_some(())
        });
        let until = Instant::now() + SOON;
        while !self.cgroups().is_empty() && Instant::now() < until {
            thread::sleep(LOOK_EVERY);
        }
        assert_eq!(self.cgroups(), [""; 0], "cgroups of these machines are left");
        assert_eq!(leftovers(&self.storage()), [""; 0], "left in the storage");
    }

    fn mark(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn connect(&mut self) {
        if let Some(status) = self.try_connect() {
            panic!("`vman serve` ended ({status}):\n{}", self.log_tail());
        }
    }

    /// How it ended, if it did before it answered.
    fn try_connect(&mut self) -> Option<ExitStatus> {
        let storage = self.storage();
        let child = &mut self.child;
        let client = wait_for("`vman serve` answers", LONG, || {
            if let Some(status) = child.try_wait().expect("it is our child") {
                return Some(Err(status));
            }
            let address = fs::read_to_string(storage.join("run/address")).ok()?;
            let token = fs::read_to_string(storage.join("token")).ok();
            let client = Client::new(address.trim(), token.as_deref().map(str::trim));
            let healthy = client.try_send("GET", "/health", &[], &[]);
            healthy.is_ok_and(|answer| answer.status == 200).then_some(Ok(client))
        });
        match client {
            Ok(client) => {
                self.client = client;
                None
            }
            Err(status) => Some(status),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.folder.path().join(LOG);
            eprintln!("the end of the daemon's log:\n{}", tail(&log));
        }
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if !self.simulates {
            end_all(&self.mark());
            self.cgroups_left().iter().for_each(Cgroup::remove_if_empty);
        }
    }
}

/// In memory, where the host has such a place and no machine needs more: what a killed daemon has
/// written is there as on a disk, and no test waits for a disk that others keep busy.
fn new_folder(simulates: bool) -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("vman-test-");
    let in_memory = simulates.then(|| builder.tempdir_in(MEMORY).ok()).flatten();
    in_memory.unwrap_or_else(|| builder.tempdir().expect("a temporary folder can be made"))
}

/// All but the log. What names the folder then names the other one.
fn copy(from: &Path, to: &Path) {
    for entry in WalkDir::new(from).min_depth(1) {
        let entry = entry.expect("the folder of an ended daemon stays as it is");
        let name = entry.path().strip_prefix(from).expect("it is below");
        if entry.file_type().is_dir() {
            fs::create_dir(to.join(name)).expect("the folder is ours");
        } else if name.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(entry.path()).expect("it is our daemon's");
            let (from, to_text) = (from.display().to_string(), to.display().to_string());
            fs::write(to.join(name), text.replace(&from, &to_text)).expect("the folder is ours");
        } else if entry.file_type().is_file() && name != Path::new(LOG) {
            fs::copy(entry.path(), to.join(name)).expect("both folders are ours");
        }
    }
}

fn spawn(folder: &Path, points: Option<&Points>) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(folder.join(LOG));
    let log = log.expect("the folder is ours");
    let mut command = command(folder, points);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor is free")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// `vman serve` with the folder's configuration and nothing else.
fn command(folder: &Path, points: Option<&Points>) -> Command {
    let mut command = match points {
        Some(points) => {
            let mut command = Command::new(paths::program_with_points());
            points.tell(&mut command, &folder.join(POINTS));
            command
        }
        None => Command::new(paths::program()),
    };
    command.arg("serve").arg("--config").arg(folder.join("vman.toml"));
    for name in OVERRIDES {
        command.env_remove(name);
    }
    command
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}
