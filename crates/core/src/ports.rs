//! What the engine and the observer need of the rest of vman, as traits: reading ports ([`Recall`],
//! [`Survey`]), writing ports ([`Record`], [`Apply`]), judgement ([`Judge`]) and time ([`Clock`]).
//! Whoever holds only reading ports cannot act. Nothing here says how a port is filled.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use thiserror::Error;
use uuid::Uuid;

use crate::coherence::Recorded;
use crate::disk::{Disk, DiskState, MountPoint};
use crate::ident::{
    DiskId, Generation, IdempotencyKey, IssueId, Name, OperationId, Timestamp, VmId,
};
use crate::network::Nic;
use crate::operation::{Effect, Operation, OperationState, Step, Subject};
use crate::repair::{Attempt, Context, Issue, Judgement};
use crate::sighting::Sightings;
use crate::template::Template;
use crate::vm::{Machine, Vm, VmState};

/// Records in one page at the most.
pub const PAGE_LIMIT_MAX: u32 = 1000;

/// A part of a list: up to `limit` records after the one named `after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<Key> {
    /// 1 ..= [`PAGE_LIMIT_MAX`]
    pub limit: u32,
    pub after: Option<Key>,
}

impl<Key> Page<Key> {
    /// The first and largest page.
    pub fn first() -> Self {
        Self { limit: PAGE_LIMIT_MAX, after: None }
    }
}

/// Why the records could not be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("{0} already exists")]
    Exists(String),
    #[error("{0}")]
    InUse(String),
    /// The record has another generation than the change was made for: read it again.
    #[error("{0} was changed meanwhile")]
    Stale(String),
    #[error("the records cannot be used now: {0}")]
    Unavailable(String),
}

/// Reads the records. Never waits for a writer.
#[async_trait]
pub trait Recall: Send + Sync {
    async fn template(&self, name: &Name) -> Result<Option<Template>, RecordError>;
    /// By name.
    async fn templates(&self, page: Page<Name>) -> Result<Vec<Template>, RecordError>;
    async fn vm(&self, id: VmId) -> Result<Option<Vm>, RecordError>;
    /// In the order of creation; `state` is a [`VmState::word`].
    async fn vms(&self, state: Option<&str>, page: Page<VmId>) -> Result<Vec<Vm>, RecordError>;
    async fn disk(&self, id: DiskId) -> Result<Option<Disk>, RecordError>;
    /// In the order of creation.
    async fn disks(&self, page: Page<DiskId>) -> Result<Vec<Disk>, RecordError>;
    /// In the order of their mount points.
    async fn disks_of(&self, vm: VmId) -> Result<Vec<Disk>, RecordError>;
    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, RecordError>;
    /// Newest first.
    async fn operations(&self, page: Page<OperationId>) -> Result<Vec<Operation>, RecordError>;
    /// Not ended, oldest first; of one subject, or of all.
    async fn unended(&self, subject: Option<&Subject>) -> Result<Vec<Operation>, RecordError>;
    /// Not ended, oldest first; those of one [turn](Operation::turn).
    async fn in_turn(&self, turn: &Subject) -> Result<Vec<Operation>, RecordError>;
    /// The request that was let in under this key, as long as it is kept.
    async fn request(&self, key: &IdempotencyKey) -> Result<Option<KeptRequest>, RecordError>;
    /// The boot of the host in which the VMs that start by themselves were last started; none
    /// before the first.
    async fn host_boot(&self) -> Result<Option<Uuid>, RecordError>;
    async fn issue(&self, id: IssueId) -> Result<Option<Issue>, RecordError>;
    /// Newest first; `state` is an [`crate::repair::IssueState::word`].
    async fn issues(
        &self,
        state: Option<&str>,
        page: Page<IssueId>,
    ) -> Result<Vec<Issue>, RecordError>;
    /// Every issue that is not resolved, oldest first.
    async fn unresolved(&self) -> Result<Vec<Issue>, RecordError>;
    /// Every judgement on an issue, oldest first.
    async fn judgements(&self, issue: IssueId) -> Result<Vec<JudgementRecord>, RecordError>;
    /// The ended repairs of every issue with this fingerprint since then, oldest first.
    async fn attempts(
        &self,
        fingerprint: &str,
        since: Timestamp,
    ) -> Result<Vec<Attempt>, RecordError>;
    /// How many repairs of `subject` were accepted since then.
    async fn repairs(&self, subject: &Subject, since: Timestamp) -> Result<u32, RecordError>;
    /// The operations that an issue's repairs became, oldest first.
    async fn repairs_of(&self, issue: IssueId) -> Result<Vec<OperationId>, RecordError>;
    /// The addresses in use.
    async fn leases(&self) -> Result<BTreeSet<Ipv4Addr>, RecordError>;
    /// What the observer compares: one consistent snapshot of VMs and disks.
    async fn recorded(&self) -> Result<Recorded, RecordError>;
}

/// Changes the records.
#[async_trait]
pub trait Record: Recall {
    /// All or none. Once it returns the daemon may die: it is recorded. The order given is kept.
    async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordError>;

    /// Waits until what was committed by now outlives a loss of power, too.
    async fn sync(&self) -> Result<(), RecordError>;
}

