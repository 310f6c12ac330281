//! Commands by HTTP: what they answer, and what they bring about.

use std::time::Duration;

use axum::body::Body;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vman_core::ident::{DiskId, VmId};
use vman_core::operation::Effect;

use crate::harness::Api;

const LONG: &str = "wait=20";

#[tokio::test]
async fn a_template_is_made_listed_read_and_deleted_with_the_fields_it_was_given() {
    let api = Api::new();
    let boot = json!({"kernel": "vmlinuz", "initrd": "initrd.img", "cmdline": "quiet"});
    let new = json!({"name": "small", "cpu_count": 2, "ram_amount": 512, "boot": boot});
    let made = api.post("/templates", new.clone()).await.expect(201);
    assert_eq!(made.header("location"), "/templates/small");
    let mut expected = new;
    expected["root_disk_size"] = Value::Null;
    expected["created_at"] = json!("2026-11-22T19:24:00.000Z");
    assert_eq!(made.json(), expected);
    assert_eq!(api.get("/templates/small").await.expect(200).json(), expected);
    assert_eq!(api.get("/templates").await.expect(200).json(), json!([expected]));

    api.post("/templates", json!({"name": "small", "cpu_count": 1, "ram_amount": 8}))
        .await
        .expect_problem(409, "exists");
    let firmware = json!({"firmware": "OVMF.fd"});
    let new = json!({"name": "uefi", "cpu_count": 1, "ram_amount": 8, "boot": firmware});
    assert_eq!(api.post("/templates", new).await.expect(201).json()["boot"], firmware);
    let new = json!({"name": "disk", "cpu_count": 1, "ram_amount": 8, "boot": null});
    let made = api.post("/templates", new).await.expect(201).json();
    assert_eq!((&made["boot"], &made["root_disk_size"]), (&Value::Null, &json!(10)));
    let new = json!({"name": "large", "cpu_count": 1, "ram_amount": 8, "root_disk_size": 40});
    assert_eq!(api.post("/templates", new).await.expect(201).json()["root_disk_size"], 40);

    assert_eq!(api.delete("/templates/small").await.expect(204).text, "");
    api.get("/templates/small").await.expect_problem(404, "not-found");
    api.delete("/templates/small").await.expect_problem(404, "not-found");
}

#[tokio::test]
async fn a_template_in_use_stays_until_its_vm_is_gone() {
    let api = Api::new();
    let vm = api.new_vm().await;
    api.delete("/templates/small").await.expect_problem(409, "in-use");
    api.delete(&format!("/vms/{vm}")).await.expect(204);
    api.delete("/templates/small").await.expect(204);
}

#[tokio::test]
async fn a_vm_is_made_stopped_with_an_address_and_all_its_fields() {
    let api = Api::new();
    let id = api.new_vm().await;
    let vm = api.get(&format!("/vms/{id}")).await.expect(200).json();
    assert_eq!(vm["vm_template"], "small");
    assert_eq!(vm["state"], "stopped");
    assert_eq!(vm["local_ip"], "10.77.0.2");
    assert_eq!(vm["generation"], 1);
    assert_eq!(vm["process"], Value::Null);
    assert_eq!(vm["disks"], json!([]));
    assert_eq!(vm["name"], Value::Null);
    assert_eq!(vm["autostart"], false);
    assert_eq!(vm["created_at"], "2026-11-22T19:24:00.000Z");
    assert!(vm.get("state_reason").is_none());

    let named = json!({"vm_template": "small", "name": "web-1"});
    let made = api.post("/vms", named).await.expect(201);
    assert_eq!(made.header("location"), format!("/vms/{}", made.id()));
    assert_eq!(made.json()["name"], "web-1");
}

#[tokio::test]
async fn a_vm_of_a_template_that_does_not_exist_is_404_and_names_it() {
    let api = Api::new();
    let answer = api.post("/vms", json!({"vm_template": "nosuch"})).await;
    let problem = answer.expect_problem(404, "template-not-found");
    assert_eq!(problem["object"], json!({"kind": "template", "id": "nosuch"}));
}

#[tokio::test]
async fn a_subnet_without_a_free_address_is_a_conflict() {
    let api = Api::new();
    api.new_vm().await;
    // A /29 has six hosts, and one is the gateway.
    for _ in 0..4 {
        api.post("/vms", json!({"vm_template": "small"})).await.expect(201);
    }
    let answer = api.post("/vms", json!({"vm_template": "small"})).await;
    answer.expect_problem(409, "no-address-left");
}

