//! Addresses of VMs: each once, and none left over.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use vman_core::testing::samples;

use super::mortal::Mortal;
use super::*;
use crate::{EngineError, NewVm};

fn new_vm() -> NewVm {
    NewVm { template: samples::name("small"), name: None, autostart: false }
}

#[tokio::test(start_paused = true)]
async fn many_vms_made_at_once_get_distinct_addresses() {
    let world = World::new().await;
    let slow = Arc::new(Mortal::dawdling(&world));
    let engine = world.engine_over(slow, world.host.clone());
    let made = join_all((0..100).map(|_| engine.create_vm(new_vm(), None))).await;
    let vms: Vec<Vm> = made.into_iter().map(|vm| vm.expect("there is room").record).collect();
    let addresses: BTreeSet<_> = vms.iter().map(|vm| vm.lease.address).collect();
    let macs: BTreeSet<_> = vms.iter().map(|vm| vm.lease.mac.to_string()).collect();
    assert_eq!((addresses.len(), macs.len()), (100, 100));
    assert_eq!(world.records.leases().await, Ok(addresses));
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_pool_says_so_and_a_deleted_vm_gives_its_address_back() {
    let mut world = World::new().await;
    world.config = config("10.7.0.0/29");
    let engine = world.engine();
    let mut vms = Vec::new();
    for _ in 0..5 {
        vms.push(engine.create_vm(new_vm(), None).await.expect("there is room").record);
    }
    let error = engine.create_vm(new_vm(), None).await.expect_err("five hosts beside the gateway");
    assert_eq!(error, EngineError::PoolExhausted("10.7.0.0/29".to_owned()));
    let freed = vms[2].lease.address;
    let delete = ask(&engine, vms[2].id, VmCommand::Delete).await;
    succeeded(&engine, delete).await;
    let next = engine.create_vm(new_vm(), None).await.expect("there is room again").record;
    assert_eq!(next.lease.address, freed);
}

#[tokio::test(start_paused = true)]
async fn a_new_vm_is_only_recorded() {
    let world = World::new().await;
    let engine = world.engine();
    let vm = engine.create_vm(new_vm(), None).await.expect("there is room").record;
    assert_eq!(world.vm(vm.id).await, vm);
    assert_eq!(vm.state, VmState::Stopped);
    assert_eq!(world.host.deeds(), []);
    assert_eq!(world.operations().await, []);
}
