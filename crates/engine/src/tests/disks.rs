//! Disks: their images, where they are attached, and what conflicts.

use futures_util::future::join_all;
use vman_core::disk::{Bus, DiskState, ImageFormat, MountPoint};
use vman_core::lifecycle::{Denied, DiskCommand};
use vman_core::operation::{Effect, Subject, Verb};
use vman_core::ports::RecordError;
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::*;
use crate::{EngineError, NewDisk};

fn new_disk() -> NewDisk {
    let (format, bus) = (Some(ImageFormat::Raw), Bus::VirtioScsi);
    NewDisk { size_gib: 2, format, bus, mount_point: None }
}

/// Makes a disk, or deletes the sample of number 1, and waits for the end.
pub(super) async fn create_or_delete(engine: Engine, deletes: bool) {
    let accepted = if deletes {
        let reason = Reason::User;
        engine.command_disk(samples::disk_id(1), DiskCommand::Delete, None, reason, None).await
    } else {
        engine.create_disk(new_disk(), None).await
    };
    let operation = accepted.expect("let in").operation.expect("an operation");
    ended(&engine, operation).await;
}

async fn tell(
    engine: &Engine,
    disk: DiskId,
    command: DiskCommand,
    at: Option<&str>,
) -> Result<Disk, EngineError> {
    let at: Option<MountPoint> = at.map(samples::mount_point);
    engine.command_disk(disk, command, at, Reason::User, None).await.map(|accepted| accepted.record)
}

async fn attach(
    engine: &Engine,
    disk: DiskId,
    vm: VmId,
    at: Option<&str>,
) -> Result<String, EngineError> {
    let disk = tell(engine, disk, DiskCommand::Attach(vm), at).await?;
    assert_eq!((&disk.state, disk.vm), (&DiskState::Attached, Some(vm)));
    Ok(disk.mount_point.expect("it is attached somewhere").as_str().to_owned())
}

/// A world with a stopped VM of number 1 and so many disks without one.
async fn with_disks(count: u8) -> (World, VmId) {
    let world = World::new().await;
    let vm = world.add_vm(1, VmState::Stopped).await;
    for number in 1..=count {
        let disk = samples::disk(number, DiskState::Available);
        world.host.stray_file(&format!("disks/{}", disk.file_name()));
        world.put(vec![Change::AddDisk(disk)]).await;
    }
    (world, vm)
}

