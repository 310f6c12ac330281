//! Policies: what judges issues.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One element of `GET /policies`, which has them in the order they are asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Policy {
    #[schema(example = "restart-crashed")]
    pub name: String,
    /// `enforce`, `shadow` or `off`.
    #[schema(example = "enforce")]
    pub mode: String,
    /// `built-in`, or the path of the component.
    #[schema(example = "built-in")]
    pub source: String,
    /// SHA-256 of the component, in hexadecimal; `null` while it is off.
    #[schema(required = true)]
    pub hash: Option<String>,
    /// The kinds of issue it wants to see; empty: all.
    #[schema(example = json!(["vm.process-missing"]))]
    pub kinds: Vec<String>,
}
