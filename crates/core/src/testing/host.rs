//! A host in memory: machines, directories, devices and images that appear and go as effects say,
//! with failures and delays on demand. No time passes in it by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::Mutex;
use std::task::{Poll, Waker};

use async_trait::async_trait;
use uuid::Uuid;

use super::lock;
use crate::disk::{Disk, DiskState};
use crate::ident::{DiskId, Timestamp, VmId};
use crate::operation::{Effect, Subject};
use crate::ports::{Applied, Apply, ApplyError, DiskTarget, MachineChange, Survey, Target};
use crate::sighting::{DeviceSeen, FileKind, FileSeen, Guest, MachineSeen, Sightings, Surveyed};
use crate::vm::{Machine, Process};

/// The backend every machine here bears.
const BACKEND: &str = "fake";

/// One call of `apply` that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    pub effect: Effect,
    pub subject: Subject,
    pub failure: Option<String>,
}

/// A host that is nothing but memory. Every effect done twice is done once.
#[derive(Debug, Default)]
pub struct FakeHost(Mutex<Host>);

#[derive(Debug, Default)]
struct Host {
    machines: BTreeMap<VmId, MachineSeen>,
    directories: BTreeSet<VmId>,
    connected: BTreeSet<VmId>,
    images: BTreeMap<String, u64>,
    quarantined: BTreeSet<String>,
    launches: u32,
    deeds: Vec<Deed>,
    begun: BTreeMap<Effect, usize>,
    failures: BTreeMap<Effect, VecDeque<Failure>>,
    broken: BTreeMap<Effect, ApplyError>,
    held: BTreeSet<Effect>,
    blind: Option<String>,
    wakers: Vec<Waker>,
}

#[derive(Debug)]
struct Failure {
    error: ApplyError,
    /// The effect is done, and only its answer is lost.
    done_first: bool,
}

impl FakeHost {
    /// The next `effect` that has no failure yet fails, undone.
    pub fn fail_next(&self, effect: Effect, reason: &str) {
        self.fail_next_with(effect, ApplyError::failed(reason));
    }

    /// As [`fail_next`](Self::fail_next), with this error.
    pub fn fail_next_with(&self, effect: Effect, error: ApplyError) {
        self.plan(effect, Failure { error, done_first: false });
    }

    /// The next `effect` that has no failure yet is done, and then says that it failed.
    pub fn fail_next_after_doing(&self, effect: Effect, reason: &str) {
        self.plan(effect, Failure { error: ApplyError::failed(reason), done_first: true });
    }

    fn plan(&self, effect: Effect, failure: Failure) {
        lock(&self.0).failures.entry(effect).or_default().push_back(failure);
    }

    /// Every `effect` fails until [`heal`](Self::heal).
    pub fn fail_always(&self, effect: Effect, reason: &str) {
        lock(&self.0).broken.insert(effect, ApplyError::failed(reason));
    }

    /// Takes back every failure planned for `effect`.
    pub fn heal(&self, effect: Effect) {
        let mut host = lock(&self.0);
        host.broken.remove(&effect);
        host.failures.remove(&effect);
    }

    /// Every `effect` that is asked for waits until [`release`](Self::release).
    pub fn hold(&self, effect: Effect) {
        lock(&self.0).held.insert(effect);
    }

    pub fn release(&self, effect: Effect) {
        let mut host = lock(&self.0);
        host.held.remove(&effect);
        host.wake();
    }

    /// Waits until `effect` has been asked for `times` times since the host was made.
    pub async fn reached(&self, effect: Effect, times: usize) {
        self.wait_until(|host| host.begun.get(&effect).copied().unwrap_or(0) >= times).await;
    }

    /// The machine dies by itself; whether there was one.
    pub fn crash(&self, vm: VmId) -> bool {
        lock(&self.0).machines.remove(&vm).is_some()
    }

    /// The hypervisor of a living machine says this of its guest from now on.
    pub fn set_guest(&self, vm: VmId, guest: Guest) {
        if let Some(machine) = lock(&self.0).machines.get_mut(&vm) {
            machine.guest = guest;
        }
    }

    /// The guest lets go of a disk by itself; whether its machine had it.
    pub fn let_go(&self, vm: VmId, disk: DiskId) -> bool {
        let mut host = lock(&self.0);
        let disks = host.machines.get_mut(&vm).and_then(|machine| machine.disks.as_mut());
        disks.is_some_and(|disks| disks.remove(&disk))
    }

    /// The disks that a living machine has.
    pub fn disks(&self, vm: VmId) -> BTreeSet<DiskId> {
        let host = lock(&self.0);
        host.machines.get(&vm).and_then(|machine| machine.disks.clone()).unwrap_or_default()
    }

