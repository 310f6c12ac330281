//! A cgroup (v2) for each machine, with limits where the host has the controllers: made before the
//! machine, which begins inside, and removed after it. Ends no process but what is left in the
//! cgroup of a machine that was told to end.
//!
//! They are below the daemon's own cgroup: `vman/<machines' folder, hashed>/<machine id>`; where
//! the cgroup above that is left to the daemon (systemd's `Delegate=` with `DelegateSubgroup=`),
//! beside it. Only a cgroup without processes of its own can hand controllers down, so limits need
//! the latter; the daemon moves itself nowhere, since then systemd could not start it anew while
//! machines live. The rules are those of the kernel's Documentation/admin-guide/cgroup-v2.rst and
//! of systemd's CGROUP_DELEGATION.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use procfs::ProcError;
use procfs::process::Process;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open, openat};
use rustix::io::Errno;
use uuid::Uuid;

const ROOT: &str = "vman";
/// What limits a machine needs.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// systemd sets these on a cgroup that it leaves to its service: systemd.resource-control(5).
const DELEGATED: [&str; 2] = ["user.delegate", "trusted.delegate"];

/// The period of a processor limit, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// Threads beside the vCPUs': QEMU's main loop, and the workers that do its file I/O, 64 at most
/// for each I/O loop.
const THREADS_BESIDE: u64 = 256;
/// Attempts to make a cgroup while another machine's end removes the emptied ones above it.
const MAKE_ATTEMPTS: usize = 4;
/// A process that has ended may count for a moment more, and so keep its cgroup from going; one
/// that was killed takes a moment to end. Each pause is twice the one before: 0.2 s in all.
const REMOVE_ATTEMPTS: u32 = 11;
const REMOVE_PAUSE: Duration = Duration::from_micros(100);

/// What a machine may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The guest's and the emulator's, in bytes.
    pub(crate) memory: u64,
    pub(crate) cpu_count: u32,
}

/// The place for the cgroups of one folder of machines.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    /// The daemon's own cgroup, or the one above that is left to it.
    base: PathBuf,
    tree: PathBuf,
}

impl Cgroups {
    /// The error says why there can be none.
    pub(crate) fn find(machines_dir: &Path) -> Result<Self, String> {
        let own = own_cgroup()?;
        let base = own.parent().filter(|above| is_delegated(above)).unwrap_or(&own).to_owned();
        Ok(Self::below(base, machines_dir))
    }

    fn below(base: PathBuf, machines_dir: &Path) -> Self {
        let tree = base.join(ROOT).join(name(machines_dir));
        Self { base, tree }
    }

    /// What [`prepare`](Self::prepare) would say, as far as looking tells. Changes nothing.
    pub(crate) fn look(&self) -> Result<String, String> {
        // For the user that acts, and also of a file system that is read-only: faccessat2(2).
        accessat(CWD, &self.base, Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|error| self.not_made(&error.into()))?;
        Ok(self.told_missing(&self.not_offered()))
    }

    /// Makes the place ready. The error says why no cgroup can be made; the text is of the limits
    /// that cannot be set, and why; empty if all can.
    pub(crate) fn prepare(&self) -> Result<String, String> {
        fs::create_dir_all(&self.tree).map_err(|error| self.not_made(&error))?;
        Ok(self.told_missing(&self.hand_down()))
    }

    fn not_made(&self, error: &io::Error) -> String {
        format!("no cgroup can be made below {}: {error}", self.base.display())
    }

    fn told_missing(&self, missing: &[&str]) -> String {
        if missing.is_empty() {
            return String::new();
        }
        format!("no limits on {}: {}", missing.join(", "), self.why_missing())
    }

