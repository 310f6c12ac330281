//! The store as its users meet it: the promises of the ports, what outlives a restart, who waits
//! for whom, and what is told when the file cannot be used.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one test module")]

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;
use vman_core::disk::{DiskState, ImageFormat};
use vman_core::evidence::{Fact, Value};
use vman_core::ident::{Generation, Timestamp};
use vman_core::network::Subnet;
use vman_core::operation::{OperationState, Reason, Step, StepState, Subject, Verb};
use vman_core::ports::{Change, JudgementRecord, Page, Recall, Record, RecordError};
use vman_core::repair::{
    Decision, IssueState, JudgeFailure, JudgeFailureKind, Mode, Resolution, Verdict,
};
use vman_core::template::{Boot, Cmdline};
use vman_core::testing::records_keep_their_promises;
use vman_core::testing::samples::{
    MADE_AT, answer, attached, disk, disk_id, issue, issue_id, mount_point, name, operation,
    operation_id, template, vm, vm_id,
};
use vman_core::vm::{Machine, Process, Vm, VmState};
use vman_store::{Store, StoreError};

/// Longer than anything here takes that does not wait for what it must not wait for.
const PATIENCE: Duration = Duration::from_secs(3);

fn file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("vman.db");
    (folder, path)
}

fn store() -> (TempDir, Store) {
    let (folder, path) = file();
    (folder, Store::open(&path).expect("opens"))
}

#[tokio::test]
async fn records_on_disk_keep_their_promises() {
    let (_folder, store) = store();
    records_keep_their_promises(&store).await;
}

fn machines() -> [Option<Machine>; 3] {
    let process = Process { pid: u32::MAX, start_time: 1 << 40, boot_id: uuid::Uuid::from_u128(7) };
    let machine = |process| Some(Machine { backend: "qemu-tcg".to_owned(), process });
    [None, machine(None), machine(Some(process))]
}

/// Every state, machine and kind of name, spread over the VMs 1 to 7.
fn vms() -> Vec<Vm> {
    let states = VmState::WORDS.map(|word| VmState::from_word(word, Some("it's \"odd\"; --")));
    let vms = (1..).zip(states).map(|(number, state)| Vm {
        name: (number % 2 == 0).then(|| name("web-1")),
        machine: machines()[usize::from(number % 3)].clone(),
        generation: Generation(1 << 50),
        updated_at: Timestamp(MADE_AT.0 + u64::from(number)),
        ..vm(number, state.expect("a word of WORDS"))
    });
    vms.collect()
}

fn disks() -> Vec<vman_core::disk::Disk> {
    let words = [
        "creating",
        "available",
        "attaching",
        "attached",
        "detaching",
        "resizing",
        "missing",
        "failed",
        "deleting",
    ];
    let of_each_state = (1..).zip(words).map(|(number, word)| {
        let state =
            DiskState::from_word(word, Some("no room"), Some(9)).expect("a word of a disk state");
        let format = [ImageFormat::Raw, ImageFormat::Qcow2][usize::from(number % 2)];
        let mount_point = (number % 2 == 0).then(|| mount_point("/dev/vdz"));
        vman_core::disk::Disk { format, mount_point, size_gib: 65_536, ..disk(number, state) }
    });
    of_each_state.chain([attached(20, 1, "/dev/sda")]).collect()
}

fn templates() -> Vec<vman_core::template::Template> {
    let file = |text: &str| text.parse().expect("a valid file name");
    let cmdline = |text| Cmdline::parse(text).expect("a valid command line");
    let boots = [
        Boot::RootDisk { size_gib: 5 },
        Boot::Firmware { firmware: file("tiny.rom") },
        Boot::Kernel { kernel: file("vmlinuz"), initrd: None, cmdline: cmdline("") },
        Boot::Kernel {
            kernel: file("vmlinuz"),
            initrd: Some(file("initrd.img")),
            cmdline: cmdline("console=ttyS0 'x';--"),
        },
    ];
    let named = ["a", "b", "c", "small"].into_iter().zip(boots);
    named
        .map(|(name, boot)| vman_core::template::Template {
            boot,
            cpu_count: 255,
            ram_mib: 1 << 22,
            ..template(name)
        })
        .collect()
}

