//! From a look to a repair: keeps the issues, has each judged when it is due, and puts what was
//! chosen through the gate as an ordinary command. It decides nothing itself: what is wrong was
//! found by the observer, what to do is the policies' word, whether it may be done is the gate's.

use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};
use uuid::Uuid;
use vman_core::coherence::{GuestEnded, Incoherence, Look};
use vman_core::evidence::Fact;
use vman_core::ident::{IssueId, OperationId, Timestamp};
use vman_core::lifecycle::VmCommand;
use vman_core::operation::{Operation, OperationState, Reason, Subject};
use vman_core::ports::{Change, JudgementRecord, RecordError};
use vman_core::repair::{
    self, CandidateKind, Context, Issue, IssueState, Leave, RepairCommand, Resolution, Ruling,
    SafeDefault,
};
use vman_core::vm::{FailureReason, VmState};

use crate::{Engine, EngineError};

/// Repairs under way at one time; further ones wait for the next look.
const REPAIRS_AT_ONCE_MAX: usize = 8;
/// A held issue without a time of its own is judged again after this.
const HOLD_RECHECK_MS: u64 = 30_000;
/// An issue whose policy failed, or that could not be acted on, is judged again after this.
const FAILED_RECHECK_MS: u64 = 60_000;
/// An issue that found too many repairs under way is judged again after this.
const CROWDED_RECHECK_MS: u64 = 1_000;
/// How far back a policy sees earlier tries on the same problem.
const ATTEMPTS_WINDOW_MS: u64 = 60 * 60 * 1000;

/// Takes looks in and acts on them, one at a time.
#[derive(Debug)]
pub struct RepairLoop {
    engine: Engine,
    looks: mpsc::Receiver<Look>,
}

impl RepairLoop {
    pub fn new(engine: Engine, looks: mpsc::Receiver<Look>) -> Self {
        Self { engine, looks }
    }

    /// Runs until the observer is gone.
    pub async fn run(mut self) {
        if let Err(error) = self.engine.judge_anew().await {
            warn!(%error, "open issues are not judged anew after this start");
        }
        let mut next_recheck: Option<Timestamp> = None;
        loop {
            let look = tokio::select! {
                look = self.looks.recv() => look,
                () = self.engine.until(next_recheck) => {
                    // The policy's wish to be asked again is a wake like any other: what is wrong
                    // now is for the observer to say.
                    (self.engine.inner.ports.wake_observer)();
                    next_recheck = None;
                    continue;
                }
            };
            let Some(look) = look else { return };
            match self.engine.act_on(look).await {
                Ok(next) => next_recheck = next,
                Err(error) => warn!(%error, "a look could not be acted on; the next one will be"),
            }
        }
    }
}

