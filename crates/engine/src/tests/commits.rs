//! How many commits an operation costs: on a disk, each is an fsync, and nothing costs more.

use vman_core::disk::DiskState;
use vman_core::operation::Subject;
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::*;

#[tokio::test(start_paused = true)]
async fn an_operation_costs_no_more_commits_than_it_has_waits() {
    let world = World::new().await;
    let records = Arc::new(Mortal::undisturbed(&world));
    let engine = world.engine_over(records.clone(), world.host.clone());
    let vm = world.add_vm(1, VmState::Stopped).await;
    let disk = samples::disk(1, DiskState::Available);
    world.host.stray_file(&format!("disks/{}", disk.file_name()));
    world.put(vec![Change::AddDisk(disk.clone())]).await;
    let mut costs = Vec::new();
    for (what, command) in [
        ("start", VmCommand::Start),
        ("pause", VmCommand::Pause),
        ("resume", VmCommand::Resume),
        ("reset", VmCommand::Reset),
        ("restart", VmCommand::Restart),
    ] {
        let before = records.commits();
        let id = ask(&engine, vm, command).await;
        succeeded(&engine, id).await;
        costs.push((what, records.commits() - before));
    }
    for (what, command) in [
        ("attach", DiskCommand::Attach(vm)),
        ("resize", DiskCommand::Resize(2)),
        ("detach", DiskCommand::Detach),
    ] {
        let before = records.commits();
        let id = ask_disk(&engine, disk.id, command).await;
        succeeded(&engine, id).await;
        costs.push((what, records.commits() - before));
    }
    for (what, command) in [
        ("stop", VmCommand::Stop),
        ("start again", VmCommand::Start),
        ("kill", VmCommand::Kill),
        ("delete", VmCommand::Delete),
    ] {
        let before = records.commits();
        let id = ask(&engine, vm, command).await;
        succeeded(&engine, id).await;
        costs.push((what, records.commits() - before));
    }
    let expected = [
        // Let in with what prepares the machine begun; launching; ended.
        ("start", 3),
        ("pause", 2),
        ("resume", 2),
        ("reset", 2),
        ("restart", 4),
        ("attach", 2),
        ("resize", 2),
        ("detach", 2),
        ("stop", 3),
        ("start again", 3),
        ("kill", 2),
        ("delete", 2),
    ];
    assert_eq!(costs, expected);
    assert_eq!(world.find_vm(vm).await, None);
    assert!(!world.host.effects_on(&Subject::Vm(vm)).is_empty());
}
