//! Notices that a machine may have changed: through a pidfd of its process (pidfd_open(2)), also of
//! one that is not our child, and through the backend's events. It only says *that*: whoever hears
//! it looks for himself.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use procfs::ProcError;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tracing::{debug, info, warn};
use vman_core::ident::VmId;
use vman_core::vm::Process;
use vman_plugin::{Event, RunState};

/// How long after an effect on a machine its changes are still taken for the effect's: what is left
/// to be told of an end comes a moment later.
const AFTER_EFFECT: Duration = Duration::from_millis(5);

/// Changes that one who waits may be behind; who is further behind looks at once.
const CHANGES_KEPT: usize = 64;

pub(crate) struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    wake: Arc<dyn Fn() + Send + Sync>,
    changes: broadcast::Sender<Change>,
    /// More than one process of a machine is a mistake of somebody's, and each is watched once.
    watched: Mutex<HashSet<(VmId, Process)>>,
    effects: Mutex<HashMap<VmId, Effects>>,
}

/// What changed.
#[derive(Debug, Clone, Copy)]
struct Change {
    /// None if that is not known.
    machine: Option<VmId>,
    news: News,
}

/// What is known of a change without looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// The guest has powered itself off, and its machine is still there.
    GuestShutdown,
    /// Something, or nothing within the time that was waited.
    Look,
}

/// On one machine.
#[derive(Default)]
struct Effects {
    under_way: u32,
    /// One of them is to end the machine.
    ending: bool,
    /// The machine has changed meanwhile.
    changed: bool,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Shared {
    fn changed(&self, machine: Option<VmId>, news: News) {
        self.tell(machine, news);
        if !machine.is_some_and(|id| self.put_off(id)) {
            (self.wake)();
        }
    }

    fn tell(&self, machine: Option<VmId>, news: News) {
        // Usually nobody waits for a machine.
        let _ = self.changes.send(Change { machine, news });
    }

    /// An end that no effect was to bring about is told at once, whatever else is under way. True
    /// if one was.
    fn ended(&self, id: VmId) -> bool {
        let wanted = self.effects().get(&id).is_some_and(|effects| effects.ending);
        if wanted {
            self.changed(Some(id), News::Look);
        } else {
            self.tell(Some(id), News::Look);
            (self.wake)();
        }
        wanted
    }

    /// False if no effect is under way on the machine.
    fn put_off(&self, id: VmId) -> bool {
        let mut effects = self.effects();
        let effects = effects.get_mut(&id);
        effects.map(|effects| effects.changed = true).is_some()
    }

    fn effect_is_over(&self, id: VmId) {
        let mut all = self.effects();
        let Some(effects) = all.get_mut(&id) else { return };
        effects.under_way -= 1;
        if effects.under_way > 0 {
            return;
        }
        let changed = all.remove(&id).is_some_and(|effects| effects.changed);
        drop(all);
        if changed {
            (self.wake)();
        }
    }

    fn effects(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Effects>> {
        // No statement under this lock leaves the map half done.
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: VmId, process: Process) {
        self.watched().remove(&(id, process));
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashSet<(VmId, Process)>> {
        // No statement under this lock leaves the set half done.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    pub(crate) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let shared = Shared {
            wake,
            changes: broadcast::Sender::new(CHANGES_KEPT),
            watched: Mutex::default(),
            effects: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Until a moment after this is dropped, changes of the machine do not wake: they are the
    /// effect's doing, or show in how it ends, and looking would only slow it down. Whoever waits
    /// for them [sees](Self::changes) them all the same.
    /// The machine's end is told at once all the same, unless the effect `ends` it.
    pub(crate) fn during_effect(&self, machine: VmId, ends: bool) -> DuringEffect {
        let mut all = self.shared.effects();
        let effects = all.entry(machine).or_default();
        effects.under_way += 1;
        effects.ending |= ends;
        drop(all);
        DuringEffect { shared: Arc::clone(&self.shared), machine }
    }

    /// Sees every change of this machine from now on.
    pub(crate) fn changes(&self, machine: VmId) -> Changes {
        Changes { machine, changes: self.shared.changes.subscribe() }
    }

    /// Wakes when this long has passed.
    pub(crate) fn wake_after(&self, time: Duration) {
        let wake = Arc::clone(&self.shared.wake);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            wake();
        });
    }

    /// Takes the backend's events until it has ended, which is itself a reason to look.
    pub(crate) fn listen(&self, mut events: mpsc::Receiver<Event>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                debug!(?event, "the backend says");
                match event {
                    Event::MachineChanged { id, run_state: RunState::GuestShutdown } => {
                        shared.changed(Some(VmId(id)), News::GuestShutdown);
                    }
                    Event::MachineChanged { id, .. } | Event::DiskDetached { id, .. } => {
                        shared.changed(Some(VmId(id)), News::Look);
                    }
                    Event::MachineEnded { id, .. } => drop(shared.ended(VmId(id))),
                    Event::Other => shared.changed(None, News::Look),
                }
            }
            shared.changed(None, News::Look);
        });
    }

    /// Watches the process of a machine until it ends; one that is already watched is left so.
    pub(crate) fn process(&self, id: VmId, process: Process) {
        if !self.shared.watched().insert((id, process)) {
            return;
        }
        match open(process) {
            Ok(Some(pidfd)) => {
                tokio::spawn(until_it_ends(Arc::clone(&self.shared), id, process, pidfd));
            }
            Ok(None) => {
                debug!(vm = %id, pid = process.pid, "the process has ended already");
                self.shared.forget(id, process);
                self.shared.changed(Some(id), News::Look);
            }
            // It may well live: to look again at once would not help, and would never end.
            Err(error) => {
                warn!(vm = %id, pid = process.pid, %error, "its end is not noticed at once");
                self.shared.forget(id, process);
            }
        }
    }
}

