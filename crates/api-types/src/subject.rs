//! What an operation, an issue or a problem is about. Whether it exists is not said here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Names one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    /// `template`, `vm`, `disk`, `operation`, `issue`, `network`; `machine` and `file` are things
    /// on the host without a record.
    #[schema(example = "vm")]
    pub kind: String,
    /// The id, the name of a template, or the path of a file relative to the storage folder,
    /// or a network's subnet.
    #[schema(example = "5f2b6c1e-7a44-4c0e-9d2f-0c6f3c1f9a10")]
    pub id: String,
}
