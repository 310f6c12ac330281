//! The backend as the daemon has it: linked in, found by its registration, spoken with across the
//! border of the contract. Its verbs' own tests are in `vman-plugin-qemu`.
#![cfg(test)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use uuid::Uuid;
use vman_plugin::host::Registry;
use vman_plugin::{BackendConfig, BackendError, Boot, Event, MachineSpec, Nic, RunState};
use vman_plugin_qemu_tcg as _;

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_linked_backend_runs_a_machine_and_tells_of_its_end() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests/tiny/build.sh");
    let built = Command::new("sh").arg(build).arg(folder.path()).status().unwrap();
    assert!(built.success(), "the tiny guest needs as and ld: apt-get install binutils");
    let id = Uuid::new_v4();
    let directory = folder.path().join(id.to_string());
    std::fs::create_dir(&directory).unwrap();
    let console = directory.join("console.log");

    let offers = Registry::linked();
    let offer = offers.iter().find(|offer| offer.manifest().name == "qemu-tcg").unwrap();
    let machines_dir = folder.path().to_owned();
    let settings = serde_json::json!({});
    let (client, mut events) = offer.start(BackendConfig { machines_dir, settings }).unwrap();
    let spec = MachineSpec {
        id,
        directory,
        cpu_count: 1,
        ram_mib: 64,
        boot: Boot::Firmware { firmware: folder.path().join("tiny.rom") },
        disks: Vec::new(),
        nic: Nic::None,
    };
    let machine = client.launch(spec).await.unwrap();
    let survey = client.survey().await;
    let off = Event::MachineChanged { id, run_state: RunState::GuestShutdown };
    let obeys = async {
        wait_for_guest(&console).await;
        client.power_button(id).await?;
        while events.recv().await.as_ref() != Some(&off) {}
        Ok::<_, BackendError>(())
    };
    let obeyed = tokio::time::timeout(LONG, obeys).await;
    // Before anything is asserted: a failing test leaves no machine.
    client.kill(id).await.unwrap();
    let sightings = survey.unwrap().machines;
    assert_eq!(sightings.len(), 1);
    assert_eq!(sightings[0].machine, machine);
    assert_eq!(obeyed.expect("the guest obeys its power button in time"), Ok(()));
    assert_eq!(client.survey().await.unwrap().machines, []);
}

/// Before it is up it has no power button.
async fn wait_for_guest(console: &Path) {
    while !std::fs::read_to_string(console).is_ok_and(|text| text.contains("TINY-UP")) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
