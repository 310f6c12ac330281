//! From an issue to a repair: has it judged, and puts what was chosen through the gate as an
//! ordinary command. It decides nothing itself: what to do is the policies' word, whether it may be
//! done is the gate's.

use tracing::{info, warn};
use vman_core::evidence::Fact;
use vman_core::ident::{OperationId, Timestamp};
use vman_core::operation::{Reason, Subject};
use vman_core::ports::{Change, JudgementRecord, RecordError};
use vman_core::repair::{
    self, CandidateKind, Context, Issue, IssueState, Leave, RepairCommand, Ruling, SafeDefault,
};
use vman_core::vm::{FailureReason, VmState};

use crate::gate::Ask;
use crate::{Engine, EngineError};

/// A held issue without a time of its own is judged again after this.
const HOLD_RECHECK_MS: u64 = 30_000;
/// An issue whose policy failed, or that could not be acted on, is judged again after this.
const FAILED_RECHECK_MS: u64 = 60_000;
/// How far back a policy sees earlier tries on the same problem.
const ATTEMPTS_WINDOW_MS: u64 = 60 * 60 * 1000;

impl Engine {
    /// Whether a repair was let in.
    pub(crate) async fn judge(&self, mut issue: Issue) -> Result<bool, RecordError> {
        let context = self.context(&issue).await?;
        let judgements = self.inner.ports.judge.judge(&issue, &context).await;
        let ruling = repair::rule(&issue, &judgements);
        let at = self.now();
        let mut changes: Vec<Change> = judgements
            .into_iter()
            .map(|judgement| JudgementRecord { issue: issue.id, at, judgement })
            .map(|record| Change::AddJudgement(Box::new(record)))
            .collect();
        issue.recheck_at = None;
        match ruling {
            Ruling::Leave { recheck_after_ms, why } => {
                let after = recheck_after_ms.or_else(|| recheck_by_default(&why));
                issue.recheck_at = after.map(|after| at.plus(after));
                self.tell_left(&issue, &why);
            }
            Ruling::Repair { policy, chosen } => {
                // Kept before it is acted on: who chose a repair is known whatever happens next.
                self.commit(std::mem::take(&mut changes)).await?;
                self.repair(&mut issue, policy, &chosen).await?;
            }
        }
        let repairing = matches!(issue.state, IssueState::Repairing(_));
        changes.push(Change::PutIssue(Box::new(issue)));
        self.commit(changes).await?;
        Ok(repairing)
    }

    async fn context(&self, issue: &Issue) -> Result<Context, RecordError> {
        let now = self.now();
        let since = Timestamp(now.0.saturating_sub(ATTEMPTS_WINDOW_MS));
        let attempts = self.recall().attempts(&issue.fingerprint, since).await?;
        let left = self.budget_left(&issue.subject).await?;
        Ok(Context {
            now,
            // Different for every issue and occurrence, and the same when it is judged again.
            seed: issue.id.0.as_u64_pair().1 ^ u64::from(issue.occurrences),
            backend: self.inner.config.backend.clone(),
            attempts,
            facts: vec![Fact::integer("repair.budget-left", u64::from(left))],
        })
    }

    async fn budget_left(&self, subject: &Subject) -> Result<u32, RecordError> {
        let config = &self.inner.config.repair;
        let window_ms = u64::try_from(config.window.as_millis()).unwrap_or(u64::MAX);
        let since = Timestamp(self.now().0.saturating_sub(window_ms));
        Ok(config.budget.saturating_sub(self.recall().repairs(subject, since).await?))
    }

