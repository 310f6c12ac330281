//! What can be read: pages, issues with their story, the observer, and what the daemon was given.

use serde_json::{Value, json};
use vman_core::ident::Timestamp;
use vman_core::operation::{OperationState, Reason};
use vman_core::ports::{Change, JudgementRecord, ObserverHealth, ObserverStatus, Record};
use vman_core::repair::{
    IssueState, JudgeFailure, JudgeFailureKind, Judgement, Mode, Resolution, Verdict,
};
use vman_core::testing::samples;
use vman_core::vm::VmState;

use crate::harness::{Api, NOW};

#[tokio::test]
async fn pages_follow_their_links_to_the_end_without_gap_or_overlap() {
    let api = Api::new();
    for n in 0..7 {
        let new = json!({"name": format!("t{n}"), "cpu_count": 1, "ram_amount": 8});
        api.post("/templates", new).await.expect(201);
    }
    let mut next = Some("/templates?limit=3".to_owned());
    let mut names = Vec::new();
    let mut pages = 0;
    while let Some(path) = next {
        let answer = api.get(&path).await.expect(200);
        pages += 1;
        for template in answer.json().as_array().unwrap() {
            names.push(template["name"].as_str().unwrap().to_owned());
        }
        let link = answer.header("link");
        next = link
            .strip_prefix('<')
            .and_then(|link| link.strip_suffix(">; rel=\"next\""))
            .map(ToOwned::to_owned);
        assert_eq!(next.is_some(), !link.is_empty(), "{link}");
    }
    assert_eq!(names, ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]);
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn vms_are_filtered_by_state_and_the_link_keeps_the_filter() {
    let api = Api::new();
    let running = api.new_vm().await;
    api.post("/vms", json!({"vm_template": "small"})).await.expect(201);
    api.post("/vms", json!({"vm_template": "small"})).await.expect(201);
    api.prefer("POST", &format!("/vms/{running}/actions/start"), "wait=20").await.expect(200);
    let list = api.get("/vms?state=running").await.expect(200).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["id"], running);
    let first = api.get("/vms?limit=1&state=stopped").await.expect(200);
    let link = first.header("link");
    assert!(link.starts_with("</vms?state=stopped&limit=1&after="), "{link}");
    assert_eq!(api.get("/vms?state=failed").await.expect(200).json(), json!([]));
}

