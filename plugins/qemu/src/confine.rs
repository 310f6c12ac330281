//! What a machine is confined to: whose user it runs as, and the cgroup it runs in; and making its
//! directory, its images and its process ready for that. Where the host does not allow it, why.
//! The files are `owner`'s, the cgroups `cgroup`'s, the process `spawn`'s.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use rustix::fs::Access;
use uuid::Uuid;
use vman_plugin::{BackendError, Boot, DiskSpec, MachineSpec};

use crate::accelerator::Accelerator;
use crate::cgroup::{Cgroup, Cgroups, Limits};
use crate::command_line::QEMU_LOG;
use crate::owner::{self, Owner};
use crate::settings::{Settings, Switch};
use crate::spawn::{Identity, Plan, SpawnError, try_out};
use crate::{failed, image, log};

pub(crate) const KVM: &str = "/dev/kvm";

/// Memory of QEMU's own, beside the guest's: its code, devices, displays and I/O in flight, and
/// what it keeps for each MiB of the guest's. Generous: what passes the limit is killed.
const EMULATOR_BYTES: u64 = 512 << 20;
const EMULATOR_PART: u64 = 16;
/// Translated guest code under TCG: QEMU's own default for its buffer.
const TRANSLATION_BYTES: u64 = 1 << 30;

/// How machines are confined here. One for an instance.
#[derive(Debug)]
pub(crate) struct Confinement {
    accelerator: Accelerator,
    user: Switch,
    uid_base: u32,
    /// Or why there can be none.
    cgroups: Result<Cgroups, String>,
    /// What machines of earlier daemons have left there is removed once, before the first start or
    /// at the first look, whichever comes first.
    swept: Once,
    machines_dir: PathBuf,
    /// Two machines must not be given the same user.
    choosing: Mutex<()>,
}

/// Whom a machine is to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// A user of its own.
    Own,
    /// The daemon's user, since the other is not possible.
    Daemon,
}

/// A program with its arguments, and the machine it is to run.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) spec: MachineSpec,
    /// The machine's, canonical.
    pub(crate) directory: PathBuf,
}

/// All that is there when a machine's process is made.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) cgroup: Option<OwnedFd>,
    /// Why it has none, where it should.
    pub(crate) without_cgroup: Option<String>,
    reach: Vec<Reach>,
}

/// Something that a machine's user must have access to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reach {
    what: &'static str,
    path: PathBuf,
    access: Access,
}

/// Why a machine was not made ready, or not started.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It cannot run as a user of its own; it can as the daemon's.
    NotAsOwn(String),
    Failed(BackendError),
}

impl Confinement {
    /// Changes nothing on the host.
    pub(crate) fn new(
        accelerator: Accelerator,
        settings: &Settings,
        machines_dir: PathBuf,
    ) -> Self {
        let cgroups = match settings.cgroup {
            Switch::Auto => Cgroups::find(&machines_dir),
            Switch::Off => Err("the setting `cgroup` is \"off\"".to_owned()),
        };
        let (user, uid_base, choosing) = (settings.user, settings.uid_base, Mutex::default());
        Self { accelerator, user, uid_base, cgroups, swept: Once::new(), machines_dir, choosing }
    }

    /// Whom machines run as here; whether that works is found out by trying.
    pub(crate) fn whom(&self) -> Result<Whom, String> {
        match self.user {
            Switch::Off => Err("the setting `user` is \"off\"".to_owned()),
            Switch::Auto if Owner::daemon().uid != 0 => {
                Err("only root can give each one its own: run vman as a system service".to_owned())
            }
            Switch::Auto => Ok(Whom::Own),
        }
    }

    pub(crate) fn machines_dir(&self) -> &Path {
        &self.machines_dir
    }

    /// The cgroup made for a machine, whether or not it is there.
    pub(crate) fn cgroup(&self, id: Uuid) -> Option<Cgroup> {
        self.cgroups.as_ref().ok().map(|cgroups| cgroups.of(id))
    }

