//! Why a request was not done: RFC 9457 problem details, with members of our own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Subject;

/// The media type of a [`Problem`] (RFC 9457, 6.1).
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";

/// The body of every answer from 400 on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `title` and `status` say the same (RFC 9457, 4.2.1).
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    pub type_uri: String,
    /// The status in words.
    #[schema(example = "Conflict")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 409)]
    pub status: u16,
    /// What is wrong with this request, for people.
    #[schema(example = "vm 5f2b6c1e-7a44-4c0e-9d2f-0c6f3c1f9a10 is stopped: it is not running")]
    pub detail: String,
    /// What is wrong, for programs; stable.
    #[schema(example = "not-running")]
    pub code: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Subject>,
    /// The state that its object is in, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "stopped")]
    pub state: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "POST /vms/5f2b6c1e-7a44-4c0e-9d2f-0c6f3c1f9a10/actions/start")]
    pub hint: Option<String>,
    /// Everything that is wrong with the body or the query, field by field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<FieldProblem>,
    /// The operation that failed, or that has to end first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Uuid>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// Its name; a field inside another is named `outer.inner`.
    #[schema(example = "boot.kernel")]
    pub field: String,
    #[schema(example = "must be a string, not a number")]
    pub problem: String,
}
