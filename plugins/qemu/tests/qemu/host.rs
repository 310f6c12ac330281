//! What the tests on real QEMU share: the tiny guest, a folder of machines, a backend instance,
//! and the end of every machine a test has started, also when it fails.

use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendConfig, BackendContext, Boot, Control, Event, Machine, MachineSpec, Nic,
    RunState,
};
use vman_plugin_qemu::{Acceleration, Accelerator, CONSOLE_LOG, Qemu};

/// For anything that a healthy host does in well under a second.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) enum Tcg {}
#[derive(Debug)]
pub(crate) enum Kvm {}

impl Acceleration for Tcg {
    const ACCELERATOR: Accelerator = Accelerator::Tcg;
    const VERSION: &'static str = "0";
}

impl Acceleration for Kvm {
    const ACCELERATOR: Accelerator = Accelerator::Kvm;
    const VERSION: &'static str = "0";
}

/// A folder with machines, and the built tiny guest.
pub(crate) struct Host {
    folder: TempDir,
    events: Arc<Mutex<Vec<Event>>>,
    started: Mutex<Vec<(OwnedFd, Option<PathBuf>)>>,
}

impl Host {
    /// Fails where the tests cannot run, and says what to install.
    pub(crate) fn new() -> Self {
        for program in ["qemu-system-x86_64", "qemu-img", "as", "ld"] {
            let works = Command::new(program).arg("--version").output();
            assert!(
                works.is_ok_and(|output| output.status.success()),
                "these tests run real machines and need {program}: apt-get install -y \
                 --no-install-recommends qemu-system-x86 qemu-utils binutils"
            );
        }
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Machines' users must get through to what is theirs.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        std::fs::create_dir(folder.path().join("machines")).unwrap();
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/tiny/build.sh");
        let built = Command::new("sh").arg(build).arg(folder.path().join("tiny")).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Self { folder, events: Arc::default(), started: Mutex::default() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn machines_dir(&self) -> PathBuf {
        self.path("machines")
    }

    /// A new instance on this folder, as after a restart of the daemon.
    pub(crate) fn backend<A: Acceleration>(&self) -> Qemu<A> {
        self.backend_with(json!({}))
    }

    pub(crate) fn backend_with<A: Acceleration>(&self, settings: serde_json::Value) -> Qemu<A> {
        let events = Arc::clone(&self.events);
        let context = BackendContext::new(move |event| events.lock().unwrap().push(event))
            .with_log(|level, line| println!("{level:?}: {line}"));
        let config = BackendConfig { machines_dir: self.machines_dir(), settings };
        Qemu::create(config, context).unwrap()
    }

    /// The tiny guest as firmware, in a directory of its own.
    pub(crate) fn spec(&self, id: Uuid) -> MachineSpec {
        let directory = self.machines_dir().join(id.to_string());
        std::fs::create_dir(&directory).unwrap();
        MachineSpec {
            id,
            directory,
            cpu_count: 1,
            ram_mib: 64,
            boot: Boot::Firmware { firmware: self.path("tiny/tiny.rom") },
            disks: Vec::new(),
            nic: Nic::None,
        }
    }

    /// Launches, and ends the machine when the test ends.
    pub(crate) async fn launch<A: Acceleration>(
        &self,
        backend: &Qemu<A>,
        spec: &MachineSpec,
    ) -> Machine {
        let machine = backend.launch(spec.clone()).await.unwrap();
        count::<A>();
        let pid = Pid::from_raw(pid(&machine).cast_signed()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        self.started.lock().unwrap().push((pidfd, cgroup(&machine)));
        machine
    }

    /// SIGKILL from outside, as by the kernel's out-of-memory killer.
    pub(crate) fn kill_all(&self) {
        for (pidfd, _) in self.started.lock().unwrap().iter() {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }

    pub(crate) async fn console_shows(&self, spec: &MachineSpec, line: &str) {
        let log = spec.directory.join(CONSOLE_LOG);
        let shown = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(line));
        wait_until(&format!("{line} on the console"), || shown().then_some(())).await;
    }

    pub(crate) async fn event(&self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let find = || self.events.lock().unwrap().iter().find(|event| is(event)).cloned();
        wait_until(what, find).await
    }

    pub(crate) async fn ended(&self, id: Uuid) -> String {
        let is = |event: &Event| matches!(event, Event::MachineEnded { id: of, .. } if *of == id);
        match self.event("MachineEnded", is).await {
            Event::MachineEnded { reason, .. } => reason,
            other @ (Event::MachineChanged { .. } | Event::DiskDetached { .. } | Event::Other) => {
                panic!("{other:?}")
            }
        }
    }
}

impl Drop for Host {
    /// Does what no instance is left to do: removes what is left of the machines in the kernel.
    fn drop(&mut self) {
        self.kill_all();
        for (pidfd, cgroup) in self.started.lock().unwrap().iter() {
            let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None);
            for folder in cgroup.iter().flat_map(|cgroup| cgroup.ancestors().take(3)) {
                // The ended process may count for a moment more.
                for _ in 0..50 {
                    if std::fs::remove_dir(folder).is_ok() || !is_machine(folder) {
                        break;
                    }
                    std::thread::sleep(LOOK);
                }
            }
        }
    }
}

/// Whether this is the cgroup of a machine, and there.
fn is_machine(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| Uuid::parse_str(name).is_ok()) && folder.exists()
}

/// The machine's cgroup of version 2, if it has one of its own.
pub(crate) fn cgroup(machine: &Machine) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid(machine))).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let place = Path::new(mount.split(' ').nth(1)?).join(path);
    place.ends_with(machine.id.to_string()).then_some(place)
}

/// Tells whoever runs the tests that a real machine was started, if they asked to be told.
fn count<A: Acceleration>() {
    let Ok(tally) = std::env::var("VMAN_TEST_TALLY") else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(tally).unwrap();
    let current = std::thread::current();
    let name = current.name().unwrap_or("a test");
    let line = format!("qemu-{} {name}\n", A::ACCELERATOR.name());
    std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
}

pub(crate) async fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < LONG, "waited {LONG:?} for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) fn pid(machine: &Machine) -> u32 {
    machine.process.as_ref().unwrap().pid
}

/// What the next surveys tell of a machine, once it is connected; `None` if it is absent.
pub(crate) async fn run_state<A: Acceleration>(backend: &Qemu<A>, id: Uuid) -> Option<RunState> {
    let start = Instant::now();
    loop {
        let survey = backend.survey().await.unwrap();
        let sighting = survey.machines.into_iter().find(|sighting| sighting.machine.id == id)?;
        match sighting.control {
            Control::Connected { run_state } => return Some(run_state),
            Control::Unreachable { reason } => {
                assert!(start.elapsed() < LONG, "unreachable for {LONG:?}: {reason}");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
