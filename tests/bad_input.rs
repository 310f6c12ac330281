//! What no client should send. The daemon answers each with a refusal that helps, never with a
//! fault of its own, and is as well afterwards as before. Machines are simulated.
#![cfg(test)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use vman_tests::{Answer, Client, Daemon, NO_BODY, Setup};

/// For an answer to come over a bare connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Bytes.
const HUGE: usize = 10 << 20;
/// Bytes that a bare answer is read up to.
const BARE_ANSWER_MAX: u64 = 64 << 10;

/// Names that lead elsewhere, hide, or mean something to somebody else.
const BAD_NAMES: [&str; 16] = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    ".hidden",
    "-rf",
    "a b",
    "a\0b",
    "a\nb",
    "$(reboot)",
    "'; DROP TABLE vms; --",
    "\u{202e}evil",
    "ä",
];

/// Values of another type, or out of every range.
fn wrong_values() -> [Value; 12] {
    [
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(1e300),
        json!(18_446_744_073_709_551_615_u64),
        json!("1"),
        json!("x".repeat(100_000)),
        json!([]),
        json!([1]),
        json!({}),
    ]
}

#[test]
fn every_wrong_field_of_a_body_is_400_and_named() {
    let daemon = daemon();
    let good = json!({"name": "good", "cpu_count": 1, "ram_amount": 64});
    for field in ["name", "cpu_count", "ram_amount"] {
        for value in wrong_values() {
            if field == "name" && value == json!("1") {
                continue;
            }
            let body = with(&good, field, &value);
            names_field(&daemon.post("/templates", &body), field, &body);
        }
    }
    for (field, value) in [("size", json!(0)), ("size", json!(1_u64 << 60)), ("size", json!("1"))] {
        let body = json!({field: value});
        names_field(&daemon.post("/disks", &body), field, &body);
    }
    let good = json!({"size": 1});
    for value in [json!("vmdk"), json!(1), json!([]), json!("../raw")] {
        let body = with(&good, "format", &value);
        names_field(&daemon.post("/disks", &body), "format", &body);
    }
    for value in ["", "sdb", "/dev/sdbb", "/dev/../sda", "/etc/passwd", "/dev/sd;"] {
        let body = with(&good, "mount_point", &json!(value));
        names_field(&daemon.post("/disks", &body), "mount_point", &body);
    }
    for value in [json!("ide"), json!(1), json!(["virtio-blk"]), json!("")] {
        let body = with(&good, "bus", &value);
        names_field(&daemon.post("/disks", &body), "bus", &body);
    }
    let good = json!({"name": "good", "cpu_count": 1, "ram_amount": 64});
    for value in wrong_values().into_iter().filter(|value| !value.is_null()) {
        let body = with(&good, "root_disk_size", &value);
        names_field(&daemon.post("/templates", &body), "root_disk_size", &body);
    }
    nothing_was_made(&daemon);
}

#[test]
fn a_change_or_a_growth_that_is_wrong_changes_nothing() {
    let daemon = daemon();
    daemon.tiny_template();
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    let (was_vm, was_disk) = (daemon.vm(&vm), daemon.disk(&disk));
    let path = format!("/vms/{vm}");
    let patch = |kind: &str, body: &[u8]| {
        daemon.client().send("PATCH", &path, &[("content-type", kind)], body)
    };
    for value in wrong_values().into_iter().filter(|value| *value != json!(true)) {
        let body = json!({"autostart": value});
        let kind = "application/merge-patch+json";
        names_field(&patch(kind, body.to_string().as_bytes()), "autostart", &body);
        let body = with(&json!({"vm_template": "tiny"}), "autostart", &value);
        if !value.is_null() {
            names_field(&daemon.post("/vms", &body), "autostart", &body);
        }
        let body = json!({"size": value});
        names_field(&daemon.post(&format!("/disks/{disk}/resize"), &body), "size", &body);
    }
    refused(patch("application/json-patch+json", b"[]"), &[415]);
    refused(patch("application/json", b"[]"), &[400]);
    refused(patch("application/json", b"{\"state\": \"running\"}"), &[400]);
    assert_eq!((daemon.vm(&vm), daemon.disk(&disk)), (was_vm, was_disk));
    assert_eq!(daemon.get("/operations").expect(200).body.as_array().map(Vec::len), Some(1));
}

