//! The ports filled in memory, for tests alone: [`MemoryRecords`], [`FakeHost`], [`ScriptedJudge`]
//! and [`FixedClock`], and the suite that every store must pass
//! ([`records_keep_their_promises`]). Nothing here touches a host, and no program may use it.

mod host;
mod promises;
mod records;
pub mod samples;

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

pub use self::host::{Deed, FakeHost};
pub use self::promises::records_keep_their_promises;
pub use self::records::MemoryRecords;
use crate::ident::Timestamp;
use crate::ports::{Clock, Judge};
use crate::repair::{Context, Issue, Judgement};

/// Gives queued answers, and nothing once they are used up; remembers every case.
#[derive(Debug, Default)]
pub struct ScriptedJudge {
    answers: Mutex<VecDeque<Vec<Judgement>>>,
    cases: Mutex<Vec<(Issue, Context)>>,
}

impl ScriptedJudge {
    /// What the next case that has no answer yet is answered with.
    pub fn then(&self, judgements: Vec<Judgement>) {
        lock(&self.answers).push_back(judgements);
    }

    /// Every case so far, oldest first.
    pub fn cases(&self) -> Vec<(Issue, Context)> {
        lock(&self.cases).clone()
    }
}

#[async_trait]
impl Judge for ScriptedJudge {
    async fn judge(&self, issue: &Issue, context: &Context) -> Vec<Judgement> {
        lock(&self.cases).push((issue.clone(), context.clone()));
        lock(&self.answers).pop_front().unwrap_or_default()
    }
}

/// Stands still until it is set.
#[derive(Debug, Default)]
pub struct FixedClock(Mutex<Timestamp>);

impl FixedClock {
    pub fn at(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    pub fn set(&self, now: Timestamp) {
        *lock(&self.0) = now;
    }

    pub fn advance(&self, milliseconds: u64) {
        let mut now = lock(&self.0);
        *now = now.plus(milliseconds);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        *lock(&self.0)
    }
}

/// A test that panicked with a lock held has failed already; the others may go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_in_memory_keep_their_promises() {
        records_keep_their_promises(&MemoryRecords::default()).await;
    }

    #[tokio::test]
    async fn a_judge_gives_its_answers_in_order_and_then_none() {
        let judge = ScriptedJudge::default();
        judge.then(vec![samples::answer("first", crate::repair::Verdict::Hold, &[])]);
        let (issue, context) = (samples::issue(1), samples::context());
        assert_eq!(judge.judge(&issue, &context).await[0].policy, "first");
        assert_eq!(judge.judge(&issue, &context).await, []);
        assert_eq!(judge.cases().len(), 2);
    }

    #[test]
    fn a_clock_moves_only_when_told() {
        let clock = FixedClock::at(Timestamp(5));
        assert_eq!(clock.now(), clock.now());
        clock.advance(3);
        assert_eq!(clock.now(), Timestamp(8));
    }
}
