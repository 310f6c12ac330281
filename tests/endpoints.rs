//! A client that knows nothing but the documented API drives its twenty endpoints, and those beside
//! them, with the fields, codes and units that are promised. Machines are simulated.
#![cfg(test)]

use std::net::Ipv4Addr;
use std::thread;

use serde_json::{Value, json};
use vman_tests::{Daemon, NO_BODY, SOON, Setup, text, wait_for};

/// The endpoints of the original system.
const ORIGINAL: [(&str, &str); 20] = [
    ("post", "/templates"),
    ("get", "/templates"),
    ("delete", "/templates/{name}"),
    ("post", "/vms"),
    ("get", "/vms"),
    ("get", "/vms/{id}"),
    ("delete", "/vms/{id}"),
    ("post", "/vms/{id}/actions/start"),
    ("post", "/vms/{id}/actions/stop"),
    ("post", "/vms/{id}/actions/restart"),
    ("post", "/disks"),
    ("get", "/disks"),
    ("get", "/disks/{id}"),
    ("delete", "/disks/{id}"),
    ("post", "/disks/{id}/attach"),
    ("post", "/disks/{id}/detach"),
    ("get", "/health"),
    ("get", "/openapi.yaml"),
    ("get", "/observer/status"),
    ("get", "/network/config"),
];

/// Those that came beside them for what a machine and a disk can do.
const BESIDE: [(&str, &str); 9] = [
    ("post", "/vms/{id}/actions/pause"),
    ("post", "/vms/{id}/actions/resume"),
    ("post", "/vms/{id}/actions/reset"),
    ("post", "/vms/{id}/actions/kill"),
    ("patch", "/vms/{id}"),
    ("post", "/disks/{id}/resize"),
    ("get", "/operations"),
    ("get", "/operations/{id}"),
    ("post", "/operations/{id}/cancel"),
];

/// Clients that call at the same time.
const CLIENTS: usize = 12;

/// A launch that lasts longer than the test.
const SLOW_LAUNCH: &str = "[backends.dry-run]\nlaunch_ms = 50000";

/// An id that nothing has.
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

#[test]
fn the_twenty_endpoints_and_those_beside_them_are_documented() {
    let daemon = daemon();
    let document = daemon.get("/openapi.json").expect(200).body;
    assert!(text(&document, "openapi").starts_with("3."));
    for (method, path) in ORIGINAL.into_iter().chain(BESIDE) {
        let responses = &document["paths"][path][method]["responses"];
        assert!(responses.as_object().is_some_and(|all| !all.is_empty()), "{method} {path}");
    }
    let yaml = daemon.get("/openapi.yaml").expect(200);
    assert!(yaml.header("content-type").contains("yaml"), "{}", yaml.header("content-type"));
    for (_, path) in ORIGINAL.into_iter().chain(BESIDE) {
        assert!(yaml.text.contains(&format!("\n  {path}:\n")), "{path} is not in the YAML");
    }
}

#[test]
fn templates_are_made_listed_and_deleted() {
    let daemon = daemon();
    let boot = json!({"kernel": "vmlinuz", "initrd": "initrd.gz", "cmdline": "console=ttyS0"});
    let body = json!({"name": "big", "cpu_count": 4, "ram_amount": 2048, "boot": boot});
    let made = daemon.post("/templates", &body).expect(201);
    assert_eq!(made.header("location"), "/templates/big");
    has(&made.body, &body);
    assert_eq!(daemon.get("/templates/big").expect(200).body, made.body);
    assert_eq!(made.body["root_disk_size"], Value::Null);
    let plain = json!({"name": "plain", "cpu_count": 1, "ram_amount": 64});
    let made = daemon.post("/templates", &plain).expect(201);
    has(&made.body, &plain);
    has(&made.body, &json!({"boot": null, "root_disk_size": 10}));
    let again = daemon.post("/templates", &plain).expect(409);
    assert_eq!(again.body["code"], "exists");
    assert_eq!(ids(&daemon, "/templates", "name"), ["big", "plain"]);
    let gone = daemon.delete("/templates/plain").expect(204);
    assert_eq!(gone.text, "");
    assert_eq!(ids(&daemon, "/templates", "name"), ["big"]);
    daemon.delete("/templates/plain").expect(404);
    daemon.get("/templates/plain").expect(404);
}