    /// The controllers that there are none of to hand down.
    fn not_offered(&self) -> Vec<&'static str> {
        let mut missing = CONTROLLERS.to_vec();
        // Beside processes some could be handed down, and would make cgroups below invalid.
        if !holds_processes(&self.base) {
            missing.retain(|controller| !has_controller(&self.base, controller));
        }
        missing
    }

    /// Hands the controllers down to the machines' cgroups; returns those that cannot be.
    fn hand_down(&self) -> Vec<&'static str> {
        let mut missing = self.not_offered();
        for folder in [Some(self.base.as_path()), self.tree.parent(), Some(&self.tree)] {
            let control = folder.unwrap_or(&self.base).join("cgroup.subtree_control");
            for controller in CONTROLLERS {
                let word = format!("+{controller}");
                if !missing.contains(&controller) && fs::write(&control, word).is_err() {
                    missing.push(controller);
                }
            }
        }
        missing
    }

    fn why_missing(&self) -> String {
        let base = self.base.display();
        if holds_processes(&self.base) {
            return format!(
                "the cgroup {base} has processes of its own, the daemon's among them; run vman as \
                 a service with Delegate=yes and DelegateSubgroup=vman-daemon (systemd 254)"
            );
        }
        let there = fs::read_to_string(self.base.join("cgroup.controllers")).unwrap_or_default();
        let there = if there.trim().is_empty() { "none" } else { there.trim() };
        format!(
            "the cgroup {base} does not have these controllers of version 2 (it has: {there}); \
             boot with systemd.unified_cgroup_hierarchy=1, and run vman as a service with \
             Delegate=yes"
        )
    }

    /// A new cgroup for a machine that does not live, open to begin in. One that an earlier run of
    /// it has left goes first, with its counts; if that does not go, whatever is in there is about
    /// to be ended, and this fails. Blocks as [`Cgroup::remove`] does.
    pub(crate) fn make(&self, id: Uuid, limits: Limits) -> io::Result<OwnedFd> {
        let own = self.tree.join(id.to_string());
        if let Err(error) = remove_idle(&own)
            && is_busy(&error)
        {
            let why = format!("{} still has processes of its last run", own.display());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        let mut attempt = 0;
        while let Err(error) = fs::create_dir_all(&own) {
            attempt += 1;
            if error.kind() != io::ErrorKind::NotFound || attempt == MAKE_ATTEMPTS {
                return Err(error);
            }
        }
        for (file, value) in limits.files() {
            let path = own.join(file);
            // Not there: the controller was not handed down, which was told.
            if path.exists() {
                fs::write(path, value)?;
            }
        }
        Ok(open_folder(&own)?)
    }

    /// The cgroup of the machine, whether or not it is there.
    pub(crate) fn of(&self, id: Uuid) -> Cgroup {
        Cgroup::at(self.tree.join(id.to_string()))
    }

    /// Removes the cgroups that no process is in.
    pub(crate) fn sweep(&self) {
        for entry in fs::read_dir(&self.tree).into_iter().flatten().flatten() {
            let is_machines = Uuid::parse_str(&entry.file_name().to_string_lossy()).is_ok();
            // The daemon before may have ended in the moment for which what has ended counts.
            if is_machines && !is_populated(&entry.path()) {
                let _ = remove_idle(&entry.path());
            }
        }
        remove_empty(&self.tree);
    }
}

impl Limits {
    fn files(self) -> [(&'static str, String); 4] {
        // One more than the vCPUs have: QEMU's own threads run beside them.
        let quota = (u64::from(self.cpu_count) + 1) * CPU_PERIOD_US;
        let threads = u64::from(self.cpu_count) + THREADS_BESIDE;
        [
            ("cpu.max", format!("{quota} {CPU_PERIOD_US}")),
            ("memory.max", self.memory.to_string()),
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", threads.to_string()),
        ]
    }
}

/// One machine's, of one run: what is made anew by its name is another.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// `None` if it was not there.
    folder: Option<Arc<OwnedFd>>,
}

impl Cgroup {
    fn at(path: PathBuf) -> Self {
        let folder = open_folder(&path).ok().map(Arc::new);
        Self { path, folder }
    }

    /// The cgroup that a living process of the machine `id` is in, if it was made for it: also
    /// where an earlier daemon had another cgroup of its own.
    pub(crate) fn of_process(pid: u32, machines_dir: &Path, id: Uuid) -> Option<Self> {
        let process = Process::new(i32::try_from(pid).ok()?).ok()?;
        let path = cgroup_of(&process).ok()?;
        let ours = Path::new(ROOT).join(name(machines_dir)).join(id.to_string());
        path.ends_with(ours).then(|| Self::at(path))
    }

    #[cfg(test)]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Processes of it that the kernel ended for want of memory; 0 where that is not counted.
    pub(crate) fn oom_kills(&self) -> u64 {
        let mut events = String::new();
        if let Some(mut file) = self.file("memory.events", OFlags::RDONLY) {
            let _ = file.read_to_string(&mut events);
        }
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// Ends whatever is left in there. For a machine that was told to end, and whose process has.
    pub(crate) fn kill(&self) {
        // Gone, or a kernel before 5.14: then the removal shows what is left.
        if let Some(mut file) = self.file("cgroup.kill", OFlags::WRONLY) {
            let _ = file.write_all(b"1");
        }
    }

    fn file(&self, name: &str, how: OFlags) -> Option<File> {
        let flags = how | OFlags::CLOEXEC;
        let opened = openat(self.folder.as_deref()?, name, flags, Mode::empty());
        opened.ok().map(File::from)
    }

    /// Removes it, with the emptied ones above; gone already is a success. Blocks for a moment
    /// while a process that has ended, or was told to, still counts; one that holds a process that
    /// goes on living stays.
    pub(crate) fn remove(&self) {
        let _ = remove_idle(&self.path);
        if let Some(tree) = self.path.parent() {
            remove_empty(tree);
        }
    }
}

/// A process lives in there.
fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
}

