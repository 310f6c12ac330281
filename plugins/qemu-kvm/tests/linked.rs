//! The backend as the daemon has it: linked in, found by its registration, spoken with across the
//! border of the contract. Machines under KVM are run by the tests of `vman-plugin-qemu`.
#![cfg(test)]

use vman_plugin::BackendConfig;
use vman_plugin::host::Registry;
use vman_plugin_qemu_kvm as _;

#[tokio::test]
async fn the_linked_backend_answers_and_says_why_it_is_not_usable_where_it_is_not() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let offers = Registry::linked();
    let offer = offers.iter().find(|offer| offer.manifest().name == "qemu-kvm").unwrap();
    assert!(offer.manifest().capabilities.processes);
    let machines_dir = folder.path().to_owned();
    let settings = serde_json::json!({});
    let (client, _events) = offer.start(BackendConfig { machines_dir, settings }).unwrap();
    let probe = client.probe().await.unwrap();
    println!("{probe:?}");
    assert!(!probe.reason.is_empty());
    let opens = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    assert!(opens || !probe.usable, "{probe:?}");
    assert_eq!(client.survey().await.unwrap().machines, []);
}