#[test]
fn a_key_that_is_none_is_refused_before_anything_is_made() {
    let daemon = daemon();
    let long = "k".repeat(256);
    for key in ["\"", "\"\"", "\"open", "closed\"", "two words", "\"a\"; b", "a\\b", &long] {
        let headers = [("idempotency-key", key)];
        let answer =
            refused(daemon.client().send("POST", "/disks", &headers, b"{\"size\": 1}"), &[400]);
        assert_eq!(answer.body["code"], "bad-idempotency-key", "{key}");
    }
    nothing_was_made(&daemon);
}

#[test]
fn every_problem_of_a_body_is_told_at_once() {
    let daemon = daemon();
    let body = json!({"name": "../x", "cpu_count": "two", "ram": 64, "boot": {"kernel": "/k"}});
    let refused = refused(daemon.post("/templates", &body), &[400]);
    let problems = refused.body["problems"].as_array().expect("a list").iter();
    let mut fields: Vec<&str> = problems.filter_map(|problem| problem["field"].as_str()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["boot.kernel", "cpu_count", "name", "ram", "ram_amount"]);
}

#[test]
fn unknown_fields_are_refused_everywhere() {
    let daemon = daemon();
    daemon.tiny_template();
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    for (path, good) in [
        ("/templates".to_owned(), json!({"name": "x", "cpu_count": 1, "ram_amount": 64})),
        ("/vms".to_owned(), json!({"vm_template": "tiny"})),
        ("/disks".to_owned(), json!({"size": 1})),
        (format!("/disks/{disk}/attach"), json!({"vm_id": vm})),
        (format!("/disks/{disk}/detach"), json!({})),
        (format!("/vms/{vm}/actions/start"), json!({})),
        (format!("/vms/{vm}/actions/stop"), json!({})),
        (format!("/vms/{vm}/actions/restart"), json!({})),
        (format!("/vms/{vm}/actions/pause"), json!({})),
        (format!("/vms/{vm}/actions/kill"), json!({})),
        (format!("/disks/{disk}/resize"), json!({"size": 2})),
    ] {
        let body = with(&good, "surprise", &json!(1));
        names_field(&daemon.post(&path, &body), "surprise", &body);
    }
    assert_eq!(daemon.vm(&vm)["state"], "stopped");
    assert_eq!(daemon.disk(&disk)["state"], "available");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let daemon = daemon();
    let size = json!({"name": "x", "cpu_count": 1, "ram_amount": 64});
    for name in BAD_NAMES {
        let body = with(&size, "name", &json!(name));
        names_field(&daemon.post("/templates", &body), "name", &body);
        for key in ["kernel", "firmware"] {
            let body = with(&size, "boot", &json!({key: name}));
            names_field(&daemon.post("/templates", &body), &format!("boot.{key}"), &body);
        }
        let body = with(&size, "boot", &json!({"kernel": "k", "initrd": name}));
        names_field(&daemon.post("/templates", &body), "boot.initrd", &body);
        let body = json!({"vm_template": name});
        names_field(&daemon.post("/vms", &body), "vm_template", &body);
    }
    let long = "x".repeat(64);
    let body = with(&size, "name", &json!(long));
    names_field(&daemon.post("/templates", &body), "name", &body);
    for boot in [json!({}), json!({"kernel": "k", "firmware": "f"}), json!({"initrd": "i"})] {
        refused(daemon.post("/templates", &with(&size, "boot", &boot)), &[400]);
    }
    nothing_was_made(&daemon);
}

#[test]
fn bodies_that_are_no_json_object_are_400_or_415() {
    let daemon = daemon();
    let deep = "[".repeat(100_000);
    let object = "{\"a\":".repeat(100_000);
    let json = [("content-type", "application/json")];
    for body in [
        "",
        " ",
        "{",
        "}",
        "null",
        "[]",
        "1",
        "\"x\"",
        "{\"size\":}",
        "{\"size\":1}}",
        "\u{feff}{}",
        "{\"size\": 1e999}",
        "{'size': 1}",
        "size=1",
        "\0",
        &deep,
        &object,
    ] {
        for path in ["/templates", "/vms", "/disks"] {
            refused(daemon.client().send("POST", path, &json, body.as_bytes()), &[400]);
        }
    }
    refused(daemon.client().send("POST", "/disks", &json, b"{\"size\": \"\xff\xfe\"}"), &[400]);
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
        let headers = [("content-type", kind)];
        refused(daemon.client().send("POST", "/disks", &headers, b"{\"size\": 1}"), &[415]);
    }
    nothing_was_made(&daemon);
}

