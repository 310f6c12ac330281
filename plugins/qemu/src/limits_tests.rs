//! Tests of what a machine's cgroup limits, with a shell in QEMU's place: they need the controllers
//! of cgroup v2, processors, and root. Where these are missing they say so, and `cargo xtask test`
//! runs them in a guest that has all of it.
#![allow(clippy::print_stderr, reason = "a test that did not run must not look like one that did")]

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use tempfile::TempDir;
use uuid::Uuid;
use vman_plugin::{BackendContext, Boot, ExitCause, MachineEnd, MachineSpec, Nic};

use crate::accelerator::Accelerator;
use crate::cgroup::{Cgroup, Cgroups, Limits};
use crate::command_line::{PID_FILE_OPTION, QEMU_LOG, UUID_OPTION, pid_file};
use crate::confine::{Confinement, Order, Whom};
use crate::log;
use crate::machine::Watched;
use crate::owner::{UID_BASE, UIDS};
use crate::registry::Registry;
use crate::settings::Settings;
use crate::spawn::{Identity, Plan, spawn};

const LONG: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(2);
const MIB: u64 = 1 << 20;
const LIMITS: Limits = Limits { memory: 32 * MIB, cpu_count: 1 };
/// More than a machine of one processor may use.
const PROCESSORS: usize = 3;

/// Whose cgroup is whose must not change while another test looks.
static TURN: Mutex<()> = Mutex::new(());

/// A folder of machines, and the place for their cgroups.
struct Place {
    folder: TempDir,
    cgroups: Cgroups,
    registry: Registry,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    /// `None` where limits cannot be set, which is told.
    fn find() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        match Self::find_cgroups(folder.path()) {
            Ok(cgroups) => {
                let registry = Registry::new(folder.path().to_owned(), BackendContext::new(|_| {}));
                Some(Self { folder, cgroups, registry, _turn: turn })
            }
            Err(why) => {
                not_run(&why);
                None
            }
        }
    }

    fn find_cgroups(machines_dir: &Path) -> Result<Cgroups, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root has users to give".to_owned());
        }
        let cgroups = Cgroups::find(machines_dir)?;
        let missing = cgroups.prepare();
        cgroups.sweep();
        let missing = missing?;
        if !missing.is_empty() {
            return Err(missing);
        }
        match std::thread::available_parallelism().map_or(1, usize::from) {
            PROCESSORS.. => Ok(cgroups),
            few => Err(format!("{few} processors are too few to be limited")),
        }
    }

    /// A shell that runs `script` in a machine's place, in a cgroup of the machine's.
    fn start(&self, script: &str) -> Machine {
        let machine = self.order(script);
        let Order { program, arguments, spec, directory } = &machine;
        let identity = Identity { uid: UID_BASE, gid: UID_BASE, groups: Vec::new() };
        let output = log::begin(&directory.join(QEMU_LOG)).unwrap();
        let plan = Plan::new(program, arguments, directory, output).unwrap();
        let plan = plan.run_as(identity, &[]).unwrap();
        assert_eq!(self.cgroups.prepare().unwrap(), "");
        let cgroup = self.cgroups.make(spec.id, LIMITS).unwrap();
        let started = self.registry.start(spec, || spawn(&plan, Some(cgroup.as_fd())));
        self.machine(spec.id, started.unwrap())
    }

    fn machine(&self, id: Uuid, watched: Arc<Watched>) -> Machine {
        let pid = watched.found().identity.pid;
        let cgroup = Cgroup::of_process(pid, self.folder.path(), id);
        Machine { watched, cgroup: cgroup.unwrap() }
    }

    fn order(&self, script: &str) -> Order {
        let id = Uuid::new_v4();
        let directory = self.folder.path().join(id.to_string());
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        let firmware = self.folder.path().join("firmware");
        fs::write(&firmware, "").unwrap();
        let pid_file = pid_file(self.folder.path(), id);
        let (id_text, pid_file) = (id.to_string(), pid_file.to_string_lossy());
        let arguments = ["-c", script, "sh", UUID_OPTION, &id_text, PID_FILE_OPTION, &pid_file];
        let spec = MachineSpec {
            id,
            directory: directory.clone(),
            cpu_count: 1,
            ram_mib: 64,
            boot: Boot::Firmware { firmware },
            disks: Vec::new(),
            nic: Nic::None,
        };
        let arguments = arguments.map(Into::into).to_vec();
        Order { program: "/bin/sh".into(), arguments, spec, directory }
    }

    async fn end_of(&self, machine: &Machine) -> MachineEnd {
        assert!(machine.watched.ended_within(LONG).await);
        let id = machine.watched.found().id;
        let ends = self.registry.survey().await.unwrap().ended;
        ends.into_iter().find(|end| end.machine.id == id).unwrap()
    }

    /// The place of all machines' cgroups goes with the last of them.
    async fn is_empty(&self) {
        let tree = self.cgroups.of(Uuid::nil()).path().parent().unwrap().to_owned();
        wait_until("the cgroups to be gone", || !tree.exists()).await;
    }
}

