//! Many commands at once, in an order that only a number decides: whatever meets whatever, no two
//! effects meet on one machine, every operation ends, and the records end as the host is.

use std::collections::BTreeSet;
use std::sync::Mutex;

use vman_core::disk::DiskState;
use vman_core::operation::Subject;
use vman_core::ports::{Applied, ApplyError};
use vman_core::testing::samples;

use super::repairs::look_and_act;
use super::*;

const STORMS: u64 = 150;
const COMMANDS: usize = 60;
const DISKS: u8 = 3;

/// A host where everything takes some time, and that knows what it is busy with.
struct Solo {
    host: Arc<FakeHost>,
    busy: Mutex<BTreeSet<Subject>>,
    dice: Mutex<Dice>,
}

/// As random as its seed: Knuth's multiplier of MMIX.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 40).expect("24 bits") % limit
    }
}

/// Takes what an effect works on, also if it is dropped half way.
struct Hold<'a>(&'a Mutex<BTreeSet<Subject>>, Vec<Subject>);

impl<'a> Hold<'a> {
    fn of(busy: &'a Mutex<BTreeSet<Subject>>, target: &Target) -> Self {
        let subjects = match target {
            Target::Vm(target) => vec![Subject::Vm(target.vm.id)],
            Target::Disk(target) => {
                let vm = target.vm.as_ref().map(|vm| Subject::Vm(vm.id));
                vm.into_iter().chain([Subject::Disk(target.disk.id)]).collect()
            }
            Target::Machine(_) | Target::File(_) => panic!("nobody asked for {target:?}"),
        };
        for subject in &subjects {
            let was_idle = busy.lock().expect("not poisoned").insert(subject.clone());
            assert!(was_idle, "two effects meet on {subject}");
        }
        Self(busy, subjects)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Ok(mut busy) = self.0.lock() {
            busy.retain(|subject| !self.1.contains(subject));
        }
    }
}

#[async_trait::async_trait]
impl Apply for Solo {
    async fn apply(&self, effect: Effect, target: &Target) -> Result<Applied, ApplyError> {
        let _hold = Hold::of(&self.busy, target);
        let yields = self.dice.lock().expect("not poisoned").below(30);
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        self.host.apply(effect, target).await
    }
}

async fn command(engine: &Engine, vm: VmId, dice: &mut Dice) {
    let vm_commands = [
        VmCommand::Start,
        VmCommand::Stop,
        VmCommand::Restart,
        VmCommand::Kill,
        VmCommand::Pause,
        VmCommand::Resume,
        VmCommand::Reset,
    ];
    let disk = samples::disk_id(1 + u8::try_from(dice.below(DISKS.into())).expect("small"));
    let size_gib = 1 + u64::try_from(dice.below(40)).expect("small");
    let of_disk = [DiskCommand::Attach(vm), DiskCommand::Detach, DiskCommand::Resize(size_gib)];
    // Refused or not: what is let in is held against the host at the end.
    match dice.below(10) {
        0..5 => {
            let command = vm_commands[dice.below(vm_commands.len())];
            drop(engine.command_vm(vm, command, Reason::User, None).await);
        }
        5..9 => {
            let command = of_disk[dice.below(of_disk.len())];
            drop(engine.command_disk(disk, command, None, Reason::User, None).await);
        }
        _ => {
            let unended = engine.recall().unended(None).await.expect("readable");
            if let Some(one) = unended.get(dice.below(unended.len().max(1))) {
                drop(engine.cancel(one.id).await);
            }
        }
    }
}

async fn storm(seed: u64) {
    let world = World::new().await;
    let vm = world.add_vm(1, VmState::Stopped).await;
    for number in 1..=DISKS {
        let disk = samples::disk(number, DiskState::Available);
        world.host.stray_file(&format!("disks/{}", disk.file_name()));
        world.put(vec![Change::AddDisk(disk)]).await;
    }
    let mut dice = Dice(seed);
    let solo = Solo {
        host: world.host.clone(),
        busy: Mutex::default(),
        dice: Mutex::new(Dice(seed.wrapping_add(1))),
    };
    let engine = world.engine_over(world.records.clone(), Arc::new(solo));
    for _ in 0..COMMANDS {
        command(&engine, vm, &mut dice).await;
        for _ in 0..dice.below(40) {
            tokio::task::yield_now().await;
        }
    }
    let story = format!("storm {seed}");
    assert_at_rest(&world, &engine, vm, &story).await;
    let delete = ask(&engine, vm, VmCommand::Delete).await;
    succeeded(&engine, delete).await;
    let disks = world.disks().await;
    assert!(disks.iter().all(|disk| disk.state == DiskState::Available), "{story}: {disks:?}");
    assert_eq!(world.host.leftovers().len(), disks.len(), "{story}");
}

async fn assert_at_rest(world: &World, engine: &Engine, vm: VmId, story: &str) {
    all_ended(engine).await;
    look_and_act(world, engine).await;
    let recorded = world.vm(vm).await;
    let guest = match world.guest(vm).await {
        None => VmState::Stopped,
        Some(Guest::Paused) => VmState::Paused,
        Some(_) => VmState::Running,
    };
    assert_eq!(recorded.state, guest, "{story}");
    assert_eq!(recorded.machine, world.host.machine(vm), "{story}");
    let disks = world.disks().await;
    for disk in &disks {
        let expected = if disk.vm.is_some() { DiskState::Attached } else { DiskState::Available };
        assert_eq!(disk.state, expected, "{story}: {disk:?}");
        let size = world.host.image_size(&format!("disks/{}", disk.file_name()));
        assert!(size == Some(0) || size == Some(disk.virtual_size()), "{story}: {disk:?}");
    }
    if recorded.machine.is_some() {
        let attached = disks.iter().filter(|disk| disk.vm == Some(vm)).map(|disk| disk.id);
        assert_eq!(world.host.disks(vm), attached.collect(), "{story}");
    }
    assert_eq!(world.issues().await, [], "{story}");
}

#[tokio::test(start_paused = true)]
async fn whatever_meets_whatever_the_records_end_as_the_host_is() {
    for seed in 0..STORMS {
        storm(seed).await;
    }
}
