//! Backends: what runs machines and makes images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One element of `GET /backends`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    #[schema(example = "qemu-kvm")]
    pub name: String,
    /// `linked`, or the path of the plugin's file.
    #[schema(example = "linked")]
    pub source: String,
    /// `declared`, `loaded`, `started` or `quarantined`.
    #[schema(example = "started")]
    pub state: String,
    /// This host can run machines with it.
    pub usable: bool,
    /// Why it is usable or not.
    pub reason: String,
    /// What it does, or cannot do on this host, beyond running machines: e.g. how it confines them.
    #[serde(default)]
    #[schema(required = true)]
    pub notes: Vec<String>,
    /// The one this daemon uses.
    pub selected: bool,
}
