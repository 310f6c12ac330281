//! The host against plugins that break the contract or are of another age, and every message of it.
//! What the verbs of real backends do is tested where those live.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::BackendConfig;

mod example;
mod files;
mod handmade;
mod isolated;
mod odd;
mod older;
mod whole;

/// Longer than anything here takes, on any machine.
const SOON: Duration = Duration::from_secs(20);

fn config(settings: Value) -> BackendConfig {
    BackendConfig { machines_dir: PathBuf::from("/nonexistent"), settings }
}