fn denied(disk: DiskId, state: &'static str, denied: Denied) -> EngineError {
    EngineError::Denied { subject: Subject::Disk(disk), state, denied }
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_made_and_deleted_with_its_image() {
    let world = World::new().await;
    let engine = world.engine();
    let accepted = engine.create_disk(new_disk(), None).await.expect("let in");
    assert_eq!(accepted.record.state, DiskState::Creating);
    let disk = accepted.record.id;
    succeeded(&engine, accepted.operation.expect("an operation")).await;
    assert_eq!(world.disk(disk).await.state, DiskState::Available);
    let file = format!("file disks/{}", accepted.record.file_name());
    assert_eq!(world.host.leftovers(), [file]);
    let delete = engine.command_disk(disk, DiskCommand::Delete, None, Reason::User, None).await;
    let delete = delete.expect("let in");
    assert_eq!(delete.record.state, DiskState::Deleting);
    succeeded(&engine, delete.operation.expect("an operation")).await;
    assert_eq!(world.records.disk(disk).await, Ok(None));
    assert_eq!(world.host.leftovers(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_disk_whose_image_cannot_be_made_is_failed_and_leaves_no_file() {
    let world = World::new().await;
    let engine = world.engine();
    world.host.fail_next_after_doing(Effect::CreateImage, "disk full");
    let accepted = engine.create_disk(new_disk(), None).await.expect("let in");
    let operation = ended(&engine, accepted.operation.expect("an operation")).await;
    assert_eq!(error_of(&operation), "disk full");
    let disk = world.disk(accepted.record.id).await;
    assert_eq!(
        disk.state.reason().map(ToString::to_string).as_deref(),
        Some("disk.create: disk full")
    );
    assert_eq!(world.host.leftovers(), Vec::<String>::new());
    tell(&engine, disk.id, DiskCommand::Delete, None).await.expect("a failed disk can be deleted");
    all_ended(&engine).await;
    assert_eq!(world.records.disk(disk.id).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn disks_are_attached_where_asked_or_at_the_first_free_letter() {
    let (world, vm) = with_disks(4).await;
    let engine = world.engine();
    let disk = samples::disk_id;
    assert_eq!(attach(&engine, disk(1), vm, None).await, Ok("/dev/sdb".to_owned()));
    assert_eq!(attach(&engine, disk(2), vm, Some("/dev/vdd")).await, Ok("/dev/vdd".to_owned()));
    assert_eq!(attach(&engine, disk(3), vm, None).await, Ok("/dev/sdc".to_owned()));
    assert_eq!(attach(&engine, disk(4), vm, None).await, Ok("/dev/sde".to_owned()));
    let held = world.records.disks_of(vm).await.expect("readable");
    assert_eq!(held.len(), 4);
    let operation = &world.operations().await[0];
    assert_eq!((operation.verb, &operation.state), (Verb::DiskAttach, &OperationState::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn two_disks_cannot_have_one_letter() {
    let (world, vm) = with_disks(2).await;
    let engine = world.engine();
    attach(&engine, samples::disk_id(1), vm, Some("/dev/sdb")).await.expect("free");
    let error = attach(&engine, samples::disk_id(2), vm, Some("/dev/vdb")).await;
    let error = error.expect_err("the same letter");
    assert!(matches!(error, EngineError::Record(RecordError::Exists(_))), "{error:?}");
    assert_eq!(world.disk(samples::disk_id(2)).await, samples::disk(2, DiskState::Available));
}

#[tokio::test(start_paused = true)]
async fn a_disk_comes_back_where_it_was_if_that_is_still_free() {
    let (world, vm) = with_disks(2).await;
    let engine = world.engine();
    let (first, second) = (samples::disk_id(1), samples::disk_id(2));
    attach(&engine, first, vm, Some("/dev/sdf")).await.expect("free");
    tell(&engine, first, DiskCommand::Detach, None).await.expect("its VM is stopped");
    assert_eq!(attach(&engine, first, vm, None).await, Ok("/dev/sdf".to_owned()));
    let detached = tell(&engine, first, DiskCommand::Detach, None).await.expect("as before");
    assert_eq!((detached.state, detached.vm), (DiskState::Available, None));
    attach(&engine, second, vm, Some("/dev/sdf")).await.expect("free again");
    assert_eq!(attach(&engine, first, vm, None).await, Ok("/dev/sdb".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn disks_attached_at_once_get_distinct_letters_until_there_is_none() {
    let (world, vm) = with_disks(26).await;
    let slow = Arc::new(Mortal::dawdling(&world));
    let engine = world.engine_over(slow, world.host.clone());
    let asked = (1..=26).map(|number| attach(&engine, samples::disk_id(number), vm, None));
    let outcomes = join_all(asked).await;
    let mut letters: Vec<&String> = outcomes.iter().flatten().collect();
    letters.sort();
    letters.dedup();
    assert_eq!(letters.len(), 25, "b to z");
    let errors: Vec<&EngineError> =
        outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(errors, [&EngineError::NoFreeMountPoint(vm)]);
}

#[tokio::test(start_paused = true)]
async fn what_conflicts_is_denied_with_the_state_it_conflicts_with() {
    let (world, vm) = with_disks(1).await;
    let engine = world.engine();
    let (disk, moving) = (samples::disk_id(1), world.add_vm(2, VmState::Starting).await);
    let refused = tell(&engine, disk, DiskCommand::Attach(moving), None).await;
    assert_eq!(refused, Err(denied(disk, "available", Denied::VmInTransition)));
    attach(&engine, disk, vm, None).await.expect("its VM is stopped");
    let again = engine.command_disk(disk, DiskCommand::Attach(vm), None, Reason::User, None).await;
    assert_eq!(again.expect("already so").operation, None);
    let other = world.add_vm(3, VmState::Stopped).await;
    let refused = tell(&engine, disk, DiskCommand::Attach(other), None).await;
    assert_eq!(refused, Err(denied(disk, "attached", Denied::AttachedElsewhere)));
    let refused = tell(&engine, disk, DiskCommand::Delete, None).await;
    assert_eq!(refused, Err(denied(disk, "attached", Denied::Attached)));
    world.host.hold(Effect::Launch);
    ask(&engine, vm, VmCommand::Start).await;
    let refused = tell(&engine, disk, DiskCommand::Detach, None).await;
    assert_eq!(refused, Err(denied(disk, "attached", Denied::VmInTransition)));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_cannot_be_attached() {
    let (world, vm) = with_disks(1).await;
    let engine = world.engine();
    let nobody = samples::vm_id(9);
    let refused = tell(&engine, samples::disk_id(1), DiskCommand::Attach(nobody), None).await;
    assert_eq!(refused, Err(EngineError::NotFound(Subject::Vm(nobody))));
    let nothing = samples::disk_id(9);
    let refused = tell(&engine, nothing, DiskCommand::Attach(vm), None).await;
    assert_eq!(refused, Err(EngineError::NotFound(Subject::Disk(nothing))));
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_launched_with_the_disks_attached_before_it() {
    let (world, vm) = with_disks(2).await;
    let witness = Arc::new(Witness::default());
    let engine = world.engine_over(world.records.clone(), witness.clone());
    attach(&engine, samples::disk_id(2), vm, Some("/dev/sda")).await.expect("free");
    attach(&engine, samples::disk_id(1), vm, Some("/dev/sdd")).await.expect("free");
    let start = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, start).await;
    let disks = witness.0.lock().expect("not poisoned").clone();
    assert_eq!(disks, [samples::disk_id(2), samples::disk_id(1)]);
}

/// Remembers the disks of the last launch.
#[derive(Default)]
struct Witness(std::sync::Mutex<Vec<DiskId>>);

#[async_trait::async_trait]
impl Apply for Witness {
    async fn apply(
        &self,
        effect: Effect,
        target: &vman_core::ports::Target,
    ) -> Result<vman_core::ports::Applied, vman_core::ports::ApplyError> {
        if let (Effect::Launch, vman_core::ports::Target::Vm(target)) = (effect, target) {
            let disks = target.disks.iter().map(|disk| disk.id).collect();
            *self.0.lock().expect("not poisoned") = disks;
        }
        Ok(vman_core::ports::Applied::default())
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_under_way_is_named_to_who_asks_for_it_again() {
    let (world, _) = with_disks(1).await;
    let engine = world.engine();
    world.host.hold(Effect::DeleteImage);
    let delete =
        || engine.command_disk(samples::disk_id(1), DiskCommand::Delete, None, Reason::User, None);
    let first = delete().await.expect("let in").operation.expect("an operation");
    assert_eq!(delete().await.expect("already so").operation, Some(first));
    world.host.release(Effect::DeleteImage);
    succeeded(&engine, first).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_not_said_to_be_where_it_is_not() {
    let (world, vm) = with_disks(1).await;
    let engine = world.engine();
    let disk = samples::disk_id(1);
    attach(&engine, disk, vm, Some("/dev/sdc")).await.expect("attached");
    for same in [None, Some("/dev/sdc")] {
        assert_eq!(attach(&engine, disk, vm, same).await.expect("already so"), "/dev/sdc");
    }
    let refused = attach(&engine, disk, vm, Some("/dev/sdd")).await.expect_err("elsewhere");
    assert!(matches!(refused, EngineError::Denied { denied: Denied::Attached, .. }), "{refused}");
}
