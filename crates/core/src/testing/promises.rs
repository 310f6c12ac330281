//! What every store must do, whatever it keeps its records in. Works on the store it is given,
//! which must be empty, and panics where a promise is broken. What only a store on disk promises
//! (durability, readers beside a writer) is tested where that store is.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::samples::{
    MADE_AT, answer, attached, disk, disk_id, issue, issue_id, mount_point, name, operation,
    operation_id, template, vm, vm_id,
};
use crate::disk::DiskState;
use crate::ident::{Generation, IdempotencyKey, Timestamp};
use crate::operation::{Effect, Operation, OperationState, Reason, Step, StepState, Subject, Verb};
use crate::ports::{Change, JudgementRecord, KeptRequest, LetIn, Page, Record, RecordError};
use crate::repair::{IssueState, Resolution, Verdict};
use crate::vm::{FailureReason, Machine, VmState};

const LATER: Timestamp = Timestamp(MADE_AT.0 + 500);

/// Panics where `records`, which must be empty, break a promise of [`Record`] or
/// [`Recall`](crate::ports::Recall).
pub async fn records_keep_their_promises(records: &dyn Record) {
    templates_are_named_once_and_kept_while_used(records).await;
    vms_have_one_template_and_one_address(records).await;
    a_stale_change_takes_its_whole_commit_with_it(records).await;
    a_machine_is_recorded_without_a_new_generation(records).await;
    a_mount_point_of_a_vm_has_one_disk(records).await;
    a_removed_vm_lets_its_disks_go(records).await;
    a_disk_is_recorded_as_large_as_it_became(records).await;
    a_vm_starts_by_itself_when_it_is_told_to(records).await;
    operations_tell_how_far_they_are(records).await;
    an_operation_on_a_disk_has_its_turn_with_the_vm(records).await;
    a_request_is_kept_once(records).await;
    the_boot_of_the_host_is_remembered(records).await;
    issues_are_added_and_then_replaced(records).await;
    repairs_are_counted_by_subject_fingerprint_and_time(records).await;
    pages_follow_each_other_without_gap_or_overlap(records).await;
    what_is_not_there_is_named(records).await;
}

async fn done(records: &dyn Record, changes: Vec<Change>) {
    records.commit(changes).await.expect("these changes are allowed");
}

async fn refused(records: &dyn Record, changes: Vec<Change>) -> RecordError {
    records.commit(changes).await.expect_err("these changes are not allowed")
}

fn stop(expected: Generation) -> Change {
    Change::VmState { vm: vm_id(1), expected, state: VmState::Stopping, at: LATER }
}

async fn templates_are_named_once_and_kept_while_used(records: &dyn Record) {
    done(records, vec![Change::AddTemplate(template("small"))]).await;
    let error = refused(records, vec![Change::AddTemplate(template("small"))]).await;
    assert!(matches!(&error, RecordError::Exists(what) if what.contains("small")), "{error:?}");
    assert_eq!(records.template(&name("small")).await, Ok(Some(template("small"))));
    assert_eq!(records.template(&name("other")).await, Ok(None));

    done(records, vec![Change::AddVm(vm(1, VmState::Stopped))]).await;
    let error = refused(records, vec![Change::RemoveTemplate(name("small"))]).await;
    assert!(matches!(&error, RecordError::InUse(what) if what.contains("small")), "{error:?}");

    let (add, remove) =
        (Change::AddTemplate(template("brief")), Change::RemoveTemplate(name("brief")));
    done(records, vec![add, remove]).await;
    assert_eq!(records.templates(Page::first()).await, Ok(vec![template("small")]));
}

