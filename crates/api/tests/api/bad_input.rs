//! Whatever is sent, the answer is a problem that names every mistake, and never a 500.

use axum::body::Body;
use serde_json::{Value, json};

use crate::harness::Api;

/// Every route that reads a body, `{}` standing for an id.
const BODY_ROUTES: [&str; 8] = [
    "/templates",
    "/vms",
    "/disks",
    "/disks/{}/attach",
    "/disks/{}/detach",
    "/disks/{}/resize",
    "/vms/{}/actions/start",
    "/observer/run",
];

fn fields(problem: &Value) -> Vec<&str> {
    let problems = problem["problems"].as_array().unwrap();
    problems.iter().map(|each| each["field"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_mistake_in_a_body_is_told_at_once() {
    let api = Api::new();
    let body = json!({
        "name": "../etc", "cpu_count": "4", "ram": 512,
        "boot": {"kernel": "/etc/passwd", "cmdline": "a\nb", "extra": 1},
    });
    let problem = api.post("/templates", body).await.expect_problem(400, "invalid");
    let mut fields = fields(&problem);
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["boot.cmdline", "boot.extra", "boot.kernel", "cpu_count", "name", "ram", "ram_amount"]
    );
    for each in problem["problems"].as_array().unwrap() {
        assert!(problem["detail"].as_str().unwrap().contains(each["problem"].as_str().unwrap()));
    }
}

#[tokio::test]
async fn fields_that_are_missing_wrong_unknown_or_out_of_range_are_named() {
    let api = Api::new();
    let id = api.new_disk().await;
    let (attach, resize) = (format!("/disks/{id}/attach"), format!("/disks/{id}/resize"));
    let template = |key: &str, value: Value| {
        let mut body = json!({"name": "n", "cpu_count": 1, "ram_amount": 64});
        body[key] = value;
        body
    };
    let huge: Value = serde_json::from_str("99999999999999999999999999").unwrap();
    for (path, body, field) in [
        ("/templates", json!({"name": "n", "cpu_count": 1}), "ram_amount"),
        ("/templates", template("name", json!(null)), "name"),
        ("/templates", template("name", json!("")), "name"),
        ("/templates", template("name", json!("'; DROP TABLE vms; --")), "name"),
        ("/templates", template("name", json!("a\0b")), "name"),
        ("/templates", template("name", json!("x".repeat(100_000))), "name"),
        ("/templates", template("name", json!(["n"])), "name"),
        ("/templates", template("cpu_count", json!(0)), "cpu_count"),
        ("/templates", template("cpu_count", json!(-1)), "cpu_count"),
        ("/templates", template("cpu_count", json!(256)), "cpu_count"),
        ("/templates", template("cpu_count", json!(1.0)), "cpu_count"),
        ("/templates", template("cpu_count", json!(1.5)), "cpu_count"),
        ("/templates", template("cpu_count", json!(true)), "cpu_count"),
        ("/templates", template("cpu_count", json!(u64::MAX)), "cpu_count"),
        ("/templates", template("cpu_count", json!(i64::MIN)), "cpu_count"),
        ("/templates", template("ram_amount", huge.clone()), "ram_amount"),
        ("/templates", template("ram_amount", json!(7)), "ram_amount"),
        ("/templates", template("ram_amount", json!({})), "ram_amount"),
        ("/templates", template("boot", json!("vmlinuz")), "boot"),
        ("/templates", template("boot", json!({})), "boot.kernel"),
        ("/templates", template("boot", json!({"kernel": "../../x"})), "boot.kernel"),
        ("/templates", template("boot", json!({"kernel": "k", "initrd": 1})), "boot.initrd"),
        ("/templates", template("boot", json!({"firmware": "a/b"})), "boot.firmware"),
        ("/templates", template("boot", json!({"kernel": "k", "firmware": "f"})), "boot.kernel"),
        ("/templates", template("cpus", json!(1)), "cpus"),
        ("/vms", json!({}), "vm_template"),
        ("/vms", json!({"vm_template": 1}), "vm_template"),
        ("/vms", json!({"vm_template": "a/../b"}), "vm_template"),
        ("/vms", json!({"vm_template": "small", "name": "-rf"}), "name"),
        ("/vms", json!({"vm_template": "small", "count": 2}), "count"),
        ("/disks", json!({"size": 0}), "size"),
        ("/disks", json!({"size": huge}), "size"),
        ("/disks", json!({"size": "10"}), "size"),
        ("/disks", json!({"size": 1, "mount_point": "/etc/passwd"}), "mount_point"),
        ("/disks", json!({"size": 1, "mount_point": "/dev/sdbb"}), "mount_point"),
        ("/disks", json!({"size": 1, "format": "vmdk"}), "format"),
        ("/disks", json!({"size": 1, "bus": "ide"}), "bus"),
        ("/templates", template("root_disk_size", json!(0)), "root_disk_size"),
        ("/templates", template("root_disk_size", json!(65_537)), "root_disk_size"),
        ("/templates", template("root_disk_size", json!("10")), "root_disk_size"),
        ("/vms", json!({"vm_template": "small", "autostart": "yes"}), "autostart"),
        (&resize, json!({}), "size"),
        (&resize, json!({"size": 0}), "size"),
        (&resize, json!({"size": "2"}), "size"),
        (&attach, json!({}), "vm_id"),
        (&attach, json!({"vm_id": "1"}), "vm_id"),
        (&attach, json!({"vm_id": 1}), "vm_id"),
        (&attach, json!({"vm_id": "{00000000-0000-4000-8000-000000000000}"}), "vm_id"),
    ] {
        let answer = api.post(path, body.clone()).await;
        let problem = answer.expect_problem(400, "invalid");
        assert!(fields(&problem).contains(&field), "{path} {problem}");
    }
    assert_eq!(api.get("/templates").await.json(), json!([]));
}

#[tokio::test]
async fn what_is_not_a_json_object_is_refused_by_every_route_with_a_body() {
    let api = Api::new();
    let (vm, disk) = (api.new_vm().await, api.new_disk().await);
    let deep = "[".repeat(200_000);
    let deep_object = "{\"a\":".repeat(100_000);
    for route in BODY_ROUTES {
        let path = route.replace("{}", if route.starts_with("/vms") { &vm } else { &disk });
        for (body, code) in [
            ("{", "malformed-json"),
            ("{\"name\": }", "malformed-json"),
            ("{\"name\": 1e999}", "malformed-json"),
            ("{\"name\": \"\\ud800\"}", "malformed-json"),
            ("{} {}", "malformed-json"),
            ("\u{feff}{}", "malformed-json"),
            (deep.as_str(), "malformed-json"),
            (deep_object.as_str(), "malformed-json"),
            ("[]", "not-an-object"),
            ("\"text\"", "not-an-object"),
            ("3", "not-an-object"),
        ] {
            let answer = api.send("POST", &path, &[], Body::from(body.to_owned())).await;
            let problem = answer.expect_problem(400, code);
            let has_place = problem["detail"].as_str().unwrap().contains("line 1 column");
            assert_eq!(has_place, code == "malformed-json", "{problem}");
        }
        let not_utf8 = Body::from(vec![b'{', 0xff, 0xfe, b'}']);
        api.send("POST", &path, &[], not_utf8).await.expect_problem(400, "malformed-json");
    }
    for (nothing, code) in [("", "malformed-json"), ("null", "not-an-object")] {
        api.send("POST", "/vms", &[], Body::from(nothing)).await.expect_problem(400, code);
        let start = format!("/vms/{vm}/actions/stop");
        api.send("POST", &start, &[], Body::from(nothing)).await.expect(200);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_the_client_waits_to_be_asked_for_it_or_not() {
    let api = Api::new();
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(10 << 20));
    for route in ["/templates", "/vms", "/disks", "/observer/run"] {
        let answer = api.send("POST", route, &[], Body::from(large.clone())).await;
        answer.expect_problem(413, "body-too-large");
        let waiting = [("expect", "100-continue")];
        let answer = api.send("POST", route, &waiting, Body::from(large.clone())).await;
        answer.expect_problem(413, "body-too-large");
    }
}

#[tokio::test]
async fn a_body_of_another_type_is_415_and_json_is_known_by_its_name() {
    let api = Api::new();
    let body = || Body::from(json!({"size": 1}).to_string());
    for other in ["text/plain", "application/xml", "application/jsonx", "", "multipart/form-data"] {
        let answer = api.send("POST", "/disks", &[("content-type", other)], body()).await;
        answer.expect_problem(415, "unsupported-media-type");
    }
    for json in ["application/json", "Application/JSON; charset=utf-8"] {
        api.send("POST", "/disks", &[("content-type", json)], body()).await.expect(201);
    }
    api.send("POST", "/disks", &[], body()).await.expect(201);
}

#[tokio::test]
async fn a_thousand_unknown_fields_are_counted_and_not_all_told() {
    let api = Api::new();
    let fields: serde_json::Map<_, _> =
        (0..1000).map(|n| (format!("{}{n}", "x".repeat(500)), json!(n))).collect();
    let answer = api.post("/disks", Value::Object(fields)).await;
    assert!(answer.text.len() < 20_000, "{}", answer.text.len());
    let problem = answer.expect_problem(400, "invalid");
    assert!(problem["detail"].as_str().unwrap().contains("more"), "{problem}");
}

#[tokio::test]
async fn a_path_that_names_nothing_is_404() {
    let api = Api::new();
    let long = "x".repeat(5_000);
    for id in [
        "1",
        "nosuch",
        "..%2f..%2fetc%2fpasswd",
        "%ff",
        "%00",
        "'%20OR%201=1",
        "00000000-0000-4000-8000-000000000000",
        "00000000000040008000000000000000",
        "urn:uuid:00000000-0000-4000-8000-000000000000",
        long.as_str(),
    ] {
        for folder in ["templates", "vms", "disks", "operations", "issues"] {
            let path = format!("/{folder}/{id}");
            api.get(&path).await.expect_problem(404, "not-found");
        }
        for folder in ["templates", "vms", "disks"] {
            api.delete(&format!("/{folder}/{id}")).await.expect_problem(404, "not-found");
        }
        for action in ["start", "stop", "restart", "pause", "resume", "reset", "kill"] {
            let path = format!("/vms/{id}/actions/{action}");
            api.post(&path, json!({})).await.expect_problem(404, "not-found");
        }
        for path in [format!("/disks/{id}/detach"), format!("/operations/{id}/cancel")] {
            api.post(&path, json!({})).await.expect_problem(404, "not-found");
        }
        let resize = api.post(&format!("/disks/{id}/resize"), json!({"size": 2})).await;
        resize.expect_problem(404, "not-found");
        let json = "application/json";
        let patch = api.patch(&format!("/vms/{id}"), json, json!({"autostart": true})).await;
        patch.expect_problem(404, "not-found");
    }
}

#[tokio::test]
async fn an_unknown_route_is_404_and_a_wrong_method_405_with_the_right_ones() {
    let api = Api::new();
    let vm = api.new_vm().await;
    for path in ["/", "/nosuch", "/vms/", &format!("/vms/{vm}/actions/fly"), "//vms", "/VMS"] {
        api.get(path).await.expect_problem(404, "no-such-route");
    }
    for (method, path, allow) in [
        ("PUT", "/vms".to_owned(), "GET,HEAD,POST"),
        ("PUT", format!("/vms/{vm}"), "GET,HEAD,PATCH,DELETE"),
        ("GET", format!("/vms/{vm}/actions/start"), "POST"),
        ("DELETE", "/observer/run".to_owned(), "POST"),
        ("BREW", "/health".to_owned(), "GET,HEAD"),
    ] {
        let answer = api.send(method, &path, &[], Body::empty()).await;
        let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
        let mut expected: Vec<_> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{method} {path}");
        answer.expect_problem(405, "method-not-allowed");
    }
}

#[tokio::test]
async fn every_mistake_in_a_query_is_told_at_once() {
    let api = Api::new();
    let answer = api.get("/vms?state=flying&limit=0&after=x&sate=running").await;
    let problem = answer.expect_problem(400, "invalid");
    let mut named = fields(&problem);
    named.sort_unstable();
    assert_eq!(named, ["after", "limit", "sate", "state"]);
    assert!(problem["detail"].as_str().unwrap().contains("stopped, starting, running"));
    let operation = "00000000-0000-4000-8000-000000000000";
    for (query, field) in [
        ("/issues?state=closed".to_owned(), "state"),
        ("/disks?limit=1001".to_owned(), "limit"),
        ("/disks?limit=-1".to_owned(), "limit"),
        ("/disks?limit=1&limit=2".to_owned(), "limit"),
        ("/disks?limit=".to_owned(), "limit"),
        ("/disks?limit=%ff".to_owned(), "limit"),
        (format!("/disks?after={operation}"), "after"),
        ("/templates?after=..%2f".to_owned(), "after"),
        (format!("/operations/{operation}?wait="), "wait"),
        (format!("/operations/{operation}?wait=-1s"), "wait"),
        (format!("/operations/{operation}?wait=soon"), "wait"),
        (format!("/operations/{operation}?weight=1s"), "weight"),
    ] {
        let problem = api.get(&query).await.expect_problem(400, "invalid");
        assert_eq!(fields(&problem), [field], "{query}");
    }
}
