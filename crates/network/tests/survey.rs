//! Surveys devices of the real kernel, in a network namespace that lives as long as its test.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one test module")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write;

use futures_util::StreamExt;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth};
use vman_core::ident::VmId;
use vman_core::ports::Survey;
use vman_core::sighting::{DeviceSeen, Surveyed};
use vman_core::testing::samples::vm_id;
use vman_network::{ALIAS_PREFIX, Mode, NetworkConfig, Networker};

/// Runs `body` on a thread that is alone in a new network namespace; says so where this user may
/// not make one.
fn in_new_namespace<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            match unshare(CloneFlags::CLONE_NEWNET) {
                Ok(()) => {}
                Err(Errno::EPERM) => return skipped(test),
                Err(error) => panic!("no network namespace can be made: {error}"),
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(body());
        });
        thread.join().expect("the test passes in its namespace");
    });
}

fn skipped(test: &str) {
    let line = format!("skipped {test}: a network namespace needs CAP_SYS_ADMIN; run as root\n");
    // The runner swallows what a passing test prints, but not this.
    std::io::stderr().write_all(line.as_bytes()).expect("stderr can be written");
    if let Some(tally) = std::env::var_os("VMAN_TEST_TALLY") {
        let tally = std::fs::OpenOptions::new().append(true).create(true).open(tally);
        tally.and_then(|mut tally| tally.write_all(line.as_bytes())).expect("the tally is kept");
    }
}

fn networker() -> Networker {
    Networker::settle(NetworkConfig {
        mode: Mode::User,
        subnet: "10.77.0.0/24".parse().expect("a network"),
        gateway: None,
        dns: None,
        bridge: "br-vman".to_owned(),
        vlan_id: None,
        uplink: None,
    })
    .expect("it can be settled")
}

async fn index(handle: &Handle, name: &str) -> u32 {
    let mut links = Box::pin(handle.link().get().match_name(name).execute());
    let link = links.next().await.expect("an answer").expect("the device is there");
    link.header.index
}

async fn mark(handle: &Handle, name: &str, alias: &str) {
    let message = LinkUnspec::new_with_index(index(handle, name).await)
        .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
        .build();
    handle.link().change(message).execute().await.expect("an alias can be set");
}

async fn devices() -> BTreeMap<String, VmId> {
    match networker().survey().await.devices {
        Surveyed::Known(devices) => {
            devices.into_iter().map(|(name, DeviceSeen { owner })| (name, owner)).collect()
        }
        Surveyed::Unknown(reason) => panic!("{reason}"),
    }
}

#[test]
fn devices_marked_for_a_vm_are_seen_until_they_are_gone() {
    in_new_namespace("devices_marked_for_a_vm_are_seen_until_they_are_gone", || async {
        assert_eq!(devices().await, BTreeMap::new(), "a new namespace has none of ours");
        let (connection, handle, _messages) = rtnetlink::new_connection().expect("a socket");
        let connection = tokio::spawn(connection);

        let bridge = LinkBridge::new("br-plain").build();
        handle.link().add(bridge).execute().await.expect("a bridge");
        let pair = LinkVeth::new("vt-a", "vt-b").build();
        handle.link().add(pair).execute().await.expect("a pair");
        assert_eq!(devices().await, BTreeMap::new(), "nothing is marked yet");

        mark(&handle, "vt-a", &format!("{ALIAS_PREFIX}{}", vm_id(1))).await;
        mark(&handle, "vt-b", &format!("{ALIAS_PREFIX}{}", vm_id(2))).await;
        mark(&handle, "br-plain", "somebody else's").await;
        let both = [("vt-a".to_owned(), vm_id(1)), ("vt-b".to_owned(), vm_id(2))];
        assert_eq!(devices().await, BTreeMap::from(both));

        let index = index(&handle, "vt-a").await;
        handle.link().del(index).execute().await.expect("the pair goes");
        assert_eq!(devices().await, BTreeMap::new());
        connection.abort();
    });
}