#[tokio::test]
async fn nouns_in_every_variant_outlive_a_restart() {
    let (_folder, path) = file();
    let store = Store::open(&path).expect("opens");
    let templates_added = templates().into_iter().map(Change::AddTemplate);
    let vms_added = vms().into_iter().map(Change::AddVm);
    let changes =
        templates_added.chain(vms_added).chain(disks().into_iter().map(Change::AddDisk)).collect();
    store.commit(changes).await.expect("committed");
    drop(store);

    let store = Store::open(&path).expect("opens again");
    assert_eq!(store.templates(Page::first()).await, Ok(templates()));
    assert_eq!(store.vms(None, Page::first()).await, Ok(vms()));
    assert_eq!(store.disks(Page::first()).await, Ok(disks()));
    for vm in vms() {
        assert_eq!(store.vm(vm.id).await, Ok(Some(vm.clone())));
        assert_eq!(store.recorded().await.expect("readable").vms[&vm.id], vm);
    }
    assert_eq!(store.vms(Some("failed"), Page::first()).await.expect("readable").len(), 1);
}

#[tokio::test]
async fn operations_in_every_variant_outlive_a_restart() {
    let (_folder, path) = file();
    let store = Store::open(&path).expect("opens");
    let states = ["pending", "running", "succeeded", "failed"];
    let reasons = [
        Reason::User,
        Reason::Guest,
        Reason::Repair { issue: issue_id(1), policy: "bold".to_owned() },
    ];
    let subjects = [
        Subject::Vm(vm_id(1)),
        Subject::Disk(disk_id(1)),
        Subject::Machine(vm_id(2)),
        Subject::File("disks/a b'c.raw".to_owned()),
    ];
    let mut written = Vec::new();
    for (number, verb) in (0..).zip(Verb::ALL) {
        let at = usize::from(number);
        let state = OperationState::from_word(states[at % 4], Some("no room")).expect("a word");
        let mut one = operation(number);
        one.ended_at = state.is_ended().then_some(MADE_AT);
        (one.verb, one.state) = (*verb, state);
        (one.reason, one.subject) = (reasons[at % 3].clone(), subjects[at % 4].clone());
        let steps = StepState::ALL.iter().zip(vman_core::operation::Effect::ALL);
        one.steps = steps
            .map(|(state, effect)| Step {
                state: *state,
                started_at: Some(MADE_AT),
                note: Some("ended by SIGKILL".to_owned()),
                ..Step::new(*effect, (at.is_multiple_of(2)).then_some(*effect))
            })
            .collect();
        written.push(one);
    }
    let mut changes = vec![Change::PutIssue(Box::new(issue(1)))];
    changes.extend(written.iter().cloned().map(Change::AddOperation));
    store.commit(changes).await.expect("committed");
    drop(store);

    let store = Store::open(&path).expect("opens again");
    let mut read = store.operations(Page::first()).await.expect("readable");
    read.reverse();
    assert_eq!(read, written);
}

