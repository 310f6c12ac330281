//! `Idempotency-Key`: a request that is sent again is not carried out again.

use axum::body::Body;
use serde_json::{Value, json};
use vman_core::ident::VmId;
use vman_core::operation::Effect;

use crate::harness::Api;

#[tokio::test]
async fn what_is_made_is_made_once_and_answered_twice() {
    let api = Api::new();
    let template = json!({"name": "small", "cpu_count": 1, "ram_amount": 64});
    for (path, key, body) in [
        ("/templates", "\"template\"", template),
        ("/vms", "\"vm\"", json!({"vm_template": "small"})),
        ("/disks", "\"disk\"", json!({"size": 1})),
    ] {
        let first = api.post_once(path, key, body.clone()).await.expect(201);
        let again = api.post_once(path, key, body.clone()).await.expect(201);
        assert_eq!(first.header("location"), again.header("location"), "{path}");
        assert_eq!(first.json(), again.json(), "{path}");
        let bare = key.trim_matches('"');
        let bare = api.post_once(path, bare, body).await.expect(201);
        assert_eq!(first.json(), bare.json(), "quotes are no part of a key");
        assert_eq!(api.get(path).await.json().as_array().map(Vec::len), Some(1), "{path}");
    }
}

#[tokio::test]
async fn a_command_sent_again_names_the_first_operation_and_the_vm_as_it_is_now() {
    let api = Api::new();
    let vm = api.new_vm().await;
    let start = format!("/vms/{vm}/actions/start");
    let first = api.post_once(&start, "k1", json!({})).await.expect(202);
    api.get(&format!("{}?wait=20", first.header("location"))).await.expect(200);
    let stop = format!("/vms/{vm}/actions/stop");
    api.prefer("POST", &stop, "wait=20").await.expect(200);

    let again = api.post_once(&start, "k1", json!({})).await.expect(202);
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(again.json()["state"], "stopped", "it was not started again");
    assert_eq!(api.host.machine(VmId(vm.parse().unwrap())), None);
    let headers = [("idempotency-key", "k1"), ("prefer", "wait=20")];
    let body = || Body::from("{}");
    let waited = api.send("POST", &start, &headers, body()).await.expect(200);
    assert_eq!(waited.json()["state"], "stopped");
    api.post_once(&start, "k2", json!({})).await.expect(202);
}

#[tokio::test]
async fn of_two_at_the_same_time_one_is_carried_out() {
    let api = Api::new();
    api.new_vm().await;
    let body = json!({"vm_template": "small", "name": "one"});
    let (a, b) =
        tokio::join!(api.post_once("/vms", "k", body.clone()), api.post_once("/vms", "k", body));
    assert_eq!(a.expect(201).id(), b.expect(201).id());
    let named = |vm: &&Value| vm["name"] == "one";
    let vms = api.get("/vms").await.json();
    assert_eq!(vms.as_array().unwrap().iter().filter(named).count(), 1);
}

#[tokio::test]
async fn what_was_so_already_is_so_again() {
    let api = Api::new();
    let vm = api.new_vm().await;
    for _ in 0..2 {
        let stop = format!("/vms/{vm}/actions/stop");
        let answer = api.post_once(&stop, "stop", json!({})).await.expect(200);
        assert_eq!(answer.header("location"), "");
    }
}

#[tokio::test]
async fn what_failed_once_is_not_tried_again_under_its_key() {
    let api = Api::new();
    api.host.fail_next(Effect::CreateImage, "no space left");
    for _ in 0..2 {
        let answer = api.post_once("/disks", "k", json!({"size": 1})).await;
        let problem = answer.expect_problem(503, "operation-failed");
        assert!(problem["detail"].as_str().unwrap().contains("no space left"), "{problem}");
    }
    api.post_once("/disks", "another", json!({"size": 1})).await.expect(201);
}

#[tokio::test]
async fn what_is_gone_meanwhile_is_404_and_is_not_made_again() {
    let api = Api::new();
    let vm = api.new_vm().await;
    let body = json!({"size": 1});
    let disk = api.post_once("/disks", "disk", body.clone()).await.expect(201).id();
    let start = format!("/vms/{vm}/actions/start");
    api.post_once(&start, "start", json!({})).await.expect(202);
    let template = json!({"name": "t", "cpu_count": 1, "ram_amount": 64});
    api.post_once("/templates", "template", template.clone()).await.expect(201);
    for path in [format!("/disks/{disk}"), format!("/vms/{vm}"), "/templates/t".to_owned()] {
        api.delete(&path).await.expect(204);
    }
    api.post_once("/disks", "disk", body).await.expect_problem(404, "not-found");
    api.post_once(&start, "start", json!({})).await.expect_problem(404, "not-found");
    assert_eq!(api.post_once("/templates", "template", template).await.status, 404);
}

#[tokio::test]
async fn a_key_is_for_one_request_alone() {
    let api = Api::new();
    let vm = api.new_vm().await;
    let disk = json!({"size": 1});
    api.post_once("/disks", "k", disk.clone()).await.expect(201);
    let start = format!("/vms/{vm}/actions/start");
    for answer in [
        api.post_once("/disks", "k", json!({"size": 2})).await,
        api.post_once("/disks?", "k", disk).await,
        api.post_once(&start, "k", json!({})).await,
    ] {
        let problem = answer.expect_problem(422, "idempotency-key-reused");
        assert!(problem["hint"].is_string(), "{problem}");
    }
    assert_eq!(api.get("/disks").await.json().as_array().map(Vec::len), Some(1));
    assert_eq!(api.get(&format!("/vms/{vm}")).await.json()["state"], "stopped");
}

#[tokio::test]
async fn what_is_refused_leaves_its_key_free() {
    let api = Api::new();
    let vm = api.new_vm().await;
    let pause = format!("/vms/{vm}/actions/pause");
    api.post_once(&pause, "k", json!({})).await.expect_problem(409, "not-running");
    api.post_once("/disks", "k", json!({"size": 0})).await.expect_problem(400, "invalid");
    api.prefer("POST", &format!("/vms/{vm}/actions/start"), "wait=20").await.expect(200);
    api.post_once(&pause, "k", json!({})).await.expect(202);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_before_anything_is_done() {
    let api = Api::new();
    let long = "x".repeat(256);
    for key in ["", "\"\"", "\"open", "two words", "\"a\"b", &long] {
        let answer = api.post_once("/disks", key, json!({"size": 1})).await;
        let problem = answer.expect_problem(400, "bad-idempotency-key");
        assert!(problem["hint"].is_string(), "{problem}");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let body = Body::from(json!({"size": 1}).to_string());
    let answer = api.send("POST", "/disks", &twice, body).await;
    answer.expect_problem(400, "bad-idempotency-key");
    assert_eq!(api.get("/disks").await.text, "[]");
}