    /// Makes a machine ready to start: its images are looked at, its directory and they are made
    /// its user's, and its log is begun. No machine may live in the directory. Blocks.
    pub(crate) fn prepare(&self, order: &Order, whom: Whom) -> Result<Prepared, Refusal> {
        let Order { program, arguments, spec, directory } = order;
        check_files(spec)?;
        let identity = match whom {
            Whom::Own => Some(self.own_user(spec, directory).map_err(Refusal::NotAsOwn)?),
            Whom::Daemon if Owner::daemon().uid == 0 => {
                let settled = owner::settle(directory, Owner::daemon());
                settled.map_err(|error| unwritable(spec, directory, &error))?;
                None
            }
            Whom::Daemon => None,
        };
        let output = log::begin(&directory.join(QEMU_LOG));
        let output = output.map_err(|error| unwritable(spec, directory, &error))?;
        let unfit = |error| Refusal::Failed(failed(format!("machine {}: {error}", spec.id)));
        let mut plan = Plan::new(program, arguments, directory, output).map_err(unfit)?;
        let mut reach = Vec::new();
        if let Some(identity) = identity {
            reach = needed(spec, directory, self.accelerator);
            plan = plan.run_as(identity, &paths(&reach)).map_err(unfit)?;
        }
        let (cgroup, without_cgroup) = match self.make_cgroup(spec) {
            Ok(made) => (made, None),
            Err(why) => (None, Some(why)),
        };
        Ok(Prepared { plan, cgroup, without_cgroup, reach })
    }

    /// Chooses the machine's user, and gives it the directory and the images.
    fn own_user(&self, spec: &MachineSpec, directory: &Path) -> Result<Identity, String> {
        let not_given = |path: &Path| {
            let path = path.display().to_string();
            move |error| format!("{path} cannot be given to it: {error}")
        };
        let groups = self.groups()?;
        let _turn = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = owner::choose(&self.machines_dir, spec.id, self.uid_base)
            .map_err(|error| format!("no user can be chosen: {error}"))?;
        let owner = Owner::machine(uid);
        owner::settle(directory, owner).map_err(not_given(directory))?;
        for disk in &spec.disks {
            owner::hand_over(&disk.path, owner).map_err(not_given(&disk.path))?;
        }
        Ok(Identity { uid, gid: owner.gid, groups })
    }

