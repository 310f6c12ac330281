//! Records that cannot be read until they are mended. They are empty then.

use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;
use vman_core::coherence::Recorded;
use vman_core::disk::Disk;
use vman_core::ident::{DiskId, IdempotencyKey, IssueId, OperationId, VmId};
use vman_core::operation::{Operation, Subject};
use vman_core::ports::{JudgementRecord, KeptRequest, Page, Recall, RecordError};
use vman_core::repair::{Attempt, Issue};
use vman_core::vm::Vm;

use super::*;

#[derive(Default)]
pub(crate) struct Unreadable {
    mended: AtomicBool,
    records: MemoryRecords,
}

impl Unreadable {
    pub(crate) fn mend(&self) {
        self.mended.store(true, Ordering::SeqCst);
    }

    fn read(&self) -> Read<&MemoryRecords> {
        if self.mended.load(Ordering::SeqCst) {
            Ok(&self.records)
        } else {
            Err(RecordError::Unavailable("disk on fire".to_owned()))
        }
    }
}

type Read<T> = Result<T, RecordError>;

#[async_trait]
impl Recall for Unreadable {
    async fn template(&self, name: &Name) -> Read<Option<Template>> {
        self.read()?.template(name).await
    }
    async fn templates(&self, page: Page<Name>) -> Read<Vec<Template>> {
        self.read()?.templates(page).await
    }
    async fn vm(&self, id: VmId) -> Read<Option<Vm>> {
        self.read()?.vm(id).await
    }
    async fn vms(&self, state: Option<&str>, page: Page<VmId>) -> Read<Vec<Vm>> {
        self.read()?.vms(state, page).await
    }
    async fn disk(&self, id: DiskId) -> Read<Option<Disk>> {
        self.read()?.disk(id).await
    }
    async fn disks(&self, page: Page<DiskId>) -> Read<Vec<Disk>> {
        self.read()?.disks(page).await
    }
    async fn disks_of(&self, vm: VmId) -> Read<Vec<Disk>> {
        self.read()?.disks_of(vm).await
    }
    async fn operation(&self, id: OperationId) -> Read<Option<Operation>> {
        self.read()?.operation(id).await
    }
    async fn operations(&self, page: Page<OperationId>) -> Read<Vec<Operation>> {
        self.read()?.operations(page).await
    }
    async fn unended(&self, subject: Option<&Subject>) -> Read<Vec<Operation>> {
        self.read()?.unended(subject).await
    }
    async fn in_turn(&self, turn: &Subject) -> Read<Vec<Operation>> {
        self.read()?.in_turn(turn).await
    }
    async fn request(&self, key: &IdempotencyKey) -> Read<Option<KeptRequest>> {
        self.read()?.request(key).await
    }
    async fn host_boot(&self) -> Read<Option<Uuid>> {
        self.read()?.host_boot().await
    }
    async fn issue(&self, id: IssueId) -> Read<Option<Issue>> {
        self.read()?.issue(id).await
    }
    async fn issues(&self, state: Option<&str>, page: Page<IssueId>) -> Read<Vec<Issue>> {
        self.read()?.issues(state, page).await
    }
    async fn unresolved(&self) -> Read<Vec<Issue>> {
        self.read()?.unresolved().await
    }
    async fn judgements(&self, issue: IssueId) -> Read<Vec<JudgementRecord>> {
        self.read()?.judgements(issue).await
    }
    async fn attempts(&self, fingerprint: &str, since: Timestamp) -> Read<Vec<Attempt>> {
        self.read()?.attempts(fingerprint, since).await
    }
    async fn repairs(&self, subject: &Subject, since: Timestamp) -> Read<u32> {
        self.read()?.repairs(subject, since).await
    }
    async fn repairs_of(&self, issue: IssueId) -> Read<Vec<OperationId>> {
        self.read()?.repairs_of(issue).await
    }
    async fn leases(&self) -> Read<BTreeSet<Ipv4Addr>> {
        self.read()?.leases().await
    }
    async fn recorded(&self) -> Read<Recorded> {
        self.read()?.recorded().await
    }
}
