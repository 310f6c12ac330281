//! Small valid records to build tests on. The number given makes the id, so two tests, or a test
//! and its expectation, mean the same thing by the same number.

use std::net::Ipv4Addr;

use uuid::Uuid;

use crate::disk::{Bus, Disk, DiskState, ImageFormat, MountPoint};
use crate::evidence::Fact;
use crate::ident::{DiskId, Generation, IssueId, Name, OperationId, Timestamp, VmId};
use crate::lifecycle::{VmCommand, decide_vm};
use crate::network::{Lease, Mac};
use crate::operation::{Operation, OperationState, Reason, Subject, Verb};
use crate::ports::{DiskTarget, Target, VmTarget};
use crate::repair::{
    Candidate, CandidateKind, Context, Decision, Issue, IssueState, Judgement, Mode, Verdict,
};
use crate::template::{Boot, Template};
use crate::vm::{Vm, VmState};

/// When every sample was made.
pub const MADE_AT: Timestamp = Timestamp(1_000);

pub fn vm_id(number: u8) -> VmId {
    VmId(uuid(0x10, number))
}

pub fn disk_id(number: u8) -> DiskId {
    DiskId(uuid(0x20, number))
}

pub fn operation_id(number: u8) -> OperationId {
    OperationId(uuid(0x30, number))
}

pub fn issue_id(number: u8) -> IssueId {
    IssueId(uuid(0x40, number))
}

fn uuid(kind: u8, number: u8) -> Uuid {
    // Mac::of reads the last bytes, so the number belongs there.
    Uuid::from_u128((u128::from(kind) << 96) | u128::from(number))
}

pub fn name(text: &str) -> Name {
    text.parse().expect("samples have valid names")
}

pub fn mount_point(text: &str) -> MountPoint {
    text.parse().expect("samples have valid mount points")
}

/// Boots from the root disk.
pub fn template(text: &str) -> Template {
    let boot = Boot::RootDisk { size_gib: 1 };
    Template { name: name(text), cpu_count: 1, ram_mib: 64, boot, created_at: MADE_AT }
}

/// Made from template `small`; its address ends in `number`.
pub fn vm(number: u8, state: VmState) -> Vm {
    let id = vm_id(number);
    Vm {
        id,
        name: None,
        template: name("small"),
        state,
        autostart: false,
        generation: Generation::FIRST,
        machine: None,
        lease: Lease { address: Ipv4Addr::new(10, 0, 0, number), mac: Mac::of(id) },
        created_at: MADE_AT,
        updated_at: MADE_AT,
    }
}

/// Attached to nothing.
pub fn disk(number: u8, state: DiskState) -> Disk {
    Disk {
        id: disk_id(number),
        size_gib: 1,
        format: ImageFormat::Qcow2,
        bus: Bus::VirtioScsi,
        state,
        mount_point: None,
        vm: None,
        generation: Generation::FIRST,
        created_at: MADE_AT,
        updated_at: MADE_AT,
    }
}

/// Attached to the VM of the number `holder` at `at`.
pub fn attached(number: u8, holder: u8, at: &str) -> Disk {
    Disk {
        vm: Some(vm_id(holder)),
        mount_point: Some(mount_point(at)),
        ..disk(number, DiskState::Attached)
    }
}

/// A user's `vm.start` of the VM of the same number, with the steps of a real one.
pub fn operation(number: u8) -> Operation {
    let transition = decide_vm(&VmState::Stopped, VmCommand::Start)
        .ok()
        .flatten()
        .expect("a stopped VM can be started");
    Operation {
        id: operation_id(number),
        subject: Subject::Vm(vm_id(number)),
        verb: Verb::VmStart,
        reason: Reason::User,
        state: OperationState::Pending,
        turn_of: None,
        cancel_requested: false,
        steps: transition.steps,
        created_at: MADE_AT,
        ended_at: None,
    }
}

/// An open `vm.process-missing` of the VM of the same number.
pub fn issue(number: u8) -> Issue {
    let kind = crate::coherence::Kind::VmProcessMissing;
    Issue {
        id: issue_id(number),
        fingerprint: format!("{}:{}", kind.word(), vm_id(number)),
        kind,
        severity: crate::coherence::Severity::Error,
        subject: Subject::Vm(vm_id(number)),
        generation: Some(Generation::FIRST),
        message: "its machine is gone".to_owned(),
        facts: vec![Fact::integer("recorded.pid", 42)],
        candidates: vec![
            Candidate { id: 0, kind: CandidateKind::VmRestart },
            Candidate { id: 1, kind: CandidateKind::VmMarkStopped },
        ],
        state: IssueState::Open,
        first_seen: MADE_AT,
        last_seen: MADE_AT,
        occurrences: 1,
        recheck_at: None,
    }
}

pub fn context() -> Context {
    let backend = "fake".to_owned();
    Context { now: MADE_AT, seed: 1, backend, attempts: vec![], facts: vec![] }
}

/// An enforced answer that chooses the candidates `chosen`.
pub fn answer(policy: &str, verdict: Verdict, chosen: &[u32]) -> Judgement {
    Judgement {
        policy: policy.to_owned(),
        policy_hash: "0".repeat(64),
        mode: Mode::Enforce,
        outcome: Ok(Decision {
            verdict,
            chosen: chosen.to_vec(),
            recheck_after_ms: None,
            reason_code: "sample".to_owned(),
            message: "as scripted".to_owned(),
            facts: vec![],
        }),
        fuel: 1,
        duration_us: 1,
    }
}

/// What effects on `disk` are applied to, held by `vm`.
pub fn disk_target(disk: Disk, vm: Option<Vm>) -> Target {
    Target::Disk(Box::new(DiskTarget { disk, vm }))
}

/// What effects on `vm` are applied to: no disks, no card.
pub fn target(vm: Vm) -> Target {
    let template = template(vm.template.as_str());
    let nic = crate::network::Nic::None;
    Target::Vm(Box::new(VmTarget { vm, template, disks: vec![], nic }))
}
