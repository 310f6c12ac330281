//! Pausing, resetting, killing, growing, cancelling and changing by HTTP, and what a command that
//! is refused is told. What is made, started and stopped is in `lifecycle`.

use axum::body::Body;
use serde_json::{Value, json};
use vman_core::ident::VmId;
use vman_core::operation::Effect;

use crate::harness::{Answer, Api};

const LONG: &str = "wait=20";
const JSON: &str = "application/json";

async fn act(api: &Api, vm: &str, verb: &str) -> Answer {
    api.prefer("POST", &format!("/vms/{vm}/actions/{verb}"), LONG).await
}

async fn running(api: &Api) -> String {
    let vm = api.new_vm().await;
    act(api, &vm, "start").await.expect(200);
    vm
}

/// The object, its state, and a request that names it.
#[track_caller]
fn helps(problem: &Value, kind: &str, id: &str, state: &str, hint: &str) {
    assert_eq!(problem["object"], json!({"kind": kind, "id": id}), "{problem}");
    assert_eq!(problem["state"], state, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(state), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains(hint), "{hint} is not told by {problem}");
}

#[tokio::test]
async fn a_vm_is_paused_resumed_reset_and_killed() {
    let api = Api::new();
    let vm = running(&api).await;
    let pid = api.get(&format!("/vms/{vm}")).await.expect(200).json()["process"]["pid"].clone();
    for (verb, kind, state) in [
        ("pause", "vm.pause", "paused"),
        ("reset", "vm.reset", "paused"),
        ("resume", "vm.resume", "running"),
        ("reset", "vm.reset", "running"),
        ("pause", "vm.pause", "paused"),
    ] {
        let answer = api.post(&format!("/vms/{vm}/actions/{verb}"), json!({})).await.expect(202);
        let location = answer.header("location").to_owned();
        let operation = api.get(&format!("{location}?wait=20")).await.expect(200).json();
        assert_eq!((&operation["kind"], &operation["state"]), (&json!(kind), &json!("succeeded")));
        let now = api.get(&format!("/vms/{vm}")).await.expect(200).json();
        assert_eq!((&now["state"], &now["process"]["pid"]), (&json!(state), &pid), "{verb}");
    }
    let again = act(&api, &vm, "pause").await.expect(200);
    assert_eq!(again.json()["state"], "paused", "it may be asked for again");
    let problem = act(&api, &vm, "start").await.expect_problem(409, "paused");
    helps(&problem, "vm", &vm, "paused", &format!("POST /vms/{vm}/actions/resume"));

    let killed = act(&api, &vm, "kill").await.expect(200).json();
    assert_eq!((&killed["state"], &killed["process"]), (&json!("stopped"), &Value::Null));
    assert_eq!(api.host.machine(VmId(vm.parse().unwrap())), None);
    act(&api, &vm, "kill").await.expect(200);
    for verb in ["pause", "resume", "reset"] {
        let problem = act(&api, &vm, verb).await.expect_problem(409, "not-running");
        helps(&problem, "vm", &vm, "stopped", &format!("POST /vms/{vm}/actions/start"));
    }
}

#[tokio::test]
async fn what_is_under_way_is_named_to_whoever_has_to_wait_for_it() {
    let api = Api::new();
    let vm = api.new_vm().await;
    api.host.hold(Effect::Launch);
    let start = api.post(&format!("/vms/{vm}/actions/start"), json!({})).await.expect(202);
    let problem = act(&api, &vm, "pause").await.expect_problem(409, "being-started");
    let location = start.header("location");
    helps(&problem, "vm", &vm, "starting", &format!("GET {location}?wait=30s"));
    let operation = location.strip_prefix("/operations/").unwrap();
    assert_eq!(problem["operation"], operation);

    let disk = api.new_disk().await;
    let attach = api.post(&format!("/disks/{disk}/attach"), json!({"vm_id": vm})).await;
    let problem = attach.expect_problem(409, "vm-in-transition");
    helps(&problem, "disk", &disk, "available", &format!("GET {location}?wait=30s"));
    api.host.release(Effect::Launch);
}