#[tokio::test]
async fn an_issue_is_told_with_its_evidence_decisions_and_repairs() {
    let api = Api::new();
    let mut issue = samples::issue(1);
    issue.state = IssueState::Resolved { at: NOW, how: Resolution::ByRepair };
    let mut failed = samples::answer("broken", Verdict::Hold, &[]);
    failed.mode = Mode::Shadow;
    let message = "it ran for too long".to_owned();
    failed.outcome = Err(JudgeFailure { kind: JudgeFailureKind::Deadline, message, trace: None });
    let chosen = samples::answer("restart-crashed", Verdict::Repair, &[0]);
    let mut repair = samples::operation(1);
    repair.reason = Reason::Repair { issue: issue.id, policy: "restart-crashed".to_owned() };
    let at = |judgement: Judgement| {
        let record = JudgementRecord { issue: issue.id, at: NOW, judgement };
        Change::AddJudgement(Box::new(record))
    };
    let changes = vec![
        Change::AddTemplate(samples::template("small")),
        Change::AddVm(samples::vm(1, VmState::Running)),
        Change::PutIssue(Box::new(issue.clone())),
        at(samples::answer("first", Verdict::Abstain, &[])),
        at(failed),
        at(chosen),
        Change::AddOperation(repair.clone()),
        Change::OperationState {
            operation: repair.id,
            state: OperationState::Succeeded,
            at: Timestamp(repair.created_at.0 + 41),
        },
    ];
    api.records.commit(changes).await.unwrap();

    let story = api.get(&format!("/issues/{}", issue.id)).await.expect(200).json();
    assert_eq!(story["kind"], "vm.process-missing");
    assert_eq!(story["severity"], "error");
    assert_eq!(story["state"], "resolved");
    assert_eq!(story["resolution"], "by-repair");
    assert_eq!(story["resolved_at"], "2026-11-22T19:24:00.000Z");
    assert_eq!(story["subject"], json!({"kind": "vm", "id": samples::vm_id(1).to_string()}));
    assert_eq!(story["evidence"], json!([{"key": "recorded.pid", "value": 42}]));
    assert_eq!(story["candidates"][0]["kind"], "vm.restart");
    let decisions = story["decisions"].as_array().unwrap();
    let enforced: Vec<_> = decisions.iter().map(|each| &each["enforced"]).collect();
    assert_eq!(enforced, [&json!(false), &json!(false), &json!(true)]);
    assert_eq!(decisions[1]["verdict"], Value::Null);
    assert_eq!(decisions[1]["error"]["kind"], "deadline");
    assert_eq!(decisions[2]["verdict"], "repair");
    assert_eq!(decisions[2]["chosen"], json!([0]));
    assert_eq!(story["repairs"], json!([repair.id.to_string()]));
    let operation = &story["operations"][0];
    assert_eq!(operation["duration_ms"], 41);
    assert_eq!(operation["reason"]["kind"], "repair");
    assert_eq!(operation["reason"]["issue_id"], issue.id.to_string());
    assert_eq!(operation["reason"]["policy"], "restart-crashed");

    let listed = api.get("/issues?state=resolved").await.expect(200).json();
    assert_eq!(listed[0]["repairs"], story["repairs"]);
    assert!(listed[0].get("operations").is_none());
    assert_eq!(api.get("/issues?state=open").await.expect(200).json(), json!([]));
}

#[tokio::test]
async fn ready_follows_the_first_look_and_status_tells_of_the_last() {
    let api = Api::new();
    api.get("/ready").await.expect_problem(503, "not-ready");
    let status = api.get("/observer/status").await.expect(200).json();
    assert_eq!((&status["health"], &status["last_look"]), (&json!("starting"), &Value::Null));
    api.observer.send_replace(ObserverStatus {
        last_look: Some(NOW),
        duration_us: 1834,
        looks: 1,
        health: ObserverHealth::Degraded("the backend does not answer".to_owned()),
        found: vec![("vm.process-missing", 2)],
    });
    assert_eq!(api.get("/ready").await.expect(200).json(), json!({"status": "ready"}));
    assert_eq!(
        api.get("/observer/status").await.expect(200).json(),
        json!({
            "last_look": "2026-11-22T19:24:00.000Z", "duration_us": 1834, "looks": 1,
            "health": "degraded", "health_reason": "the backend does not answer",
            "interval_ms": 5000, "incoherences": {"vm.process-missing": 2},
        })
    );
}

#[tokio::test]
async fn a_run_wakes_the_observer() {
    let api = Api::new();
    let woken = api.wake.notified();
    let answer = api.post("/observer/run", json!({})).await.expect(202);
    assert_eq!(answer.header("location"), "/observer/status");
    woken.await;
}

#[tokio::test]
async fn what_the_daemon_was_wired_with_is_told_as_it_is() {
    let api = Api::new();
    let health = json!({"status": "ok", "version": "1.2.3"});
    assert_eq!(api.get("/health").await.expect(200).json(), health);
    let network = api.get("/network/config").await.expect(200).json();
    assert_eq!((&network["mode"], &network["vlan_id"]), (&json!("user"), &Value::Null));
    assert_eq!(network["subnet"], "10.77.0.0/29");
    let backends = api.get("/backends").await.expect(200).json();
    assert_eq!((&backends[0]["name"], &backends[0]["usable"]), (&json!("fake"), &json!(true)));
    let policies = api.get("/policies").await.expect(200).json();
    assert_eq!(policies[0]["name"], "log-only");
}
