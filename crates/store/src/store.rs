//! The store as the rest of vman sees it: the ports, each call a job for a thread that may block.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode};
use uuid::Uuid;
use vman_core::coherence::Recorded;
use vman_core::disk::Disk;
use vman_core::ident::{DiskId, IdempotencyKey, IssueId, Name, OperationId, Timestamp, VmId};
use vman_core::operation::{Operation, Subject};
use vman_core::ports::{
    Change, JudgementRecord, KeptRequest, PAGE_LIMIT_MAX, Page, Recall, Record, RecordError,
};
use vman_core::repair::{Attempt, Issue};
use vman_core::template::Template;
use vman_core::vm::Vm;

use crate::cells::Fault;
use crate::open::{self, StoreError};
use crate::threads::{AtHand, Threads};
use crate::{disks, issues, operations, requests, templates, vms, write};

/// Threads that read: lists are short, so a few suffice.
const READERS: usize = 2;
/// Connections for what is read where it is asked for.
const AT_HAND: usize = 2;

/// Every record, in one SQLite file. Dropping it waits until what was asked for is done.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    // Before the writer: the connection that closes last folds the journal into the file.
    at_hand: AtHand,
    readers: Threads,
    writer: Threads,
    commits: AtomicU32,
}

impl Store {
    /// Opens the records in `path`, and makes the file (mode 0600) where there is none. Blocks:
    /// the whole file is checked.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let writer = open::writer(path)?;
        let readers = (0..READERS).map(|_| open::reader(path)).collect::<Result<Vec<_>, _>>()?;
        let at_hand =
            (0..AT_HAND).map(|_| open::impatient_reader(path)).collect::<Result<Vec<_>, _>>()?;
        let threads = |name, connections| {
            Threads::start(name, connections).map_err(|error| StoreError::Unusable {
                path: path.to_owned(),
                reason: format!("no thread can be started: {error}"),
            })
        };
        let store = Self {
            path: path.to_owned(),
            at_hand: AtHand::new(at_hand),
            readers: threads("store-reader", readers)?,
            writer: threads("store-writer", vec![writer])?,
            commits: AtomicU32::new(0),
        };
        tracing::debug!(path = %path.display(), "the records are open");
        Ok(store)
    }

    /// Reads in one transaction, so in one snapshot.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, RecordError> {
        let answer = self.readers.run(move |connection| {
            let snapshot = connection.transaction()?;
            read(&snapshot)
        });
        answer.await.map_err(|fault| self.explain(fault))
    }

    /// Likewise what takes no longer than handing it to a thread, some tens of microseconds: a few
    /// rows, found by an index.
    async fn glance<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, RecordError> {
        match self.at_hand.read(&read) {
            Some(answer) => answer.map_err(|fault| self.explain(fault)),
            None => self.read(read).await,
        }
    }

    fn explain(&self, fault: Fault) -> RecordError {
        let error = match fault {
            Fault::Record(error) => return error,
            Fault::Sql(error) => error,
        };
        tracing::error!(path = %self.path.display(), %error, "the records cannot be used");
        RecordError::Unavailable(explain(&self.path, &error))
    }
}

fn explain(path: &Path, error: &rusqlite::Error) -> String {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("no space is left for {path}; free some on its file system")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("another program has {path} locked; end it, or wait for it")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("{path} is damaged ({error}); restore it from a backup")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => {
            format!("{path} cannot be read or written ({error}); see to its file system")
        }
        // Hundreds of codes: the text says which.
        Some(_) | None => format!("{path}: {error}"),
    }
}

fn bounded<Key>(page: Page<Key>) -> Page<Key> {
    Page { limit: page.limit.min(PAGE_LIMIT_MAX), ..page }
}

#[async_trait]
impl Recall for Store {
    async fn template(&self, name: &Name) -> Result<Option<Template>, RecordError> {
        let name = name.clone();
        self.glance(move |from| templates::find(from, &name)).await
    }

    async fn templates(&self, page: Page<Name>) -> Result<Vec<Template>, RecordError> {
        self.read(move |from| templates::page(from, &bounded(page))).await
    }

    async fn vm(&self, id: VmId) -> Result<Option<Vm>, RecordError> {
        self.glance(move |from| vms::find(from, id)).await
    }