struct Machine {
    watched: Arc<Watched>,
    cgroup: Cgroup,
}

impl Machine {
    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.cgroup.path().join(file)).unwrap().trim().to_owned()
    }

    /// A number of a file with a name and a number in each line.
    fn count(&self, file: &str, name: &str) -> u64 {
        let text = self.read(file);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap().parse().unwrap()
    }

    /// A line of its process's `/proc/PID/status`, with one space between its words.
    fn status(&self, name: &str) -> String {
        let pid = self.watched.found().identity.pid;
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn kill(&self) {
        self.watched.held().kill().unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cgroup.kill();
        self.cgroup.remove();
    }
}

/// Tells people, and whoever counts the tests if they asked to be told.
fn not_run(why: &str) {
    let current = std::thread::current();
    let test = current.name().unwrap_or("a test");
    let why = why.split(';').next().unwrap_or(why);
    let line = format!("{test}: {why}: `cargo xtask test` runs it in a guest");
    eprintln!("\n*** NOT RUN: {line}\n");
    let Ok(tally) = std::env::var("VMAN_TEST_TALLY") else { return };
    let mut file = fs::OpenOptions::new().create(true).append(true).open(tally).unwrap();
    file.write_all(format!("skipped {line}\n").as_bytes()).unwrap();
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "waited {LONG:?} for {what}");
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test]
async fn a_machine_has_all_limits_and_is_a_user_without_rights() {
    let Some(place) = Place::find() else { return };
    let machines_dir = place.folder.path().to_owned();
    let confinement = Confinement::new(Accelerator::Tcg, &Settings::default(), machines_dir);
    let notes = confinement.notes(Path::new("/bin/sh"));
    assert!(notes[0].starts_with("each machine runs as a user of its own"), "{notes:?}");
    assert!(notes[1].ends_with("with limits on cpu, memory and pids"), "{notes:?}");
    place.is_empty().await;

    let order = place.order("exec sleep 1000");
    let prepared = confinement.prepare(&order, Whom::Own).unwrap();
    assert_eq!(prepared.without_cgroup, None);
    let cgroup = prepared.cgroup.as_ref().map(AsFd::as_fd);
    let watched = place.registry.start(&order.spec, || spawn(&prepared.plan, cgroup)).unwrap();
    let machine = place.machine(order.spec.id, watched);

    // The guest's, QEMU's own, the translated code, and a sixteenth of the guest's.
    let memory = (64 + 512 + 1024 + 4) * MIB;
    assert_eq!(machine.read("memory.max"), memory.to_string());
    assert_eq!(machine.read("memory.oom.group"), "1");
    assert_eq!(machine.read("cpu.max"), "200000 100000");
    assert_eq!(machine.read("pids.max"), "257");
    let pid = machine.watched.found().identity.pid;
    assert_eq!(machine.read("cgroup.procs"), pid.to_string());

    let uids = machine.status("Uid");
    let uid: u32 = uids.split(' ').next().unwrap().parse().unwrap();
    assert!((UID_BASE..UID_BASE + UIDS).contains(&uid), "{uids}");
    for line in ["Uid", "Gid"] {
        assert_eq!(machine.status(line), [uid.to_string().as_str(); 4].join(" "), "{line}");
    }
    assert_eq!(machine.status("Groups"), "");
    assert_eq!(machine.status("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(machine.status(set), "0000000000000000", "{set}");
    }

    machine.kill();
    let end = place.end_of(&machine).await;
    assert_eq!(end.cause, ExitCause::Killed, "it had memory left: {end:?}");
    place.is_empty().await;
}

#[tokio::test]
async fn what_passes_the_memory_limit_is_ended_whole_by_the_kernel_and_told_as_such() {
    let Some(place) = Place::find() else { return };
    // It keeps all that it reads until there is a line's end.
    let machine = place.start("sleep 1000 & exec tail /dev/zero");
    let end = place.end_of(&machine).await;
    assert_eq!(end.cause, ExitCause::OutOfMemory, "{end:?}");
    let line = "the kernel ended QEMU: the machine's memory limit was reached (signal: 9, SIGKILL)";
    assert_eq!(end.detail, line);
    // Also of the process that took none.
    place.is_empty().await;
}

#[tokio::test]
async fn more_processes_than_the_limit_are_not_made() {
    let Some(place) = Place::find() else { return };
    let machine = place.start("while :; do sleep 1000 & done");
    let end = place.end_of(&machine).await;
    assert_eq!(end.cause, ExitCause::Failed, "{end:?}");
    assert!(end.detail.contains("fork"), "{end:?}");
}

#[tokio::test]
async fn no_more_processors_are_used_than_the_limit() {
    let Some(place) = Place::find() else { return };
    let machine = place.start("for x in 1 2 3; do while :; do :; done & done; wait");
    let periods = || machine.count("cpu.stat", "nr_periods");
    wait_until("a period in which it had too little", || {
        machine.count("cpu.stat", "nr_throttled") > 0
    })
    .await;
    let (first, used) = (periods(), machine.count("cpu.stat", "usage_usec"));
    wait_until("ten periods more", || periods() >= first + 10).await;
    let used = machine.count("cpu.stat", "usage_usec") - used;
    // A period more at either end, of which only a part was between the two looks.
    let most = (periods() - first + 2) * 200_000;
    assert!(used <= most, "{used} of {most} us");
    machine.kill();
    assert_eq!(place.end_of(&machine).await.cause, ExitCause::Killed);
}

#[tokio::test]
async fn whoever_is_left_in_the_cgroup_of_a_machine_is_ended_and_the_cgroup_removed() {
    let Some(place) = Place::find() else { return };
    let machine = place.start("sleep 1000 & exit 0");
    assert_eq!(place.end_of(&machine).await.cause, ExitCause::Unknown);
    assert_eq!(machine.count("cgroup.events", "populated"), 1, "it does not end by itself");
    machine.cgroup.kill();
    machine.cgroup.remove();
    assert!(!machine.cgroup.path().exists());
    place.is_empty().await;
}

/// As systemd does it with `Delegate=` and `DelegateSubgroup=`.
#[tokio::test]
async fn where_the_cgroup_above_the_daemon_is_left_to_it_machines_are_beside_the_daemon() {
    let Some(place) = Place::find() else { return };
    let service = Service::enter(&place.cgroups);
    let daemon = service.place.join("vman-daemon");
    let own = Cgroups::find(place.folder.path()).unwrap();
    let told = own.prepare().unwrap();
    assert!(told.starts_with("no limits on cpu, memory, pids"), "{told}");
    assert!(told.contains("DelegateSubgroup"), "{told}");
    assert!(own.of(Uuid::nil()).path().starts_with(&daemon));
    own.sweep();

    rustix::fs::setxattr(&service.place, "user.delegate", b"1", XattrFlags::empty()).unwrap();
    let cgroups = Cgroups::find(place.folder.path()).unwrap();
    let place = Place { cgroups, ..place };
    let machine = place.start("exec sleep 1000");
    assert!(machine.cgroup.path().starts_with(service.place.join("vman")));
    assert_eq!(machine.read("memory.max"), (32 * MIB).to_string());
    machine.kill();
    assert_eq!(place.end_of(&machine).await.cause, ExitCause::Killed);
    place.is_empty().await;
}

/// A cgroup like a service's, with the tests' own process in the one below; left when dropped.
struct Service {
    place: PathBuf,
    back: PathBuf,
}

impl Service {
    /// Beside where the machines' would be.
    fn enter(cgroups: &Cgroups) -> Self {
        let back = cgroups.of(Uuid::nil()).path().ancestors().nth(3).unwrap().to_owned();
        let place = back.join("vman-test.service");
        fs::create_dir_all(place.join("vman-daemon")).unwrap();
        let service = Self { place, back };
        service.take(&service.place.join("vman-daemon"));
        service
    }

    fn take(&self, into: &Path) {
        fs::write(into.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.take(&self.back);
        let _ = fs::remove_dir(self.place.join("vman-daemon"));
        let _ = fs::remove_dir(&self.place);
    }
}
