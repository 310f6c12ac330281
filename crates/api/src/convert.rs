//! Domain types to bodies: every field by name, so that a change of the domain cannot change the
//! wire unseen. Nothing is looked up here.

use jiff::Timestamp as Moment;
use vman_api_types as body;
use vman_core::disk::Disk;
use vman_core::evidence::{Fact, Value};
use vman_core::ident::{OperationId, Timestamp};
use vman_core::operation::{Operation, Reason, Step, Subject};
use vman_core::ports::{JudgementRecord, ObserverHealth, ObserverStatus};
use vman_core::repair::{Candidate, Issue, IssueState, JudgeFailure, Mode, Verdict};
use vman_core::template::{Boot, Template};
use vman_core::vm::{Process, Vm};

/// RFC 3339, UTC, with milliseconds. What is later than the year 9999 is told as its end.
pub(crate) fn time(at: Timestamp) -> String {
    let moment = i64::try_from(at.0).ok().and_then(|ms| Moment::from_millisecond(ms).ok());
    moment.unwrap_or(Moment::MAX).strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

pub(crate) fn subject(subject: &Subject) -> body::Subject {
    body::Subject { kind: subject.kind().to_owned(), id: subject.id() }
}

pub(crate) fn template(template: Template) -> body::Template {
    let (boot, root_disk_size) = match template.boot {
        Boot::Kernel { kernel, initrd, cmdline } => {
            let kernel = body::Boot::Kernel {
                kernel: kernel.to_string(),
                initrd: initrd.map(|initrd| initrd.to_string()),
                cmdline: Some(cmdline.as_str().to_owned()).filter(|text| !text.is_empty()),
            };
            (Some(kernel), None)
        }
        Boot::Firmware { firmware } => {
            (Some(body::Boot::Firmware { firmware: firmware.to_string() }), None)
        }
        Boot::RootDisk { size_gib } => (None, Some(size_gib)),
    };
    body::Template {
        name: template.name.to_string(),
        cpu_count: template.cpu_count,
        ram_amount: template.ram_mib,
        boot,
        root_disk_size,
        created_at: time(template.created_at),
    }
}

/// `disks` are those the VM has.
pub(crate) fn vm(vm: Vm, disks: &[Disk]) -> body::Vm {
    let process = |Process { pid, start_time, boot_id: _ }| body::Process { pid, start_time };
    body::Vm {
        id: vm.id.0,
        name: vm.name.map(|name| name.to_string()),
        vm_template: vm.template.to_string(),
        state: vm.state.word().to_owned(),
        state_reason: vm.state.reason().map(ToString::to_string),
        autostart: vm.autostart,
        local_ip: vm.lease.address.to_string(),
        mac: vm.lease.mac.to_string(),
        generation: vm.generation.0,
        process: vm.machine.as_ref().and_then(|machine| machine.process).map(process),
        backend: vm.machine.map(|machine| machine.backend),
        disks: disks.iter().map(|disk| disk.id.0).collect(),
        created_at: time(vm.created_at),
        updated_at: time(vm.updated_at),
    }
}

pub(crate) fn disk(disk: Disk) -> body::Disk {
    body::Disk {
        id: disk.id.0,
        size: disk.size_gib,
        state: disk.state.word().to_owned(),
        state_reason: disk.state.reason().map(ToString::to_string),
        vm_id: disk.vm.map(|vm| vm.0),
        format: disk.format.word().to_owned(),
        bus: disk.bus.word().to_owned(),
        serial: disk.serial(),
        device_path: disk.device_path(),
        mount_point: disk.mount_point.map(|mount_point| mount_point.as_str().to_owned()),
        generation: disk.generation.0,
        created_at: time(disk.created_at),
        updated_at: time(disk.updated_at),
    }
}

pub(crate) fn operation(operation: Operation) -> body::Operation {
    body::Operation {
        id: operation.id.0,
        kind: operation.verb.word().to_owned(),
        subject: subject(&operation.subject),
        state: operation.state.word().to_owned(),
        cancel_requested: operation.cancel_requested,
        error: operation.state.error().map(ToOwned::to_owned),
        reason: reason(operation.reason),
        steps: operation.steps.into_iter().map(step).collect(),
        created_at: time(operation.created_at),
        ended_at: operation.ended_at.map(time),
        duration_ms: operation.ended_at.map(|end| end.since(operation.created_at)),
    }
}

fn reason(reason: Reason) -> body::OperationReason {
    let plain =
        |kind: &str| body::OperationReason { kind: kind.to_owned(), issue_id: None, policy: None };
    match reason {
        Reason::User => plain("user"),
        Reason::Guest => plain("guest"),
        Reason::Boot => plain("boot"),
        Reason::Repair { issue, policy } => body::OperationReason {
            issue_id: Some(issue.0),
            policy: Some(policy),
            ..plain("repair")
        },
    }
}

fn step(step: Step) -> body::OperationStep {
    let duration = step.started_at.zip(step.ended_at).map(|(start, end)| end.since(start));
    body::OperationStep {
        name: step.effect.word().to_owned(),
        state: step.state.word().to_owned(),
        started_at: step.started_at.map(time),
        ended_at: step.ended_at.map(time),
        duration_ms: duration,
        note: step.note,
    }
}

/// `judgements` and `repairs` are those of the issue, oldest first; `operations` are told only
/// where they are given.
pub(crate) fn issue(
    issue: Issue,
    judgements: Vec<JudgementRecord>,
    repairs: &[OperationId],
    operations: Option<Vec<Operation>>,
) -> body::Issue {
    let (resolved_at, resolution) = match &issue.state {
        IssueState::Open | IssueState::Repairing(_) => (None, None),
        IssueState::Resolved { at, how } => (Some(time(*at)), Some(how.word().to_owned())),
    };
    body::Issue {
        id: issue.id.0,
        fingerprint: issue.fingerprint,
        kind: issue.kind.word().to_owned(),
        severity: issue.severity.word().to_owned(),
        subject: subject(&issue.subject),
        state: issue.state.word().to_owned(),
        message: issue.message,
        first_seen: time(issue.first_seen),
        last_seen: time(issue.last_seen),
        occurrences: u64::from(issue.occurrences),
        evidence: issue.facts.into_iter().map(fact).collect(),
        candidates: issue.candidates.into_iter().map(candidate).collect(),
        decisions: judgements.into_iter().map(decision).collect(),
        repairs: repairs.iter().map(|repair| repair.0).collect(),
        operations: operations.map(|all| all.into_iter().map(operation).collect()),
        resolved_at,
        resolution,
    }
}

fn fact(fact: Fact) -> body::Fact {
    let value = match fact.value {
        Value::Boolean(value) => body::FactValue::Boolean(value),
        Value::Integer(value) => body::FactValue::Integer(value),
        Value::Text(value) => body::FactValue::Text(value),
        Value::Texts(value) => body::FactValue::Texts(value),
    };
    body::Fact { key: fact.key, value }
}

fn candidate(candidate: Candidate) -> body::Candidate {
    body::Candidate {
        id: candidate.id,
        kind: candidate.kind.word().to_owned(),
        destructive: candidate.kind.is_destructive(),
        reversible: candidate.kind.is_reversible(),
    }
}

fn decision(record: JudgementRecord) -> body::Decision {
    let judgement = record.judgement;
    let (answer, failure) = match judgement.outcome {
        Ok(answer) => (Some(answer), None),
        Err(failure) => (None, Some(failure)),
    };
    let verdict = answer.as_ref().map(|answer| answer.verdict);
    let error = |JudgeFailure { kind, message, trace }| body::DecisionError {
        kind: kind.word().to_owned(),
        message,
        trace,
    };
    body::Decision {
        policy: judgement.policy,
        policy_hash: judgement.policy_hash,
        mode: judgement.mode.word().to_owned(),
        verdict: verdict.map(|verdict| verdict.word().to_owned()),
        recheck_after_ms: answer.as_ref().and_then(|answer| answer.recheck_after_ms),
        reason_code: answer.as_ref().map(|answer| answer.reason_code.clone()),
        message: answer.as_ref().map(|answer| answer.message.clone()),
        chosen: answer.as_ref().map(|answer| answer.chosen.clone()).unwrap_or_default(),
        facts: answer.into_iter().flat_map(|answer| answer.facts).map(fact).collect(),
        fuel: judgement.fuel,
        duration_us: judgement.duration_us,
        at: time(record.at),
        error: failure.map(error),
        enforced: judgement.mode == Mode::Enforce && verdict != Some(Verdict::Abstain),
    }
}

pub(crate) fn observer(status: &ObserverStatus, interval_ms: u64) -> body::ObserverStatus {
    let (health, health_reason) = match &status.health {
        ObserverHealth::Starting => ("starting", None),
        ObserverHealth::Healthy => ("healthy", None),
        ObserverHealth::Degraded(reason) => ("degraded", Some(reason.clone())),
    };
    body::ObserverStatus {
        last_look: status.last_look.map(time),
        duration_us: status.duration_us,
        looks: status.looks,
        health: health.to_owned(),
        health_reason,
        interval_ms,
        incoherences: status.found.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc_with_milliseconds() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(Timestamp(1_795_375_440_007)), "2026-11-22T19:24:00.007Z");
        assert_eq!(time(Timestamp(u64::MAX)), "9999-12-30T22:00:00.999Z");
    }
}