    /// Makes an image fit for a machine that lives and gains it as a disk. Blocks.
    pub(crate) fn lend(&self, id: Uuid, disk: &DiskSpec) -> Result<(), BackendError> {
        let told = |why: String| format!("machine {id}: disk {}: {why}", disk.id);
        let trouble = |why: String| failed(told(why));
        image::check(&disk.path, disk.format)
            .map_err(|error| BackendError::new(error.code, told(error.message)))?;
        let daemon = Owner::daemon();
        match Owner::of(&self.machines_dir.join(id.to_string())) {
            Some(owner) if daemon.uid == 0 && owner != daemon => {
                owner::hand_over(&disk.path, owner)
                    .map_err(|error| trouble(format!("its image cannot be given to it: {error}")))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes back what [`lend`](Self::lend) gave, for an image that the machine does not have any
    /// more: it becomes that of a number of the range that no machine has, so that nobody can open
    /// it by its path, and yet `qemu-img` need not be root to work on what a guest has written. One
    /// that is not its machine's stays as it is. The images of a machine that has ended stay its
    /// user's: who starts with one of them, or gains it, is given it then. Blocks.
    pub(crate) fn take_back(&self, id: Uuid, image: &Path) -> io::Result<()> {
        let Some(machine) = Owner::of(&self.machines_dir.join(id.to_string())) else {
            return Ok(());
        };
        let daemon = Owner::daemon();
        let is_its = || Ok::<_, io::Error>(owner::of_image(image)? == machine);
        if daemon.uid != 0 || machine.uid == daemon.uid || !is_its()? {
            return Ok(());
        }
        let _turn = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let nobodys = owner::choose(&self.machines_dir, Uuid::new_v4(), self.uid_base)?;
        owner::hand_over(image, Owner::machine(nobodys))
    }

    fn groups(&self) -> Result<Vec<u32>, String> {
        match self.accelerator {
            Accelerator::Tcg => Ok(Vec::new()),
            Accelerator::Kvm => Ok(kvm_group()?.into_iter().collect()),
        }
    }

    /// Removes the cgroups of machines whose end no daemon has lived to see to. Blocks.
    pub(crate) fn sweep(&self) {
        if let Ok(cgroups) = &self.cgroups {
            self.swept.call_once(|| cgroups.sweep());
        }
    }

    /// Blocks.
    pub(crate) fn make_cgroup(&self, spec: &MachineSpec) -> Result<Option<OwnedFd>, String> {
        self.sweep();
        let Ok(cgroups) = &self.cgroups else { return Ok(None) };
        cgroups.prepare()?;
        let limits = limits(self.accelerator, spec);
        cgroups.make(spec.id, limits).map(Some).map_err(|error| format!("no cgroup: {error}"))
    }

    /// What a process that was not started means.
    pub(crate) fn refusal(&self, order: &Order, prepared: &Prepared, error: SpawnError) -> Refusal {
        let (id, program) = (order.spec.id, order.program.display());
        match error {
            SpawnError::Become(error) => Refusal::NotAsOwn(no_user(&error)),
            SpawnError::Reach(index, error) => match prepared.reach.get(index) {
                Some(reach) => reach.refusal(&order.spec, &error),
                None => Refusal::NotAsOwn(no_user(&error)),
            },
            error @ (SpawnError::Fork(_)
            | SpawnError::Cgroup(_)
            | SpawnError::Prepare(_)
            | SpawnError::Execute(_)) => {
                Refusal::Failed(failed(format!("machine {id}: {program} was not started: {error}")))
            }
        }
    }

    /// For people: how machines are confined here, and what is not possible. Of users it is tried:
    /// `qemu` is the program to execute; of cgroups it is what looking tells. Changes nothing on
    /// the host. Blocks.
    pub(crate) fn notes(&self, qemu: &Path) -> Vec<String> {
        let user = match self.whom().and_then(|_| self.try_user(qemu)) {
            Ok(()) => format!(
                "each machine runs as a user of its own, of the numbers {} to {}",
                self.uid_base,
                self.uid_base + owner::UIDS - 1
            ),
            Err(why) => format!("machines run as the daemon's own user: {why}"),
        };
        let ready = self.cgroups.as_ref().map_err(String::clone).and_then(Cgroups::look);
        let cgroup = match ready.as_deref() {
            Ok("") => "each machine has a cgroup, with limits on cpu, memory and pids".to_owned(),
            Ok(missing) => format!("each machine has a cgroup, with {missing}"),
            Err(why) => format!("machines have no cgroups of their own: {why}"),
        };
        vec![user, cgroup]
    }

    /// Whether a process can be the first user of the range, execute QEMU, and reach the machines'
    /// folder, or the first one above that is there.
    fn try_user(&self, qemu: &Path) -> Result<(), String> {
        let there = self.machines_dir.ancestors().find(|folder| folder.is_dir());
        let folder = there.unwrap_or(Path::new("/")).to_owned();
        let mut reach = vec![Reach { what: "folder", path: folder, access: Access::EXEC_OK }];
        reach.extend(device(self.accelerator));
        let (uid, groups) = (self.uid_base, self.groups()?);
        let identity = Identity { uid, gid: uid, groups };
        let plan = fs::OpenOptions::new().write(true).open("/dev/null").and_then(|null| {
            let arguments = ["--version".to_owned()];
            Plan::new(qemu, &arguments, Path::new("/"), null)?.run_as(identity, &paths(&reach))
        });
        let plan = plan.map_err(|error| no_user(&error))?;
        try_out(&plan).map_err(|error| match error {
            SpawnError::Reach(index, error) => match reach.get(index) {
                Some(reach) => reach.why_not(&error),
                None => no_user(&error),
            },
            SpawnError::Become(error) => no_user(&error),
            other @ (SpawnError::Fork(_)
            | SpawnError::Cgroup(_)
            | SpawnError::Prepare(_)
            | SpawnError::Execute(_)) => format!("trying it failed: {other}"),
        })
    }
}

impl Reach {
    /// A closed folder above says nothing about the file: the machine may still run as the
    /// daemon's user. A file that only its own mode closes was closed by somebody.
    fn refusal(&self, spec: &MachineSpec, error: &io::Error) -> Refusal {
        let boot_file = self.access == Access::READ_OK;
        if boot_file && closed_folder(&self.path).is_none() {
            return Refusal::Failed(failed(format!(
                "machine {}: its {} {} cannot be read by the user it runs as ({error}): chmod o+r \
                 it",
                spec.id,
                self.what,
                self.path.display()
            )));
        }
        Refusal::NotAsOwn(self.why_not(error))
    }

    fn why_not(&self, error: &io::Error) -> String {
        let path = self.path.display();
        match closed_folder(&self.path) {
            Some(folder) => format!(
                "{} is closed to other users, and {path} is below: chmod o+x it",
                folder.display()
            ),
            None if self.path == Path::new(KVM) => {
                format!("{KVM} is closed to them ({error}): chgrp kvm it and chmod g+rw it")
            }
            None => format!("the {} {path} is closed to them: {error}", self.what),
        }
    }
}

/// The first folder on the way to the file that others may not pass through, by its mode.
fn closed_folder(path: &Path) -> Option<PathBuf> {
    let folders: Vec<&Path> = path.ancestors().skip(1).collect();
    let closed = |folder: &&&Path| {
        fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
    };
    folders.iter().rev().find(closed).map(|folder| folder.to_path_buf())
}

fn no_user(error: &io::Error) -> String {
    format!(
        "a process cannot become another user here ({error}): let the daemon keep the capabilities \
         CAP_SETUID, CAP_SETGID, CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE and CAP_KILL, and map the \
         range from the setting `uid_base` on into its user namespace"
    )
}

/// The group to have for KVM; none where everybody has access.
fn kvm_group() -> Result<Option<u32>, String> {
    let metadata = fs::metadata(KVM).map_err(|error| format!("{KVM}: {error}"))?;
    let (mode, group) = (metadata.permissions().mode(), metadata.gid());
    match mode {
        mode if mode & 0o006 == 0o006 => Ok(None),
        mode if mode & 0o060 == 0o060 && group != 0 => Ok(Some(group)),
        _ => Err(format!("{KVM} is root's alone: chgrp kvm it and chmod g+rw it")),
    }
}

fn limits(accelerator: Accelerator, spec: &MachineSpec) -> Limits {
    let guest = spec.ram_mib.saturating_mul(1 << 20);
    let translation = match accelerator {
        Accelerator::Tcg => TRANSLATION_BYTES,
        Accelerator::Kvm => 0,
    };
    let own = EMULATOR_BYTES + translation + guest / EMULATOR_PART;
    Limits { memory: guest.saturating_add(own), cpu_count: spec.cpu_count }
}

/// The files that must be there before QEMU starts, each missing or unfit one by its name.
fn check_files(spec: &MachineSpec) -> Result<(), Refusal> {
    let named = |why: String| Refusal::Failed(failed(format!("machine {}: {why}", spec.id)));
    for disk in &spec.disks {
        image::check(&disk.path, disk.format)
            .map_err(|error| named(format!("disk {}: {error}", disk.id)))?;
    }
    for (what, path) in boot_files(&spec.boot) {
        let path_text = path.display();
        match fs::File::open(path).and_then(|file| file.metadata()) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(named(format!("its {what} {path_text} is not a regular file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(named(format!("its {what} {path_text} is not there: copy it there")));
            }
            Err(error) => {
                return Err(named(format!(
                    "its {what} {path_text} cannot be read: {error}; make it readable"
                )));
            }
        }
    }
    Ok(())
}

fn boot_files(boot: &Boot) -> Vec<(&'static str, &Path)> {
    match boot {
        Boot::Kernel { kernel, initrd, .. } => {
            let initrd = initrd.iter().map(|path| ("initrd", path.as_path()));
            [("kernel", kernel.as_path())].into_iter().chain(initrd).collect()
        }
        Boot::Firmware { firmware } => vec![("firmware", firmware.as_path())],
        Boot::RootDisk => Vec::new(),
    }
}

fn needed(spec: &MachineSpec, directory: &Path, accelerator: Accelerator) -> Vec<Reach> {
    let both = Access::READ_OK | Access::WRITE_OK;
    let all = both | Access::EXEC_OK;
    let mut needed = vec![Reach { what: "directory", path: directory.to_owned(), access: all }];
    needed.extend(boot_files(&spec.boot).into_iter().map(|(what, path)| Reach {
        what,
        path: path.to_owned(),
        access: Access::READ_OK,
    }));
    needed.extend(spec.disks.iter().map(|disk| Reach {
        what: "image",
        path: disk.path.clone(),
        access: both,
    }));
    needed.extend(device(accelerator));
    needed
}

fn device(accelerator: Accelerator) -> Option<Reach> {
    let access = Access::READ_OK | Access::WRITE_OK;
    match accelerator {
        Accelerator::Tcg => None,
        Accelerator::Kvm => Some(Reach { what: "device", path: KVM.into(), access }),
    }
}

fn paths(reach: &[Reach]) -> Vec<(&Path, Access)> {
    reach.iter().map(|reach| (reach.path.as_path(), reach.access)).collect()
}

fn unwritable(spec: &MachineSpec, directory: &Path, error: &io::Error) -> Refusal {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let advice = if full { ": the storage is full, free some space there" } else { "" };
    let directory = directory.display();
    let id = spec.id;
    Refusal::Failed(failed(format!(
        "machine {id}: nothing can be written in {directory}: {error}{advice}"
    )))
}