#[tokio::test]
async fn a_disk_grows_by_itself_or_below_a_running_vm_and_never_shrinks() {
    let api = Api::new();
    let (vm, disk) = (running(&api).await, api.new_disk().await);
    let resize = format!("/disks/{disk}/resize");
    let answer = api.post(&resize, json!({"size": 3})).await.expect(202);
    assert_eq!((&answer.json()["state"], &answer.json()["size"]), (&json!("resizing"), &json!(1)));
    let location = answer.header("location").to_owned();
    let operation = api.get(&format!("{location}?wait=20s")).await.expect(200).json();
    assert_eq!(
        (&operation["kind"], &operation["state"]),
        (&json!("disk.resize"), &json!("succeeded"))
    );
    let disk_now = async || api.get(&format!("/disks/{disk}")).await.expect(200).json();
    assert_eq!(
        (&disk_now().await["state"], &disk_now().await["size"]),
        (&json!("available"), &json!(3))
    );
    assert_eq!(api.post(&resize, json!({"size": 3})).await.expect(200).header("location"), "");
    let problem = api.post(&resize, json!({"size": 2})).await.expect_problem(409, "smaller");
    helps(&problem, "disk", &disk, "available", &format!("POST /disks/{disk}/resize"));

    let attach = json!({"vm_id": vm}).to_string();
    let headers = [("prefer", LONG), ("content-type", JSON)];
    let path = format!("/disks/{disk}/attach");
    api.send("POST", &path, &headers, Body::from(attach)).await.expect(200);
    let body = Body::from(json!({"size": 4}).to_string());
    let grown = api.send("POST", &resize, &headers, body).await.expect(200).json();
    assert_eq!((&grown["state"], &grown["size"]), (&json!("attached"), &json!(4)));
}

#[tokio::test]
async fn a_start_is_cancelled_and_its_vm_is_stopped_again() {
    let api = Api::new();
    let vm = api.new_vm().await;
    api.host.hold(Effect::Launch);
    let start = api.post(&format!("/vms/{vm}/actions/start"), json!({})).await.expect(202);
    let location = start.header("location").to_owned();
    api.host.reached(Effect::Launch, 1).await;
    let cancel = format!("{location}/cancel");
    let asked = api.post(&cancel, json!({})).await.expect(202);
    assert_eq!(asked.json()["cancel_requested"], true);
    assert_eq!(asked.header("location"), location);
    let ended = api.get(&format!("{location}?wait=20")).await.expect(200).json();
    assert_eq!(ended["state"], "cancelled", "it still waits for the launch: {ended}");
    assert!(!ended["error"].as_str().unwrap().is_empty());
    assert_eq!(api.get(&format!("/vms/{vm}")).await.expect(200).json()["state"], "stopped");
    assert_eq!(api.post(&cancel, json!({})).await.expect(200).json()["state"], "cancelled");
    assert_eq!(api.host.machine(VmId(vm.parse().unwrap())), None);
}

#[tokio::test]
async fn whoever_waits_for_what_somebody_cancels_hears_of_it() {
    let api = Api::new();
    let vm = api.new_vm().await;
    api.host.hold(Effect::Launch);
    let cancelled = async {
        api.host.reached(Effect::Launch, 1).await;
        let operations = api.get("/operations").await.expect(200).json();
        let cancel = format!("/operations/{}/cancel", operations[0]["id"].as_str().unwrap());
        let ended = api.prefer("POST", &cancel, LONG).await.expect(200);
        assert_eq!(ended.json()["state"], "cancelled");
    };
    let (started, ()) = tokio::join!(act(&api, &vm, "start"), cancelled);
    let problem = started.expect_problem(409, "operation-cancelled");
    assert_eq!(problem["object"], json!({"kind": "vm", "id": vm}));
    assert!(problem["operation"].is_string() && problem["hint"].is_string(), "{problem}");
}

#[tokio::test]
async fn what_has_ended_or_cannot_be_taken_back_is_not_cancelled() {
    let api = Api::new();
    let vm = running(&api).await;
    let operations = api.get("/operations").await.expect(200).json();
    let start = operations[0]["id"].as_str().unwrap();
    let cancel = format!("/operations/{start}/cancel");
    let problem = api.post(&cancel, json!({})).await.expect_problem(409, "ended");
    assert_eq!(problem["object"], json!({"kind": "operation", "id": start}));
    assert!(problem["hint"].as_str().unwrap().contains(start), "{problem}");

    api.host.hold(Effect::Kill);
    let kill = api.post(&format!("/vms/{vm}/actions/kill"), json!({})).await.expect(202);
    let cancel = format!("{}/cancel", kill.header("location"));
    let problem = api.post(&cancel, json!({})).await.expect_problem(409, "not-cancellable");
    assert!(problem["hint"].as_str().unwrap().contains(kill.header("location")), "{problem}");
    api.host.release(Effect::Kill);
}

