//! The engine over the ports in memory. Time is paused throughout: a wait that is not ended by an
//! event ends when nothing else can happen. What a command leads to is tested in `vman-core`.

mod addresses;
mod autostart;
mod budgets;
mod cancelling;
mod commands;
mod commits;
mod deadlines;
mod disk_laws;
mod disk_scenes;
mod disks;
mod failures;
mod formats;
mod hot_plug;
mod kills;
mod mortal;
mod refusals;
mod repairs;
mod requests;
mod root_disks;
mod scenes;
mod storms;
mod strays;
mod waking;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use vman_core::coherence::{Look, look};
use vman_core::disk::{Disk, ImageFormat};
use vman_core::ident::{DiskId, IssueId, OperationId, Timestamp, VmId};
use vman_core::lifecycle::{DiskCommand, VmCommand};
use vman_core::network::{Network, NetworkMode, Subnet};
use vman_core::operation::{Effect, Operation, OperationState, Reason};
use vman_core::ports::{Apply, Change, Judge, Page, Recall, Record, Survey, Target, VmTarget};
use vman_core::repair::Issue;
use vman_core::sighting::Guest;
use vman_core::testing::{FakeHost, FixedClock, MemoryRecords, ScriptedJudge, samples};
use vman_core::vm::{Vm, VmState};

use crate::{Engine, EngineConfig, Ports, RepairConfig};

/// No operation in memory takes longer, unless something is held.
const LONG: Duration = Duration::from_secs(3600);
/// Late enough for whatever has no record to be an orphan.
const NOW: Timestamp = Timestamp(1_000_000);

/// Records and a host, and what engines over them share.
struct World {
    records: Arc<MemoryRecords>,
    host: Arc<FakeHost>,
    judge: Arc<ScriptedJudge>,
    clock: Arc<FixedClock>,
    wakes: Arc<AtomicUsize>,
    config: EngineConfig,
}

impl World {
    /// Has the template `small`, and nothing else.
    async fn new() -> Self {
        let world = Self {
            records: Arc::default(),
            host: Arc::default(),
            judge: Arc::default(),
            clock: Arc::new(FixedClock::at(NOW)),
            wakes: Arc::default(),
            config: config("10.0.0.0/24"),
        };
        world.put(vec![Change::AddTemplate(samples::template("small"))]).await;
        world
    }

    /// An engine, as after a start of the daemon.
    fn engine(&self) -> Engine {
        self.engine_over(self.records.clone(), self.host.clone())
    }

    fn engine_over(&self, record: Arc<dyn Record>, apply: Arc<dyn Apply>) -> Engine {
        self.engine_judged_by(record, apply, self.judge.clone())
    }

    fn engine_judged_by(
        &self,
        record: Arc<dyn Record>,
        apply: Arc<dyn Apply>,
        judge: Arc<dyn Judge>,
    ) -> Engine {
        let wakes = self.wakes.clone();
        let ports = Ports {
            record,
            network: apply.clone(),
            operator: apply,
            judge,
            clock: self.clock.clone(),
            wake_observer: Arc::new(move || {
                wakes.fetch_add(1, Ordering::SeqCst);
            }),
        };
        Engine::new(ports, self.config.clone())
    }

    async fn put(&self, changes: Vec<Change>) {
        self.records.commit(changes).await.expect("the records take it");
    }

    async fn add_vm(&self, number: u8, state: VmState) -> VmId {
        self.put(vec![Change::AddVm(samples::vm(number, state))]).await;
        samples::vm_id(number)
    }

    /// A VM recorded running whose machine is not there.
    async fn add_vanished(&self, number: u8) -> VmId {
        self.add_vm(number, VmState::Running).await
    }

    async fn vm(&self, id: VmId) -> Vm {
        self.find_vm(id).await.expect("the VM is recorded")
    }

    async fn find_vm(&self, id: VmId) -> Option<Vm> {
        self.records.vm(id).await.expect("readable")
    }

    async fn disk(&self, id: DiskId) -> Disk {
        self.records.disk(id).await.expect("readable").expect("the disk is recorded")
    }

    async fn disks(&self) -> Vec<Disk> {
        self.records.disks(Page::first()).await.expect("readable")
    }

    /// Has a machine live, as a start of the VM would leave it.
    async fn launch(&self, vm: &Vm, disks: Vec<Disk>) {
        let Target::Vm(target) = samples::target(vm.clone()) else { panic!("of a VM") };
        let target = Target::Vm(Box::new(VmTarget { disks, ..*target }));
        for effect in [Effect::PrepareDirectory, Effect::ConnectNetwork, Effect::Launch] {
            self.host.apply(effect, &target).await.expect("the host is in order");
        }
    }

