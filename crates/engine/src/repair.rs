//! From looks to issues: takes up what the observer found, settles what it no longer finds, and has
//! judged what is due. What is wrong was found by the observer; what is done about it is decided in
//! [`crate::ruling`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};
use uuid::Uuid;
use vman_core::coherence::{DiskReleased, GuestEnded, Incoherence, Kind, Look};
use vman_core::ident::{IssueId, Timestamp};
use vman_core::lifecycle::{DiskCommand, VmCommand};
use vman_core::operation::{Operation, OperationState, Reason, Subject};
use vman_core::ports::{Change, RecordError};
use vman_core::repair::{Issue, IssueState, Resolution};
use vman_core::vm::VmState;

use crate::gate::Ask;
use crate::{Engine, EngineError};

/// Repairs under way at one time; nobody is asked for further ones before one has ended.
const REPAIRS_AT_ONCE_MAX: usize = 8;
/// How long one look waits in all for repairs to end, so that further ones can begin: looking at
/// everything for each few of many that are due would cost far more than the repairs.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(1);
/// Issues judged in one look, so that the next look is never far; the others are judged then.
const JUDGED_PER_LOOK_MAX: usize = 64;
/// Unresolved issues of one kind; what is found beyond them waits until some are resolved.
const UNRESOLVED_PER_KIND_MAX: usize = 1_000;

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
            let engine = self.engine.clone();
            // A task of its own: a panic in it must not make the daemon blind for ever.
            match tokio::spawn(async move { engine.act_on(look).await }).await {
                Ok(Ok(next)) => next_recheck = next,
                Ok(Err(error)) => {
                    warn!(%error, "a look could not be acted on; the next one will be")
                }
                Err(error) => error!(%error, "acting on a look failed; the next one will be tried"),
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
        let unresolved = self.recall().unresolved().await?.into_iter();
        let waits = |issue: &Issue| issue.state == IssueState::Open && issue.recheck_at.is_none();
        let due = unresolved
            .filter(waits)
            .map(|issue| Issue { recheck_at: Some(self.now()), ..issue })
            .map(|issue| Change::PutIssue(Box::new(issue)));
        self.commit(due.collect()).await
    }

    /// Returns when the next issue is to be judged.
    pub(crate) async fn act_on(&self, look: Look) -> Result<Option<Timestamp>, RecordError> {
        // What an earlier failure of the records left undriven.
        if let Err(error) = self.recover().await {
            warn!(%error, "cannot read the operations");
        }
        for ended in &look.guests_ended {
            self.record_guest_end(*ended).await;
        }
        for released in &look.disks_released {
            self.record_release(*released).await;
        }
        let due = self.take_in(&look).await?;
        if !self.judge_all(due).await? {
            return Ok(Some(self.now()));
        }
        let open = self.recall().unresolved().await?;
        // What was due already and could not be judged in this look waits for an ordinary one.
        let later = open.iter().filter_map(|issue| issue.recheck_at).filter(|due| *due > look.at);
        Ok(later.min())
    }

    async fn record_guest_end(&self, ended: GuestEnded) {
        let vm = ended.vm;
        let ask = Ask::seen(Reason::Guest, Some(ended.generation));
        match self.let_in_vm(vm, VmCommand::GuestEnded, ask).await {
            Ok(_) => info!(%vm, "the guest powered itself off"),
            // Somebody else has done something with it since.
            Err(
                EngineError::NotFound(_)
                | EngineError::Record(RecordError::Stale(_) | RecordError::NotFound(_)),
            ) => {}
            Err(error) => warn!(%vm, %error, "the guest's end cannot be recorded"),
        }
    }

    /// What is under way on the disk will say itself how it ended.
    async fn record_release(&self, released: DiskReleased) {
        let disk = released.disk;
        match self.recall().unended(Some(&Subject::Disk(disk))).await {
            Ok(under_way) if under_way.is_empty() => {}
            Ok(_) => return,
            Err(error) => {
                warn!(%disk, %error, "the release of a disk cannot be recorded");
                return;
            }
        }
        let ask = Ask::seen(Reason::Guest, Some(released.generation));
        match self.let_in_disk(disk, DiskCommand::Released, None, ask).await {
            Ok(_) => info!(%disk, "the guest has let go of the disk"),
            // Somebody else has done something with it since.
            Err(
                EngineError::NotFound(_)
                | EngineError::Record(RecordError::Stale(_) | RecordError::NotFound(_)),
            ) => {}
            Err(error) => warn!(%disk, %error, "the release of a disk cannot be recorded"),
        }
    }

    /// Brings the issues up to date in one commit, and returns those to be judged now. They stand
    /// in the records before anybody is asked about them, and are due until the answer stands there
    /// too: a daemon killed in between asks again.
    async fn take_in(&self, look: &Look) -> Result<Vec<Issue>, RecordError> {
        let unresolved = self.recall().unresolved().await?;
        let mut room = Room::beside(&unresolved);
        let print = |issue: Issue| (issue.fingerprint.clone(), issue);
        let mut unresolved: HashMap<String, Issue> = unresolved.into_iter().map(print).collect();
        let (mut changes, mut due) = (Vec::new(), Vec::new());
        for found in &look.incoherences {
            // Out of the list even if the finding is stale: that proves nothing in either way.
            let known = unresolved.remove(&found.wrong.fingerprint());
            if (known.is_none() && !room.take(found.wrong.kind())) || self.is_stale(found).await? {
                continue;
            }
            let Some((issue, is_due)) = self.take_up(found, known).await? else { continue };
            changes.push(Change::PutIssue(Box::new(issue.clone())));
            due.extend(is_due.then_some(issue));
        }
        room.tell();
        for issue in unresolved.into_values() {
            if !look.undecided.contains(&issue.kind) {
                changes.extend(self.settle(issue, look.at).await?);
            }
        }
        self.commit(changes).await?;
        Ok(due)
    }

    /// The record has changed since it was compared: what was found may no longer be so.
    async fn is_stale(&self, found: &Incoherence) -> Result<bool, RecordError> {
        let subject = found.wrong.subject();
        Ok(match subject {
            Subject::Vm(_) | Subject::Disk(_) => {
                self.generation(&subject).await? != found.wrong.generation()
            }
            // Its VM was recorded after the records were read.
            Subject::Machine(id) => self.recall().vm(id).await?.is_some(),
            Subject::File(_) => false,
        })
    }

    /// The issue as it is now, and whether it is to be judged; none while its repair goes on.
    async fn take_up(
        &self,
        found: &Incoherence,
        known: Option<Issue>,
    ) -> Result<Option<(Issue, bool)>, RecordError> {
        let (mut issue, due) = match known {
            None => {
                let issue = Issue::new(IssueId(Uuid::new_v4()), found);
                warn!(issue = %issue.id, kind = issue.kind.word(), "{}", issue.message);
                (issue, true)
            }
            Some(mut issue) => {
                // A look that began before its repair had ended says nothing of what came of it.
                let (repair, now) = (self.latest_repair(&issue).await?, self.now());
                if repair.is_some_and(|repair| !tells_of(found.seen_at, &repair, now)) {
                    return Ok(None);
                }
                let changed = issue.generation != found.wrong.generation();
                let due = issue.recheck_at.is_some_and(|at| at <= found.seen_at);
                let reopened = matches!(issue.state, IssueState::Repairing(_));
                issue.state = IssueState::Open;
                issue.recur(found);
                (issue, changed || due || reopened)
            }
        };
        if due {
            issue.recheck_at = Some(found.seen_at);
        }
        Ok(Some((issue, due)))
    }

    async fn latest_repair(&self, issue: &Issue) -> Result<Option<Operation>, RecordError> {
        match self.recall().repairs_of(issue.id).await?.last() {
            Some(id) => self.recall().operation(*id).await,
            None => Ok(None),
        }
    }

    /// A look that began at `look` no longer found it.
    async fn settle(
        &self,
        mut issue: Issue,
        look: Timestamp,
    ) -> Result<Option<Change>, RecordError> {
        let (repair, at) = (self.latest_repair(&issue).await?, self.now());
        let how = match &repair {
            Some(repair) if !tells_of(look, repair, at) => return Ok(None),
            _ if self.failed_instead(&issue).await? => Resolution::GivenUp,
            Some(repair) if has_held(repair, &issue) => Resolution::ByRepair,
            Some(_) | None => Resolution::ByItself,
        };
        info!(issue = %issue.id, how = how.word(), "resolved: {}", issue.message);
        issue.state = IssueState::Resolved { at, how };
        issue.recheck_at = None;
        Ok(Some(Change::PutIssue(Box::new(issue))))
    }

    /// Its record was brought into line with the host, not the host with its record.
    async fn failed_instead(&self, issue: &Issue) -> Result<bool, RecordError> {
        match (issue.kind, &issue.subject) {
            (
                Kind::VmProcessMissing | Kind::VmControlLost | Kind::VmGuestPanicked,
                Subject::Vm(id),
            ) => {
                let vm = self.recall().vm(*id).await?;
                Ok(vm.is_some_and(|vm| matches!(vm.state, VmState::Failed(_))))
            }
            (
                Kind::VmProcessMissing
                | Kind::VmProcessUnexpected
                | Kind::VmControlLost
                | Kind::VmGuestPanicked
                | Kind::ProcessOrphan
                | Kind::DiskFileMissing
                | Kind::DiskAttachmentMismatch
                | Kind::DiskUnplugUnanswered
                | Kind::FileOrphan
                | Kind::DeviceOrphan,
                _,
            ) => Ok(false),
        }
    }

    /// False if more are due than one look may have judged.
    async fn judge_all(&self, due: Vec<Issue>) -> Result<bool, RecordError> {
        let until = Instant::now() + ROOM_WAIT_MAX;
        // Before they are counted: an end after that is then not missed.
        let mut ended = self.inner.ended.subscribe();
        let mut under_way = self.repairs_under_way().await?;
        for (count, issue) in due.into_iter().enumerate() {
            if count >= JUDGED_PER_LOOK_MAX {
                return Ok(false);
            }
            while under_way >= REPAIRS_AT_ONCE_MAX {
                if !matches!(timeout_at(until, ended.changed()).await, Ok(Ok(()))) {
                    // The end of any of them wakes the observer, and the others are due still.
                    return Ok(true);
                }
                under_way = self.repairs_under_way().await?;
            }
            under_way += usize::from(self.judge(issue).await?);
        }
        Ok(true)
    }

    async fn repairs_under_way(&self) -> Result<usize, RecordError> {
        let unended = self.recall().unended(None).await?;
        let repairs = unended.iter().filter(|one| matches!(one.reason, Reason::Repair { .. }));
        Ok(repairs.count())
    }

    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordError> {
        if changes.is_empty() { Ok(()) } else { self.commit_port().commit(changes).await }
    }
}

