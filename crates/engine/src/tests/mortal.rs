//! Records and a host as a daemon reaches them that may be killed, be refused, or be slow, at a
//! moment that the test chooses. Both outlive it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;
use vman_core::coherence::Recorded;
use vman_core::disk::Disk;
use vman_core::ident::{IdempotencyKey, Name};
use vman_core::operation::{Effect, Subject};
use vman_core::ports::{Applied, ApplyError, JudgementRecord, KeptRequest, RecordError, Target};
use vman_core::repair::Attempt;
use vman_core::template::Template;

use super::*;

/// Long enough for another command to come in.
const YIELDS_MAX: usize = 23;

pub(super) struct Mortal {
    records: Arc<MemoryRecords>,
    host: Arc<FakeHost>,
    fate: Mutex<Fate>,
    commits: AtomicUsize,
    dead: watch::Sender<bool>,
}

/// What happens to this daemon, and when.
enum Fate {
    /// Killed when so many more moments have passed. Before and after every commit and every effect
    /// there is one.
    Dies {
        moments_left: usize,
    },
    /// So many commits later one is refused.
    Refused {
        commits_left: usize,
    },
    Undisturbed,
    /// Others get on before each commit, and before and after what is to be done is read.
    Dawdles {
        reads: usize,
    },
}

impl Mortal {
    fn new(world: &World, fate: Fate) -> Self {
        let (records, host) = (world.records.clone(), world.host.clone());
        let (fate, dead) = (Mutex::new(fate), watch::Sender::new(false));
        Self { records, host, fate, commits: AtomicUsize::new(0), dead }
    }

    pub(super) fn dying_after(world: &World, moments: usize) -> Self {
        Self::new(world, Fate::Dies { moments_left: moments })
    }

    pub(super) fn refused_after(world: &World, commits: usize) -> Self {
        Self::new(world, Fate::Refused { commits_left: commits })
    }

    pub(super) fn dawdling(world: &World) -> Self {
        Self::new(world, Fate::Dawdles { reads: 0 })
    }

    pub(super) fn undisturbed(world: &World) -> Self {
        Self::new(world, Fate::Undisturbed)
    }

    /// How many commits there were.
    pub(super) fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }

    /// Whether it dies before it has got `life` done. A dead one does nothing more.
    pub(super) async fn dies_in(&self, life: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut life = tokio::spawn(life);
        let mut dead = self.dead.subscribe();
        tokio::select! {
            biased;
            _ = dead.wait_for(|dead| *dead) => {
                life.abort();
                true
            }
            lived = &mut life => {
                lived.expect("it did not panic");
                false
            }
        }
    }

    /// Whether the refusal has happened.
    pub(super) fn was_refused(&self) -> bool {
        matches!(*self.fate(), Fate::Undisturbed)
    }

    fn fate(&self) -> std::sync::MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never returns to the dead.
    async fn moment(&self) {
        let dies = match &mut *self.fate() {
            Fate::Dies { moments_left: 0 } => true,
            Fate::Dies { moments_left } => {
                *moments_left -= 1;
                false
            }
            Fate::Refused { .. } | Fate::Undisturbed | Fate::Dawdles { .. } => false,
        };
        if dies {
            self.dead.send_replace(true);
            std::future::pending::<()>().await;
        }
    }

    /// What a commit meets before it reaches the records.
    async fn approach(&self) -> Result<(), RecordError> {
        self.moment().await;
        let dawdles = {
            let mut fate = self.fate();
            match &mut *fate {
                Fate::Refused { commits_left: 0 } => {
                    *fate = Fate::Undisturbed;
                    return Err(RecordError::Unavailable("no space left on device".to_owned()));
                }
                Fate::Refused { commits_left } => {
                    *commits_left -= 1;
                    false
                }
                Fate::Dies { .. } | Fate::Undisturbed => false,
                Fate::Dawdles { .. } => true,
            }
        };
        if dawdles {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Reads what is to be done, as fast as its fate has it.
    async fn slowly<T>(&self, read: impl Future<Output = T>) -> T {
        let yields = match &mut *self.fate() {
            Fate::Dawdles { reads } => {
                *reads += 1;
                // Another number each time, so that readers overtake each other in every way.
                *reads * 7 % YIELDS_MAX
            }
            Fate::Dies { .. } | Fate::Refused { .. } | Fate::Undisturbed => 0,
        };
        let before = yields / 2;
        for _ in 0..before {
            tokio::task::yield_now().await;
        }
        let read = read.await;
        for _ in before..yields {
            tokio::task::yield_now().await;
        }
        read
    }
}

#[async_trait]
impl Apply for Mortal {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        self.moment().await;
        let mut dead = self.dead.subscribe();
        let died = async { drop(dead.wait_for(|dead| *dead).await) };
        let applied = tokio::select! {
            biased;
            () = died => None,
            applied = self.host.apply(effect, target) => Some(applied),
        };
        // What a dead one was waiting for does not happen later.
        let Some(applied) = applied else { return std::future::pending().await };
        self.moment().await;
        applied
    }
}

#[async_trait]
impl Record for Mortal {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordError> {
        self.approach().await?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        let committed = self.records.commit(changes).await;
        self.moment().await;
        committed
    }

    async fn sync(&self) -> Result<(), RecordError> {
        self.records.sync().await
    }
}

type Read<T> = Result<T, RecordError>;

#[async_trait]
impl Recall for Mortal {
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
        self.slowly(self.records.unended(subject)).await
    }
    async fn in_turn(&self, turn: &Subject) -> Read<Vec<Operation>> {
        self.slowly(self.records.in_turn(turn)).await
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
