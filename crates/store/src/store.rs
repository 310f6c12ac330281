//! The store as the rest of vman sees it: the ports. What is short is done at once, the rest by
//! threads that may block.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

use crate::cells::{Begin, Fault, in_transaction};
use crate::open::{self, StoreError};
use crate::syncer::Syncer;
use crate::threads::{Shared, Threads};
use crate::{disks, issues, operations, requests, templates, vms, write};

/// Threads that read: lists are short, so a few suffice.
const READERS: usize = 2;
/// Connections for what is read where it is asked for, while the writer's is in use.
const AT_HAND: usize = 2;

/// Every record, in one SQLite file. Dropping it waits until what was asked for is done.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    patient_writer: Threads<Shared>,
    readers: Threads<Connection>,
    syncer: Syncer,
    /// The writer's first: it has at hand what it has written.
    at_hand: Vec<Shared>,
    // Last: the connection that closes last folds the journal into the file.
    writer: Shared,
    commits: AtomicU64,
}

impl Store {
    /// Opens the records in `path`, and makes the file (mode 0600) where there is none. Blocks:
    /// the whole file is checked.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let sql = |error| StoreError::sql(path, &error);
        let thread = |error| StoreError::Unusable {
            path: path.to_owned(),
            reason: format!("no thread can be started: {error}"),
        };
        let writer = Shared::new(open::writer(path)?).map_err(sql)?;
        let readers = (0..READERS).map(|_| open::reader(path)).collect::<Result<_, _>>()?;
        let mut at_hand = vec![writer.clone()];
        for _ in 0..AT_HAND {
            at_hand.push(Shared::new(open::reader(path)?).map_err(sql)?);
        }
        let store = Self {
            path: path.to_owned(),
            readers: Threads::start("store-reader", readers).map_err(thread)?,
            syncer: Syncer::start(path, open::folder(path)?).map_err(thread)?,
            at_hand,
            patient_writer: Threads::start("store-writer", vec![writer.clone()]).map_err(thread)?,
            writer,
            commits: AtomicU64::new(0),
        };
        tracing::debug!(path = %path.display(), "the records are open");
        Ok(store)
    }

    /// Reads in one transaction, so in one snapshot.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, RecordError> {
        let answer =
            self.readers.run(move |connection| in_transaction(connection, Begin::Deferred, read));
        answer.await.map_err(|fault| self.explain(fault))
    }

    /// Likewise what takes no longer than handing it to a thread, some tens of microseconds: a few
    /// rows, found by an index.
    async fn glance<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, RecordError> {
        let at_once = |connection: &Connection| in_transaction(connection, Begin::Deferred, &read);
        match self.at_hand.iter().find_map(|shared| shared.at_once(at_once)) {
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
        let commits = self.syncer.commits().clone();
        let changes = Arc::new(changes);
        let write = move |connection: &Connection| {
            write::commit(connection, &changes, number)?;
            commits.one_more();
            Ok(())
        };
        let at_once = match write::is_short(number) {
            true => self.writer.at_once(write.clone()),
            false => None,
        };
        let committed = match at_once {
            Some(committed) => committed,
            None => self.patient_writer.run(move |writer| writer.patiently(write)).await,
        };
        committed.map_err(|fault| self.explain(fault))
    }

    async fn sync(&self) -> Result<(), RecordError> {
        self.syncer.reached().await.map_err(|why| {
            let path = self.path.display();
            RecordError::Unavailable(format!(
                "{path} cannot be written to its device ({why}), so what was recorded last may be \
                 lost when the host loses its power; see to its file system and restart vman"
            ))
        })
    }
}
