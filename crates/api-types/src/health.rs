//! Whether the daemon answers, and whether it is ready for work.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /health`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    pub status: String,
    /// Of the daemon.
    #[schema(example = "0.1.0")]
    pub version: String,
}

/// `GET /ready`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Always `ready`.
    #[schema(example = "ready")]
    pub status: String,
}