#[test]
fn vms_are_made_listed_by_state_and_deleted() {
    let daemon = daemon();
    daemon.tiny_template();
    let made = daemon.post("/vms", &json!({"vm_template": "tiny"})).expect(201);
    has(&made.body, &json!({"vm_template": "tiny", "state": "stopped", "name": null}));
    text(&made.body, "local_ip").parse::<Ipv4Addr>().expect("an IPv4 address");
    let id = text(&made.body, "id").to_owned();
    let other = daemon.new_vm("tiny");
    assert_ne!(daemon.vm(&other)["local_ip"], made.body["local_ip"], "one address, one VM");
    daemon.act(&id, "start");
    assert_eq!(ids(&daemon, "/vms", "id"), [id.as_str(), other.as_str()]);
    assert_eq!(ids(&daemon, "/vms?state=running", "id"), [id.as_str()]);
    assert_eq!(ids(&daemon, "/vms?state=stopped", "id"), [other.as_str()]);
    assert_eq!(ids(&daemon, "/vms?state=failed", "id"), [""; 0]);
    let unknown = daemon.post("/vms", &json!({"vm_template": "nobodys"})).expect(404);
    assert_eq!(unknown.body["code"], "template-not-found");
    daemon.delete_all(&[format!("/vms/{id}"), format!("/vms/{other}")]);
    assert_eq!(daemon.get("/vms").expect(200).text, "[]");
}

#[test]
fn actions_answer_202_with_the_vm_and_its_operation_or_wait_for_the_end() {
    let daemon = daemon();
    daemon.tiny_template();
    let id = daemon.new_vm("tiny");
    let accepted = daemon.post(&action(&id, "start"), &NO_BODY).expect(202);
    assert_eq!(accepted.body["id"], id.as_str());
    let operation = daemon.operation(accepted.header("location"));
    has(&operation, &json!({"kind": "vm.start", "state": "succeeded", "reason": {"kind": "user"}}));
    assert_eq!(operation["subject"], json!({"kind": "vm", "id": id}));
    assert!(operation["duration_ms"].is_u64(), "{operation}");
    let so = daemon.post(&action(&id, "start"), &NO_BODY).expect(200);
    assert_eq!(so.body["state"], "running");
    for (verb, state) in [("restart", "running"), ("stop", "stopped"), ("start", "running")] {
        let waited =
            daemon.client().send("POST", &action(&id, verb), &[("prefer", "wait=30")], &[]);
        let waited = waited.expect(200);
        assert_eq!(waited.body["state"], state, "{verb}");
        assert_eq!(waited.header("preference-applied"), "wait=30");
        assert!(waited.header("location").starts_with("/operations/"));
    }
    let deleted =
        daemon.client().send("DELETE", &format!("/vms/{id}"), &[("prefer", "respond-async")], &[]);
    let deleted = deleted.expect(202);
    assert_eq!(daemon.operation(deleted.header("location"))["state"], "succeeded");
    daemon.get(&format!("/vms/{id}")).expect(404);
}

