//! Backends: what runs machines and makes images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One element of `GET /backends`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backend {
    #[schema(example = "qemu-kvm")]
    pub name: String,
    /// The plugin's own version; absent where it could not be read.
    #[serde(default)]
    #[schema(example = "0.1.0")]
    pub version: Option<String>,
    /// `linked`, or the path of the plugin's file.
    #[schema(example = "linked")]
    pub source: String,
    /// Where its code runs: `static` or `in-process`, in the daemon; `isolated`, in a process of
    /// its own. Absent where it is not run.
    #[serde(default)]
    #[schema(example = "static")]
    pub mode: Option<String>,
    /// `declared`: it is there and cannot be used. `loaded`: it could be. `started`: it is in use.
    /// `quarantined`: it was in use, and panicked, hung or crashed; another instance is to follow.
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