#[tokio::test]
async fn start_answers_202_at_once_and_its_operation_can_be_waited_for() {
    let api = Api::new();
    let id = api.new_vm().await;
    api.host.hold(Effect::Launch);
    let answer = api.post(&format!("/vms/{id}/actions/start"), json!({})).await.expect(202);
    assert_eq!(answer.json()["state"], "starting");
    assert_eq!(answer.json()["generation"], 2);
    let location = answer.header("location").to_owned();
    let operation = api.get(&location).await.expect(200).json();
    assert_eq!(operation["kind"], "vm.start");
    assert_eq!(operation["subject"], json!({"kind": "vm", "id": id}));
    assert_eq!(operation["ended_at"], Value::Null);
    assert_eq!(operation["reason"], json!({"kind": "user"}));
    assert!(["pending", "running"].contains(&operation["state"].as_str().unwrap()));

    api.host.release(Effect::Launch);
    let operation = api.get(&format!("{location}?wait=20s")).await.expect(200).json();
    assert_eq!(operation["state"], "succeeded");
    assert_eq!(operation["duration_ms"], 0, "the clock stands still");
    let steps: Vec<_> = operation["steps"].as_array().unwrap().iter().collect();
    assert!(steps.iter().all(|step| step["state"] == "done"), "{operation}");
    assert!(steps.iter().any(|step| step["name"] == "launch"));
    let vm = api.get(&format!("/vms/{id}")).await.expect(200).json();
    assert_eq!(vm["state"], "running");
    assert!(vm["process"]["pid"].is_u64(), "{vm}");
    assert!(vm["process"]["start_time"].is_u64(), "{vm}");
    assert_eq!(vm["backend"], "fake");
}

#[tokio::test]
async fn an_action_with_prefer_wait_answers_with_the_end_and_says_that_it_waited() {
    let api = Api::new();
    let id = api.new_vm().await;
    let act = async |verb: &str, preference: &str| {
        api.prefer("POST", &format!("/vms/{id}/actions/{verb}"), preference).await
    };
    let started = act("start", LONG).await.expect(200);
    assert_eq!(started.json()["state"], "running");
    assert_eq!(started.header("preference-applied"), LONG);
    let pid = started.json()["process"]["pid"].clone();
    assert_eq!(act("start", LONG).await.expect(200).json()["state"], "running");

    let restarted = act("restart", LONG).await.expect(200).json();
    assert_eq!(restarted["state"], "running");
    assert_ne!(restarted["process"]["pid"], pid);
    let stopped = act("stop", LONG).await.expect(200).json();
    assert_eq!((&stopped["state"], &stopped["process"]), (&json!("stopped"), &Value::Null));
    let again = act("stop", "").await.expect(200);
    assert_eq!(again.json()["state"], "stopped");
    assert_eq!(again.header("location"), "", "it was already so");
    let problem = act("restart", "").await.expect_problem(409, "not-running");
    assert_eq!(problem["object"], json!({"kind": "vm", "id": id}));
    assert!(problem["hint"].as_str().unwrap().contains("start"));
}

#[tokio::test]
async fn a_wait_that_ends_before_the_operation_answers_202() {
    let api = Api::new();
    let id = api.new_vm().await;
    api.host.hold(Effect::Launch);
    let answer = api.prefer("POST", &format!("/vms/{id}/actions/start"), "wait=0").await;
    let answer = answer.expect(202);
    assert!(answer.header("location").starts_with("/operations/"));
    assert_eq!(answer.json()["state"], "starting");
}

#[tokio::test]
async fn a_launch_that_fails_is_503_with_the_reason_and_the_operation() {
    let api = Api::new();
    let id = api.new_vm().await;
    api.host.fail_always(Effect::Launch, "no such kernel");
    let answer = api.prefer("POST", &format!("/vms/{id}/actions/start"), LONG).await;
    let problem = answer.expect_problem(503, "operation-failed");
    assert!(problem["detail"].as_str().unwrap().contains("no such kernel"), "{problem}");
    assert_eq!(problem["object"], json!({"kind": "vm", "id": id}));
    let operation = problem["operation"].as_str().unwrap();
    let operation = api.get(&format!("/operations/{operation}")).await.expect(200).json();
    assert_eq!(operation["state"], "failed");
    assert!(operation["error"].as_str().unwrap().contains("no such kernel"));
    let vm = api.get(&format!("/vms/{id}")).await.expect(200).json();
    assert_eq!(vm["state"], "failed");
    assert!(vm["state_reason"].as_str().unwrap().contains("no such kernel"));
}

