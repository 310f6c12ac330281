//! The threads that guests run on: few, of a known stack size, and none of the async runtime's, so
//! that no guest can hold up a request. What is run is not known here.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use crate::limits::{QUEUE_LENGTH_MAX, WORKER_STACK_SIZE, WORKERS_MAX};

type Job = Box<dyn FnOnce() + Send>;

/// Ends its threads when dropped, after what they are at.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// One thread per processor, [`WORKERS_MAX`] at the most.
    pub(crate) fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, |count| count.get().min(WORKERS_MAX));
        let (queue, jobs) = mpsc::channel(QUEUE_LENGTH_MAX);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut workers = Self { queue: Some(queue), threads: Vec::with_capacity(count) };
        for number in 0..count {
            let jobs = Arc::clone(&jobs);
            let builder = Builder::new().name(format!("policy-{number}"));
            let thread = builder.stack_size(WORKER_STACK_SIZE).spawn(move || work(&jobs))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Runs `work` on one of the threads; waits for room in the queue. None if it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let job = move || {
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        };
        self.queue.as_ref()?.send(Box::new(job)).await.ok()?;
        answer.await.ok()
    }
}

/// Only one idle thread waits for the queue itself; the others wait for it to have got a job.
fn work(jobs: &Mutex<mpsc::Receiver<Job>>) {
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
    while let Some(job) = next() {
        // The panic itself was told by the hook; whoever waits for the answer learns of it by the
        // dropped reply.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_its_own_answer_and_no_other() {
        let workers = Workers::start().unwrap();
        for round in 0..2 * WORKERS_MAX {
            assert_eq!(workers.run(|| -> u8 { panic!("expected by this test") }).await, None);
            assert_eq!(workers.run(move || round).await, Some(round));
        }
    }

    #[tokio::test]
    async fn more_work_than_the_queue_holds_is_all_done() {
        let workers = Workers::start().unwrap();
        let all = (0..4 * QUEUE_LENGTH_MAX).map(|number| workers.run(move || number));
        let mut done = Vec::new();
        for one in all {
            done.extend(one.await);
        }
        assert_eq!(done, (0..4 * QUEUE_LENGTH_MAX).collect::<Vec<_>>());
    }
}
