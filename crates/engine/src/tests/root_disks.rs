//! The disk a VM boots from, made by itself where there is none.

use vman_core::disk::{DiskState, MountPoint};
use vman_core::ident::Name;
use vman_core::operation::Effect;
use vman_core::template::{Boot, Template};
use vman_core::testing::samples;

use super::scenes::assert_disks_settled;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_vm_without_a_disk_to_boot_from_gets_one_when_it_is_first_started() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.hold(Effect::PrepareDisks);
    let start = ask(&engine, vm, VmCommand::Start).await;
    world.host.reached(Effect::PrepareDisks, 1).await;
    let disks = world.disks().await;
    assert_eq!(disks.len(), 1);
    assert_eq!((&disks[0].state, disks[0].vm), (&DiskState::Creating, Some(vm)));
    world.host.release(Effect::PrepareDisks);
    succeeded(&engine, start).await;
    let disk = world.disk(disks[0].id).await;
    assert_eq!(disk.state, DiskState::Attached);
    assert_eq!((disk.size_gib, disk.mount_point), (1, Some(MountPoint::root())));
    assert_eq!(world.host.disks(vm).into_iter().collect::<Vec<_>>(), [disk.id]);
    assert_eq!(world.incoherences().await, Vec::<String>::new());
    // And not another one.
    for command in [VmCommand::Restart, VmCommand::Stop, VmCommand::Start] {
        let id = ask(&engine, vm, command).await;
        succeeded(&engine, id).await;
    }
    assert_eq!(world.disks().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_boots_otherwise_or_has_such_a_disk_gets_none() {
    let world = World::new().await;
    let engine = world.engine();
    let firmware = "tiny.rom".parse().expect("a file name");
    let name: Name = samples::name("firmware");
    let boot = Boot::Firmware { firmware };
    world.put(vec![Change::AddTemplate(Template { boot, ..samples::template("firmware") })]).await;
    let vm = Vm { template: name, ..samples::vm(1, VmState::Stopped) };
    world.put(vec![Change::AddVm(vm)]).await;
    world.add_vm(2, VmState::Stopped).await;
    let disk = samples::attached(1, 2, "/dev/vda");
    world.host.stray_file(&format!("disks/{}", disk.file_name()));
    world.put(vec![Change::AddDisk(disk)]).await;
    for number in [1, 2] {
        let start = ask(&engine, samples::vm_id(number), VmCommand::Start).await;
        succeeded(&engine, start).await;
    }
    assert_eq!(world.disks().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_could_not_be_made_leaves_neither_record_nor_image() {
    for done_first in [false, true] {
        let world = World::new().await;
        let engine = world.engine();
        let vm = world.add_vm(1, VmState::Stopped).await;
        if done_first {
            world.host.fail_next_after_doing(Effect::PrepareDisks, "disk full");
        } else {
            world.host.fail_next(Effect::PrepareDisks, "disk full");
        }
        let start = ask(&engine, vm, VmCommand::Start).await;
        assert_eq!(error_of(&ended(&engine, start).await), "disk full");
        assert_eq!(world.disks().await, []);
        assert_eq!(world.host.leftovers(), [format!("directory of {vm}")]);
        let again = ask(&engine, vm, VmCommand::Start).await;
        succeeded(&engine, again).await;
        assert_disks_settled(&world, "started again").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_was_made_is_kept_when_the_machine_does_not_start() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.fail_next(Effect::Launch, "no room");
    let start = ask(&engine, vm, VmCommand::Start).await;
    assert_eq!(error_of(&ended(&engine, start).await), "no room");
    assert_disks_settled(&world, "kept").await;
    let kept = world.disks().await;
    let again = ask(&engine, vm, VmCommand::Start).await;
    succeeded(&engine, again).await;
    assert_eq!(world.disks().await, kept);
}

#[tokio::test(start_paused = true)]
async fn a_disk_whose_image_may_be_left_is_failed_and_can_be_deleted() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = world.add_vm(1, VmState::Stopped).await;
    world.host.fail_next_after_doing(Effect::PrepareDisks, "disk full");
    world.host.fail_next(Effect::DiscardNewDisks, "read-only");
    let start = ask(&engine, vm, VmCommand::Start).await;
    ended(&engine, start).await;
    let disk = world.disks().await.remove(0);
    let reason = "vm.start: disk full; undoing by discard-new-disks failed: read-only";
    assert_eq!(disk.state.reason().map(ToString::to_string).as_deref(), Some(reason));
    let delete = ask(&engine, vm, VmCommand::Delete).await;
    succeeded(&engine, delete).await;
    let delete = ask_disk(&engine, disk.id, DiskCommand::Delete).await;
    succeeded(&engine, delete).await;
    assert_eq!((world.disks().await, world.host.leftovers()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_root_disk_that_is_taken_away_as_its_vm_starts_is_there_or_made_anew() {
    for yields in 0..40 {
        let world = World::new().await;
        let slow = Arc::new(super::mortal::Mortal::dawdling(&world));
        let engine = world.engine_over(slow, world.host.clone());
        let vm = world.add_vm(1, VmState::Stopped).await;
        let disk = samples::attached(1, 1, "/dev/sda");
        world.host.stray_file(&format!("disks/{}", disk.file_name()));
        world.put(vec![Change::AddDisk(disk.clone())]).await;
        let detach = async {
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            let asked = engine.command_disk(disk.id, DiskCommand::Detach, None, Reason::User, None);
            drop(asked.await);
        };
        let (start, ()) = tokio::join!(ask(&engine, vm, VmCommand::Start), detach);
        succeeded(&engine, start).await;
        all_ended(&engine).await;
        let held = world.records.disks_of(vm).await.expect("readable");
        let ids = held.iter().map(|disk| disk.id).collect();
        assert_eq!(world.host.disks(vm), ids, "after {yields} yields");
    }
}