#[tokio::test]
async fn deleting_a_running_vm_ends_it_frees_its_disks_and_answers_204() {
    let api = Api::new();
    let (vm, disk) = (api.new_vm().await, api.new_disk().await);
    api.post(&format!("/disks/{disk}/attach"), json!({"vm_id": vm})).await.expect(202);
    api.prefer("POST", &format!("/vms/{vm}/actions/start"), LONG).await.expect(200);
    let machine = VmId(vm.parse().unwrap());
    assert!(api.host.machine(machine).is_some());
    assert_eq!(api.delete(&format!("/vms/{vm}")).await.expect(204).text, "");
    assert_eq!(api.host.machine(machine), None);
    api.get(&format!("/vms/{vm}")).await.expect_problem(404, "not-found");
    let disk = api.get(&format!("/disks/{disk}")).await.expect(200).json();
    assert_eq!((&disk["state"], &disk["vm_id"]), (&json!("available"), &Value::Null));
}

#[tokio::test]
async fn a_deletion_that_need_not_be_waited_for_answers_202_with_its_operation() {
    let api = Api::new();
    let vm = api.new_vm().await;
    api.host.hold(Effect::RemoveDirectory);
    let answer = api.prefer("DELETE", &format!("/vms/{vm}"), "respond-async").await.expect(202);
    assert_eq!(answer.header("preference-applied"), "respond-async");
    assert_eq!(answer.json()["kind"], "vm.delete");
    let location = answer.header("location").to_owned();
    let again = api.prefer("DELETE", &format!("/vms/{vm}"), "respond-async").await.expect(202);
    assert_eq!(again.header("location"), location, "it is the same deletion");
    api.host.release(Effect::RemoveDirectory);
    let ended = api.get(&format!("{location}?wait=20s")).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded");
    api.delete(&format!("/vms/{vm}")).await.expect_problem(404, "not-found");
}