#[test]
fn a_vm_is_paused_resumed_reset_killed_and_told_to_start_by_itself() {
    let daemon = daemon();
    daemon.tiny_template();
    let id = daemon.new_vm("tiny");
    let pid = daemon.act(&id, "start")["process"].clone();
    for (verb, state) in
        [("pause", "paused"), ("reset", "paused"), ("resume", "running"), ("reset", "running")]
    {
        let accepted = daemon.post(&action(&id, verb), &NO_BODY).expect(202);
        let operation = daemon.operation(accepted.header("location"));
        has(&operation, &json!({"kind": format!("vm.{verb}"), "state": "succeeded"}));
        has(&daemon.vm(&id), &json!({"state": state, "process": pid}));
    }
    daemon.operate(&action(&id, "kill"), &NO_BODY);
    has(&daemon.vm(&id), &json!({"state": "stopped", "process": null}));
    let refused = daemon.post(&action(&id, "pause"), &NO_BODY).expect(409).body;
    has(&refused, &json!({"code": "not-running", "state": "stopped"}));
    assert_eq!(refused["object"], json!({"kind": "vm", "id": id}));
    assert!(text(&refused, "hint").contains(&action(&id, "start")), "{refused}");

    for (content_type, autostart) in
        [("application/merge-patch+json", true), ("application/json", false)]
    {
        let body = json!({"autostart": autostart}).to_string();
        let headers = [("content-type", content_type)];
        let path = format!("/vms/{id}");
        let changed = daemon.client().send("PATCH", &path, &headers, body.as_bytes()).expect(200);
        assert_eq!(changed.body, daemon.vm(&id));
        assert_eq!(changed.body["autostart"], autostart);
    }
}

#[test]
fn an_operation_is_cancelled_once_and_not_after_its_end() {
    let daemon = Setup::backend("dry-run").boot_file("tiny.rom").with(SLOW_LAUNCH).start();
    daemon.tiny_template();
    let id = daemon.new_vm("tiny");
    let started = daemon.post(&action(&id, "start"), &NO_BODY).expect(202);
    let location = started.header("location");
    let cancel = format!("{location}/cancel");
    let asked = daemon.post(&cancel, &NO_BODY).expect(202);
    assert_eq!(
        (asked.header("location"), &asked.body["cancel_requested"]),
        (location, &json!(true))
    );
    let ended = daemon.get(&format!("{location}?wait=30")).expect(200).body;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_ne!(text(&ended, "error"), "");
    assert_eq!(daemon.vm(&id)["state"], "stopped");
    assert_eq!(daemon.post(&cancel, &NO_BODY).expect(200).body["state"], "cancelled");
    let attach = format!("/disks/{}/attach", daemon.new_disk());
    let attached = daemon.operate(&attach, &json!({"vm_id": id}));
    let cancel = format!("/operations/{}/cancel", text(&attached, "id"));
    let refused = daemon.post(&cancel, &NO_BODY).expect(409).body;
    assert_eq!(refused["code"], "ended");
}

#[test]
fn a_disk_comes_grows_and_goes_while_its_vm_runs() {
    let daemon = daemon();
    daemon.tiny_template();
    let vm = daemon.new_vm("tiny");
    daemon.act(&vm, "start");
    for bus in ["virtio-scsi", "virtio-blk"] {
        let made = daemon.post("/disks", &json!({"size": 1, "bus": bus})).expect(201);
        assert_eq!(made.body["bus"], bus);
        let disk = format!("/disks/{}", text(&made.body, "id"));
        let operation = daemon.operate(&format!("{disk}/attach"), &json!({"vm_id": vm}));
        has(&operation, &json!({"kind": "disk.attach", "state": "succeeded"}));
        assert_eq!(operation["steps"].as_array().map(Vec::len), Some(1), "the machine was asked");
        let now = || daemon.get(&disk).expect(200).body;
        has(&now(), &json!({"state": "attached", "vm_id": vm, "size": 1}));
        daemon.operate(&format!("{disk}/resize"), &json!({"size": 3}));
        has(&now(), &json!({"state": "attached", "size": 3}));
        let smaller = daemon.post(&format!("{disk}/resize"), &json!({"size": 2})).expect(409);
        assert_eq!(smaller.body["code"], "smaller");
        daemon.operate(&format!("{disk}/detach"), &NO_BODY);
        has(&now(), &json!({"state": "available", "vm_id": null}));
        daemon.operate(&format!("{disk}/resize"), &json!({"size": 4}));
        has(&now(), &json!({"state": "available", "size": 4}));
    }
}

