//! Who uses which connection. What takes no longer than waking a thread is done where it is asked
//! for; what may have to wait, for another process or for much to be read, is a job for threads
//! that own connections or wait for them: jobs go in by a bounded queue, answers come back by a
//! oneshot, and no async task ever waits inside SQLite.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use vman_core::ports::RecordError;

use crate::cells::Fault;
use crate::open::BUSY_TIMEOUT;

/// Jobs that may wait for one pool; who comes after them waits for room.
const QUEUE_LENGTH: usize = 256;

type Job<C> = Box<dyn FnOnce(&mut C) + Send>;

/// Threads that take jobs from one queue, each with what it needs for them: a connection, or the
/// way to one.
#[derive(Debug)]
pub(crate) struct Threads<C> {
    /// Absent only while this is dropped.
    queue: Option<mpsc::Sender<Job<C>>>,
    handles: Vec<JoinHandle<()>>,
}

impl<C: Send + 'static> Threads<C> {
    /// One thread for each of `owned`.
    pub(crate) fn start(name: &str, owned: Vec<C>) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_LENGTH);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Self { queue: Some(queue), handles: Vec::new() };
        for one in owned {
            let jobs = Arc::clone(&jobs);
            let builder = std::thread::Builder::new().name(name.to_owned());
            threads.handles.push(builder.spawn(move || work(&jobs, one))?);
        }
        Ok(threads)
    }

    /// Runs `job` on the next free thread. Once it is in the queue it runs, whether or not anyone
    /// still waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut C) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let ended = || {
            let text = "a thread of the store has ended; restart vman".to_owned();
            Fault::Record(RecordError::Unavailable(text))
        };
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        let (reply, answer) = oneshot::channel();
        let job: Job<C> = Box::new(move |owned| {
            // Nobody waits any more: there is nobody to tell.
            let _ = reply.send(job(owned));
        });
        queue.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl<C> Drop for Threads<C> {
    /// Waits until every job in the queue is done.
    fn drop(&mut self) {
        self.queue = None;
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

fn work<C>(jobs: &Mutex<mpsc::Receiver<Job<C>>>, mut owned: C) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = next else { return };
        job(&mut owned);
    }
}

/// A connection that several use in turn, none for longer than it takes to wake a thread but who
/// is [patient](Self::patiently). It waits for no other process.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<Connection>>);

impl Shared {
    pub(crate) fn new(connection: Connection) -> Result<Self, rusqlite::Error> {
        connection.busy_timeout(Duration::ZERO)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// `None` where that would have to wait: for the connection, or for another process. Then
    /// nothing was done.
    pub(crate) fn at_once<T>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Option<Result<T, Fault>> {
        // A panic while it was held ended its transaction.
        let connection = match self.0.try_lock() {
            Ok(free) => free,
            Err(TryLockError::Poisoned(free)) => free.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(job(&connection)).filter(|answer| !is_busy(answer))
    }

    /// Waits for the connection, and for a process that has the file locked, [`BUSY_TIMEOUT`] at
    /// most. For threads that may block.
    pub(crate) fn patiently<T>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let connection = self.lock();
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let answer = job(&connection);
        connection.busy_timeout(Duration::ZERO)?;
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_busy<T>(answer: &Result<T, Fault>) -> bool {
    let Err(Fault::Sql(error)) = answer else { return false };
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
