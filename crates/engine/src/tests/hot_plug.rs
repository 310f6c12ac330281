//! Disks that come to running machines and go from them: what the guest answers and when, and what
//! else is asked meanwhile.

use vman_core::coherence::Kind;
use vman_core::disk::DiskState;
use vman_core::operation::{Subject, Verb};
use vman_core::ports::ApplyError;
use vman_core::repair::{IssueState, Resolution, Verdict};
use vman_core::testing::samples;

use super::repairs::look_and_act;
use super::*;

/// A running VM with a disk to boot from and one more, attached, or to be.
async fn running_with(attached: bool) -> (World, VmId, DiskId) {
    let world = World::new().await;
    let root = samples::attached(9, 1, "/dev/sda");
    let disk = match attached {
        true => samples::attached(1, 1, "/dev/sdb"),
        false => samples::disk(1, DiskState::Available),
    };
    let mut vm = samples::vm(1, VmState::Running);
    let held = [root.clone(), disk.clone()].into_iter().filter(|disk| disk.vm.is_some());
    world.launch(&vm, held.collect()).await;
    vm.machine = world.host.machine(vm.id);
    for disk in [&root, &disk] {
        world.host.stray_file(&format!("disks/{}", disk.file_name()));
    }
    let id = vm.id;
    world.put(vec![Change::AddVm(vm), Change::AddDisk(root), Change::AddDisk(disk)]).await;
    (world, id, samples::disk_id(1))
}