async fn vms_have_one_template_and_one_address(records: &dyn Record) {
    let mut lost = vm(2, VmState::Stopped);
    lost.template = name("nowhere");
    let error = refused(records, vec![Change::AddVm(lost)]).await;
    assert!(matches!(&error, RecordError::NotFound(what) if what.contains("nowhere")), "{error:?}");

    let mut rival = vm(2, VmState::Stopped);
    rival.lease.address = vm(1, VmState::Stopped).lease.address;
    let error = refused(records, vec![Change::AddVm(rival)]).await;
    assert!(matches!(&error, RecordError::Exists(what) if what.contains("10.0.0.1")), "{error:?}");

    let error = refused(records, vec![Change::AddVm(vm(1, VmState::Stopped))]).await;
    assert!(matches!(error, RecordError::Exists(_)), "{error:?}");
    assert_eq!(records.leases().await, Ok(BTreeSet::from([[10, 0, 0, 1].into()])));
}

async fn a_stale_change_takes_its_whole_commit_with_it(records: &dyn Record) {
    done(records, vec![stop(Generation::FIRST)]).await;
    let stopping = records.vm(vm_id(1)).await.expect("readable").expect("recorded");
    assert_eq!(stopping.generation, Generation::FIRST.next());
    assert_eq!((&stopping.state, stopping.updated_at), (&VmState::Stopping, LATER));

    let before = Change::AddDisk(disk(9, DiskState::Creating));
    for stale in
        [stop(Generation::FIRST), Change::ExpectVm { vm: vm_id(1), expected: Generation::FIRST }]
    {
        let error = refused(records, vec![before.clone(), stale]).await;
        assert!(matches!(&error, RecordError::Stale(_)), "{error:?}");
        assert!(error.to_string().contains(&vm_id(1).to_string()), "{error}");
        assert_eq!(records.disk(disk_id(9)).await, Ok(None));
        assert_eq!(records.vm(vm_id(1)).await, Ok(Some(stopping.clone())));
    }

    let failed = VmState::Failed(FailureReason("no room".to_owned()));
    let expected = stopping.generation;
    let fail = Change::VmState { vm: vm_id(1), expected, state: failed.clone(), at: LATER };
    done(records, vec![Change::ExpectVm { vm: vm_id(1), expected }, fail]).await;
    let record = records.vm(vm_id(1)).await.expect("readable").expect("recorded");
    assert_eq!((record.state, record.generation), (failed, expected.next()));
}

async fn a_machine_is_recorded_without_a_new_generation(records: &dyn Record) {
    let before = records.vm(vm_id(1)).await.expect("readable").expect("recorded");
    let machine = Machine { backend: "fake".to_owned(), process: None };
    for machine in [Some(machine), None] {
        let change = Change::VmMachine { vm: vm_id(1), machine: machine.clone() };
        done(records, vec![change]).await;
        let after = records.vm(vm_id(1)).await.expect("readable").expect("recorded");
        assert_eq!((after.machine, after.generation), (machine, before.generation));
    }
}

async fn a_mount_point_of_a_vm_has_one_disk(records: &dyn Record) {
    let added = vec![
        Change::AddVm(vm(2, VmState::Stopped)),
        Change::AddDisk(attached(1, 1, "/dev/sdc")),
        Change::AddDisk(attached(2, 1, "/dev/sdb")),
        Change::AddDisk(attached(3, 2, "/dev/sdb")),
        Change::AddDisk(disk(4, DiskState::Available)),
    ];
    done(records, added).await;
    let attach = |at: &str, vm| Change::DiskState {
        disk: disk_id(4),
        expected: Generation::FIRST,
        state: DiskState::Attached,
        vm: Some(vm),
        mount_point: Some(mount_point(at)),
        at: LATER,
    };
    for clash in [attach("/dev/vdb", vm_id(1)), Change::AddDisk(attached(5, 1, "/dev/sdb"))] {
        let error = refused(records, vec![clash]).await;
        let named = error.to_string();
        assert!(matches!(error, RecordError::Exists(_)), "{named}");
        assert!(named.contains("db") && named.contains(&vm_id(1).to_string()), "{named}");
    }
    let error = refused(records, vec![attach("/dev/sdd", vm_id(77))]).await;
    assert!(matches!(error, RecordError::NotFound(_)), "{error:?}");

    done(records, vec![attach("/dev/sdd", vm_id(1))]).await;
    let held = records.disks_of(vm_id(1)).await.expect("readable");
    assert_eq!(held.iter().map(|disk| disk.id).collect::<Vec<_>>(), [2, 1, 4].map(disk_id));
    assert_eq!((held[2].generation, held[2].updated_at), (Generation::FIRST.next(), LATER));
    let error = refused(records, vec![attach("/dev/sde", vm_id(1))]).await;
    assert!(matches!(error, RecordError::Stale(_)), "{error:?}");
}

