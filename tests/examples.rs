//! The example backends, as files: VMs of theirs from template to deletion, with the images that
//! they make, and across the daemon's death. They make no qcow2, which all else here takes for
//! granted.
#![cfg(test)]

use serde_json::{Value, json};
use vman_tests::{Daemon, Setup, pid, text};

const FILES: [&str; 2] = ["example-c.so", "libvman_plugin_example_rust.so"];

/// A VM that boots from a disk which nobody has made; its id.
fn vm_with_root_disk(daemon: &Daemon) -> String {
    let template = json!({"name": "small", "cpu_count": 1, "ram_amount": 32, "root_disk_size": 1});
    daemon.post("/templates", &template).expect(201);
    daemon.new_vm("small")
}

/// Its only one, with its format.
fn disk_of(daemon: &Daemon, vm: &str) -> Value {
    let vm = daemon.vm(vm);
    let disks = vm["disks"].as_array().expect("a list");
    assert_eq!(disks.len(), 1, "{vm}");
    daemon.disk(disks[0].as_str().unwrap_or_else(|| text(&disks[0], "id")))
}

#[test]
fn a_vm_of_an_example_runs_from_a_disk_of_its_format_and_outlives_the_daemon() {
    for file in FILES {
        let mut daemon = Setup::backend(file).start();
        let vm = vm_with_root_disk(&daemon);
        let process = daemon.start_process(&vm);
        let root = disk_of(&daemon, &vm);
        assert_eq!(root["format"], "raw", "{file}");
        let image = daemon.storage().join(format!("disks/{}.raw", text(&root, "id")));
        assert_eq!(image.metadata().expect("it was made").len(), 1 << 30, "{file}");

        daemon.kill9();
        daemon.restart();
        daemon.vm_becomes(&vm, "running");
        daemon.look_again();
        assert_eq!(pid(&daemon.vm(&vm)), Some(process), "{file}");
        assert_eq!(daemon.machines().iter().filter(|one| one.pid == process).count(), 1);

        daemon.act(&vm, "stop");
        let paths = [format!("/vms/{vm}"), format!("/disks/{}", text(&root, "id"))];
        daemon.delete_all(&paths);
        daemon.delete_all(&["/templates/small".to_owned()]);
        daemon.assert_nothing_left();
    }
}

#[test]
fn a_disk_is_of_what_the_backend_makes_and_another_format_is_refused_with_that() {
    for file in FILES {
        let daemon = Setup::backend(file).start();
        let refused = daemon.post("/disks", &json!({"size": 1, "format": "qcow2"})).expect(422);
        assert_eq!(refused.body["code"], "image-format");
        for part in ["example-", "qcow2", "raw"] {
            assert!(text(&refused.body, "detail").contains(part), "{}", refused.text);
        }
        assert!(text(&refused.body, "hint").contains("raw"), "{}", refused.text);
        let made = daemon.post("/disks", &json!({"size": 1})).expect(201).body;
        assert_eq!(made["format"], "raw");
        let made_again = daemon.post("/disks", &json!({"size": 1, "format": "raw"})).expect(201);
        let ids = [text(&made, "id"), text(&made_again.body, "id")];
        daemon.delete_all(&ids.map(|id| format!("/disks/{id}")));
        daemon.assert_nothing_left();
    }
}
