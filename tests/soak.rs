//! Twenty VMs under a load of random verbs while the daemon is killed fifty times: at the end every
//! VM, every disk and every operation is accounted for, and the host holds nothing that has no
//! owner. The order of the verbs comes from a seed, which is printed; the moments come from the
//! host.
#![cfg(test)]
#![allow(clippy::print_stderr, reason = "the seed repeats a run, and the account is its result")]

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use vman_tests::{Client, Daemon, LONG, Process, Setup, pid, tally, text, wait_for};

const VMS: usize = 20;
const KILLS: usize = 50;
/// Clients that send verbs all the time.
const CLIENTS: u64 = 4;
/// A daemon lives so long, in milliseconds, between its start and its death.
const LIFE_MS: std::ops::Range<u64> = 20..600;
/// Between two verbs of one client, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 0..20;
const SEED: &str = "VMAN_TEST_SEED";

#[test]
fn twenty_vms_under_random_verbs_are_accounted_for_after_fifty_kills_of_the_daemon() {
    let seed = env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{SEED}={seed}");
    let mut daemon = Setup::backend("qemu-tcg").boot_file("tiny.rom").stop_grace("3s").start();
    daemon.tiny_template();
    let account = Arc::new(Account::default());
    for _ in 0..VMS {
        let vm = daemon.new_vm("tiny");
        account.note(|told| told.vms.insert(vm, Fate::IsThere));
        let disk = daemon.new_disk();
        account.note(|told| told.disks.insert(disk, Fate::IsThere));
    }
    let door = Arc::new(Door(RwLock::new(daemon.client().clone())));
    let clients = Clients::start(seed, &account, &door);
    let mut moments = Rng::with_seed(seed);
    for _ in 0..KILLS {
        thread::sleep(Duration::from_millis(moments.u64(LIFE_MS)));
        daemon.kill9();
        daemon.restart();
        *door.0.write().unwrap_or_else(PoisonError::into_inner) = daemon.client().clone();
    }
    clients.stop();
    // One more, so that what the last one left has to be found again.
    daemon.kill9();
    daemon.restart();
    let told = account.told.lock().unwrap_or_else(PoisonError::into_inner);
    operations_are_accounted_for(&daemon, &told);
    vms_are_accounted_for(&daemon, &told);
    disks_are_accounted_for(&daemon, &told);
    everything_can_be_deleted(&daemon);
}

/// What the daemon has said, and what it was asked: all of it must be true in the end.
#[derive(Default)]
struct Account {
    told: Mutex<Told>,
}

/// What is true of something the daemon once said it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    IsThere,
    /// Somebody asked for its deletion, and the answer was lost or is not the end of it.
    MayBeGone,
}

#[derive(Default)]
struct Told {
    vms: BTreeMap<String, Fate>,
    disks: BTreeMap<String, Fate>,
    /// The operations that it said it would carry out.
    operations: BTreeSet<String>,
    verbs: BTreeMap<&'static str, usize>,
}

impl Account {
    fn note<T>(&self, note: impl FnOnce(&mut Told) -> T) -> T {
        note(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn any(&self, of: impl Fn(&Told) -> &BTreeMap<String, Fate>, random: &mut Rng) -> String {
        self.note(|told| {
            let there = of(told).iter().filter(|(_, fate)| **fate == Fate::IsThere);
            let there: Vec<&String> = there.map(|(id, _)| id).collect();
            random.choice(there).cloned().expect("each that goes is replaced")
        })
    }
}

/// The way to the daemon that lives now.
struct Door(RwLock<Client>);

impl Door {
    fn client(&self) -> Client {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    fn start(seed: u64, account: &Arc<Account>, door: &Arc<Door>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |number| {
            let (account, door, stop) = (account.clone(), door.clone(), stop.clone());
            let mut random = Rng::with_seed(seed ^ (number + 1));
            thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    one_verb(&account, &door, &mut random);
                    thread::sleep(Duration::from_millis(random.u64(PAUSE_MS)));
                }
            })
        };
        let threads = (0..CLIENTS).map(start).collect();
        Self { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Release);
        for client in self.threads {
            client.join().expect("a client does not panic");
        }
    }
}