async fn a_removed_vm_lets_its_disks_go(records: &dyn Record) {
    let missing = Change::DiskState {
        disk: disk_id(2),
        expected: Generation::FIRST,
        state: DiskState::Missing,
        vm: Some(vm_id(1)),
        mount_point: Some(mount_point("/dev/sdb")),
        at: MADE_AT,
    };
    done(records, vec![missing, Change::RemoveVm(vm_id(1), LATER)]).await;
    assert_eq!(records.vm(vm_id(1)).await, Ok(None));
    assert_eq!(records.disks_of(vm_id(1)).await, Ok(vec![]));
    let freed = records.disk(disk_id(1)).await.expect("readable").expect("recorded");
    assert_eq!((freed.state, freed.vm, freed.updated_at), (DiskState::Available, None, LATER));
    assert_eq!(freed.generation, Generation::FIRST.next());
    let lost = records.disk(disk_id(2)).await.expect("readable").expect("recorded");
    assert_eq!((lost.state, lost.vm), (DiskState::Missing, None), "no file came back by it");
    let elsewhere = records.disk(disk_id(3)).await.expect("readable").expect("recorded");
    assert_eq!(elsewhere, attached(3, 2, "/dev/sdb"));
    assert_eq!(records.leases().await, Ok(BTreeSet::from([[10, 0, 0, 2].into()])));

    let recorded = records.recorded().await.expect("readable");
    assert_eq!(recorded.vms.into_keys().collect::<Vec<_>>(), [vm_id(2)]);
    assert_eq!(recorded.disks.into_keys().collect::<Vec<_>>(), [1, 2, 3, 4].map(disk_id));
    done(records, vec![Change::RemoveDisk(disk_id(1))]).await;
    assert_eq!(records.disk(disk_id(1)).await, Ok(None));
}

async fn a_disk_is_recorded_as_large_as_it_became(records: &dyn Record) {
    let before = records.disk(disk_id(3)).await.expect("readable").expect("recorded");
    let state = |state, expected| Change::DiskState {
        disk: disk_id(3),
        expected,
        state,
        vm: before.vm,
        mount_point: before.mount_point.clone(),
        at: LATER,
    };
    done(records, vec![state(DiskState::Resizing(9), before.generation)]).await;
    let resizing = records.disk(disk_id(3)).await.expect("readable").expect("recorded");
    assert_eq!((&resizing.state, resizing.size_gib), (&DiskState::Resizing(9), before.size_gib));
    let size = Change::DiskSize { disk: disk_id(3), size_gib: 9 };
    done(records, vec![state(DiskState::Attached, resizing.generation), size]).await;
    let grown = records.disk(disk_id(3)).await.expect("readable").expect("recorded");
    assert_eq!((grown.state, grown.size_gib, grown.bus), (DiskState::Attached, 9, before.bus));
}

async fn a_vm_starts_by_itself_when_it_is_told_to(records: &dyn Record) {
    let before = records.vm(vm_id(2)).await.expect("readable").expect("recorded");
    assert!(!before.autostart);
    done(records, vec![Change::VmAutostart { vm: vm_id(2), autostart: true, at: LATER }]).await;
    let after = records.vm(vm_id(2)).await.expect("readable").expect("recorded");
    assert!(after.autostart);
    assert_eq!((after.generation, after.updated_at), (before.generation, LATER));
}