    /// Carries out the first of the chosen candidates that the gate lets in.
    async fn repair(
        &self,
        issue: &mut Issue,
        policy: String,
        chosen: &[CandidateKind],
    ) -> Result<(), RecordError> {
        let retry_at = self.now().plus(FAILED_RECHECK_MS);
        if !self.inner.config.repair.enabled {
            info!(issue = %issue.id, policy, "a repair was chosen, and repair is switched off");
            return Ok(());
        }
        if self.budget_left(&issue.subject).await? == 0 {
            return self.give_up(issue).await;
        }
        for candidate in chosen {
            let reason = Reason::Repair { issue: issue.id, policy: policy.clone() };
            match self.command(issue, *candidate, reason).await {
                Ok(Some(operation)) => {
                    info!(
                        issue = %issue.id, policy, candidate = candidate.word(),
                        operation = %operation, "repair let in"
                    );
                    issue.state = IssueState::Repairing(operation);
                    issue.recheck_at = None;
                    return Ok(());
                }
                // Already so: the next look will say.
                Ok(None) => return Ok(()),
                // What was judged is not so any more: the user was quicker, and wins.
                Err(EngineError::Record(RecordError::Stale(_))) => return Ok(()),
                Err(EngineError::Record(error @ RecordError::Unavailable(_))) => return Err(error),
                Err(error) => {
                    warn!(issue = %issue.id, candidate = candidate.word(), %error, "not let in");
                    issue.recheck_at = Some(retry_at);
                }
            }
        }
        Ok(())
    }

    async fn command(
        &self,
        issue: &Issue,
        candidate: CandidateKind,
        reason: Reason,
    ) -> Result<Option<OperationId>, EngineError> {
        let (subject, seen) = (&issue.subject, issue.generation);
        match (RepairCommand::from(candidate), subject) {
            (RepairCommand::Vm(command), Subject::Vm(id)) => {
                Ok(self.let_in_vm(*id, command, Ask::seen(reason, seen)).await?.operation)
            }
            (RepairCommand::Disk(command), Subject::Disk(id)) => {
                Ok(self.let_in_disk(*id, command, None, Ask::seen(reason, seen)).await?.operation)
            }
            (RepairCommand::Stray(verb), Subject::Machine(_) | Subject::File(_)) => {
                Ok(Some(self.command_stray(subject.clone(), verb, reason).await?))
            }
            (
                RepairCommand::Vm(_) | RepairCommand::Disk(_) | RepairCommand::Stray(_),
                Subject::Vm(_) | Subject::Disk(_) | Subject::Machine(_) | Subject::File(_),
            ) => Err(EngineError::NotFound(subject.clone())),
        }
    }

    /// The budget is spent: a VM that crashes in a loop fails instead of being started for ever.
    async fn give_up(&self, issue: &mut Issue) -> Result<(), RecordError> {
        let config = &self.inner.config.repair;
        let reason = format!(
            "repair budget: {} repairs within {} s did not last; see issue {}, then start or \
             stop it yourself",
            config.budget,
            config.window.as_secs(),
            issue.id
        );
        warn!(issue = %issue.id, subject = %issue.subject, "{reason}");
        issue.recheck_at = Some(self.now().plus(FAILED_RECHECK_MS));
        let (Subject::Vm(id), Some(expected)) = (&issue.subject, issue.generation) else {
            return Ok(());
        };
        let state = self.recall().vm(*id).await?.map(|vm| vm.state);
        // Why it failed first says more than that it was not repaired.
        if state.is_none_or(|state| state.reason().is_some()) {
            return Ok(());
        }
        let state = VmState::Failed(FailureReason(reason));
        let change = Change::VmState { vm: *id, expected, state, at: self.now() };
        match self.commit_port().commit(vec![change]).await {
            Ok(()) => {
                (self.inner.ports.wake_observer)();
                Ok(())
            }
            // The user was quicker, and wins.
            Err(RecordError::Stale(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn tell_left(&self, issue: &Issue, why: &Leave) {
        let failed = match why {
            Leave::PolicyFailed { .. } | Leave::Escalated { .. } => true,
            Leave::Held | Leave::Ignored | Leave::NobodyAnswered => false,
        };
        if failed {
            warn!(issue = %issue.id, kind = issue.kind.word(), "left alone: {why}");
        } else {
            info!(issue = %issue.id, kind = issue.kind.word(), "left alone: {why}");
        }
        match repair::safe_default(issue.kind) {
            // The issue is recorded and the log has it: nothing else is to be done.
            SafeDefault::LogOnly => {}
        }
    }
}

fn recheck_by_default(why: &Leave) -> Option<u64> {
    match why {
        Leave::Held => Some(HOLD_RECHECK_MS),
        Leave::PolicyFailed { .. } => Some(FAILED_RECHECK_MS),
        Leave::Ignored | Leave::Escalated { .. } | Leave::NobodyAnswered => None,
    }
}