    /// The size of an image, in bytes; `path` is relative to the storage folder.
    pub fn image_size(&self, path: &str) -> Option<u64> {
        lock(&self.0).images.get(path).copied()
    }

    /// A machine that nobody asked for.
    pub fn stray_machine(&self, vm: VmId) -> Machine {
        lock(&self.0).launch(vm, BTreeSet::new())
    }

    /// A file, or its loss, behind everybody's back; `path` is relative to the storage folder.
    pub fn stray_file(&self, path: &str) {
        lock(&self.0).images.insert(path.to_owned(), 0);
    }

    /// Whether there was such a file.
    pub fn lose_file(&self, path: &str) -> bool {
        lock(&self.0).images.remove(path).is_some()
    }

    /// Nothing can be looked at until [`see`](Self::see).
    pub fn blind(&self, reason: &str) {
        lock(&self.0).blind = Some(reason.to_owned());
    }

    pub fn see(&self) {
        lock(&self.0).blind = None;
    }

    pub fn machine(&self, vm: VmId) -> Option<Machine> {
        lock(&self.0).machines.get(&vm).map(|seen| seen.machine.clone())
    }

    /// Every effect that has ended, oldest first.
    pub fn deeds(&self) -> Vec<Deed> {
        lock(&self.0).deeds.clone()
    }

    /// The effects that ended well or badly on `subject`, oldest first.
    pub fn effects_on(&self, subject: &Subject) -> Vec<Effect> {
        let deeds = self.deeds().into_iter();
        deeds.filter(|deed| deed.subject == *subject).map(|deed| deed.effect).collect()
    }

    /// Files moved out of the way.
    pub fn quarantined(&self) -> BTreeSet<String> {
        lock(&self.0).quarantined.clone()
    }

    /// Everything there is, one line each; empty when nothing was left behind.
    pub fn leftovers(&self) -> Vec<String> {
        let host = lock(&self.0);
        let machines = host.machines.keys().map(|vm| format!("machine {vm}"));
        let directories = host.directories.iter().map(|vm| format!("directory of {vm}"));
        let devices = host.connected.iter().map(|vm| format!("device of {vm}"));
        let images = host.images.keys().map(|path| format!("file {path}"));
        machines.chain(directories).chain(devices).chain(images).collect()
    }