async fn operations_tell_how_far_they_are(records: &dyn Record) {
    done(records, vec![Change::AddOperation(operation(1))]).await;
    let error = refused(records, vec![Change::AddOperation(operation(1))]).await;
    assert!(matches!(error, RecordError::Exists(_)), "{error:?}");
    assert_eq!(records.operation(operation_id(1)).await, Ok(Some(operation(1))));
    assert_eq!(records.unended(None).await, Ok(vec![operation(1)]));
    assert_eq!(records.unended(Some(&Subject::Vm(vm_id(1)))).await, Ok(vec![operation(1)]));
    assert_eq!(records.unended(Some(&Subject::Machine(vm_id(1)))).await, Ok(vec![]));

    assert_eq!(records.in_turn(&Subject::Vm(vm_id(1))).await, Ok(vec![operation(1)]));
    assert_eq!(records.in_turn(&Subject::Disk(disk_id(1))).await, Ok(vec![]));
    done(records, vec![Change::RequestCancel(operation_id(1))]).await;
    let asked = records.operation(operation_id(1)).await.expect("readable").expect("recorded");
    assert_eq!(asked, Operation { cancel_requested: true, ..operation(1) });

    let step = Step {
        state: StepState::UndoFailed,
        started_at: Some(MADE_AT),
        ended_at: Some(LATER),
        note: Some("the device is busy".to_owned()),
        ..Step::new(Effect::ConnectNetwork, Some(Effect::DisconnectNetwork))
    };
    let error = OperationState::Failed("no room".to_owned());
    let end = |state| Change::OperationState { operation: operation_id(1), state, at: LATER };
    let set =
        |index| Change::OperationStep { operation: operation_id(1), index, step: step.clone() };
    done(records, vec![end(OperationState::Running), set(1), end(error.clone())]).await;
    let ended = records.operation(operation_id(1)).await.expect("readable").expect("recorded");
    assert_eq!((&ended.state, ended.ended_at), (&error, Some(LATER)));
    assert_eq!(ended.steps[1], step);
    assert_eq!(ended.steps[0], operation(1).steps[0]);
    assert_eq!(records.unended(None).await, Ok(vec![]));
    let error = refused(records, vec![set(4)]).await;
    assert!(matches!(&error, RecordError::NotFound(what) if what.contains("step 4")), "{error:?}");
    let error = refused(records, vec![Change::RequestCancel(operation_id(1))]).await;
    assert!(matches!(error, RecordError::Stale(_)), "{error:?}");
    let broken_off = OperationState::Cancelled("by a request".to_owned());
    done(records, vec![end(broken_off.clone())]).await;
    let ended = records.operation(operation_id(1)).await.expect("readable").expect("recorded");
    assert_eq!(ended.state, broken_off);
}

async fn an_operation_on_a_disk_has_its_turn_with_the_vm(records: &dyn Record) {
    let vm = Subject::Vm(vm_id(2));
    let attach = Operation {
        subject: Subject::Disk(disk_id(3)),
        verb: Verb::DiskAttach,
        turn_of: Some(vm_id(2)),
        ..operation(2)
    };
    let start = Operation { subject: vm.clone(), ..operation(3) };
    let both = vec![Change::AddOperation(attach.clone()), Change::AddOperation(start.clone())];
    done(records, both).await;
    assert_eq!(records.in_turn(&vm).await, Ok(vec![attach.clone(), start.clone()]));
    assert_eq!(records.unended(Some(&vm)).await, Ok(vec![start]));
    assert_eq!(records.unended(Some(&attach.subject)).await, Ok(vec![attach.clone()]));
    assert_eq!(records.in_turn(&attach.subject).await, Ok(vec![]));
    for number in [2, 3] {
        let (operation, state) = (operation_id(number), OperationState::Succeeded);
        done(records, vec![Change::OperationState { operation, state, at: LATER }]).await;
    }
}

