//! Cgroups of version 2 that a daemon's QEMU machines have, and the end of what a test's sudden
//! kills leave of them. How they are called is `plugins/qemu`'s business, which tells nobody; it is
//! known here, since nothing else shows what is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use walkdir::WalkDir;

/// What stands between the daemon's cgroup and those of its folder of machines.
const OURS: &str = "vman";
/// A process that has ended may count for a moment more.
const REMOVE_ATTEMPTS: usize = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// The cgroup of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The id of its VM.
    pub(crate) fn vm(&self) -> String {
        let name = self.path.file_name().expect("it is below a mount");
        name.to_string_lossy().into_owned()
    }

    /// Removes it with the emptied ones above it, if no living process is in it.
    pub(crate) fn remove_if_empty(&self) {
        for _ in 0..REMOVE_ATTEMPTS {
            if fs::remove_dir(&self.path).is_ok() || !self.path.exists() {
                break;
            }
            thread::sleep(REMOVE_PAUSE);
        }
        // One with others in it stays.
        for above in self.path.ancestors().skip(1).take(2) {
            drop(fs::remove_dir(above));
        }
    }
}

/// Those of the machines in the folder `machines`, sorted.
pub(crate) fn cgroups(machines: &Path) -> Vec<Cgroup> {
    let (Some(mount), folder) = (mount(), name(machines)) else { return Vec::new() };
    let is_ours = |path: &Path| {
        let mut above = path.ancestors().skip(1).filter_map(Path::file_name);
        above.next().is_some_and(|name| name == folder.as_str())
            && above.next().is_some_and(|name| name == OURS)
    };
    let entries = WalkDir::new(mount).sort_by_file_name().into_iter();
    // What vanishes meanwhile is none.
    let folders = entries.flatten().filter(|entry| entry.file_type().is_dir());
    let ours = folders.filter(|entry| is_ours(entry.path()));
    ours.map(|entry| Cgroup { path: entry.into_path() }).collect()
}

/// Whether the process is where this looks for it, unless it is in no cgroup of its own.
pub(crate) fn is_known(pid: i32, machines: &Path) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let unified = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let mut above = Path::new(unified).ancestors().skip(1).filter_map(Path::file_name);
    let (folder, ours) = (above.next(), above.next());
    ours.is_none_or(|ours| ours != OURS) || folder.is_some_and(|it| it == name(machines).as_str())
}

/// FNV-1a of the folder's path.
fn name(machines: &Path) -> String {
    let bytes = machines.as_os_str().as_encoded_bytes();
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Where cgroups of version 2 are shown, if they are: proc_mounts(5).
fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = lines.find(|fields| fields.get(2) == Some(&"cgroup2"))?;
    mount.get(1).map(PathBuf::from)
}
