//! Threads that own connections: jobs go in by a bounded queue, answers come back by a oneshot, and
//! no async task ever waits inside SQLite, neither for a lock nor for storage to be written. What
//! is read in less time than a thread takes to wake up is read where it is asked for.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use vman_core::ports::RecordError;

use crate::cells::Fault;

/// Jobs that may wait for one pool; who comes after them waits for room.
const QUEUE_LENGTH: usize = 256;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Threads that take jobs from one queue, each with a connection of its own.
#[derive(Debug)]
pub(crate) struct Threads {
    /// Absent only while this is dropped.
    queue: Option<mpsc::Sender<Job>>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// One thread for each connection.
    pub(crate) fn start(name: &str, connections: Vec<Connection>) -> io::Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE_LENGTH);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Self { queue: Some(queue), handles: Vec::new() };
        for connection in connections {
            let jobs = Arc::clone(&jobs);
            let builder = std::thread::Builder::new().name(name.to_owned());
            threads.handles.push(builder.spawn(move || work(&jobs, connection))?);
        }
        Ok(threads)
    }

    /// Runs `job` on the next free thread. Once it is in the queue it runs, whether or not anyone
    /// still waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let ended = || {
            let text = "a thread of the store has ended; restart vman".to_owned();
            Fault::Record(RecordError::Unavailable(text))
        };
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // Nobody waits any more: there is nobody to tell.
            let _ = reply.send(job(connection));
        });
        queue.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Drop for Threads {
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

/// Connections that read where they are asked to.
#[derive(Debug)]
pub(crate) struct AtHand(Vec<Mutex<Connection>>);

impl AtHand {
    /// The connections must not wait for a lock of another process.
    pub(crate) fn new(connections: Vec<Connection>) -> Self {
        Self(connections.into_iter().map(Mutex::new).collect())
    }

    /// Reads in one transaction. `None` where that would have to wait: for a connection, or for
    /// another process.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Option<Result<T, Fault>> {
        // A panic while one was held ended its transaction.
        let mut connection = self.0.iter().find_map(|one| match one.try_lock() {
            Ok(free) => Some(free),
            Err(TryLockError::Poisoned(free)) => Some(free.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })?;
        let answer = connection.transaction().map_err(Fault::from).and_then(|one| read(&one));
        match &answer {
            Err(Fault::Sql(error)) if is_busy(error) => None,
            Ok(_) | Err(_) => Some(answer),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn work(jobs: &Mutex<mpsc::Receiver<Job>>, mut connection: Connection) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(job) = next else { return };
        job(&mut connection);
    }
}