async fn a_request_is_kept_once(records: &dyn Record) {
    let key: IdempotencyKey = "0b9c7c1e".parse().expect("valid");
    assert_eq!(records.request(&key).await, Ok(None));
    let request = |let_in| KeptRequest {
        key: key.clone(),
        fingerprint: "POST /disks".to_owned(),
        let_in,
        at: LATER,
    };
    let first = request(LetIn::Subject(Subject::Disk(disk_id(3)), Some(operation_id(2))));
    done(records, vec![Change::KeepRequest(first.clone())]).await;
    assert_eq!(records.request(&key).await, Ok(Some(first.clone())));
    let again = Change::KeepRequest(request(LetIn::Template(name("small"))));
    let error = refused(records, vec![again]).await;
    assert!(matches!(error, RecordError::Exists(_)), "{error:?}");
    assert_eq!(records.request(&key).await, Ok(Some(first)));
    let other = KeptRequest {
        key: "another".parse().expect("valid"),
        ..request(LetIn::Template(name("small")))
    };
    done(records, vec![Change::KeepRequest(other.clone())]).await;
    assert_eq!(records.request(&other.key).await, Ok(Some(other)));
}

async fn the_boot_of_the_host_is_remembered(records: &dyn Record) {
    assert_eq!(records.host_boot().await, Ok(None));
    for boot in [7, 8].map(Uuid::from_u128) {
        done(records, vec![Change::HostBoot(boot)]).await;
        assert_eq!(records.host_boot().await, Ok(Some(boot)));
    }
}

async fn issues_are_added_and_then_replaced(records: &dyn Record) {
    let mut changed = issue(1);
    done(records, vec![Change::PutIssue(Box::new(issue(1)))]).await;
    done(records, vec![Change::PutIssue(Box::new(issue(2)))]).await;
    assert_eq!(records.issue(issue_id(1)).await, Ok(Some(issue(1))));
    assert_eq!(records.unresolved().await, Ok(vec![issue(1), issue(2)]));

    changed.occurrences = 7;
    changed.state = IssueState::Resolved { at: LATER, how: Resolution::ByRepair };
    done(records, vec![Change::PutIssue(Box::new(changed.clone()))]).await;
    assert_eq!(records.issue(issue_id(1)).await, Ok(Some(changed.clone())));
    assert_eq!(records.unresolved().await, Ok(vec![issue(2)]));
    assert_eq!(records.issues(None, Page::first()).await, Ok(vec![issue(2), changed.clone()]));
    assert_eq!(records.issues(Some("resolved"), Page::first()).await, Ok(vec![changed]));

    let judged = |policy: &str, issue| JudgementRecord {
        issue,
        at: LATER,
        judgement: answer(policy, Verdict::Repair, &[0]),
    };
    let judgements = [judged("first", issue_id(2)), judged("second", issue_id(2))];
    done(records, judgements.clone().map(|one| Change::AddJudgement(Box::new(one))).into()).await;
    assert_eq!(records.judgements(issue_id(2)).await, Ok(judgements.into()));
    assert_eq!(records.judgements(issue_id(1)).await, Ok(vec![]));
    let lost = Change::AddJudgement(Box::new(judged("first", issue_id(77))));
    let error = refused(records, vec![lost]).await;
    assert!(matches!(error, RecordError::NotFound(_)), "{error:?}");
}

async fn repairs_are_counted_by_subject_fingerprint_and_time(records: &dyn Record) {
    let repair = |number: u8, verb, of, at, state| {
        let mut repair = operation(number);
        repair.subject = Subject::Vm(vm_id(2));
        repair.reason = Reason::Repair { issue: issue_id(of), policy: "bold".to_owned() };
        (repair.verb, repair.created_at, repair.state) = (verb, Timestamp(at), state);
        Change::AddOperation(repair)
    };
    let failed = OperationState::Failed("no room".to_owned());
    let mut again = issue(3);
    again.fingerprint = issue(2).fingerprint;
    let changes = vec![
        Change::PutIssue(Box::new(again)),
        repair(10, Verb::VmRestart, 2, 100, failed),
        repair(11, Verb::VmStopStray, 3, 200, OperationState::Succeeded),
        repair(12, Verb::VmRestart, 2, 300, OperationState::Running),
        repair(13, Verb::VmRestart, 1, 300, OperationState::Succeeded),
    ];
    done(records, changes).await;

    let tries = records.attempts(&issue(2).fingerprint, Timestamp(100)).await.expect("readable");
    let told = tries.iter().map(|one| (one.candidate.as_str(), one.at.0, one.succeeded));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [("vm.restart", 100, false), ("vm.stop", 200, true)],
        "of every issue with the fingerprint, and only what has ended"
    );
    assert_eq!([&tries[0].message, &tries[1].message], ["no room", ""]);
    let tries = records.attempts(&issue(2).fingerprint, Timestamp(101)).await.expect("readable");
    assert_eq!(tries.len(), 1);

    let subject = Subject::Vm(vm_id(2));
    for (since, count) in [(0, 4), (200, 3), (301, 0)] {
        assert_eq!(records.repairs(&subject, Timestamp(since)).await, Ok(count), "since {since}");
    }
    assert_eq!(records.repairs(&Subject::Vm(vm_id(1)), Timestamp(0)).await, Ok(0));
    let of_second = [10, 12].map(operation_id).to_vec();
    assert_eq!(records.repairs_of(issue_id(2)).await, Ok(of_second));
    let lost =
        refused(records, vec![repair(14, Verb::VmRestart, 77, 300, OperationState::Pending)]);
    assert!(matches!(lost.await, RecordError::NotFound(_)));
}