#[test]
fn paths_and_queries_that_name_nothing_are_refused() {
    let daemon = daemon();
    for id in [
        "x",
        "1",
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%00",
        "%ff%fe",
        "%",
        "00000000-0000-4000-8000-00000000000",
        "00000000000040008000000000000000",
        "'%20OR%201=1;--",
        "%F0%9F%92%A9",
    ] {
        for path in ["/vms", "/disks", "/operations", "/issues", "/templates"] {
            refused(daemon.get(&format!("{path}/{id}")), &[400, 404]);
        }
        refused(daemon.delete(&format!("/vms/{id}")), &[400, 404]);
        refused(daemon.post(&format!("/vms/{id}/actions/start"), &NO_BODY), &[400, 404]);
    }
    for path in ["/", "/vms/", "//vms", "/nothing", "/vms/../vms", "/VMS", "/.env", "/a%2fb"] {
        refused(daemon.get(path), &[404]);
    }
    for query in [
        "limit=0",
        "limit=-1",
        "limit=1001",
        "limit=many",
        "limit=99999999999999999999",
        "limit=1&limit=2",
        "after=x",
        "after=%ff",
        "state=flying",
        "state=",
        "surprise=1",
        "state=running'--",
    ] {
        refused(daemon.get(&format!("/vms?{query}")), &[400]);
    }
    let long = format!("/vms/{}", "x".repeat(60_000));
    refused(daemon.get(&long), &[404, 414]);
}

#[test]
fn methods_that_a_path_does_not_understand_are_405_and_told_which_it_does() {
    let daemon = daemon();
    for (method, path) in [
        ("PUT", "/vms"),
        ("PATCH", "/templates"),
        ("DELETE", "/disks"),
        ("POST", "/health"),
        ("DELETE", "/observer/status"),
        ("POST", "/network/config"),
        ("BREW", "/vms"),
        ("TRACE", "/vms"),
    ] {
        let answer = refused(daemon.client().send(method, path, &[], &[]), &[405]);
        assert_ne!(answer.header("allow"), "", "{method} {path}");
    }
}

#[test]
fn strings_of_sql_are_strings() {
    let daemon = daemon();
    daemon.tiny_template();
    let body = json!({"vm_template": "tiny", "name": "x'); DELETE FROM vms; --"});
    names_field(&daemon.post("/vms", &body), "name", &body);
    let cmdline = "'; DROP TABLE templates; -- \" \\ ; $(reboot)";
    daemon.template("odd", &json!({"kernel": "k", "cmdline": cmdline}));
    let template = daemon.get("/templates/odd").expect(200).body;
    assert_eq!(template["boot"]["cmdline"], cmdline);
    let listed = daemon.get("/templates").expect(200).body;
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
}

#[test]
fn a_huge_body_is_413_whether_it_tells_its_length_or_not() {
    let daemon = daemon();
    let body = format!("{{\"size\": 1, \"x\": \"{}\"}}", "x".repeat(HUGE));
    let declared = format!("content-length: {}\r\n\r\n", body.len());
    let chunk =
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for rest in [declared + &body, chunk] {
        let answer = bare(&daemon, "POST", "/disks", &rest);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("body-too-large"), "{answer}");
    }
    nothing_was_made(&daemon);
}

#[test]
fn a_request_that_is_no_http_is_not_answered_with_a_fault() {
    let daemon = daemon();
    for junk in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /vms HTTP/9.9\r\n\r\n",
        "GET /vms HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        "GET /vms HTTP/1.1\r\nhost: a\r\nx\u{0}y: 1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}",
    ] {
        let mut stream = connect(&daemon);
        // The daemon may have closed the connection before all is written.
        drop(stream.write_all(junk.as_bytes()));
        drop(stream.shutdown(Shutdown::Write));
        let answer = answer(stream);
        assert!(!answer.starts_with("HTTP/1.1 5"), "{junk:?}: {answer}");
    }
    daemon.get("/health").expect(200);
}