    async fn vms(&self, state: Option<&str>, page: Page<VmId>) -> Result<Vec<Vm>, RecordError> {
        let state = state.map(str::to_owned);
        self.read(move |from| vms::page(from, state.as_deref(), &bounded(page))).await
    }

    async fn disk(&self, id: DiskId) -> Result<Option<Disk>, RecordError> {
        self.glance(move |from| disks::find(from, id)).await
    }

    async fn disks(&self, page: Page<DiskId>) -> Result<Vec<Disk>, RecordError> {
        self.read(move |from| disks::page(from, &bounded(page))).await
    }

    async fn disks_of(&self, vm: VmId) -> Result<Vec<Disk>, RecordError> {
        self.glance(move |from| disks::of(from, vm)).await
    }

    async fn operation(&self, id: OperationId) -> Result<Option<Operation>, RecordError> {
        self.glance(move |from| operations::find(from, id)).await
    }

    async fn operations(&self, page: Page<OperationId>) -> Result<Vec<Operation>, RecordError> {
        self.read(move |from| operations::page(from, &bounded(page))).await
    }

    async fn unended(&self, subject: Option<&Subject>) -> Result<Vec<Operation>, RecordError> {
        let subject = subject.cloned();
        self.glance(move |from| operations::unended(from, subject.as_ref())).await
    }

    async fn in_turn(&self, turn: &Subject) -> Result<Vec<Operation>, RecordError> {
        let turn = turn.clone();
        self.glance(move |from| operations::in_turn(from, &turn)).await
    }

    async fn request(&self, key: &IdempotencyKey) -> Result<Option<KeptRequest>, RecordError> {
        let key = key.clone();
        self.glance(move |from| requests::find(from, &key)).await
    }

    async fn host_boot(&self) -> Result<Option<Uuid>, RecordError> {
        self.glance(requests::host_boot).await
    }

    async fn issue(&self, id: IssueId) -> Result<Option<Issue>, RecordError> {
        self.glance(move |from| issues::find(from, id)).await
    }

    async fn issues(
        &self,
        state: Option<&str>,
        page: Page<IssueId>,
    ) -> Result<Vec<Issue>, RecordError> {
        let state = state.map(str::to_owned);
        self.read(move |from| issues::page(from, state.as_deref(), &bounded(page))).await
    }

    async fn unresolved(&self) -> Result<Vec<Issue>, RecordError> {
        self.read(issues::unresolved).await
    }

    async fn judgements(&self, issue: IssueId) -> Result<Vec<JudgementRecord>, RecordError> {
        self.read(move |from| issues::judgements(from, issue)).await
    }

    async fn attempts(
        &self,
        fingerprint: &str,
        since: Timestamp,
    ) -> Result<Vec<Attempt>, RecordError> {
        let fingerprint = fingerprint.to_owned();
        self.read(move |from| operations::attempts(from, &fingerprint, since)).await
    }

    async fn repairs(&self, subject: &Subject, since: Timestamp) -> Result<u32, RecordError> {
        let subject = subject.clone();
        self.glance(move |from| operations::repairs(from, &subject, since)).await
    }

    async fn repairs_of(&self, issue: IssueId) -> Result<Vec<OperationId>, RecordError> {
        self.glance(move |from| operations::repairs_of(from, issue)).await
    }

    async fn leases(&self) -> Result<BTreeSet<Ipv4Addr>, RecordError> {
        self.read(vms::leases).await
    }

    async fn recorded(&self) -> Result<Recorded, RecordError> {
        let answer = self.read(|from| Ok((vms::every(from)?, disks::every(from)?))).await;
        answer.map(|(vms, disks)| Recorded {
            vms: vms.into_iter().map(|vm| (vm.id, vm)).collect(),
            disks: disks.into_iter().map(|disk| (disk.id, disk)).collect(),
        })
    }
}

#[async_trait]
impl Record for Store {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordError> {
        let number = self.commits.fetch_add(1, Ordering::Relaxed);
        let answer = self.writer.run(move |connection| write::commit(connection, changes, number));
        answer.await.map_err(|fault| self.explain(fault))
    }
}