#[tokio::test]
async fn issues_and_judgements_in_every_variant_outlive_a_restart() {
    let (_folder, path) = file();
    let store = Store::open(&path).expect("opens");
    let states = [
        IssueState::Open,
        IssueState::Repairing(operation_id(5)),
        IssueState::Resolved { at: MADE_AT, how: Resolution::ByItself },
        IssueState::Resolved { at: MADE_AT, how: Resolution::ByRepair },
    ];
    let mut written = Vec::new();
    for (number, kind) in (0..).zip(vman_core::coherence::Kind::ALL) {
        let mut one = issue(number);
        one.kind = *kind;
        one.state = states[usize::from(number) % 4].clone();
        one.generation = (number % 2 == 0).then_some(Generation(9));
        one.recheck_at = (number % 3 == 0).then_some(MADE_AT);
        one.facts.push(Fact {
            key: "labels".to_owned(),
            value: Value::Texts(vec!["x".to_owned(), "'y'".to_owned()]),
        });
        one.facts.push(Fact { key: "known".to_owned(), value: Value::Boolean(false) });
        written.push(one);
    }
    let judgements = judgements();
    let mut changes: Vec<Change> =
        written.iter().cloned().map(|one| Change::PutIssue(Box::new(one))).collect();
    changes.extend(judgements.iter().cloned().map(|one| Change::AddJudgement(Box::new(one))));
    store.commit(changes).await.expect("committed");
    drop(store);

    let store = Store::open(&path).expect("opens again");
    let mut read = store.issues(None, Page::first()).await.expect("readable");
    read.reverse();
    assert_eq!(read, written);
    assert_eq!(store.judgements(issue_id(0)).await, Ok(judgements));
}

fn judgements() -> Vec<JudgementRecord> {
    let decided = Verdict::ALL.iter().map(|verdict| {
        let mut judgement = answer("bold", *verdict, &[1, 0]);
        judgement.mode = Mode::Shadow;
        judgement.outcome = judgement.outcome.map(|decision| Decision {
            recheck_after_ms: Some(5),
            facts: vec![Fact::integer("left", 3)],
            ..decision
        });
        judgement
    });
    let failed = JudgeFailureKind::ALL.iter().map(|kind| {
        let mut judgement = answer("broken", Verdict::Hold, &[]);
        let (message, trace) = ("unreachable".to_owned(), Some("at decide".to_owned()));
        judgement.outcome = Err(JudgeFailure { kind: *kind, message, trace });
        judgement
    });
    let record = |judgement| JudgementRecord { issue: issue_id(0), at: MADE_AT, judgement };
    decided.chain(failed).map(record).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_wait_for_no_writer_and_see_only_what_is_committed() {
    let (_folder, path) = file();
    let store = Arc::new(Store::open(&path).expect("opens"));
    store.commit(vec![Change::AddTemplate(template("small"))]).await.expect("committed");
    let other = Connection::open(&path).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE; UPDATE templates SET cpu_count = 9").expect("begun");

    let writing = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.commit(vec![Change::AddVm(vm(1, VmState::Stopped))]).await }
    });
    for _ in 0..20 {
        let read = tokio::time::timeout(PATIENCE, store.template(&name("small"))).await;
        let seen = read.expect("a reader waited for a writer").expect("readable");
        assert_eq!(seen.map(|template| template.cpu_count), Some(1));
    }
    assert!(!writing.is_finished(), "two transactions wrote at once");
    other.execute_batch("COMMIT").expect("committed");
    writing.await.expect("runs to its end").expect("committed after the other");
    assert_eq!(store.template(&name("small")).await.unwrap().unwrap().cpu_count, 9);
    assert!(store.vm(vm_id(1)).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_ask_at_once_never_share_an_address() {
    const ASKING: u8 = 24;
    let (_folder, store) = store();
    let store = Arc::new(store);
    store.commit(vec![Change::AddTemplate(template("small"))]).await.expect("committed");
    let network = "10.9.0.0/27".parse().expect("a network");
    let subnet = Subnet::new(network, Ipv4Addr::new(10, 9, 0, 1)).expect("a subnet");
    let tasks: Vec<_> = (0..ASKING)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { lease(&store, &subnet, number).await })
        })
        .collect();
    let mut clashes = 0;
    for task in tasks {
        clashes += task.await.expect("runs to its end");
    }
    let leases = store.leases().await.expect("readable");
    assert_eq!(leases.len(), usize::from(ASKING));
    let lowest = network.hosts().skip(1).take(leases.len()).collect();
    assert_eq!(leases, lowest, "no address was skipped after {clashes} clashes");
}