    /// What the hypervisor says of the guest; none without a machine.
    async fn guest(&self, vm: VmId) -> Option<Guest> {
        let sightings = self.host.survey().await;
        let machines = sightings.machines.known().expect("nobody blinded the host");
        machines.get(&vm).map(|machine| machine.guest.clone())
    }

    /// Every issue, newest first.
    async fn issues(&self) -> Vec<Issue> {
        self.records.issues(None, Page::first()).await.expect("readable")
    }

    /// The only issue there ever was.
    async fn only_issue(&self) -> Issue {
        let mut issues = self.issues().await;
        assert_eq!(issues.len(), 1, "{issues:?}");
        issues.remove(0)
    }

    /// Every operation, newest first.
    async fn operations(&self) -> Vec<Operation> {
        self.records.operations(Page::first()).await.expect("readable")
    }

    /// The operations that policies chose, newest first.
    async fn repairs(&self) -> Vec<Operation> {
        let mut operations = self.operations().await;
        operations.retain(|operation| matches!(operation.reason, Reason::Repair { .. }));
        operations
    }

    /// What an observer would see now.
    async fn look(&self) -> Look {
        let recorded = self.records.recorded().await.expect("readable");
        let clock: &dyn vman_core::ports::Clock = &*self.clock;
        look(&recorded, &self.host.survey().await, clock.now())
    }

    /// What disagrees now, for people.
    async fn incoherences(&self) -> Vec<String> {
        let found = self.look().await.incoherences;
        found.iter().map(|incoherence| incoherence.wrong.message()).collect()
    }

    fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }
}

fn config(subnet: &str) -> EngineConfig {
    let network = subnet.parse().expect("CIDR");
    let gateway = subnet.replace(".0/", ".1/");
    let gateway = gateway.split('/').next().and_then(|text| text.parse().ok());
    let subnet = Subnet::new(network, gateway.expect("address")).expect("a subnet");
    let reason = "for tests".to_owned();
    EngineConfig {
        network: Network { mode: NetworkMode::User, reason, subnet, dns: None },
        backend: "fake".to_owned(),
        image_formats: vec![ImageFormat::Qcow2, ImageFormat::Raw],
        stop_grace: Duration::from_secs(30),
        repair: RepairConfig { enabled: true, budget: 3, window: Duration::from_secs(600) },
    }
}

/// A user's command; the operation that carries it out.
async fn ask(engine: &Engine, vm: VmId, command: VmCommand) -> OperationId {
    let accepted = engine.command_vm(vm, command, Reason::User, None).await.expect("let in");
    accepted.operation.expect("there is something to do")
}

/// As [`ask`], for a disk.
async fn ask_disk(engine: &Engine, disk: DiskId, command: DiskCommand) -> OperationId {
    let accepted = engine.command_disk(disk, command, None, Reason::User, None).await;
    accepted.expect("let in").operation.expect("there is something to do")
}

/// The operation as it ended.
async fn ended(engine: &Engine, id: OperationId) -> Operation {
    let begun = tokio::time::Instant::now();
    let operation = engine.wait(id, LONG).await.expect("readable").expect("recorded");
    assert!(begun.elapsed() < LONG, "its end is told, not only found: {operation:?}");
    assert!(operation.state.is_ended(), "{operation:?}");
    operation
}

async fn succeeded(engine: &Engine, id: OperationId) -> Operation {
    let operation = ended(engine, id).await;
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    operation
}

/// Returns once no operation is under way any more.
async fn all_ended(engine: &Engine) {
    for operation in engine.recall().unended(None).await.expect("readable") {
        ended(engine, operation.id).await;
    }
}

/// Who broke an operation off.
fn canceller_of(operation: &Operation) -> &str {
    match &operation.state {
        OperationState::Cancelled(who) => who,
        OperationState::Pending
        | OperationState::Running
        | OperationState::Succeeded
        | OperationState::Failed(_) => panic!("not cancelled: {operation:?}"),
    }
}

/// What an operation failed with.
fn error_of(operation: &Operation) -> &str {
    match &operation.state {
        OperationState::Failed(error) => error,
        OperationState::Pending
        | OperationState::Running
        | OperationState::Succeeded
        | OperationState::Cancelled(_) => panic!("not failed: {operation:?}"),
    }
}