#[tokio::test]
async fn autostart_is_asked_for_at_the_beginning_or_later_and_changes_no_state() {
    let api = Api::new();
    let vm = api.new_vm().await;
    let path = format!("/vms/{vm}");
    for (content_type, autostart) in
        [("application/merge-patch+json", true), (JSON, false), (JSON, true), (JSON, true)]
    {
        let answer = api.patch(&path, content_type, json!({"autostart": autostart})).await;
        let (changed, now) = (answer.expect(200).json(), api.get(&path).await.json());
        assert_eq!((&changed["autostart"], &changed), (&json!(autostart), &now));
        assert_eq!((&now["state"], &now["generation"]), (&json!("stopped"), &json!(1)));
    }
    assert_eq!(api.patch(&path, JSON, json!({})).await.expect(200).json()["autostart"], true);
    let new = json!({"vm_template": "small", "autostart": true});
    assert_eq!(api.post("/vms", new).await.expect(201).json()["autostart"], true);
}

#[tokio::test]
async fn a_patch_that_takes_away_mistypes_or_does_not_know_a_member_is_refused() {
    let api = Api::new();
    let path = format!("/vms/{}", api.new_vm().await);
    for (patch, field) in [
        (json!({"autostart": null}), "autostart"),
        (json!({"autostart": "true"}), "autostart"),
        (json!({"autostart": 1}), "autostart"),
        (json!({"state": "running"}), "state"),
        (json!({"autostart": true, "name": "x"}), "name"),
    ] {
        let problem = api.patch(&path, JSON, patch).await.expect_problem(400, "invalid");
        assert_eq!(problem["problems"][0]["field"], field, "{problem}");
    }
    api.patch(&path, JSON, json!([])).await.expect_problem(400, "not-an-object");
    let other = api.patch(&path, "application/json-patch+json", json!([])).await;
    assert_eq!(other.header("accept-patch"), "application/merge-patch+json");
    other.expect_problem(415, "unsupported-media-type");
    assert_eq!(api.get(&path).await.expect(200).json()["autostart"], false);
}

#[tokio::test]
async fn a_template_with_a_boot_source_takes_no_size_of_a_root_disk() {
    let api = Api::new();
    let boot = json!({"firmware": "OVMF.fd"});
    let new = json!({
        "name": "uefi", "cpu_count": 1, "ram_amount": 64, "boot": boot, "root_disk_size": 20
    });
    let problem = api.post("/templates", new).await.expect_problem(400, "invalid");
    assert_eq!(problem["problems"][0]["field"], "root_disk_size");
}

#[tokio::test]
async fn every_conflict_names_its_object_and_the_way_out() {
    let api = Api::new();
    let (vm, disk) = (running(&api).await, api.new_disk().await);
    let attach = format!("/disks/{disk}/attach");
    api.post(&attach, json!({"vm_id": vm, "mount_point": "/dev/sdb"})).await.expect(202);
    let operations = api.get("/operations").await.json();
    let last = operations[0]["id"].as_str().unwrap();
    api.get(&format!("/operations/{last}?wait=20")).await.expect(200);
    let template = json!({"name": "small", "cpu_count": 1, "ram_amount": 64});
    let (other_vm, other_disk) = {
        let made = api.post("/vms", json!({"vm_template": "small"})).await.expect(201);
        (made.id(), api.new_disk().await)
    };
    let taken = json!({"vm_id": vm, "mount_point": "/dev/sdb"});
    for (answer, code, kind, id) in [
        (api.post("/templates", template).await, "exists", "template", "small"),
        (api.delete("/templates/small").await, "in-use", "template", "small"),
        (api.delete(&format!("/disks/{disk}")).await, "attached", "disk", &disk),
        (api.post(&attach, json!({"vm_id": other_vm})).await, "attached-elsewhere", "disk", &disk),
        (
            api.post(&format!("/disks/{other_disk}/attach"), taken).await,
            "exists",
            "disk",
            &other_disk,
        ),
    ] {
        let problem = answer.expect_problem(409, code);
        assert_eq!(problem["object"], json!({"kind": kind, "id": id}), "{problem}");
        assert!(problem["hint"].is_string(), "{problem}");
    }
}