/// Time stands still until everybody waits, so it passes at once and to the millisecond.
#[tokio::test(start_paused = true)]
async fn what_takes_a_while_is_waited_for_where_the_answer_is_its_end() {
    let api = Api::new();
    let later = async |effect: Effect| {
        api.host.reached(effect, 1).await;
        sleep(Duration::from_secs(29)).await;
        api.host.release(effect);
    };
    api.host.hold(Effect::CreateImage);
    let (made, ()) =
        tokio::join!(api.post("/disks", json!({"size": 1})), later(Effect::CreateImage));
    let path = format!("/disks/{}", made.expect(201).id());
    api.host.hold(Effect::DeleteImage);
    let (deleted, ()) = tokio::join!(api.delete(&path), later(Effect::DeleteImage));
    deleted.expect(204);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_for_ever() {
    let api = Api::new();
    let begun = Instant::now();
    let disk = api.new_disk().await;
    api.host.hold(Effect::DeleteImage);
    let answer = api.delete(&format!("/disks/{disk}")).await.expect(202);
    assert_eq!(answer.json()["kind"], "disk.delete");
    api.host.hold(Effect::CreateImage);
    api.post("/disks", json!({"size": 1})).await.expect(202);
    let vm = api.new_vm().await;
    api.host.hold(Effect::PrepareDisks);
    let start = format!("/vms/{vm}/actions/start");
    let started = api.prefer("POST", &start, "wait=3600").await.expect(202);
    for wait in ["10h", "36000"] {
        let operation = format!("{}?wait={wait}", started.header("location"));
        assert_eq!(api.get(&operation).await.expect(200).json()["ended_at"], Value::Null);
    }
    assert_eq!(begun.elapsed().as_secs(), 60 + 30 + 60 + 60 + 60);
}

#[tokio::test]
async fn a_disk_whose_image_takes_longer_than_the_client_waits_is_202() {
    let api = Api::new();
    api.host.hold(Effect::CreateImage);
    let body = Body::from(json!({"size": 1}).to_string());
    let answer = api.send("POST", "/disks", &[("prefer", "wait=0")], body).await.expect(202);
    assert_eq!(answer.json()["state"], "creating");
    assert!(answer.header("location").starts_with("/operations/"));
    api.delete(&format!("/disks/{}", answer.id())).await.expect_problem(409, "being-created");
}

#[tokio::test]
async fn a_deletion_that_fails_is_503_and_not_204() {
    let api = Api::new();
    let disk = api.new_disk().await;
    api.host.fail_always(Effect::DeleteImage, "the disk is read-only");
    let answer = api.delete(&format!("/disks/{disk}")).await;
    let problem = answer.expect_problem(503, "operation-failed");
    assert!(problem["detail"].as_str().unwrap().contains("read-only"), "{problem}");
    api.get(&format!("/disks/{disk}")).await.expect(200);
}

#[tokio::test]
async fn a_disk_is_made_attached_detached_and_deleted() {
    let api = Api::new();
    let vm = api.new_vm().await;
    let new = json!({"size": 3, "mount_point": "/dev/vdc", "format": "raw"});
    let made = api.post("/disks", new).await.expect(201);
    let (id, disk) = (made.id(), made.json());
    assert_eq!(made.header("location"), format!("/disks/{id}"));
    assert_eq!(disk["size"], 3);
    assert_eq!(disk["mount_point"], "/dev/vdc");
    assert_eq!(disk["format"], "raw");
    assert_eq!(disk["bus"], "virtio-scsi");
    assert_eq!(disk["state"], "available");
    assert_eq!(disk["vm_id"], Value::Null);
    let serial = disk["serial"].as_str().unwrap();
    assert_eq!(serial.len(), 20);
    assert_eq!(disk["device_path"], format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{serial}"));

    let path = format!("/disks/{id}");
    let attach = json!({"vm_id": vm, "mount_point": "/dev/sdd"});
    let answer = api.post(&format!("{path}/attach"), attach.clone()).await.expect(202);
    let ended = api.get(&format!("{}?wait=20s", answer.header("location"))).await.expect(200);
    assert_eq!(ended.json()["state"], "succeeded");
    let attached = api.get(&path).await.expect(200).json();
    assert_eq!(attached["state"], "attached");
    assert_eq!(attached["vm_id"], vm);
    assert_eq!(attached["mount_point"], "/dev/sdd");
    assert_eq!(api.get(&format!("/vms/{vm}")).await.expect(200).json()["disks"], json!([id]));
    api.post(&format!("{path}/attach"), attach).await.expect(200);
    api.delete(&path).await.expect_problem(409, "attached");

    let answer = api.prefer("POST", &format!("{path}/detach"), LONG).await.expect(200);
    assert_eq!(answer.json()["state"], "available");
    api.prefer("POST", &format!("{path}/detach"), "").await.expect(200);
    api.delete(&path).await.expect(204);
    api.get(&path).await.expect_problem(404, "not-found");
    assert_eq!(api.host.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_disk_whose_image_cannot_be_made_is_503_with_the_reason() {
    let api = Api::new();
    api.host.fail_always(Effect::CreateImage, "no space left");
    let problem =
        api.post("/disks", json!({"size": 1})).await.expect_problem(503, "operation-failed");
    assert!(problem["detail"].as_str().unwrap().contains("no space left"), "{problem}");
}

#[tokio::test]
async fn a_disk_comes_and_goes_while_its_vm_runs_and_not_to_one_that_is_not_there() {
    let api = Api::new();
    let (vm, disk) = (api.new_vm().await, api.new_disk().await);
    let path = format!("/disks/{disk}/attach");
    let nobody = "00000000-0000-4000-8000-000000000000";
    let problem = api.post(&path, json!({"vm_id": nobody})).await.expect_problem(404, "not-found");
    assert_eq!(problem["object"], json!({"kind": "vm", "id": nobody}));
    api.prefer("POST", &format!("/vms/{vm}/actions/start"), LONG).await.expect(200);
    let answer = api.post(&path, json!({"vm_id": vm})).await.expect(202);
    assert_eq!(answer.json()["state"], "attaching");
    let ended = api.get(&format!("{}?wait=20", answer.header("location"))).await.expect(200);
    assert_eq!(ended.json()["kind"], "disk.attach");
    assert_eq!(ended.json()["state"], "succeeded");
    let has_it = || {
        let disks = api.host.disks(VmId(vm.parse().unwrap()));
        disks.contains(&DiskId(disk.parse().unwrap()))
    };
    assert!(has_it());
    let answer = api.prefer("POST", &format!("/disks/{disk}/detach"), LONG).await.expect(200);
    assert_eq!(answer.json()["state"], "available");
    assert!(!has_it());
}

#[tokio::test]
async fn an_action_takes_no_body_an_empty_object_and_nothing_else() {
    let api = Api::new();
    let id = api.new_vm().await;
    let path = format!("/vms/{id}/actions/stop");
    api.send("POST", &path, &[], Body::empty()).await.expect(200);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    api.send("POST", &path, &form, Body::empty()).await.expect(200);
    api.post(&path, json!({})).await.expect(200);
    api.post(&path, json!({"force": true})).await.expect_problem(400, "invalid");
    api.post(&path, json!([])).await.expect_problem(400, "not-an-object");
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_what_it_began() {
    let api = Api::new();
    let id = api.new_vm().await;
    api.host.hold(Effect::Launch);
    let path = format!("/vms/{id}/actions/start");
    let request = api.prefer("POST", &path, LONG);
    tokio::select! {
        _ = request => panic!("the launch is held"),
        () = api.host.reached(Effect::Launch, 1) => {}
    }
    api.host.release(Effect::Launch);
    let operations = api.get("/operations").await.expect(200).json();
    let operation = operations[0]["id"].as_str().unwrap();
    let ended = api.get(&format!("/operations/{operation}?wait=20s")).await.expect(200).json();
    assert_eq!(ended["state"], "succeeded");
}
