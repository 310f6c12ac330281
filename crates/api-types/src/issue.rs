//! Issues: what disagrees between the records and the host, what the policies made of it, and what
//! was done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{Operation, Subject};

/// An issue with its whole story.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Issue {
    pub id: Uuid,
    /// The same for the same problem of the same subject, whenever it comes back.
    #[schema(example = "vm.process-missing:5f2b6c1e-7a44-4c0e-9d2f-0c6f3c1f9a10")]
    pub fingerprint: String,
    /// An open set: `vm.process-missing`, `vm.process-unexpected`, `vm.control-lost`,
    /// `vm.guest-panicked`, `process.orphan`, `disk.file-missing`, `disk.attachment-mismatch`,
    /// `disk.unplug-unanswered`, `file.orphan`, `device.orphan`.
    #[schema(example = "vm.process-missing")]
    pub kind: String,
    /// `info`, `warning`, `error` or `critical`.
    #[schema(example = "error")]
    pub severity: String,
    pub subject: Subject,
    /// `open`, `repairing` or `resolved`.
    #[schema(example = "resolved")]
    pub state: String,
    /// What is wrong, for people.
    pub message: String,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub first_seen: String,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub last_seen: String,
    /// How often it was found.
    #[schema(example = 1)]
    pub occurrences: u64,
    /// What was seen when it was found last.
    pub evidence: Vec<Fact>,
    /// What may be done about it; empty: only people can help.
    pub candidates: Vec<Candidate>,
    /// What every policy answered, oldest first.
    pub decisions: Vec<Decision>,
    /// The ids of the operations that were to repair it, oldest first.
    pub repairs: Vec<Uuid>,
    /// The operations that `repairs` names; on `GET /issues/{id}` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<Operation>>,
    /// RFC 3339, UTC; once it is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-22T19:24:01.007Z")]
    pub resolved_at: Option<String>,
    /// `by-itself`, `by-repair`, or `given-up`: the VM was recorded failed; once it is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "by-repair")]
    pub resolution: Option<String>,
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fact {
    #[schema(example = "recorded-pid")]
    pub key: String,
    pub value: FactValue,
}

/// What a fact says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum FactValue {
    Boolean(bool),
    Integer(i64),
    Text(String),
    Texts(Vec<String>),
}

/// One repair that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// Its number in the issue.
    #[schema(example = 0)]
    pub id: u32,
    /// E.g. `vm.restart`, `vm.mark-stopped`, `file.quarantine`.
    #[schema(example = "vm.restart")]
    pub kind: String,
    /// Something that cannot be had back is lost by it.
    pub destructive: bool,
    /// An ordinary command takes it back.
    pub reversible: bool,
}

/// One policy's answer to an issue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    #[schema(example = "restart-crashed")]
    pub policy: String,
    /// SHA-256 of the policy's component, in hexadecimal.
    pub policy_hash: String,
    /// `enforce`, `shadow` or `off`.
    #[schema(example = "enforce")]
    pub mode: String,
    /// `repair`, `hold`, `ignore`, `escalate` or `abstain`; `null` if it gave no usable answer.
    #[schema(required = true, example = "repair")]
    pub verdict: Option<String>,
    /// The ids of the candidates it chose, in order.
    pub chosen: Vec<u32>,
    /// Milliseconds until it wants to be asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recheck_after_ms: Option<u64>,
    /// Stable, for metrics; `null` if it gave no usable answer.
    #[schema(required = true, example = "crashed")]
    pub reason_code: Option<String>,
    /// For people; `null` if it gave no usable answer.
    #[schema(required = true)]
    pub message: Option<String>,
    /// What it added for the audit.
    pub facts: Vec<Fact>,
    /// Units of fuel it used.
    #[schema(example = 41_203)]
    pub fuel: u64,
    /// Microseconds it took.
    #[schema(example = 87)]
    pub duration_us: u64,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub at: String,
    /// Why it gave no usable answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<DecisionError>,
    /// This answer settled the issue: its policy is enforced, and it did not abstain.
    pub enforced: bool,
}

/// Why a policy gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionError {
    /// `trap`, `fuel`, `deadline`, `memory`, `oversized`, `invalid`, `declined` or `load`.
    #[schema(example = "deadline")]
    pub kind: String,
    /// One line for people.
    pub message: String,
    /// Where the policy's code was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}