/// One change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `Exists` if the name is taken.
    AddTemplate(Template),
    /// `InUse` while a VM is made from it.
    RemoveTemplate(Name),
    /// `NotFound` without its template, `Exists` if its address is taken.
    AddVm(Vm),
    /// The disks it holds become available.
    RemoveVm(VmId, Timestamp),
    /// `Stale` unless the generation is the expected one; counts it up.
    VmState {
        vm: VmId,
        expected: Generation,
        state: VmState,
        at: Timestamp,
    },
    /// What was seen of the machine: no change of state, so no new generation.
    VmMachine {
        vm: VmId,
        machine: Option<Machine>,
    },
    /// No change of state, so no new generation.
    VmAutostart {
        vm: VmId,
        autostart: bool,
        at: Timestamp,
    },
    AddDisk(Disk),
    RemoveDisk(DiskId),
    /// `Stale` unless the generation is the expected one; counts it up. `Exists` if the VM already
    /// has a disk at that mount point.
    DiskState {
        disk: DiskId,
        expected: Generation,
        state: DiskState,
        vm: Option<VmId>,
        mount_point: Option<MountPoint>,
        at: Timestamp,
    },
    /// Together with a [`Change::DiskState`]: so it needs no generation of its own.
    DiskSize {
        disk: DiskId,
        size_gib: u64,
    },
    /// `Stale` unless the VM still has this generation; changes nothing.
    ExpectVm {
        vm: VmId,
        expected: Generation,
    },
    AddOperation(Operation),
    /// `Stale` if it has ended.
    RequestCancel(OperationId),
    OperationState {
        operation: OperationId,
        state: OperationState,
        at: Timestamp,
    },
    /// `index` counts the operation's steps from 0.
    OperationStep {
        operation: OperationId,
        index: usize,
        step: Step,
    },
    /// Adds an issue, or replaces what is recorded of it.
    PutIssue(Box<Issue>),
    AddJudgement(Box<JudgementRecord>),
    /// `Exists` if a request is kept under its key.
    KeepRequest(KeptRequest),
    HostBoot(Uuid),
}

/// A request as it is kept, so that it is not carried out twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRequest {
    pub key: IdempotencyKey,
    /// Of all that was asked: the same key with another one is a mistake of its sender.
    pub fingerprint: String,
    pub let_in: LetIn,
    pub at: Timestamp,
}

/// What a request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetIn {
    Template(Name),
    /// Nothing had to be done where there is no operation.
    Subject(Subject, Option<OperationId>),
}

/// A judgement as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgementRecord {
    pub issue: IssueId,
    pub at: Timestamp,
    pub judgement: Judgement,
}

/// Looks at the host. Must not wait for a machine.
#[async_trait]
pub trait Survey: Send + Sync {
    /// What could not be looked at is `Unknown` in the answer, with the reason.
    async fn survey(&self) -> Sightings;
}

/// Changes the host, one idempotent effect at a time.
#[async_trait]
pub trait Apply: Send + Sync {
    /// Bounded in time by the implementation.
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError>;
}

/// What an effect is applied to, with all it needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Vm(Box<VmTarget>),
    Disk(Box<DiskTarget>),
    /// A machine without a record.
    Machine(VmId),
    /// A file without a record, relative to the storage folder.
    File(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmTarget {
    pub vm: Vm,
    pub template: Template,
    /// In the order of their mount points.
    pub disks: Vec<Disk>,
    pub nic: Nic,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTarget {
    pub disk: Disk,
    /// The VM that holds it.
    pub vm: Option<Vm>,
}

/// What an effect came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub machine: MachineChange,
    /// What was seen on the way, for people.
    pub note: Option<String>,
}

/// What an effect means for the machine that is recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MachineChange {
    #[default]
    Same,
    Lives(Machine),
    Gone,
}

/// Why an effect was not done: what failed, on what, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    #[error("{0}")]
    Failed(String),
    /// The guest was asked and said no.
    #[error("{0}")]
    Refused(String),
    /// The guest was asked and has not answered: it still may, and looking will tell.
    #[error("{0}")]
    LeftToTheGuest(String),
}

impl ApplyError {
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }
}

/// Asks the policies.
#[async_trait]
pub trait Judge: Send + Sync {
    /// Every policy's answer in the order of the chain, up to and with the first enforced one that
    /// is not `abstain`, and of every shadowed one.
    async fn judge(&self, issue: &Issue, context: &Context) -> Vec<Judgement>;
}

/// The host's clock.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// How the observer is doing, as the API tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObserverStatus {
    /// When the last whole look began; none before the first.
    pub last_look: Option<Timestamp>,
    /// Of the last whole look, in microseconds.
    pub duration_us: u64,
    /// Whole looks since the daemon started.
    pub looks: u64,
    pub health: ObserverHealth,
    /// What the last look found: incoherences by the word of their kind.
    pub found: Vec<(&'static str, u64)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ObserverHealth {
    /// No look has ended yet.
    #[default]
    Starting,
    Healthy,
    /// Something could not be looked at, so nothing is said of it.
    Degraded(String),
}
