//! How the observer is doing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /observer/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObserverStatus {
    /// When the last whole look began, RFC 3339, UTC; `null` before the first.
    #[schema(required = true, example = "2026-11-22T19:24:00.123Z")]
    pub last_look: Option<String>,
    /// Microseconds the last whole look took.
    #[schema(example = 1834)]
    pub duration_us: u64,
    /// Whole looks since the daemon started.
    #[schema(example = 42)]
    pub looks: u64,
    /// `starting`, `healthy` or `degraded`.
    #[schema(example = "healthy")]
    pub health: String,
    /// What could not be looked at, while it is `degraded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_reason: Option<String>,
    /// Milliseconds between whole looks.
    #[schema(example = 5000)]
    pub interval_ms: u64,
    /// What the last look found: how many of each kind.
    pub incoherences: BTreeMap<String, u64>,
}
