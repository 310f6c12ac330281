//! The operator over the dry-run backend, as the daemon uses it: chosen, started, and asked for one
//! effect at a time. What the backend itself promises is tested beside it.

#![cfg(test)]

mod choosing;
mod disks;
mod full;
mod images;
mod machines;
mod panics;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use vman_core::disk::{Disk, DiskState};
use vman_core::ident::VmId;
use vman_core::operation::Effect;
use vman_core::ports::{Applied, Apply, ApplyError, DiskTarget, Survey, Target};
use vman_core::sighting::{MachineSeen, Sightings};
use vman_core::testing::samples;
use vman_core::vm::VmState;
use vman_operator::{Choice, Chosen, Operator, OperatorConfig, Plugins, Storage, Wanted, choose};
// Named nowhere else: without this line it is not linked, and not offered.
use vman_plugin_dry_run as _;

/// Longer than anything here takes, on any machine.
const SOON: Duration = Duration::from_secs(20);
/// Also longer than a guest of these tests takes to power off.
const GRACE: Duration = Duration::from_secs(10);

/// A storage folder with an operator over it.
struct Hands {
    operator: Operator,
    woken: Arc<Notify>,
    /// Removed in the end.
    folder: TempDir,
}

impl Hands {
    async fn new(settings: Value) -> Self {
        Self::with_grace(settings, GRACE).await
    }

    async fn with_grace(settings: Value, stop_grace: Duration) -> Self {
        Self::over(tempfile::tempdir().expect("a folder"), settings, stop_grace).await
    }

    async fn over(folder: TempDir, settings: Value, stop_grace: Duration) -> Self {
        let storage = Storage::open(folder.path().to_owned()).expect("storage");
        let wanted = wanted(&storage, &Choice::Auto, settings);
        let chosen = choose(&wanted).await.expect("chosen");
        let woken = Arc::new(Notify::new());
        let waking = woken.clone();
        let wake = Arc::new(move || waking.notify_one());
        let config = OperatorConfig { storage, stop_grace, wake };
        Self { operator: Operator::new(config, wanted, chosen), woken, folder }
    }

    /// The same folder, as after a start of the daemon.
    async fn restarted(self, settings: Value) -> Self {
        let Self { operator, woken: _, folder } = self;
        drop(operator);
        Self::over(folder, settings, GRACE).await
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    fn machine_file(&self, vm: VmId) -> PathBuf {
        self.path(&format!("machines/{vm}/machine.json"))
    }

    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        self.operator.apply(effect, target).await
    }

    /// Applied as often as told: each time with success.
    async fn times(&self, times: usize, effect: Effect, target: &Target) -> Applied {
        let mut last = None;
        for _ in 0..times {
            last = Some(self.apply(effect, target).await.expect("applied"));
        }
        last.expect("at least once")
    }

    /// What is refused or fails, and why.
    async fn refusal(&self, effect: Effect, target: &Target) -> String {
        let refused = self.apply(effect, target).await;
        refused.expect_err(effect.word()).to_string()
    }

    async fn look(&self) -> Sightings {
        self.operator.survey().await
    }

    async fn machine(&self, vm: VmId) -> Option<MachineSeen> {
        let seen = self.look().await.machines;
        seen.known().expect("machines can be surveyed").get(&vm).cloned()
    }

    /// A machine of VM 1, launched.
    async fn launched(&self) -> (VmId, Target) {
        let target = samples::target(samples::vm(1, VmState::Starting));
        self.times(1, Effect::PrepareDirectory, &target).await;
        self.times(1, Effect::Launch, &target).await;
        (samples::vm_id(1), target)
    }

    /// Returns once the operator has said that something may have changed.
    async fn wake(&self) {
        tokio::time::timeout(SOON, self.woken.notified()).await.expect("it wakes");
    }
}

/// As the engine makes it for an operation on a disk.
fn disk_target(disk: &Disk) -> Target {
    let vm = disk.vm.map(|_| samples::vm(1, VmState::Running));
    Target::Disk(Box::new(DiskTarget { disk: disk.clone(), vm }))
}

/// The target of VM 1 with these disks.
fn with_disks(disks: &[&Disk]) -> Target {
    let Target::Vm(mut target) = samples::target(samples::vm(1, VmState::Starting)) else {
        panic!("the sample is a VM's");
    };
    target.disks = disks.iter().map(|disk| (*disk).clone()).collect();
    Target::Vm(target)
}

/// The disk of this number, of VM 1.
fn held(number: u8, state: DiskState) -> Disk {
    Disk { state, ..samples::attached(number, 1, &format!("/dev/sd{}", char::from(b'a' + number))) }
}

async fn chosen(storage: &Storage, choice: &Choice, settings: Value) -> Chosen {
    try_choosing(storage, choice, settings).await.expect("a backend")
}

async fn try_choosing(
    storage: &Storage,
    choice: &Choice,
    settings: Value,
) -> Result<Chosen, vman_operator::ChooseError> {
    choose(&wanted(storage, choice, settings)).await
}

/// Of the backend that is linked into these tests.
fn wanted(storage: &Storage, choice: &Choice, settings: Value) -> Wanted {
    Wanted {
        choice: choice.clone(),
        plugins: Plugins::default(),
        machines_dir: storage.machines(),
        settings: [("dry-run".to_owned(), settings)].into(),
    }
}

fn plain() -> Value {
    json!({})
}
