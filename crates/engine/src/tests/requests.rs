//! Requests that bear a key: repeated, at the same time, after a restart, and by mistake.

use futures_util::future::join_all;
use vman_core::disk::{Bus, ImageFormat};
use vman_core::lifecycle::Denied;
use vman_core::operation::{Effect, Subject};
use vman_core::ports::RecordError;
use vman_core::template::{Boot, Template};
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::*;
use crate::{Accepted, EngineError, NewDisk, NewTemplate, NewVm, RequestKey};

fn key(key: &str, fingerprint: &str) -> Option<RequestKey> {
    let key = key.parse().expect("valid");
    Some(RequestKey { key, fingerprint: fingerprint.to_owned() })
}

fn new_vm() -> NewVm {
    NewVm { template: samples::name("small"), name: None, autostart: false }
}

fn new_disk() -> NewDisk {
    let (format, bus) = (Some(ImageFormat::Qcow2), Bus::VirtioScsi);
    NewDisk { size_gib: 1, format, bus, mount_point: None }
}

fn new_template(name: &str) -> NewTemplate {
    let Template { name, cpu_count, ram_mib, .. } = samples::template(name);
    NewTemplate { name, cpu_count, ram_mib, boot: Boot::RootDisk { size_gib: 1 } }
}

async fn command(
    engine: &Engine,
    vm: VmId,
    command: VmCommand,
    key: Option<RequestKey>,
) -> Result<Accepted<Vm>, EngineError> {
    engine.command_vm(vm, command, Reason::User, key).await
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_repeated_is_answered_with_what_it_came_to_first() {
    let world = World::new().await;
    let engine = world.engine();
    for _ in 0..3 {
        let made = engine.create_template(new_template("large"), key("t", "large")).await;
        assert_eq!(made.expect("let in").record.name, samples::name("large"));
    }
    let vm = engine.create_vm(new_vm(), key("v", "vm")).await.expect("let in").record;
    let again = engine.create_vm(new_vm(), key("v", "vm")).await.expect("known");
    assert_eq!((again.record, again.operation), (vm.clone(), None));
    let disk = engine.create_disk(new_disk(), key("d", "disk")).await.expect("let in");
    let again = engine.create_disk(new_disk(), key("d", "disk")).await.expect("known");
    assert_eq!((again.record.id, again.operation), (disk.record.id, disk.operation));
    let start = command(&engine, vm.id, VmCommand::Start, key("s", "start")).await;
    let start = start.expect("let in").operation.expect("an operation");
    succeeded(&engine, start).await;
    let again = command(&engine, vm.id, VmCommand::Start, key("s", "start")).await.expect("known");
    // As it is now, with the operation of the first time.
    assert_eq!((again.record.state, again.operation), (VmState::Running, Some(start)));
    let attach = DiskCommand::Attach(vm.id);
    let tell =
        || engine.command_disk(disk.record.id, attach, None, Reason::User, key("a", "attach"));
    let first = tell().await.expect("let in").operation;
    all_ended(&engine).await;
    assert_eq!(tell().await.expect("known").operation, first);
    assert_eq!(world.operations().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_already_so_is_not_carried_out_later() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    let stop = || command(&engine, vm, VmCommand::Stop, key("k", "stop"));
    assert_eq!(stop().await.expect("already so").operation, None);
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    let again = stop().await.expect("known");
    assert_eq!((again.operation, again.record.state), (None, VmState::Running));
    assert_eq!(world.operations().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_used_for_something_else_is_refused() {
    let world = World::new().await;
    let engine = world.engine();
    engine.create_vm(new_vm(), key("k", "POST /vms small")).await.expect("let in");
    let reused = EngineError::KeyReused("k".parse().expect("valid"));
    let other = engine.create_vm(new_vm(), key("k", "POST /vms large")).await;
    assert_eq!(other.map(|accepted| accepted.record), Err(reused.clone()));
    let other = engine.create_disk(new_disk(), key("k", "POST /vms small")).await;
    assert_eq!(other.map(|accepted| accepted.record), Err(reused.clone()));
    let other = engine.create_template(new_template("k"), key("k", "POST /vms small")).await;
    assert_eq!(other.map(|accepted| accepted.record), Err(reused));
    assert_eq!((world.disks().await, world.operations().await), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_refused_can_be_made_again() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    let restart = || command(&engine, vm, VmCommand::Restart, key("k", "restart"));
    let denied = restart().await.expect_err("it is not running");
    assert!(matches!(denied, EngineError::Denied { denied: Denied::NotRunning, .. }), "{denied}");
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    let restarted = restart().await.expect("let in").operation.expect("an operation");
    succeeded(&engine, restarted).await;
    // What is taken is not what was asked for first.
    let taken = engine.create_template(new_template("small"), key("t", "small")).await;
    let error = taken.expect_err("the name is taken");
    assert!(matches!(error, EngineError::Record(RecordError::Exists(_))), "{error}");
}

#[tokio::test(start_paused = true)]
async fn twins_that_come_at_the_same_time_end_as_one() {
    for asked in VmCommand::ALL {
        let state = match asked {
            VmCommand::Start | VmCommand::MarkRunning | VmCommand::StopStray => VmState::Stopped,
            VmCommand::Resume => VmState::Paused,
            VmCommand::Stop
            | VmCommand::Restart
            | VmCommand::Kill
            | VmCommand::Pause
            | VmCommand::Reset
            | VmCommand::Delete
            | VmCommand::Autostart
            | VmCommand::MarkStopped
            | VmCommand::GuestEnded => VmState::Running,
        };
        let world = World::new().await;
        let slow = Arc::new(Mortal::dawdling(&world));
        let engine = world.engine_over(slow, world.host.clone());
        let vm = world.add_vm(1, state).await;
        world.host.stray_machine(vm);
        let twins = (0..5).map(|_| command(&engine, vm, asked, key("k", "twin")));
        let answers = join_all(twins).await.into_iter();
        let ids: Vec<_> = answers.map(|answer| answer.expect("let in").operation).collect();
        assert!(ids.iter().all(|id| *id == ids[0] && id.is_some()), "{asked:?}: {ids:?}");
        assert_eq!(world.operations().await.len(), 1, "{asked:?}");
        all_ended(&engine).await;
    }
}

#[tokio::test(start_paused = true)]
async fn twins_that_make_something_make_one() {
    let world = World::new().await;
    let slow = Arc::new(Mortal::dawdling(&world));
    let engine = world.engine_over(slow, world.host.clone());
    let vms = join_all((0..5).map(|_| engine.create_vm(new_vm(), key("v", "vm")))).await;
    let disks = join_all((0..5).map(|_| engine.create_disk(new_disk(), key("d", "disk")))).await;
    let names =
        join_all((0..5).map(|_| engine.create_template(new_template("x"), key("t", "x")))).await;
    for (vm, (disk, name)) in vms.iter().zip(disks.iter().zip(&names)) {
        let first = vms[0].as_ref().expect("let in").record.id;
        assert_eq!(vm.as_ref().expect("let in").record.id, first);
        let first = disks[0].as_ref().expect("let in").record.id;
        assert_eq!(disk.as_ref().expect("let in").record.id, first);
        name.as_ref().expect("let in");
    }
    all_ended(&engine).await;
    let vms = world.records.vms(None, Page::first()).await.expect("readable");
    assert_eq!((vms.len(), world.disks().await.len(), world.host.leftovers().len()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn whenever_the_daemon_is_killed_a_repeated_request_is_carried_out_once() {
    for moments in 0.. {
        let world = World::new().await;
        let vm = world.add_vm(1, VmState::Running).await;
        world.host.stray_machine(vm);
        let mortal = Arc::new(Mortal::dying_after(&world, moments));
        let engine = world.engine_over(mortal.clone(), mortal.clone());
        let life = async move {
            command(&engine, vm, VmCommand::Reset, key("k", "reset")).await.expect("let in");
            engine.create_disk(new_disk(), key("d", "disk")).await.expect("let in");
            all_ended(&engine).await;
        };
        let died = mortal.dies_in(life).await;
        let engine = world.engine();
        engine.recover().await.expect("readable");
        let reset = command(&engine, vm, VmCommand::Reset, key("k", "reset")).await;
        let reset = reset.expect("known, or let in").operation.expect("an operation");
        succeeded(&engine, reset).await;
        let disk = engine.create_disk(new_disk(), key("d", "disk")).await.expect("known");
        succeeded(&engine, disk.operation.expect("an operation")).await;
        assert_eq!(world.operations().await.len(), 2, "killed at moment {moments}");
        assert_eq!(world.disks().await.len(), 1, "killed at moment {moments}");
        if !died {
            assert!(moments > 8, "only {moments} moments");
            let resets = world.host.effects_on(&Subject::Vm(vm));
            assert_eq!(resets, [Effect::Reset]);
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_request_made_and_is_gone_since_is_not_found() {
    let world = World::new().await;
    let engine = world.engine();
    let made = || engine.create_vm(new_vm(), key("v", "vm"));
    let vm = made().await.expect("let in").record.id;
    let delete = ask(&engine, vm, VmCommand::Delete).await;
    succeeded(&engine, delete).await;
    let error = made().await.expect_err("it is gone");
    assert_eq!(error, EngineError::NotFound(Subject::Vm(vm)));
    let template = || engine.create_template(new_template("x"), key("t", "x"));
    template().await.expect("let in");
    engine.delete_template(&samples::name("x")).await.expect("nobody uses it");
    let error = template().await.expect_err("it is gone");
    assert!(matches!(error, EngineError::Record(RecordError::NotFound(_))), "{error}");
}