/// Takes the first free address until nobody else was quicker; how often somebody was.
async fn lease(store: &Store, subnet: &Subnet, number: u8) -> usize {
    for clashes in 0..200 {
        let taken = store.leases().await.expect("readable");
        let mut asking = vm(number, VmState::Stopped);
        asking.lease.address = subnet.first_free(&taken).expect("the subnet has room");
        match store.commit(vec![Change::AddVm(asking)]).await {
            Ok(()) => return clashes,
            Err(RecordError::Exists(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("VM {number} never got an address");
}

#[tokio::test]
async fn what_was_asked_for_is_done_before_the_store_is_gone() {
    let (_folder, path) = file();
    let store = Store::open(&path).expect("opens");
    for number in 0..50 {
        let change = Change::AddTemplate(template(&format!("t{number}")));
        let mut commit = Box::pin(store.commit(vec![change]));
        // Polled once: it is in the queue, and nobody waits for its answer.
        let polled = tokio::time::timeout(Duration::ZERO, &mut commit).await;
        drop((polled, commit));
    }
    drop(store);
    let store = Store::open(&path).expect("opens again");
    assert_eq!(store.templates(Page::first()).await.expect("readable").len(), 50);
}

#[test]
fn the_file_and_its_journal_are_for_their_owner_alone_also_where_they_were_not() {
    let (folder, path) = file();
    std::fs::write(&path, "").expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("ours");
    let store = Store::open(&path).expect("opens");
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path()).expect("readable") {
        let entry = entry.expect("readable");
        let mode = entry.metadata().expect("readable").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
        files += 1;
    }
    assert!(files >= 1);
    drop(store);
    let mode: String = Connection::open(&path)
        .and_then(|file| file.query_row("PRAGMA journal_mode", [], |row| row.get(0)))
        .expect("readable");
    assert_eq!(mode, "wal");
}

fn refusal(path: &Path) -> (StoreError, String) {
    let error = Store::open(path).expect_err("this cannot be opened");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    (error, text)
}

#[test]
fn a_file_that_cannot_be_made_is_named_with_what_to_do() {
    let (folder, _) = file();
    for path in [folder.path().join("nowhere/vman.db"), folder.path().to_owned()] {
        let (error, text) = refusal(&path);
        assert!(matches!(error, StoreError::Inaccessible { .. }), "{error:?}");
        assert!(text.contains("[storage] path"), "{text}");
    }
}

#[test]
fn the_records_of_a_newer_vman_are_left_as_they_are() {
    let (_folder, path) = file();
    drop(Store::open(&path).expect("opens"));
    let raw = Connection::open(&path).expect("opens");
    raw.pragma_update(None, "user_version", 99).expect("written");
    drop(raw);
    let (error, text) = refusal(&path);
    assert!(matches!(error, StoreError::Newer { found: 99, known: 2, .. }), "{error:?}");
    assert!(text.contains("99"), "{text}");
}

#[test]
fn a_database_of_another_program_is_not_touched() {
    let (_folder, path) = file();
    let raw = Connection::open(&path).expect("opens");
    raw.execute_batch("CREATE TABLE songs (title TEXT)").expect("written");
    drop(raw);
    let before = std::fs::read(&path).expect("readable");
    let (error, _) = refusal(&path);
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    assert_eq!(std::fs::read(&path).expect("readable"), before);
}

#[tokio::test]
async fn a_damaged_file_is_refused_when_it_is_opened() {
    let (_folder, path) = file();
    std::fs::write(&path, "no database at all. ".repeat(500)).expect("written");
    let (error, _) = refusal(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");

    std::fs::remove_file(&path).expect("removed");
    let store = Store::open(&path).expect("opens");
    let many = (0..200).map(|n| Change::AddTemplate(template(&format!("t{n}")))).collect();
    store.commit(many).await.expect("committed");
    drop(store);
    let mut bytes = std::fs::read(&path).expect("readable");
    // Past the first page, which holds the schema's root and the header.
    bytes[4096..8192].fill(0xA5);
    std::fs::write(&path, bytes).expect("written");
    let (error, text) = refusal(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(text.contains("backup"), "{text}");
}
