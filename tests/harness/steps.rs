//! What a user does with a daemon, one request a step, each with what must come of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::rest::Answer;
use crate::tally;
use crate::wait::{LONG, wait_for};

/// For requests without a body.
pub const NO_BODY: Value = Value::Null;
/// How the names of the backends that start QEMU begin.
const QEMU: &str = "qemu-";

impl Daemon {
    pub fn get(&self, path: &str) -> Answer {
        self.client().send("GET", path, &[], &[])
    }

    /// `NO_BODY` sends none.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.client().send("POST", path, &json, body.as_bytes())
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.client().send("DELETE", path, &[], &[])
    }

    /// A template of the least size, which boots `boot`.
    pub fn template(&self, name: &str, boot: &Value) {
        let body = json!({"name": name, "cpu_count": 1, "ram_amount": 32, "boot": boot});
        self.post("/templates", &body).expect(201);
    }

    /// A template that boots the tiny guest.
    pub fn tiny_template(&self) {
        self.template("tiny", &json!({"firmware": "tiny.rom"}));
    }

    /// A VM of the template; its id.
    pub fn new_vm(&self, template: &str) -> String {
        let vm = self.post("/vms", &json!({"vm_template": template})).expect(201).body;
        text(&vm, "id").to_owned()
    }

    /// A disk of 1 GiB; its id.
    pub fn new_disk(&self) -> String {
        let disk = self.post("/disks", &json!({"size": 1})).expect(201).body;
        text(&disk, "id").to_owned()
    }

    pub fn vm(&self, id: &str) -> Value {
        self.get(&format!("/vms/{id}")).expect(200).body
    }

    pub fn disk(&self, id: &str) -> Value {
        self.get(&format!("/disks/{id}")).expect(200).body
    }

    /// Sends a command, waits for its operation to succeed, and gives it.
    #[track_caller]
    pub fn operate(&self, path: &str, body: &Value) -> Value {
        let accepted = self.post(path, body).expect(202);
        let operation = self.operation(accepted.header("location"));
        assert_eq!(operation["state"], "succeeded", "{path}: {operation}");
        operation
    }

    /// The operation at `location`, once it has ended.
    #[track_caller]
    pub fn operation(&self, location: &str) -> Value {
        assert!(location.starts_with("/operations/"), "the Location is {location:?}");
        let operation = self.get(&format!("{location}?wait=60s")).expect(200).body;
        assert!(!operation["ended_at"].is_null(), "it did not end: {operation}");
        operation
    }

    /// Starts, stops or restarts a VM, and gives it as it is then.
    #[track_caller]
    pub fn act(&self, vm: &str, action: &str) -> Value {
        self.operate(&format!("/vms/{vm}/actions/{action}"), &NO_BODY);
        let vm = self.vm(vm);
        if action != "stop" && text(&vm, "backend").starts_with(QEMU) {
            tally::started(text(&vm, "backend"));
        }
        vm
    }

    /// Starts a VM that must have a process; its id.
    #[track_caller]
    pub fn start_process(&self, vm: &str) -> i32 {
        pid(&self.act(vm, "start")).expect("a machine of QEMU is a process")
    }

    /// Deletes what `paths` name, each at once.
    #[track_caller]
    pub fn delete_all(&self, paths: &[String]) {
        for path in paths {
            self.delete(path).expect(204);
            self.get(path).expect(404);
        }
    }

    /// The VM once it is in `state`.
    #[track_caller]
    pub fn vm_becomes(&self, id: &str, state: &str) -> Value {
        self.vm_when(id, state, LONG, |vm| vm["state"] == state)
    }

    /// The VM once it is as wanted.
    #[track_caller]
    pub fn vm_when(
        &self,
        id: &str,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(&format!("VM {id}: {what}"), within, || Some(self.vm(id)).filter(&wanted))
    }

    /// The newest issue of this kind about this subject that is as wanted, with its whole story.
    #[track_caller]
    pub fn issue_when(
        &self,
        kind: &str,
        subject: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait_for(&format!("an issue {kind} of {subject}: {what}"), LONG, || {
            let issues = self.issues_of(subject);
            let issue = issues.into_iter().find(|issue| issue["kind"] == kind && wanted(issue))?;
            Some(self.get(&format!("/issues/{}", text(&issue, "id"))).expect(200).body)
        })
    }

    /// Every issue about this subject.
    pub fn issues_of(&self, subject: &str) -> Vec<Value> {
        let issues = self.get("/issues").expect(200).body;
        let issues = issues.as_array().expect("GET /issues is a list").iter();
        issues.filter(|issue| issue["subject"]["id"] == subject).cloned().collect()
    }

    /// Whole looks since the daemon's start.
    pub fn looks(&self) -> u64 {
        let status = self.get("/observer/status").expect(200).body;
        status["looks"].as_u64().expect("looks is a count")
    }

    /// Waits until the host was looked at twice from now on, so that one look began after now.
    pub fn look_again(&self) {
        let now = self.looks();
        wait_for("two more looks", LONG, || (self.looks() >= now + 2).then_some(()));
    }
}

/// The text at `key`.
#[track_caller]
pub fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {object}"))
}

/// The process of a VM.
pub fn pid(vm: &Value) -> Option<i32> {
    vm["process"]["pid"].as_i64().map(|pid| i32::try_from(pid).expect("process ids are small"))
}