    async fn wait_until(&self, mut reached: impl FnMut(&Host) -> bool) {
        poll_fn(|context| {
            let mut host = lock(&self.0);
            if reached(&host) {
                return Poll::Ready(());
            }
            host.wakers.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[async_trait]
impl Apply for FakeHost {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        {
            let mut host = lock(&self.0);
            *host.begun.entry(effect).or_default() += 1;
            host.wake();
        }
        self.wait_until(|host| !host.held.contains(&effect)).await;
        let mut host = lock(&self.0);
        let outcome = host.attempt(effect, target);
        let failure = outcome.as_ref().err().map(ToString::to_string);
        host.deeds.push(Deed { effect, subject: subject(target), failure });
        outcome
    }
}

#[async_trait]
impl Survey for FakeHost {
    async fn survey(&self) -> Sightings {
        let host = lock(&self.0);
        if let Some(reason) = &host.blind {
            return Sightings {
                backend: Some(BACKEND.to_owned()),
                machines: Surveyed::Unknown(reason.clone()),
                files: Surveyed::Unknown(reason.clone()),
                devices: Surveyed::Unknown(reason.clone()),
                ended: BTreeMap::new(),
            };
        }
        Sightings {
            backend: Some(BACKEND.to_owned()),
            machines: Surveyed::Known(host.machines.clone()),
            files: Surveyed::Known(host.files()),
            devices: Surveyed::Known(host.devices()),
            ended: BTreeMap::new(),
        }
    }
}

fn subject(target: &Target) -> Subject {
    match target {
        Target::Vm(target) => Subject::Vm(target.vm.id),
        Target::Disk(target) => Subject::Disk(target.disk.id),
        Target::Machine(vm) => Subject::Machine(*vm),
        Target::File(path) => Subject::File(path.clone()),
    }
}

impl Host {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn attempt(&mut self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        let planned = self.failures.get_mut(&effect).and_then(VecDeque::pop_front);
        let broken = self.broken.get(&effect).cloned();
        match (planned, broken) {
            (Some(Failure { error, done_first: true }), _) => {
                self.perform(effect, target)?;
                Err(error)
            }
            (Some(Failure { error, done_first: false }), _) | (None, Some(error)) => Err(error),
            (None, None) => self.perform(effect, target),
        }
    }

    fn perform(&mut self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        let machine = match (effect, target) {
            (_, Target::Disk(target)) => self.perform_on_disk(effect, target)?,
            (Effect::QuarantineFile, Target::File(path)) => {
                if self.images.remove(path).is_some() {
                    self.quarantined.insert(path.clone());
                }
                MachineChange::Same
            }
            (_, Target::Vm(target)) => {
                self.perform_on_machine(effect, target.vm.id, &target.disks)?
            }
            (_, Target::Machine(vm)) => self.perform_on_machine(effect, *vm, &[])?,
            (_, Target::File(_)) => return Err(misdirected(effect, target)),
        };
        Ok(Applied { machine, note: None })
    }

    fn perform_on_machine(
        &mut self,
        effect: Effect,
        vm: VmId,
        disks: &[Disk],
    ) -> Result<MachineChange, ApplyError> {
        Ok(match effect {
            Effect::PrepareDisks => self.prepare(disks)?,
            Effect::DiscardNewDisks => {
                for disk in disks.iter().filter(|disk| disk.state == DiskState::Creating) {
                    self.images.remove(&image_path(disk));
                }
                MachineChange::Same
            }
            Effect::Pause => self.set_running(vm, Guest::Paused)?,
            Effect::Resume => self.set_running(vm, Guest::Running)?,
            Effect::Reset => {
                self.living(vm)?;
                MachineChange::Same
            }
            Effect::PrepareDirectory => {
                self.directories.insert(vm);
                MachineChange::Same
            }
            Effect::RemoveDirectory => {
                self.directories.remove(&vm);
                MachineChange::Same
            }
            Effect::ConnectNetwork => {
                self.connected.insert(vm);
                MachineChange::Same
            }
            Effect::DisconnectNetwork => {
                self.connected.remove(&vm);
                MachineChange::Same
            }
            Effect::Launch => {
                let wanted = disks.iter().filter(|disk| disk.state != DiskState::Detaching);
                MachineChange::Lives(self.launch(vm, wanted.map(|disk| disk.id).collect()))
            }
            Effect::Adopt => MachineChange::Lives(self.living(vm)?.machine.clone()),
            Effect::PowerOff | Effect::End | Effect::Kill => {
                self.machines.remove(&vm);
                MachineChange::Gone
            }
            Effect::CreateImage
            | Effect::DeleteImage
            | Effect::ResizeImage
            | Effect::AttachDisk
            | Effect::DetachDisk
            | Effect::QuarantineFile => {
                return Err(misdirected(effect, &Target::Machine(vm)));
            }
        })
    }

    fn perform_on_disk(
        &mut self,
        effect: Effect,
        target: &DiskTarget,
    ) -> Result<MachineChange, ApplyError> {
        let (disk, path) = (&target.disk, image_path(&target.disk));
        match (effect, target.vm.as_ref().map(|vm| vm.id)) {
            (Effect::CreateImage, _) => {
                self.images.entry(path).or_insert(disk.virtual_size());
            }
            (Effect::DeleteImage, _) => {
                self.images.remove(&path);
            }
            (Effect::ResizeImage, _) => {
                let wanted = disk.state.wanted_gib().unwrap_or(disk.size_gib) << 30;
                let missing = || ApplyError::failed(format!("{path} is not there"));
                *self.images.get_mut(&path).ok_or_else(missing)? = wanted;
            }
            (Effect::AttachDisk, Some(vm)) => {
                self.living(vm)?.disks.get_or_insert_default().insert(disk.id);
            }
            (Effect::DetachDisk, Some(vm)) => {
                if let Ok(MachineSeen { disks: Some(disks), .. }) = self.living(vm) {
                    disks.remove(&disk.id);
                }
            }
            (_, _) => return Err(misdirected(effect, &Target::Disk(Box::new(target.clone())))),
        }
        Ok(MachineChange::Same)
    }

    fn prepare(&mut self, disks: &[Disk]) -> Result<MachineChange, ApplyError> {
        for disk in disks {
            let path = image_path(disk);
            match (&disk.state, self.images.contains_key(&path)) {
                (DiskState::Creating, _) => {
                    self.images.insert(path, disk.virtual_size());
                }
                (DiskState::Detaching, _) | (_, true) => {}
                (_, false) => return Err(ApplyError::failed(format!("{path} is not there"))),
            }
        }
        Ok(MachineChange::Same)
    }

    fn set_running(&mut self, vm: VmId, guest: Guest) -> Result<MachineChange, ApplyError> {
        self.living(vm)?.guest = guest;
        Ok(MachineChange::Same)
    }

    fn living(&mut self, vm: VmId) -> Result<&mut MachineSeen, ApplyError> {
        let missing = || ApplyError::failed(format!("no machine of VM {vm} lives"));
        self.machines.get_mut(&vm).ok_or_else(missing)
    }

    fn launch(&mut self, vm: VmId, disks: BTreeSet<DiskId>) -> Machine {
        if let Some(seen) = self.machines.get(&vm) {
            return seen.machine.clone();
        }
        self.launches += 1;
        let process = Process {
            pid: 1_000 + self.launches,
            start_time: u64::from(self.launches),
            boot_id: Uuid::from_u128(0xb007),
        };
        let machine = Machine { backend: BACKEND.to_owned(), process: Some(process) };
        let (guest, disks) = (Guest::Running, Some(disks));
        let seen = MachineSeen { machine, guest, started_at: None, age_ms: 0, disks };
        self.machines.entry(vm).or_insert(seen).machine.clone()
    }

    fn files(&self) -> BTreeMap<String, FileSeen> {
        let changed_at = Timestamp::default();
        let images = self.images.iter().map(|(path, size)| {
            (path.clone(), FileSeen { kind: FileKind::Image, size: *size, changed_at })
        });
        let directories = self.directories.iter().map(|vm| {
            let kind = FileKind::MachineDirectory;
            (format!("machines/{vm}"), FileSeen { kind, size: 0, changed_at })
        });
        images.chain(directories).collect()
    }

    fn devices(&self) -> BTreeMap<String, DeviceSeen> {
        let connected = self.connected.iter();
        connected.map(|vm| (format!("fake-{vm}"), DeviceSeen { owner: *vm })).collect()
    }
}

fn image_path(disk: &Disk) -> String {
    format!("disks/{}", disk.file_name())
}

fn misdirected(effect: Effect, target: &Target) -> ApplyError {
    ApplyError::failed(format!("{} cannot be applied to {}", effect.word(), subject(target)))
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::vm::VmState;

    fn machine_target() -> Target {
        samples::target(samples::vm(1, VmState::Starting))
    }

    #[tokio::test]
    async fn every_effect_done_twice_is_done_once() {
        let host = FakeHost::default();
        let vm = machine_target();
        let held = samples::disk(1, DiskState::Attaching);
        let disk = samples::disk_target(held, Some(samples::vm(1, VmState::Running)));
        for (effect, target) in [
            (Effect::PrepareDirectory, &vm),
            (Effect::ConnectNetwork, &vm),
            (Effect::Launch, &vm),
            (Effect::Adopt, &vm),
            (Effect::Pause, &vm),
            (Effect::Resume, &vm),
            (Effect::CreateImage, &disk),
            (Effect::PrepareDisks, &vm),
            (Effect::ResizeImage, &disk),
            (Effect::AttachDisk, &disk),
            (Effect::DetachDisk, &disk),
            (Effect::Kill, &vm),
            (Effect::DisconnectNetwork, &vm),
            (Effect::RemoveDirectory, &vm),
            (Effect::DeleteImage, &disk),
        ] {
            let once = host.apply(effect, target).await;
            let left = host.survey().await;
            assert_eq!(host.apply(effect, target).await, once, "{}", effect.word());
            assert_eq!(host.survey().await, left, "{}", effect.word());
        }
        assert_eq!(host.leftovers(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_planned_failure_happens_once_and_before_or_after_the_deed_as_planned() {
        let host = FakeHost::default();
        let target = machine_target();
        host.fail_next(Effect::Launch, "no room");
        host.fail_next_after_doing(Effect::Launch, "no answer");
        assert_eq!(host.apply(Effect::Launch, &target).await, Err(ApplyError::failed("no room")));
        assert_eq!(host.machine(samples::vm_id(1)), None);
        assert_eq!(host.apply(Effect::Launch, &target).await, Err(ApplyError::failed("no answer")));
        let machine = host.machine(samples::vm_id(1)).expect("launched, though it said otherwise");
        let again = host.apply(Effect::Launch, &target).await.expect("no failure is left");
        assert_eq!(again.machine, MachineChange::Lives(machine));
    }

    #[tokio::test]
    async fn a_machine_started_again_is_another_process() {
        let host = FakeHost::default();
        let target = machine_target();
        let first = host.apply(Effect::Launch, &target).await.expect("launches");
        assert!(host.crash(samples::vm_id(1)));
        assert!(!host.crash(samples::vm_id(1)));
        assert_ne!(host.apply(Effect::Launch, &target).await.expect("launches"), first);
    }

    #[tokio::test]
    async fn a_held_effect_waits_until_it_is_released() {
        let host = std::sync::Arc::new(FakeHost::default());
        host.hold(Effect::Launch);
        let target = machine_target();
        let release = async {
            host.reached(Effect::Launch, 1).await;
            assert_eq!(host.deeds(), []);
            host.release(Effect::Launch);
        };
        let (applied, ()) = tokio::join!(host.apply(Effect::Launch, &target), release);
        applied.expect("it is applied once released");
        assert_eq!(host.deeds().len(), 1);
    }
}
