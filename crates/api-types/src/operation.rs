//! Operations: accepted commands, their progress and their end.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Subject;

/// An operation as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    pub id: Uuid,
    /// What it does, e.g. `vm.start`, `vm.pause`, `disk.resize`.
    #[schema(example = "vm.start")]
    pub kind: String,
    pub subject: Subject,
    /// `pending`, `running`, `succeeded`, `failed` or `cancelled`.
    #[schema(example = "succeeded")]
    pub state: String,
    /// Somebody asked that it be broken off; `state` tells when that is done.
    #[serde(default)]
    #[schema(required = true)]
    pub cancel_requested: bool,
    pub reason: OperationReason,
    /// In the order they are carried out.
    pub steps: Vec<OperationStep>,
    /// What failed, on what and why, or who broke it off, if it ended so; its effects were undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-22T19:24:00.123Z")]
    pub created_at: String,
    /// RFC 3339, UTC; `null` until it has ended.
    #[schema(required = true, example = "2026-11-22T19:24:00.164Z")]
    pub ended_at: Option<String>,
    /// Milliseconds from `created_at` to `ended_at`; `null` until it has ended.
    #[schema(required = true, example = 41)]
    pub duration_ms: Option<u64>,
}

/// Why an operation was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationReason {
    /// `user`: by a request. `repair`: a policy chose it for an issue. `guest`: the guest did it,
    /// e.g. ended itself. `boot`: the host was booted anew, and the VM is to start by itself.
    #[schema(example = "repair")]
    pub kind: String,
    /// The issue it is to repair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue_id: Option<Uuid>,
    /// The policy that chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "restart-crashed")]
    pub policy: Option<String>,
}

/// One effect of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationStep {
    #[schema(example = "launch")]
    pub name: String,
    /// `pending`, `running`, `done`, `failed`, `undone` or `undo-failed`.
    #[schema(example = "done")]
    pub state: String,
    /// RFC 3339, UTC; `null` until it begins.
    #[schema(required = true, example = "2026-11-22T19:24:00.124Z")]
    pub started_at: Option<String>,
    /// RFC 3339, UTC; `null` until it has ended.
    #[schema(required = true, example = "2026-11-22T19:24:00.163Z")]
    pub ended_at: Option<String>,
    /// Milliseconds from `started_at` to `ended_at`; `null` until it has ended.
    #[schema(required = true, example = 39)]
    pub duration_ms: Option<u64>,
    /// What was seen on the way, for people.
    #[schema(required = true)]
    pub note: Option<String>,
}