/// Whether a look that began at `look` saw what came of `repair`. A repair that ended after `now`
/// did so before the clock was set back, which is no reason to wait.
fn tells_of(look: Timestamp, repair: &Operation, now: Timestamp) -> bool {
    repair.ended_at.is_some_and(|ended| ended <= look || ended > now)
}

/// It ended well, and what it was made for was not found again since.
fn has_held(repair: &Operation, issue: &Issue) -> bool {
    repair.state == OperationState::Succeeded && repair.ended_at >= Some(issue.last_seen)
}

/// How many more issues of each kind may be taken up.
struct Room {
    unresolved: BTreeMap<Kind, usize>,
}

impl Room {
    fn beside(unresolved: &[Issue]) -> Self {
        let mut counts = BTreeMap::new();
        for issue in unresolved {
            *counts.entry(issue.kind).or_default() += 1;
        }
        Self { unresolved: counts }
    }

    /// False if there is none.
    fn take(&mut self, kind: Kind) -> bool {
        let count = self.unresolved.entry(kind).or_default();
        *count += 1;
        *count <= UNRESOLVED_PER_KIND_MAX
    }

    fn tell(&self) {
        for (kind, count) in &self.unresolved {
            let left_out = count.saturating_sub(UNRESOLVED_PER_KIND_MAX);
            if left_out > 0 {
                let kind = kind.word();
                warn!(kind, left_out, "too many unresolved issues: further ones are not taken up");
            }
        }
    }
}