#[test]
fn a_request_sent_again_with_its_key_is_carried_out_once_also_by_another_daemon() {
    let mut daemon = daemon();
    daemon.tiny_template();
    let send = |daemon: &Daemon, path: &str, key: &str, body: &Value| {
        let headers = [("idempotency-key", key), ("content-type", "application/json")];
        daemon.client().send("POST", path, &headers, body.to_string().as_bytes())
    };
    let new = json!({"vm_template": "tiny"});
    let first = send(&daemon, "/vms", "\"one\"", &new).expect(201);
    let id = text(&first.body, "id").to_owned();
    let started = send(&daemon, &action(&id, "start"), "two", &json!({})).expect(202);
    daemon.operation(started.header("location"));
    daemon.kill9();
    daemon.restart();
    let again = send(&daemon, "/vms", "\"one\"", &new).expect(201);
    assert_eq!(again.header("location"), first.header("location"));
    has(&again.body, &json!({"id": id, "state": "running"}));
    let again = send(&daemon, &action(&id, "start"), "two", &json!({})).expect(202);
    assert_eq!(again.header("location"), started.header("location"));
    assert_eq!(ids(&daemon, "/vms", "id"), [id.as_str()]);
    let other = send(&daemon, "/disks", "one", &json!({"size": 1})).expect(422);
    assert_eq!(other.body["code"], "idempotency-key-reused");
    daemon.act(&id, "stop");
    daemon.delete_all(&[format!("/vms/{id}")]);
    send(&daemon, &action(&id, "start"), "two", &json!({})).expect(404);
}

#[test]
fn disks_are_made_attached_detached_and_deleted() {
    let daemon = daemon();
    daemon.tiny_template();
    let body = json!({"size": 3, "mount_point": "/dev/sdd", "format": "raw"});
    let made = daemon.post("/disks", &body).expect(201);
    let id = text(&made.body, "id").to_owned();
    assert_eq!(made.header("location"), format!("/disks/{id}"));
    has(&made.body, &body);
    has(&made.body, &json!({"state": "available", "vm_id": null}));
    assert!(text(&made.body, "device_path").starts_with("/dev/disk/by-id/"), "{}", made.body);
    let plain = daemon.new_disk();
    has(&daemon.disk(&plain), &json!({"size": 1, "format": "qcow2"}));
    assert_eq!(ids(&daemon, "/disks", "id"), [id.as_str(), plain.as_str()]);
    let vm = daemon.new_vm("tiny");
    let accepted = daemon.post(&format!("/disks/{id}/attach"), &json!({"vm_id": vm})).expect(202);
    has(&accepted.body, &json!({"state": "attached", "vm_id": vm, "mount_point": "/dev/sdd"}));
    daemon.operation(accepted.header("location"));
    let again = daemon.post(&format!("/disks/{id}/attach"), &json!({"vm_id": vm})).expect(200);
    assert_eq!(again.body["vm_id"], vm.as_str());
    let other = json!({"vm_id": daemon.new_vm("tiny")});
    let elsewhere = daemon.post(&format!("/disks/{id}/attach"), &other).expect(409);
    assert_eq!(elsewhere.body["code"], "attached-elsewhere");
    assert_eq!(daemon.delete(&format!("/disks/{id}")).expect(409).body["code"], "attached");
    daemon.operate(&format!("/disks/{id}/detach"), &NO_BODY);
    has(&daemon.disk(&id), &json!({"state": "available", "vm_id": null}));
    daemon.delete_all(&[format!("/disks/{id}"), format!("/disks/{plain}")]);
}

