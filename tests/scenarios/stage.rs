//! Plays a story on a real daemon with simulated machines, and writes down what comes of each step
//! and what there is at the end.

use std::fs;

use serde_json::{Value, json};
use vman_tests::{Daemon, LONG, NO_BODY, Setup, text, wait_for};

use crate::log::{Log, end_of};
use crate::scenario::{Deed, Step};

/// A daemon of its own, and who is in the story.
pub(crate) struct Stage {
    daemon: Daemon,
    cast: Vec<Role>,
    log: Log,
}

/// A VM or a disk.
struct Role {
    name: String,
    id: String,
    /// `/vms` or `/disks`
    list: &'static str,
}

impl Role {
    fn path(&self) -> String {
        format!("{}/{}", self.list, self.id)
    }
}

impl Stage {
    pub(crate) fn new(settings: &str) -> Self {
        let daemon = Setup::backend("dry-run").fewest_backends().with(settings).start();
        let boot = daemon.storage().join("boot");
        fs::write(boot.join("none.rom"), "simulated").expect("the folder is the daemon's");
        daemon.template("small", &json!({"firmware": "none.rom"}));
        let rooted =
            json!({"name": "rooted", "cpu_count": 1, "ram_amount": 32, "root_disk_size": 1});
        daemon.post("/templates", &rooted).expect(201);
        Self { daemon, cast: Vec::new(), log: Log::default() }
    }

    /// The log of it all.
    pub(crate) fn play(mut self, story: &[Step]) -> Vec<String> {
        for step in story {
            self.log.step(&step.text);
            self.carry_out(&step.deed);
        }
        self.tell_end();
        self.log.lines
    }

    fn carry_out(&mut self, deed: &Deed) {
        match deed {
            Deed::Vm { name, rooted } => {
                let template = if *rooted { "rooted" } else { "small" };
                let id = self.daemon.new_vm(template);
                self.add(name, id, "/vms");
            }
            Deed::Disk { name } => {
                let id = self.daemon.new_disk();
                self.add(name, id, "/disks");
            }
            Deed::Act { action, vm } => {
                let path = format!("{}/actions/{action}", self.role(vm).path());
                self.operate(&path, &NO_BODY);
            }
            Deed::Attach { disk, vm } => {
                let body = json!({"vm_id": self.role(vm).id});
                self.operate(&format!("{}/attach", self.role(disk).path()), &body);
            }
            Deed::Detach { disk } => {
                self.operate(&format!("{}/detach", self.role(disk).path()), &json!({}));
            }
            Deed::Crash { vm } => {
                let file = self.daemon.machine_folder(&self.role(vm).id).join("machine.json");
                fs::remove_file(file).expect("the simulated machine runs");
            }
            Deed::Clock { ms } => self.tell_time(*ms),
            Deed::AwaitState { subject, state } => self.await_state(subject, state),
            Deed::AwaitIssue { kind, subject, state } => {
                let id = &self.role(subject).id;
                let is_so =
                    |issue: &Value| issue["state"] == **state && issue["decisions"] != json!([]);
                self.daemon.issue_when(kind, id, state, is_so);
            }
            Deed::Look => self.daemon.look_again(),
            Deed::Backend => self.tell_backend(),
            Deed::RestartDaemon => {
                self.daemon.kill9();
                self.daemon.restart();
            }
        }
    }

    fn add(&mut self, name: &str, id: String, list: &'static str) {
        assert!(self.cast.iter().all(|role| role.name != name), "there are two of {name}");
        self.log.name(&id, name);
        self.cast.push(Role { name: name.to_owned(), id, list });
    }

    fn role(&self, name: &str) -> &Role {
        let role = self.cast.iter().find(|role| role.name == name);
        role.unwrap_or_else(|| panic!("nobody of the story is named {name}"))
    }

    /// Asks for it, waits for its end, and tells that; or why it was not let in.
    fn operate(&mut self, path: &str, body: &Value) {
        let answer = self.daemon.post(path, body);
        if answer.status != 202 {
            let title = text(&answer.body, "title").to_owned();
            return self.log.outcome(&format!("{}: {title}", answer.status));
        }
        let operation = self.daemon.operation(answer.header("location"));
        self.log.outcome(&end_of(&operation));
    }

    /// As a user would, and so that it is there wholly or not at all.
    fn tell_time(&self, ms: u64) {
        let machines = self.daemon.storage().join("machines");
        let new = machines.join(".clock.new");
        fs::write(&new, ms.to_string()).expect("the folder is the daemon's");
        fs::rename(new, machines.join(".clock")).expect("the folder is the daemon's");
    }

    fn await_state(&self, subject: &str, state: &str) {
        let path = self.role(subject).path();
        wait_for(&format!("{subject}: {state}"), LONG, || {
            let is = self.daemon.get(&path).expect(200).body["state"] == *state;
            is.then_some(())
        });
    }

    fn tell_backend(&mut self) {
        let backends = self.daemon.get("/backends").expect(200).body;
        let backends = backends.as_array().expect("a list").iter();
        for backend in backends.filter(|backend| backend["name"] == "dry-run") {
            let usable = if backend["usable"] == true { "usable" } else { "not usable" };
            self.log.outcome(&format!("{usable}: {}", text(backend, "reason")));
        }
    }

    /// What is recorded of all that the story had, in the order it was made.
    fn tell_end(&mut self) {
        self.log.lines.push("at the end".to_owned());
        let issues = self.daemon.get("/issues?limit=1000").expect(200).body;
        let operations = self.daemon.get("/operations?limit=1000").expect(200).body;
        for role in &self.cast {
            let now = self.daemon.get(&role.path()).expect(200).body;
            let mut told = format!("{} is {}", role.name, text(&now, "state"));
            let starts = self.daemon.machine_folder(&role.id).join("machine.starts");
            if let Ok(starts) = fs::read_to_string(starts) {
                told = format!("{told}, starts: {}", starts.trim());
            }
            self.log.outcome(&told);
            let of = |list: &Value| -> Vec<Value> {
                let list = list.as_array().expect("a list").iter().rev();
                list.filter(|one| one["subject"]["id"] == role.id).cloned().collect()
            };
            for issue in of(&issues) {
                let path = format!("/issues/{}", text(&issue, "id"));
                self.log.issue(&self.daemon.get(&path).expect(200).body);
            }
            for operation in of(&operations) {
                self.log.operation(&operation);
            }
        }
    }
}