fn left_to_the_guest() -> ApplyError {
    ApplyError::LeftToTheGuest("the guest has not let go of it".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_disk_comes_to_a_running_machine_and_goes_again() {
    let (world, vm, disk) = running_with(false).await;
    let engine = world.engine();
    world.host.hold(Effect::AttachDisk);
    let attach = ask_disk(&engine, disk, DiskCommand::Attach(vm)).await;
    world.host.reached(Effect::AttachDisk, 1).await;
    let during = world.disk(disk).await;
    assert_eq!((during.state, during.vm), (DiskState::Attaching, Some(vm)));
    world.host.release(Effect::AttachDisk);
    assert_eq!(succeeded(&engine, attach).await.turn_of, Some(vm));
    assert!(world.host.disks(vm).contains(&disk));
    world.host.hold(Effect::DetachDisk);
    let detach = ask_disk(&engine, disk, DiskCommand::Detach).await;
    world.host.reached(Effect::DetachDisk, 1).await;
    let during = world.disk(disk).await;
    assert_eq!((during.state, during.vm), (DiskState::Detaching, Some(vm)));
    // Who asks again meanwhile asks for the same.
    assert_eq!(ask_disk(&engine, disk, DiskCommand::Detach).await, detach);
    world.host.release(Effect::DetachDisk);
    succeeded(&engine, detach).await;
    let after = world.disk(disk).await;
    assert_eq!((after.state, after.vm), (DiskState::Available, None));
    assert!(!world.host.disks(vm).contains(&disk));
    assert_eq!(world.incoherences().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_disk_grows_below_a_running_machine() {
    let (world, vm, disk) = running_with(true).await;
    let engine = world.engine();
    let resize = ask_disk(&engine, disk, DiskCommand::Resize(3)).await;
    assert_eq!(succeeded(&engine, resize).await.turn_of, Some(vm));
    let after = world.disk(disk).await;
    assert_eq!((after.size_gib, &after.state), (3, &DiskState::Attached));
    let file = format!("disks/{}", after.file_name());
    assert_eq!(world.host.image_size(&file), Some(3 << 30));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_lets_go_late_is_honoured_when_it_does() {
    let (world, vm, disk) = running_with(true).await;
    let engine = world.engine();
    world.host.fail_next_with(Effect::DetachDisk, left_to_the_guest());
    let detach = ask_disk(&engine, disk, DiskCommand::Detach).await;
    assert_eq!(error_of(&ended(&engine, detach).await), "the guest has not let go of it");
    let waiting = world.disk(disk).await;
    assert_eq!((&waiting.state, waiting.vm), (&DiskState::Detaching, Some(vm)));
    // It is not free before.
    let delete = engine.command_disk(disk, DiskCommand::Delete, None, Reason::User, None).await;
    delete.expect_err("the machine has it");
    look_and_act(&world, &engine).await;
    assert_eq!(world.disk(disk).await, waiting);
    assert!(world.host.let_go(vm, disk));
    look_and_act(&world, &engine).await;
    let after = world.disk(disk).await;
    assert_eq!((after.state, after.vm), (DiskState::Available, None));
    let operation = &world.operations().await[0];
    assert_eq!((operation.verb, &operation.reason), (Verb::DiskReleased, &Reason::Guest));
    assert_eq!(operation.state, OperationState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_not_recorded_while_the_disk_is_being_asked_for() {
    let (world, vm, disk) = running_with(true).await;
    let engine = world.engine();
    world.host.hold(Effect::DetachDisk);
    let detach = ask_disk(&engine, disk, DiskCommand::Detach).await;
    world.host.reached(Effect::DetachDisk, 1).await;
    assert!(world.host.let_go(vm, disk));
    engine.act_on(world.look().await).await.expect("the records can be used");
    assert_eq!(world.disk(disk).await.state, DiskState::Detaching);
    world.host.release(Effect::DetachDisk);
    succeeded(&engine, detach).await;
    assert_eq!(world.disk(disk).await.state, DiskState::Available);
    assert_eq!(world.operations().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_seen_before_the_disk_was_attached_anew_does_not_take_it_away() {
    let (world, vm, disk) = running_with(true).await;
    let engine = world.engine();
    world.host.fail_next_with(Effect::DetachDisk, left_to_the_guest());
    let detach = ask_disk(&engine, disk, DiskCommand::Detach).await;
    ended(&engine, detach).await;
    assert!(world.host.let_go(vm, disk));
    let look = world.look().await;
    assert_eq!(look.disks_released.len(), 1);
    look_and_act(&world, &engine).await;
    let attach = ask_disk(&engine, disk, DiskCommand::Attach(vm)).await;
    succeeded(&engine, attach).await;
    engine.act_on(look).await.expect("the records can be used");
    let after = world.disk(disk).await;
    assert_eq!((after.state, after.vm), (DiskState::Attached, Some(vm)));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_is_an_issue_and_can_be_asked_again_by_a_policy() {
    let (world, _, disk) = running_with(true).await;
    let engine = world.engine();
    world.host.fail_next_with(Effect::DetachDisk, left_to_the_guest());
    let detach = ask_disk(&engine, disk, DiskCommand::Detach).await;
    ended(&engine, detach).await;
    look_and_act(&world, &engine).await;
    assert_eq!(world.issues().await, [], "it has time");
    world.clock.advance(10_000);
    world.judge.then(vec![samples::answer("patient", Verdict::Repair, &[0])]);
    look_and_act(&world, &engine).await;
    let issue = world.only_issue().await;
    assert_eq!((issue.kind, &issue.subject), (Kind::DiskUnplugUnanswered, &Subject::Disk(disk)));
    let repair = &world.repairs().await[0];
    assert_eq!((repair.verb, &repair.state), (Verb::DiskDetach, &OperationState::Succeeded));
    assert_eq!(repair.turn_of, Some(samples::vm_id(1)));
    look_and_act(&world, &engine).await;
    let state = world.only_issue().await.state;
    assert!(matches!(state, IssueState::Resolved { how: Resolution::ByRepair, .. }), "{state:?}");
    assert_eq!(world.disk(disk).await.state, DiskState::Available);
}

#[tokio::test(start_paused = true)]
async fn a_kill_or_a_deletion_of_the_vm_does_not_wait_for_a_disk() {
    for effect in [Effect::AttachDisk, Effect::DetachDisk] {
        for firm in [VmCommand::Kill, VmCommand::Delete] {
            let story = format!("{} then {}", effect.word(), firm.verb().word());
            let (world, vm, disk) = running_with(effect == Effect::DetachDisk).await;
            let engine = world.engine();
            // Whoever waits for the machine waits for ever, there and back.
            world.host.hold(Effect::AttachDisk);
            world.host.hold(Effect::DetachDisk);
            let command = match effect == Effect::AttachDisk {
                true => DiskCommand::Attach(vm),
                false => DiskCommand::Detach,
            };
            let slow = ask_disk(&engine, disk, command).await;
            world.host.reached(effect, 1).await;
            let begun = tokio::time::Instant::now();
            let firm_id = ask(&engine, vm, firm).await;
            succeeded(&engine, firm_id).await;
            let who = format!("superseded by {} (operation {firm_id})", firm.verb().word());
            let operation = ended(&engine, slow).await;
            assert!(canceller_of(&operation).starts_with(&who), "{story}: {operation:?}");
            assert_eq!(begun.elapsed(), Duration::ZERO, "{story}");
            // The machine is gone, and so is its hold on the disk.
            look_and_act(&world, &engine).await;
            let after = world.disk(disk).await;
            let available = (DiskState::Available, None);
            assert_eq!((after.state, after.vm), available, "{story}");
            assert_eq!(world.incoherences().await, Vec::<String>::new(), "{story}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_attachment_that_was_cut_short_is_not_free_before_its_machine_is_gone() {
    let (world, vm, disk) = running_with(false).await;
    let engine = world.engine();
    world.host.hold(Effect::AttachDisk);
    world.host.hold(Effect::Kill);
    let attach = ask_disk(&engine, disk, DiskCommand::Attach(vm)).await;
    world.host.reached(Effect::AttachDisk, 1).await;
    let kill = ask(&engine, vm, VmCommand::Kill).await;
    ended(&engine, attach).await;
    let between = world.disk(disk).await;
    assert_eq!((between.state, between.vm), (DiskState::Detaching, Some(vm)));
    world.host.release(Effect::Kill);
    succeeded(&engine, kill).await;
    look_and_act(&world, &engine).await;
    assert_eq!(world.disk(disk).await.state, DiskState::Available);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_disk_that_is_on_its_way() {
    let (world, vm, disk) = running_with(false).await;
    let engine = world.engine();
    world.host.hold(Effect::AttachDisk);
    let attach = ask_disk(&engine, disk, DiskCommand::Attach(vm)).await;
    world.host.reached(Effect::AttachDisk, 1).await;
    let stop = ask(&engine, vm, VmCommand::Stop).await;
    let waited = engine.wait(stop, Duration::from_secs(1)).await.expect("readable");
    assert_eq!(waited.expect("recorded").state, OperationState::Pending);
    world.host.release(Effect::AttachDisk);
    succeeded(&engine, attach).await;
    succeeded(&engine, stop).await;
    let after = world.disk(disk).await;
    assert_eq!((after.state, after.vm), (DiskState::Attached, Some(vm)));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_its_deleted_vm_let_go_of_is_not_taken_from_the_next_one() {
    let (world, vm, disk) = running_with(true).await;
    let other = world.add_vm(2, VmState::Stopped).await;
    // Let in before the first VM was deleted, and not begun.
    let waiting = Operation {
        subject: Subject::Disk(disk),
        verb: Verb::DiskDetach,
        turn_of: Some(vm),
        steps: vec![vman_core::operation::Step::new(Effect::DetachDisk, None)],
        ..samples::operation(1)
    };
    let gone = vec![
        Change::RemoveVm(vm, NOW),
        Change::DiskState {
            disk,
            expected: world.disk(disk).await.generation.next(),
            state: DiskState::Attached,
            vm: Some(other),
            mount_point: Some(samples::mount_point("/dev/sdb")),
            at: NOW,
        },
        Change::AddOperation(waiting),
    ];
    world.put(gone).await;
    let before = world.disk(disk).await;
    let engine = world.engine();
    assert_eq!(engine.recover().await, Ok(1));
    succeeded(&engine, samples::operation_id(1)).await;
    assert_eq!(world.disk(disk).await, before);
    assert_eq!(world.host.effects_on(&Subject::Disk(disk)), []);
}