#[test]
fn of_many_clients_at_once_each_gets_its_own_and_what_is_one_goes_to_one() {
    let daemon = daemon();
    daemon.tiny_template();
    let vms: Vec<String> = at_once(|_| daemon.new_vm("tiny"));
    let mut addresses: Vec<_> =
        vms.iter().map(|vm| text(&daemon.vm(vm), "local_ip").to_owned()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), CLIENTS, "an address was given twice");
    let disk = daemon.new_disk();
    let attach = format!("/disks/{disk}/attach");
    let mut statuses = at_once(|n| daemon.post(&attach, &json!({"vm_id": vms[n]})).status);
    statuses.sort_unstable();
    let mut expected = [409; CLIENTS];
    expected[0] = 202;
    assert_eq!(statuses, expected, "one disk, one VM");
    let verbs = ["start", "stop", "restart", "stop"];
    let path = |n: usize| action(&vms[0], verbs[n % verbs.len()]);
    let statuses = at_once(|n| daemon.post(&path(n), &NO_BODY).status);
    assert!(statuses.iter().all(|status| [200, 202, 409].contains(status)), "{statuses:?}");
    let gone = at_once(|_| daemon.delete(&format!("/vms/{}", vms[0])).status);
    assert!(gone.iter().all(|status| [204, 404].contains(status)), "{gone:?}");
    daemon.get(&format!("/vms/{}", vms[0])).expect(404);
}

#[test]
fn what_is_not_there_is_404_with_the_object_named() {
    let daemon = daemon();
    for (method, path, body) in [
        ("GET", "/vms/ID", NO_BODY),
        ("DELETE", "/vms/ID", NO_BODY),
        ("POST", "/vms/ID/actions/start", NO_BODY),
        ("POST", "/vms/ID/actions/stop", NO_BODY),
        ("POST", "/vms/ID/actions/restart", NO_BODY),
        ("POST", "/vms/ID/actions/pause", NO_BODY),
        ("POST", "/vms/ID/actions/resume", NO_BODY),
        ("POST", "/vms/ID/actions/reset", NO_BODY),
        ("POST", "/vms/ID/actions/kill", NO_BODY),
        ("PATCH", "/vms/ID", json!({"autostart": true})),
        ("GET", "/disks/ID", NO_BODY),
        ("DELETE", "/disks/ID", NO_BODY),
        ("POST", "/disks/ID/attach", json!({"vm_id": NOBODY})),
        ("POST", "/disks/ID/detach", NO_BODY),
        ("POST", "/disks/ID/resize", json!({"size": 2})),
        ("POST", "/operations/ID/cancel", NO_BODY),
        ("GET", "/operations/ID", NO_BODY),
        ("GET", "/issues/ID", NO_BODY),
    ] {
        let path = path.replace("ID", NOBODY);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = daemon.client().send(method, &path, &[], body.as_bytes()).expect(404);
        assert_eq!(answer.body["code"], "not-found", "{method} {path}");
        assert_eq!(answer.body["object"]["id"], NOBODY, "{method} {path}");
    }
}

#[test]
fn the_daemon_tells_about_itself_its_network_its_backends_and_its_policies() {
    let daemon = daemon();
    let health = daemon.get("/health").expect(200).body;
    assert_eq!(health["status"], "ok");
    assert!(!text(&health, "version").is_empty());
    let network = daemon.get("/network/config").expect(200).body;
    has(&network, &json!({"mode": "user", "subnet": "10.77.0.0/24", "bridge": null}));
    assert!(!text(&network, "reason").is_empty() && !text(&network, "gateway").is_empty());
    let status = daemon.get("/observer/status").expect(200).body;
    for field in ["last_look", "duration_us", "looks", "health", "interval_ms", "incoherences"] {
        assert!(status.get(field).is_some(), "no {field} in {status}");
    }
    daemon.post("/observer/run", &NO_BODY).expect(202);
    let backends = daemon.get("/backends").expect(200).body;
    let backends = backends.as_array().expect("a list");
    let selected: Vec<_> = backends.iter().filter(|one| one["selected"] == true).collect();
    assert_eq!(selected.len(), 1, "{backends:?}");
    has(selected[0], &json!({"name": "dry-run", "usable": true}));
    for backend in backends {
        assert!(backend["notes"].is_array(), "{backend}");
    }
    for name in ["qemu-kvm", "qemu-tcg"] {
        assert!(backends.iter().any(|one| one["name"] == name), "no {name} in {backends:?}");
    }
    let policies = daemon.get("/policies").expect(200).body;
    has(&policies[0], &json!({"name": "log-only", "mode": "enforce"}));
    assert_eq!(daemon.get("/issues?state=open").expect(200).text, "[]");
    daemon.get("/ready").expect(200);
}