/// The verbs that are sent, the frequent ones several times.
const VERBS: [&str; 22] = [
    "start", "start", "start", "start", "start", "stop", "stop", "stop", "restart", "restart",
    "kill", "kill", "pause", "resume", "resume", "reset", "attach", "attach", "detach", "detach",
    "resize", "replace",
];

fn one_verb(account: &Account, door: &Door, random: &mut Rng) {
    let client = &door.client();
    let verb = *random.choice(&VERBS).expect("there are some");
    account.note(|told| *told.verbs.entry(verb).or_default() += 1);
    let vm = account.any(|told| &told.vms, random);
    let disk = account.any(|told| &told.disks, random);
    match verb {
        "attach" => {
            ask(client, account, &format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
        }
        "detach" => ask(client, account, &format!("/disks/{disk}/detach"), &Value::Null),
        "resize" => {
            let size = json!({"size": random.u64(2..64)});
            ask(client, account, &format!("/disks/{disk}/resize"), &size);
        }
        "replace" if random.bool() => replace_disk(client, account, door, &disk),
        "replace" => replace_vm(client, account, door, &vm),
        action => {
            ask(client, account, &format!("/vms/{vm}/actions/{action}"), &Value::Null);
            // Now and then somebody changes their mind.
            if random.u8(..) < 10 {
                let last = account.note(|told| told.operations.last().cloned());
                let cancel = last.map(|operation| format!("{operation}/cancel"));
                cancel.into_iter().for_each(|path| drop(send(client, "POST", &path, &Value::Null)));
            }
        }
    }
}

/// None if the daemon died meanwhile.
fn send(client: &Client, method: &str, path: &str, body: &Value) -> Option<(u16, Value, String)> {
    let headers = [("content-type", "application/json"), ("prefer", "respond-async")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = client.try_send(method, path, &headers, body.as_bytes()).ok()?;
    let location = answer.header("location").to_owned();
    assert!(answer.status < 500 || answer.status == 503, "{method} {path}: {}", answer.text);
    Some((answer.status, answer.body, location))
}

fn ask(client: &Client, account: &Account, path: &str, body: &Value) {
    if let Some((202, _, location)) = send(client, "POST", path, body) {
        account.note(|told| told.operations.insert(location));
    }
}

/// Deletes the one and makes another: exactly one more, however often the daemon dies meanwhile.
fn replace_vm(client: &Client, account: &Account, door: &Door, vm: &str) {
    account.note(|told| told.vms.insert(vm.to_owned(), Fate::MayBeGone));
    send(client, "DELETE", &format!("/vms/{vm}"), &Value::Null);
    let made = make(door, "/vms", &json!({"vm_template": "tiny"}));
    account.note(|told| told.vms.insert(made, Fate::IsThere));
}

fn replace_disk(client: &Client, account: &Account, door: &Door, disk: &str) {
    account.note(|told| told.disks.insert(disk.to_owned(), Fate::MayBeGone));
    match send(client, "DELETE", &format!("/disks/{disk}"), &Value::Null) {
        Some((202 | 204 | 404, ..)) | None => {
            let made = make(door, "/disks", &json!({"size": 1}));
            account.note(|told| told.disks.insert(made, Fate::IsThere));
        }
        // It is in use, so it stays.
        Some(_) => {
            account.note(|told| told.disks.insert(disk.to_owned(), Fate::IsThere));
        }
    }
}

/// The id of what was made, once the daemon says so: one request, repeated under its key.
fn make(door: &Door, path: &str, body: &Value) -> String {
    let key = format!("{:032x}", fastrand::u128(..));
    wait_for("the daemon makes what it was asked for", LONG, || {
        let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
        let client = door.client();
        let answer = client.try_send("POST", path, &headers, body.to_string().as_bytes()).ok()?;
        [201, 202].contains(&answer.status).then(|| text(&answer.body, "id").to_owned())
    })
}

fn operations_are_accounted_for(daemon: &Daemon, told: &Told) {
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    for location in &told.operations {
        let operation = daemon.operation(location);
        let state = text(&operation, "state");
        *ends.entry(format!("{} {state}", text(&operation, "kind"))).or_default() += 1;
        if state == "failed" {
            let error = text(&operation, "error");
            let told = format!("{}: {}", text(&operation, "kind"), without_ids(error));
            *failures.entry(told).or_default() += 1;
        }
    }
    eprintln!("verbs sent: {:?}", told.verbs);
    eprintln!("{} operations, all ended: {ends:#?}", told.operations.len());
    eprintln!("of the failed ones: {failures:#?}");
    let unended = daemon.get("/operations?limit=1000").expect(200).body;
    for operation in unended.as_array().expect("a list") {
        daemon.operation(&format!("/operations/{}", text(operation, "id")));
    }
}

fn without_ids(text: &str) -> String {
    let is_id = |word: &&str| word.len() >= 36 && word.matches('-').count() >= 4;
    text.split(' ').map(|word| if is_id(&word) { "…" } else { word }).collect::<Vec<_>>().join(" ")
}

fn all_of(daemon: &Daemon, path: &str, told: &BTreeMap<String, Fate>) -> Vec<Value> {
    let list = daemon.get(&format!("{path}?limit=1000")).expect(200).body;
    let list = list.as_array().expect("a list").clone();
    let ids: BTreeSet<&str> = list.iter().map(|one| text(one, "id")).collect();
    for (id, fate) in told {
        let lost = *fate == Fate::IsThere && !ids.contains(id.as_str());
        assert!(!lost, "{path}/{id} was lost");
    }
    for id in ids {
        assert!(told.contains_key(id), "{path}/{id} is there, and nobody was told so");
    }
    list
}

fn vms_are_accounted_for(daemon: &Daemon, told: &Told) {
    let vms = all_of(daemon, "/vms", &told.vms);
    // What the guest or the daemon's death did since is found by looking.
    daemon.look_again();
    let machines = daemon.machines();
    let mut owned = BTreeSet::new();
    for vm in &vms {
        let vm = daemon.vm(text(vm, "id"));
        let id = text(&vm, "id");
        let alive: Vec<i32> = machines.iter().filter(|it| it.names(id)).map(|it| it.pid).collect();
        let expected = match text(&vm, "state") {
            "running" | "paused" => vec![pid(&vm).expect("a machine of QEMU is a process")],
            "stopped" => vec![],
            other => panic!("VM {id} is {other}: {vm}"),
        };
        assert_eq!(alive, expected, "{vm}");
        owned.extend(alive);
        assert_eq!(daemon.issues_of(id), [Value::Null; 0], "{vm}");
    }
    let strays = machines.iter().filter(|machine| !owned.contains(&machine.pid));
    assert_eq!(strays.collect::<Vec<_>>(), Vec::<&Process>::new(), "processes without an owner");
    let without_owner = |vm: &String| !machines.iter().any(|machine| machine.names(vm));
    assert_eq!(daemon.cgroups().into_iter().find(without_owner), None, "a cgroup without an owner");
    tally::started("qemu-tcg");
}

fn disks_are_accounted_for(daemon: &Daemon, told: &Told) {
    let disks = all_of(daemon, "/disks", &told.disks);
    for disk in &disks {
        let holder = &disk["vm_id"];
        match text(disk, "state") {
            "available" => assert!(holder.is_null(), "{disk}"),
            "attached" => drop(daemon.vm(holder.as_str().expect("an attached disk has a VM"))),
            other => panic!("a disk is {other}: {disk}"),
        }
    }
    let files = std::fs::read_dir(daemon.storage().join("disks")).expect("readable").flatten();
    let files: BTreeSet<String> =
        files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    let images: BTreeSet<String> =
        disks.iter().map(|disk| format!("{}.qcow2", text(disk, "id"))).collect();
    assert_eq!(files, images, "one image for each disk, and none beside");
}

fn everything_can_be_deleted(daemon: &Daemon) {
    for list in ["/vms", "/disks", "/templates"] {
        let all = daemon.get(&format!("{list}?limit=1000")).expect(200).body;
        for one in all.as_array().expect("a list") {
            let name = if list == "/templates" { "name" } else { "id" };
            daemon.delete(&format!("{list}/{}", text(one, name))).expect(204);
        }
    }
    daemon.assert_nothing_left();
}