/// None if it has ended. Opened first and verified then: between the two the pid cannot pass to
/// another process.
fn open(process: Process) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("not a pid"))?;
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = procfs::process::Process::new(pid.as_raw_nonzero().get())
        .and_then(|process| process.stat());
    match stat {
        Ok(stat) if stat.starttime == process.start_time => register(pidfd).map(Some),
        // Another process has its pid now, or none.
        Ok(_) | Err(ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe for descriptors that can change; an OwnedFd that nothing \
              else holds cannot"
)]
fn register(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
}

async fn until_it_ends(shared: Arc<Shared>, id: VmId, process: Process, pidfd: AsyncFd<OwnedFd>) {
    let seen = pidfd.readable().await.map(drop);
    shared.forget(id, process);
    let wanted = shared.ended(id);
    let pid = process.pid;
    match seen {
        // Its operation tells of it.
        Ok(()) if wanted => debug!(vm = %id, pid, "the machine's process has ended"),
        Ok(()) => info!(vm = %id, pid, "the machine's process has ended"),
        Err(error) => warn!(vm = %id, pid, %error, "cannot be watched any more"),
    }
}

/// An effect on a machine is under way.
pub(crate) struct DuringEffect {
    shared: Arc<Shared>,
    machine: VmId,
}

impl Drop for DuringEffect {
    fn drop(&mut self) {
        let (shared, machine) = (Arc::clone(&self.shared), self.machine);
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(AFTER_EFFECT).await;
                shared.effect_is_over(machine);
            })),
            // Nobody looks any more.
            Err(_) => shared.effect_is_over(machine),
        }
    }
}

/// Changes of one machine, since it was made.
#[derive(Debug)]
pub(crate) struct Changes {
    machine: VmId,
    changes: broadcast::Receiver<Change>,
}