/// Waits a moment for what has ended.
fn remove_idle(cgroup: &Path) -> io::Result<()> {
    for attempt in 0..REMOVE_ATTEMPTS {
        match fs::remove_dir(cgroup) {
            Err(error) if is_busy(&error) => {
                std::thread::sleep(REMOVE_PAUSE * 2_u32.pow(attempt));
            }
            done => return done,
        }
    }
    fs::remove_dir(cgroup)
}

/// Processes are in there, or cgroups.
fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The folder of machines' cgroups and the one above it, if nothing is in them.
fn remove_empty(tree: &Path) {
    let _ = fs::remove_dir(tree).and_then(|()| tree.parent().map_or(Ok(()), fs::remove_dir));
}

fn own_cgroup() -> Result<PathBuf, String> {
    let own = Process::myself().map_err(|error| format!("/proc/self: {error}"))?;
    cgroup_of(&own)
}

/// Where a process's cgroup is, in the file system.
fn cgroup_of(process: &Process) -> Result<PathBuf, String> {
    let unreadable = |error: ProcError| format!("its cgroup cannot be read: {error}");
    let own = Process::myself().and_then(|own| own.mountinfo()).map_err(unreadable)?;
    let mount = own
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")
        .ok_or("no cgroup v2 is mounted: boot with systemd.unified_cgroup_hierarchy=1")?;
    let cgroups = process.cgroups().map_err(unreadable)?;
    let unified = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0);
    let path = unified.ok_or("it is in no cgroup of v2")?.pathname;
    // The mount may show a part of the tree only, as in a container.
    let below = Path::new(&path)
        .strip_prefix(&mount.root)
        .map_err(|_| format!("its cgroup {path} is outside of {}", mount.mount_point.display()))?;
    // Without a slash after it where there is nothing below.
    Ok(mount.mount_point.join(below).components().collect())
}

/// The root of all is free to have some, and has no type.
fn holds_processes(folder: &Path) -> bool {
    let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    !processes.is_empty() && folder.join("cgroup.type").exists()
}

fn has_controller(folder: &Path, controller: &str) -> bool {
    let there = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    there.split_whitespace().any(|word| word == controller)
}

fn is_delegated(folder: &Path) -> bool {
    DELEGATED.iter().any(|name| {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(folder, *name, &mut value[..]);
        length.is_ok_and(|length| value.get(..length) == Some(b"1"))
    })
}