#[test]
fn whoever_has_no_token_or_a_wrong_one_is_401() {
    let daemon = daemon();
    let token = daemon.client().token().expect("tokens are on by default").to_owned();
    let address = daemon.client().address();
    let stranger = Client::new(address, None);
    let mut half = token.clone();
    half.truncate(token.len() / 2);
    for header in [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer wrong".to_owned()),
        Some(format!("Bearer {half}")),
        Some(format!("Bearer {token}x")),
        Some(format!("Basic {token}")),
        Some(token.clone()),
    ] {
        let headers: Vec<_> =
            header.iter().map(|value| ("authorization", value.as_str())).collect();
        for (method, path) in [("GET", "/vms"), ("POST", "/disks"), ("GET", "/nothing")] {
            let answer = refused(stranger.send(method, path, &headers, &[]), &[401]);
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"vman\"");
            assert!(!answer.text.contains(&token), "it must not tell the token");
        }
    }
    stranger.send("GET", "/health", &[], &[]).expect(200);
    let bearer = format!("bearer {token}");
    stranger.send("GET", "/vms", &[("authorization", &bearer)], &[]).expect(200);
}

#[test]
fn without_a_token_pages_of_strangers_are_kept_out() {
    let daemon = Setup::backend("dry-run").without_token().start();
    let stranger = Client::new(daemon.client().address(), None);
    stranger.send("GET", "/vms", &[], &[]).expect(200);
    let origin = [("origin", "https://evil.example")];
    refused(stranger.send("POST", "/disks", &origin, b"{\"size\": 1}"), &[403]);
    refused(stranger.send("GET", "/vms", &[("host", "evil.example")], &[]), &[403]);
    assert_eq!(daemon.get("/disks").expect(200).text, "[]");
}

fn daemon() -> Daemon {
    Setup::backend("dry-run").boot_file("tiny.rom").start()
}

fn with(object: &Value, field: &str, value: &Value) -> Value {
    let mut object = object.clone();
    object[field] = value.clone();
    object
}

/// A refusal of one of these statuses, whose body is a problem that helps.
#[track_caller]
fn refused(answer: Answer, statuses: &[u16]) -> Answer {
    let shown: String = answer.text.chars().take(300).collect();
    assert!(statuses.contains(&answer.status), "{} is not of {statuses:?}: {shown}", answer.status);
    assert_eq!(answer.header("content-type"), "application/problem+json", "{shown}");
    assert_eq!(answer.body["status"], answer.status, "{shown}");
    for field in ["type", "title", "detail", "code"] {
        assert!(
            answer.body[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}: {shown}"
        );
    }
    assert!(answer.text.len() < 8_000, "the client's own words are not told back whole: {shown}");
    answer
}

/// 400, and this field is the one that is wrong.
#[track_caller]
fn names_field(answer: &Answer, field: &str, sent: &Value) {
    let shown: String = sent.to_string().chars().take(200).collect();
    assert_eq!(answer.status, 400, "{shown}: {}", answer.text);
    let problems = answer.body["problems"].as_array().cloned().unwrap_or_default();
    let named = problems.iter().any(|problem| problem["field"] == field);
    assert!(named, "{field} is not named for {shown}: {}", answer.text);
}

#[track_caller]
fn nothing_was_made(daemon: &Daemon) {
    for list in ["/vms", "/disks", "/templates"] {
        assert_eq!(daemon.get(list).expect(200).text, "[]", "{list}");
    }
}

/// A request whose head and body are written as given; its answer as it comes.
fn bare(daemon: &Daemon, method: &str, path: &str, rest: &str) -> String {
    let token = daemon.client().token().expect("tokens are on by default");
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    let head = format!("{head}authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    let mut stream = connect(daemon);
    stream.write_all(format!("{head}{rest}").as_bytes()).expect("the daemon takes all of it");
    answer(stream)
}

fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(daemon.client().address()).expect("the daemon listens");
    stream.set_read_timeout(Some(ANSWER_WITHIN)).expect("a timeout can be set");
    stream.set_write_timeout(Some(ANSWER_WITHIN)).expect("a timeout can be set");
    stream
}

/// All that comes until the daemon closes the connection.
fn answer(stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // It may close the connection hard, after what it had to say.
    drop(stream.take(BARE_ANSWER_MAX).read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}