impl Changes {
    /// Returns at the next change, or after `at_most`.
    pub(crate) async fn next(&mut self, at_most: Duration) -> News {
        let changed = async {
            // Bounded by the time-out around it.
            loop {
                match self.changes.recv().await {
                    Ok(Change { machine: Some(other), .. }) if other != self.machine => {}
                    Ok(Change { machine: Some(_), news }) => return news,
                    Ok(Change { machine: None, .. }) | Err(RecvError::Lagged(_)) => {
                        return News::Look;
                    }
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::time::timeout(at_most, changed).await.unwrap_or(News::Look)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn identity(pid: u32) -> Process {
        let stat = procfs::process::Process::new(i32::try_from(pid).expect("pid"))
            .and_then(|process| process.stat())
            .expect("stat");
        Process { pid, start_time: stat.starttime, boot_id: uuid::Uuid::nil() }
    }

    #[tokio::test]
    async fn the_end_of_a_process_wakes_without_polling() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let watch = Watch::new(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        let mut child =
            std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        watch.process(VmId(uuid::Uuid::nil()), identity(child.id()));
        assert_eq!(wakes.load(Ordering::SeqCst), 0);
        let mut changes = watch.changes(VmId(uuid::Uuid::nil()));
        child.kill().expect("killed");
        changes.next(Duration::from_secs(10)).await;
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        child.wait().expect("reaped");
    }

    /// A watch, and how often it woke.
    fn counting() -> (Watch, Arc<AtomicUsize>) {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&wakes);
        let wake = move || {
            counter.fetch_add(1, Ordering::SeqCst);
        };
        (Watch::new(Arc::new(wake)), wakes)
    }

    #[tokio::test]
    async fn a_process_that_only_has_the_same_pid_is_not_watched_and_is_told_once() {
        let (watch, wakes) = counting();
        let mut own = identity(std::process::id());
        own.start_time += 1;
        watch.process(VmId(uuid::Uuid::nil()), own);
        assert!(watch.shared.watched().is_empty());
        assert_eq!(wakes.load(Ordering::SeqCst), 1, "the machine has ended");
    }

    #[tokio::test]
    async fn two_processes_of_one_machine_are_watched_once_each_however_often_they_are_seen() {
        let (watch, wakes) = counting();
        let id = VmId(uuid::Uuid::nil());
        let start = || std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        let mut twins = [start(), start()];
        for _ in 0..3 {
            twins.iter().for_each(|twin| watch.process(id, identity(twin.id())));
        }
        assert_eq!(watch.shared.watched().len(), 2);
        for (ended, twin) in (1..).zip(&mut twins) {
            let mut changes = watch.changes(id);
            twin.kill().expect("killed");
            changes.next(Duration::from_secs(10)).await;
            twin.wait().expect("reaped");
            assert_eq!(wakes.load(Ordering::SeqCst), ended);
        }
        assert!(watch.shared.watched().is_empty());
    }

    #[tokio::test]
    async fn a_process_that_has_ended_already_is_told() {
        let (watch, wakes) = counting();
        let mut child = std::process::Command::new("true").spawn().expect("true starts");
        let ended = identity(child.id());
        child.wait().expect("reaped");
        watch.process(VmId(uuid::Uuid::nil()), ended);
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_process_that_cannot_be_watched_does_not_make_one_look_without_end() {
        let (watch, wakes) = counting();
        let pid = u32::MAX;
        let process = Process { pid, start_time: 1, boot_id: uuid::Uuid::nil() };
        for _ in 0..3 {
            watch.process(VmId(uuid::Uuid::nil()), process);
        }
        assert!(watch.shared.watched().is_empty());
        assert_eq!(wakes.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_during_an_effect_on_a_machine_wake_once_and_after_it() {
        let (watch, wakes) = counting();
        let [mine, other] = [1, 2].map(|number| VmId(uuid::Uuid::from_u128(number)));
        let mut changes = watch.changes(mine);
        let (first, second) = (watch.during_effect(mine, false), watch.during_effect(mine, false));
        watch.shared.changed(Some(mine), News::Look);
        let begun = tokio::time::Instant::now();
        changes.next(Duration::from_secs(60)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "who waits sees it");
        drop(first);
        tokio::time::sleep(AFTER_EFFECT * 2).await;
        drop(second);
        watch.shared.changed(Some(mine), News::Look);
        assert_eq!(wakes.load(Ordering::SeqCst), 0);
        watch.shared.changed(Some(other), News::Look);
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        tokio::time::sleep(AFTER_EFFECT * 2).await;
        assert_eq!(wakes.load(Ordering::SeqCst), 2);
        watch.shared.changed(Some(mine), News::Look);
        assert_eq!(wakes.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_asked_for_wakes_at_once_also_during_an_effect() {
        let (watch, wakes) = counting();
        let machine = VmId(uuid::Uuid::from_u128(1));
        let launch = watch.during_effect(machine, false);
        watch.shared.ended(machine);
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        let _kill = watch.during_effect(machine, true);
        watch.shared.ended(machine);
        assert_eq!(wakes.load(Ordering::SeqCst), 1, "it was asked for");
        drop(launch);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_one_machine_does_not_hear_of_others() {
        let (watch, _) = counting();
        let [mine, other] = [1, 2].map(|number| VmId(uuid::Uuid::from_u128(number)));
        let mut changes = watch.changes(mine);
        let at_most = Duration::from_secs(60);
        for (told, waits) in [(Some(other), true), (Some(mine), false), (None, false)] {
            let begun = tokio::time::Instant::now();
            watch.shared.changed(told, News::Look);
            changes.next(at_most).await;
            assert_eq!(begun.elapsed() >= at_most, waits, "{told:?}");
        }
        for _ in 0..=CHANGES_KEPT {
            watch.shared.changed(Some(other), News::Look);
        }
        let begun = tokio::time::Instant::now();
        changes.next(at_most).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "it may have missed its own");
    }
}
