//! Notices that a machine may have changed: through a pidfd of its process (pidfd_open(2)), also of
//! one that is not our child, and through the backend's events. It only says *that*: whoever hears
//! it looks for himself.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};
use vman_core::ident::VmId;
use vman_core::vm::Process;
use vman_plugin::Event;

pub(crate) struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    wake: Arc<dyn Fn() + Send + Sync>,
    /// Counts the changes noticed.
    changes: watch::Sender<u64>,
    watched: Mutex<HashMap<VmId, Process>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

impl Shared {
    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        (self.wake)();
    }

    fn watched(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Process>> {
        // No statement under this lock leaves the map half done.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    pub(crate) fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        let shared =
            Shared { wake, changes: watch::Sender::new(0), watched: Mutex::new(HashMap::new()) };
        Self { shared: Arc::new(shared) }
    }

    /// Sees every change from now on.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.shared.changes.subscribe())
    }

    /// Takes the backend's events until it has ended.
    pub(crate) fn listen(&self, mut events: mpsc::Receiver<Event>) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                debug!(?event, "the backend says");
                shared.changed();
            }
        });
    }

    /// Watches the process of a machine until it ends; one that is already watched is left so.
    pub(crate) fn process(&self, id: VmId, process: Process) {
        if self.shared.watched().insert(id, process) == Some(process) {
            return;
        }
        match open(process) {
            Ok(pidfd) => {
                tokio::spawn(until_it_ends(Arc::clone(&self.shared), id, process, pidfd));
            }
            Err(error) => {
                debug!(vm = %id, pid = process.pid, %error, "not watched");
                self.shared.watched().remove(&id);
                self.shared.changed();
            }
        }
    }
}

/// Opened first and verified then: between the two the pid cannot pass to another process.
fn open(process: Process) -> std::io::Result<AsyncFd<OwnedFd>> {
    let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| std::io::Error::other("not a pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    let stat = procfs::process::Process::new(pid.as_raw_nonzero().get())
        .and_then(|process| process.stat())
        .map_err(std::io::Error::other)?;
    if stat.starttime != process.start_time {
        return Err(std::io::Error::other("another process has its pid now"));
    }
    register(pidfd)
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe for descriptors that can change; an OwnedFd that nothing \
              else holds cannot"
)]
fn register(pidfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
}

async fn until_it_ends(shared: Arc<Shared>, id: VmId, process: Process, pidfd: AsyncFd<OwnedFd>) {
    match pidfd.readable().await {
        Ok(_) => info!(vm = %id, pid = process.pid, "the machine's process has ended"),
        Err(error) => warn!(vm = %id, pid = process.pid, %error, "cannot be watched any more"),
    }
    {
        let mut watched = shared.watched();
        if watched.get(&id) == Some(&process) {
            watched.remove(&id);
        }
    }
    shared.changed();
}

/// Changes of any machine, since it was made.
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<u64>);

impl Changes {
    /// Returns at the next change, or after `at_most`.
    pub(crate) async fn next(&mut self, at_most: Duration) {
        // Neither a time-out nor the end of the sender changes what the caller does: look again.
        let _ = tokio::time::timeout(at_most, self.0.changed()).await;
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
        let mut changes = watch.changes();
        child.kill().expect("killed");
        changes.next(Duration::from_secs(10)).await;
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        child.wait().expect("reaped");
    }

    #[tokio::test]
    async fn a_process_that_only_has_the_same_pid_is_not_watched() {
        let watch = Watch::new(Arc::new(|| {}));
        let mut own = identity(std::process::id());
        own.start_time += 1;
        let error = open(own).expect_err("refused");
        assert!(error.to_string().contains("another process"), "{error}");
        let id = VmId(uuid::Uuid::nil());
        watch.process(id, own);
        assert!(watch.shared.watched().is_empty());
    }
}
