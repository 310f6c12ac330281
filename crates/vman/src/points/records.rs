//! The points of commits. Reading has none: it changes nothing.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;
use vman_core::coherence::Recorded;
use vman_core::disk::Disk;
use vman_core::ident::{DiskId, IdempotencyKey, IssueId, Name, OperationId, Timestamp, VmId};
use vman_core::operation::{Operation, Subject};
use vman_core::ports::{Change, JudgementRecord, KeptRequest, Page, Recall, Record, RecordError};
use vman_core::repair::{Attempt, Issue};
use vman_core::template::Template;
use vman_core::vm::Vm;

use super::{Fate, Points, names};

type Read<T> = Result<T, RecordError>;

/// Records with a point before and after every commit.
pub(super) struct Records {
    pub(super) records: Arc<dyn Record>,
    pub(super) points: Arc<Points>,
}

#[async_trait]
impl Record for Records {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordError> {
        let name = names::commit(&changes);
        match self.points.pass(&format!("before commit {name}")) {
            Fate::GoOn => {}
            Fate::Fail(why) => return Err(RecordError::Unavailable(why)),
        }
        let committed = self.records.commit(changes).await;
        self.points.pass(&format!("after commit {name}"));
        committed
    }

    async fn sync(&self) -> Result<(), RecordError> {
        self.records.sync().await
    }
}

#[async_trait]
impl Recall for Records {
    async fn template(&self, name: &Name) -> Read<Option<Template>> {
        self.records.template(name).await
    }
    async fn templates(&self, page: Page<Name>) -> Read<Vec<Template>> {
        self.records.templates(page).await
    }
    async fn vm(&self, id: VmId) -> Read<Option<Vm>> {
        self.records.vm(id).await
    }
    async fn vms(&self, state: Option<&str>, page: Page<VmId>) -> Read<Vec<Vm>> {
        self.records.vms(state, page).await
    }
    async fn disk(&self, id: DiskId) -> Read<Option<Disk>> {
        self.records.disk(id).await
    }
    async fn disks(&self, page: Page<DiskId>) -> Read<Vec<Disk>> {
        self.records.disks(page).await
    }
    async fn disks_of(&self, vm: VmId) -> Read<Vec<Disk>> {
        self.records.disks_of(vm).await
    }
    async fn operation(&self, id: OperationId) -> Read<Option<Operation>> {
        self.records.operation(id).await
    }
    async fn operations(&self, page: Page<OperationId>) -> Read<Vec<Operation>> {
        self.records.operations(page).await
    }
    async fn unended(&self, subject: Option<&Subject>) -> Read<Vec<Operation>> {
        self.records.unended(subject).await
    }
    async fn in_turn(&self, turn: &Subject) -> Read<Vec<Operation>> {
        self.records.in_turn(turn).await
    }
    async fn request(&self, key: &IdempotencyKey) -> Read<Option<KeptRequest>> {
        self.records.request(key).await
    }
    async fn host_boot(&self) -> Read<Option<Uuid>> {
        self.records.host_boot().await
    }
    async fn issue(&self, id: IssueId) -> Read<Option<Issue>> {
        self.records.issue(id).await
    }
    async fn issues(&self, state: Option<&str>, page: Page<IssueId>) -> Read<Vec<Issue>> {
        self.records.issues(state, page).await
    }
    async fn unresolved(&self) -> Read<Vec<Issue>> {
        self.records.unresolved().await
    }
    async fn judgements(&self, issue: IssueId) -> Read<Vec<JudgementRecord>> {
        self.records.judgements(issue).await
    }
    async fn attempts(&self, fingerprint: &str, since: Timestamp) -> Read<Vec<Attempt>> {
        self.records.attempts(fingerprint, since).await
    }
    async fn repairs(&self, subject: &Subject, since: Timestamp) -> Read<u32> {
        self.records.repairs(subject, since).await
    }
    async fn repairs_of(&self, issue: IssueId) -> Read<Vec<OperationId>> {
        self.records.repairs_of(issue).await
    }
    async fn leases(&self) -> Read<BTreeSet<Ipv4Addr>> {
        self.records.leases().await
    }
    async fn recorded(&self) -> Read<Recorded> {
        self.records.recorded().await
    }
}