impl Engine {
    async fn until(&self, moment: Option<Timestamp>) {
        match moment {
            Some(at) => {
                let left = Duration::from_millis(at.since(self.now()));
                tokio::time::sleep(left).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Makes every open issue due whose policy asked for no time of its own: policies and switches
    /// may be others since the last start.
    pub(crate) async fn judge_anew(&self) -> Result<(), RecordError> {
        for mut issue in self.recall().unresolved().await? {
            if issue.state == IssueState::Open && issue.recheck_at.is_none() {
                issue.recheck_at = Some(self.now());
                self.put(&issue, vec![]).await?;
            }
        }
        Ok(())
    }

    /// Returns when the earliest held issue is to be judged again.
    pub(crate) async fn act_on(&self, look: Look) -> Result<Option<Timestamp>, RecordError> {
        // What an earlier failure of the records left undriven.
        if let Err(error) = self.recover().await {
            warn!(%error, "cannot read the operations");
        }
        for ended in &look.guests_ended {
            self.record_guest_end(*ended).await;
        }
        let mut unresolved = self.recall().unresolved().await?;
        for found in &look.incoherences {
            let fingerprint = found.wrong.fingerprint();
            let known = unresolved.iter().position(|issue| issue.fingerprint == fingerprint);
            // Out of the list even if the finding is stale: that proves nothing in either way.
            let known = known.map(|index| unresolved.swap_remove(index));
            if !self.is_stale(found).await? {
                self.take_up(found, known).await?;
            }
        }
        for issue in unresolved {
            if !look.undecided.contains(&issue.kind) {
                self.settle(issue, look.at).await?;
            }
        }
        let open = self.recall().unresolved().await?;
        // What was due already and could not be judged in this look waits for an ordinary one.
        let later = open.iter().filter_map(|issue| issue.recheck_at).filter(|due| *due > look.at);
        Ok(later.min())
    }

    async fn record_guest_end(&self, ended: GuestEnded) {
        let current = self.recall().vm(ended.vm).await.ok().flatten();
        if current.is_none_or(|vm| vm.generation != ended.generation) {
            return;
        }
        match self.command_vm(ended.vm, VmCommand::GuestEnded, Reason::Guest).await {
            Ok(_) => info!(vm = %ended.vm, "the guest powered itself off"),
            Err(error) => warn!(vm = %ended.vm, %error, "the guest's end cannot be recorded"),
        }
    }

    /// The record has changed since it was compared: what was found may no longer be so.
    async fn is_stale(&self, found: &Incoherence) -> Result<bool, RecordError> {
        let generation = found.wrong.generation();
        Ok(match found.wrong.subject() {
            Subject::Vm(id) => self.recall().vm(id).await?.map(|vm| vm.generation) != generation,
            Subject::Disk(id) => {
                self.recall().disk(id).await?.map(|disk| disk.generation) != generation
            }
            // Its VM was recorded after the records were read.
            Subject::Machine(id) => self.recall().vm(id).await?.is_some(),
            Subject::File(_) => false,
        })
    }

    async fn take_up(&self, found: &Incoherence, known: Option<Issue>) -> Result<(), RecordError> {
        let (mut issue, due) = match known {
            None => {
                let issue = Issue::new(IssueId(Uuid::new_v4()), found);
                warn!(issue = %issue.id, kind = issue.kind.word(), "{}", issue.message);
                (issue, true)
            }
            Some(mut issue) => {
                let repair = self.latest_repair(&issue).await?;
                if repair.is_some_and(|operation| !operation.state.is_ended()) {
                    return Ok(());
                }
                let changed = issue.generation != found.wrong.generation();
                let due = issue.recheck_at.is_some_and(|at| at <= found.seen_at);
                let reopened = matches!(issue.state, IssueState::Repairing(_));
                issue.state = IssueState::Open;
                issue.recur(found);
                (issue, changed || due || reopened)
            }
        };
        // The issue stands in the records before anybody is asked about it, and is due until the
        // answer stands there too: a daemon killed in between asks again.
        if due {
            issue.recheck_at = Some(found.seen_at);
        }
        self.put(&issue, vec![]).await?;
        if due { self.judge(issue).await } else { Ok(()) }
    }

    async fn latest_repair(&self, issue: &Issue) -> Result<Option<Operation>, RecordError> {
        match self.recall().repairs_of(issue.id).await?.last() {
            Some(id) => self.recall().operation(*id).await,
            None => Ok(None),
        }
    }

    /// The look no longer found it.
    async fn settle(&self, mut issue: Issue, at: Timestamp) -> Result<(), RecordError> {
        let how = match self.latest_repair(&issue).await?.map(|operation| operation.state) {
            Some(OperationState::Pending | OperationState::Running) => return Ok(()),
            Some(OperationState::Succeeded) => Resolution::ByRepair,
            Some(OperationState::Failed(_)) | None => Resolution::ByItself,
        };
        info!(issue = %issue.id, how = how.word(), "resolved: {}", issue.message);
        issue.state = IssueState::Resolved { at, how };
        issue.recheck_at = None;
        self.put(&issue, vec![]).await
    }

    async fn judge(&self, mut issue: Issue) -> Result<(), RecordError> {
        issue.recheck_at = None;
        let context = self.context(&issue).await?;
        let judgements = self.inner.ports.judge.judge(&issue, &context).await;
        let ruling = repair::rule(&issue, &judgements);
        let at = self.now();
        let kept = judgements
            .into_iter()
            .map(|judgement| JudgementRecord { issue: issue.id, at, judgement })
            .map(|record| Change::AddJudgement(Box::new(record)))
            .collect();
        match ruling {
            Ruling::Leave { recheck_after_ms, why } => {
                let after = recheck_after_ms.or_else(|| recheck_by_default(&why));
                issue.recheck_at = after.map(|after| at.plus(after));
                self.tell_left(&issue, &why);
            }
            Ruling::Repair { policy, chosen } => self.repair(&mut issue, policy, &chosen).await?,
        }
        self.put(&issue, kept).await
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
        if self.repairs_under_way().await? >= REPAIRS_AT_ONCE_MAX {
            issue.recheck_at = Some(self.now().plus(CROWDED_RECHECK_MS));
            return Ok(());
        }
        for candidate in chosen {
            let reason = Reason::Repair { issue: issue.id, policy: policy.clone() };
            match self.command(&issue.subject, *candidate, reason).await {
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
                Err(EngineError::Record(error)) => return Err(error),
                Err(error) => {
                    warn!(issue = %issue.id, candidate = candidate.word(), %error, "not let in");
                    issue.recheck_at = Some(retry_at);
                }
            }
        }
        Ok(())
    }

    async fn repairs_under_way(&self) -> Result<usize, RecordError> {
        let unended = self.recall().unended(None).await?;
        let is_repair = |reason: &Reason| matches!(reason, Reason::Repair { .. });
        Ok(unended.iter().filter(|operation| is_repair(&operation.reason)).count())
    }

    async fn command(
        &self,
        subject: &Subject,
        candidate: CandidateKind,
        reason: Reason,
    ) -> Result<Option<OperationId>, EngineError> {
        match (RepairCommand::from(candidate), subject) {
            (RepairCommand::Vm(command), Subject::Vm(id)) => {
                Ok(self.command_vm(*id, command, reason).await?.operation)
            }
            (RepairCommand::Disk(command), Subject::Disk(id)) => {
                Ok(self.command_disk(*id, command, None, reason).await?.operation)
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
            "repair budget: {} repairs within {} s did not last; see issue {}, then start it \
             yourself",
            config.budget,
            config.window.as_secs(),
            issue.id
        );
        warn!(issue = %issue.id, subject = %issue.subject, "{reason}");
        issue.recheck_at = Some(self.now().plus(FAILED_RECHECK_MS));
        if let (Subject::Vm(vm), Some(expected)) = (&issue.subject, issue.generation) {
            let state = VmState::Failed(FailureReason(reason));
            let change = Change::VmState { vm: *vm, expected, state, at: self.now() };
            match self.commit_port().commit(vec![change]).await {
                // The user was quicker, and wins.
                Ok(()) | Err(RecordError::Stale(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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

    async fn put(&self, issue: &Issue, mut with: Vec<Change>) -> Result<(), RecordError> {
        with.insert(0, Change::PutIssue(Box::new(issue.clone())));
        self.commit_port().commit(with).await
    }
}

fn recheck_by_default(why: &Leave) -> Option<u64> {
    match why {
        Leave::Held => Some(HOLD_RECHECK_MS),
        Leave::PolicyFailed { .. } => Some(FAILED_RECHECK_MS),
        Leave::Ignored | Leave::Escalated { .. } | Leave::NobodyAnswered => None,
    }
}