async fn pages_follow_each_other_without_gap_or_overlap(records: &dyn Record) {
    let more = (3..=7).map(|number| Change::AddVm(vm(number, VmState::Stopped))).collect();
    done(records, more).await;
    let mut seen = Vec::new();
    let mut page = Page { limit: 2, after: None };
    loop {
        let part = records.vms(None, page.clone()).await.expect("readable");
        assert!(part.len() <= 2);
        let Some(last) = part.last() else { break };
        page.after = Some(last.id);
        seen.extend(part.iter().map(|vm| vm.id));
        assert!(seen.len() <= 6, "a page was given twice: {seen:?}");
    }
    assert_eq!(seen, (2..=7).map(vm_id).collect::<Vec<_>>(), "in the order of creation");
    assert_eq!(records.vms(Some("running"), Page::first()).await, Ok(vec![]));
    assert_eq!(records.vms(Some("stopped"), Page::first()).await.map(|all| all.len()), Ok(6));

    let page = Page { limit: 2, after: Some(operation_id(13)) };
    let newest = records.operations(page).await.expect("readable");
    assert_eq!(newest.iter().map(|one| one.id).collect::<Vec<_>>(), [12, 11].map(operation_id));
    let page = Page { limit: 1, after: Some(disk_id(2)) };
    let next = records.disks(page).await.expect("readable");
    assert_eq!(next.iter().map(|one| one.id).collect::<Vec<_>>(), [disk_id(3)]);
    let page = Page { limit: 9, after: Some(name("a")) };
    assert_eq!(records.templates(page).await, Ok(vec![template("small")]));
}

async fn what_is_not_there_is_named(records: &dyn Record) {
    let state = OperationState::Running;
    let changes = [
        Change::RemoveTemplate(name("id-77")),
        Change::RemoveVm(vm_id(77), LATER),
        Change::VmMachine { vm: vm_id(77), machine: None },
        Change::ExpectVm { vm: vm_id(77), expected: Generation::FIRST },
        Change::RemoveDisk(disk_id(77)),
        Change::OperationState { operation: operation_id(77), state, at: LATER },
    ];
    for change in changes {
        let error = refused(records, vec![change.clone()]).await;
        let named =
            matches!(&error, RecordError::NotFound(what) if what.contains(&hex_of_77(what)));
        assert!(named, "{change:?}: {error:?}");
    }
    let lost = |limit| Page { limit, after: Some(vm_id(77)) };
    let error = records.vms(None, lost(1)).await.expect_err("that VM is not recorded");
    assert_eq!(error, RecordError::NotFound(format!("VM {}", vm_id(77))));
    let page = Page { limit: 1, after: Some(issue_id(77)) };
    assert!(matches!(records.issues(None, page).await, Err(RecordError::NotFound(_))));
}

/// The number 77 as an id ends in it, or as the name of a template has it.
fn hex_of_77(what: &str) -> String {
    if what.starts_with("template") { "77".to_owned() } else { "4d".to_owned() }
}