/// A short name that stays the same for a folder: FNV-1a.
fn name(machines_dir: &Path) -> String {
    let bytes = machines_dir.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory: 1 << 30, cpu_count: 2 };

    #[test]
    fn limits_are_those_of_the_machine_and_its_emulator() {
        let files = LIMITS.files();
        assert_eq!(files[0], ("cpu.max", "300000 100000".to_owned()));
        assert_eq!(files[1], ("memory.max", "1073741824".to_owned()));
        assert_eq!(files[3], ("pids.max", "258".to_owned()));
    }

    #[test]
    fn a_folder_always_has_the_same_name_and_another_folder_another() {
        assert_eq!(name(Path::new("")), "cbf29ce484222325");
        assert_eq!(name(Path::new("/a")), name(Path::new("/a")));
        assert_ne!(name(Path::new("/a")), name(Path::new("/b")));
    }

    /// In a folder that is no cgroup: what is written where the controllers are.
    #[test]
    fn controllers_are_handed_down_and_limits_set_where_the_host_has_them() {
        let base = tempfile::tempdir().unwrap();
        let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
        write(&base.path().join("cgroup.controllers"), "cpuset cpu io memory pids");
        let cgroups = Cgroups::below(base.path().to_owned(), Path::new("/m"));
        assert_eq!(cgroups.prepare().unwrap(), "");
        for folder in [base.path(), &base.path().join(ROOT), &cgroups.tree] {
            let control = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap();
            assert_eq!(control, "+pids", "the last of those written");
        }
        let id = Uuid::from_u128(1);
        let own = cgroups.tree.join(id.to_string());
        fs::create_dir(&own).unwrap();
        write(&own.join("memory.max"), "max");
        write(&own.join("memory.events"), "low 0\noom 4\noom_kill 3\n");
        cgroups.make(id, LIMITS).unwrap();
        assert_eq!(fs::read_to_string(own.join("memory.max")).unwrap(), "1073741824");
        assert!(!own.join("pids.max").exists());
        assert_eq!(cgroups.of(id).oom_kills(), 3);
    }

    /// In folders that are no cgroups, where the file is as any other.
    #[test]
    fn what_ends_the_last_run_does_not_end_the_next_in_a_cgroup_of_the_same_name() {
        let base = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::below(base.path().to_owned(), Path::new("/m"));
        let id = Uuid::from_u128(1);
        cgroups.make(id, LIMITS).unwrap();
        let last = cgroups.of(id);
        fs::rename(&last.path, base.path().join("removed")).unwrap();
        cgroups.make(id, LIMITS).unwrap();
        for folder in [&base.path().join("removed"), &last.path] {
            fs::write(folder.join("cgroup.kill"), "").unwrap();
        }
        last.kill();
        assert_eq!(fs::read_to_string(last.path.join("cgroup.kill")).unwrap(), "");
        assert_eq!(fs::read_to_string(base.path().join("removed/cgroup.kill")).unwrap(), "1");
        cgroups.of(id).kill();
        assert_eq!(fs::read_to_string(last.path.join("cgroup.kill")).unwrap(), "1");
    }

    #[test]
    fn looking_tells_what_preparing_would_and_makes_nothing() {
        let base = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::below(base.path().to_owned(), Path::new("/m"));
        let controllers = base.path().join("cgroup.controllers");
        for (offered, told) in [("cpu memory pids", ""), ("cpu", "no limits on memory, pids: ")] {
            fs::write(&controllers, offered).unwrap();
            let looked = cgroups.look().unwrap();
            assert!(looked.starts_with(told), "{looked}");
            assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1, "the test's own file");
            assert_eq!(cgroups.prepare().unwrap(), looked);
            fs::remove_dir_all(base.path().join(ROOT)).unwrap();
            fs::remove_file(base.path().join("cgroup.subtree_control")).unwrap();
        }
        let gone = Cgroups::below(base.path().join("gone"), Path::new("/m"));
        assert!(gone.look().unwrap_err().starts_with("no cgroup can be made below "));
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("cgroup.controllers"), "hugetlb cpu").unwrap();
        let cgroups = Cgroups::below(base.path().to_owned(), Path::new("/m"));
        let told = cgroups.prepare().unwrap();
        assert!(told.starts_with("no limits on memory, pids: "), "{told}");
        assert!(told.contains("it has: hugetlb cpu"), "{told}");
    }

    #[test]
    fn beside_processes_nothing_is_handed_down() {
        let base = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(base.path().join(name), text).unwrap();
        write("cgroup.controllers", "cpu memory pids");
        write("cgroup.procs", "1\n");
        let cgroups = Cgroups::below(base.path().to_owned(), Path::new("/m"));
        assert_eq!(cgroups.prepare().unwrap(), "", "the root of all has no type");
        fs::remove_file(base.path().join("cgroup.subtree_control")).unwrap();
        write("cgroup.type", "domain");
        let told = cgroups.prepare().unwrap();
        assert!(told.contains("cpu, memory, pids") && told.contains("DelegateSubgroup"), "{told}");
        assert!(!base.path().join("cgroup.subtree_control").exists());
    }

    #[test]
    fn empty_cgroups_are_swept_and_others_left() {
        let base = tempfile::tempdir().unwrap();
        let cgroups = Cgroups::below(base.path().to_owned(), Path::new("/m"));
        let (empty, full) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for id in [empty, full] {
            cgroups.make(id, LIMITS).unwrap();
        }
        // Stands for a process: the folder cannot be removed.
        fs::write(cgroups.tree.join(full.to_string()).join("x"), "").unwrap();
        cgroups.sweep();
        assert!(!cgroups.tree.join(empty.to_string()).exists());
        assert!(cgroups.tree.join(full.to_string()).exists());
        fs::remove_file(cgroups.tree.join(full.to_string()).join("x")).unwrap();
        cgroups.of(full).remove();
        cgroups.of(full).remove();
        assert!(!base.path().join(ROOT).exists());
    }
}