#[test]
fn every_request_is_logged_with_its_path_status_and_duration() {
    let daemon = daemon();
    let answer = daemon.get("/network/config").expect(200);
    let request = answer.header("x-request-id");
    assert_ne!(request, "");
    let log = wait_for("the request is in the log", SOON, || {
        daemon.log().lines().find(|line| line.contains(request)).map(str::to_owned)
    });
    let parts: Vec<&str> = log.split(" | ").map(str::trim).collect();
    let [time, level, service, message] = parts.as_slice() else { panic!("{log}") };
    assert!(time.ends_with('Z') && !service.is_empty(), "{log}");
    assert_eq!(*level, "INFO");
    for part in ["method=GET", "path=/network/config", "status=200", "duration_ms="] {
        assert!(message.contains(part), "no {part} in {log}");
    }
}

#[test]
fn lists_come_in_pages_and_name_the_next_one() {
    let daemon = daemon();
    for name in ["a", "b", "c"] {
        daemon.template(name, &json!({"firmware": "tiny.rom"}));
    }
    let mut seen = Vec::new();
    let mut next = "/templates?limit=2".to_owned();
    for _ in 0..2 {
        let page = daemon.get(&next).expect(200);
        let names = page.body.as_array().expect("a list").iter();
        seen.extend(names.map(|one| text(one, "name").to_owned()));
        let link = page.header("link");
        let path = link.strip_prefix('<').and_then(|rest| rest.split('>').next());
        let Some(path) = path else { break };
        next = path.to_owned();
    }
    assert_eq!(seen, ["a", "b", "c"]);
}

#[test]
fn pages_of_the_configured_origins_may_call_and_no_others() {
    let allowed = "https://console.example.org";
    let daemon = Setup::backend("dry-run").cors_origin(allowed).start();
    for (origin, expected) in [(allowed, allowed), ("https://evil.example", "")] {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PATCH"),
            ("access-control-request-headers", "idempotency-key"),
        ];
        let preflight = daemon.client().send("OPTIONS", "/vms", &headers, &[]);
        assert_eq!(preflight.header("access-control-allow-origin"), expected);
        let methods = preflight.header("access-control-allow-methods");
        assert!(methods.contains("PATCH"), "{methods}");
        let headers = preflight.header("access-control-allow-headers");
        assert!(headers.contains("idempotency-key"), "{headers}");
    }
}

fn daemon() -> Daemon {
    Setup::backend("dry-run").boot_file("tiny.rom").start()
}

/// What each of many threads gets of `call`, which is given the thread's number.
fn at_once<T: Send>(call: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let call = &call;
    thread::scope(|scope| {
        let all: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || call(n))).collect();
        all.into_iter().map(|one| one.join().expect("no call panics")).collect()
    })
}

fn action(vm: &str, action: &str) -> String {
    format!("/vms/{vm}/actions/{action}")
}

/// The object has every field of `fields` with its value.
#[track_caller]
fn has(object: &Value, fields: &Value) {
    for (name, value) in fields.as_object().expect("fields") {
        assert_eq!(&object[name], value, "{name} of {object}");
    }
}

/// The `key` of each element, in the list's order.
fn ids(daemon: &Daemon, path: &str, key: &str) -> Vec<String> {
    let list = daemon.get(path).expect(200).body;
    list.as_array().expect("a list").iter().map(|one| text(one, key).to_owned()).collect()
}
