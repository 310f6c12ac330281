//! What is checked: a backend, the way it is opened, its settings, and the guest that its machines
//! boot. Nothing is started here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fault::Fault;
use super::runner::Program;
use crate::Boot;
use crate::host::{Helper, Mode, Offer, Registry, open_file, open_isolated};

/// A backend to check. It travels to the processes that run the cases.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subject {
    pub opening: Opening,
    /// As `[backends.<name>]` would say them.
    #[serde(default)]
    pub settings: Value,
    /// What machines boot; none: an empty disk made by the backend.
    #[serde(default)]
    pub guest: Option<Boot>,
    /// Whether what runs in a machine obeys its power button and gives back disks it is asked for.
    #[serde(default)]
    pub guest_obeys: bool,
    /// What the fuzzed requests are made from: the same seed, the same requests.
    #[serde(default)]
    pub seed: u64,
    /// The one fuzzed request to send, by its number; none: all of them.
    #[serde(default)]
    pub request: Option<u32>,
}

/// How the backend is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Opening {
    /// Linked into the program that checks, by its name.
    Static(String),
    /// A file, loaded into the process of the case.
    InProcess(PathBuf),
    /// A file, loaded into a process of its own by this helper: see [`Helper`].
    Isolated { file: PathBuf, helper: Program },
}

impl Opening {
    pub fn mode(&self) -> Mode {
        match self {
            Self::Static(_) => Mode::Static,
            Self::InProcess(_) => Mode::InProcess,
            Self::Isolated { .. } => Mode::Isolated,
        }
    }

    /// Runs code of the plugin, which may end this very process.
    pub(super) fn open(&self) -> Result<Offer, Fault> {
        match self {
            Self::Static(name) => Registry::linked()
                .into_iter()
                .find(|offer| offer.manifest().name == *name)
                .ok_or_else(|| Fault(format!("no backend called `{name}` is linked in"))),
            Self::InProcess(file) => open_file(file).map_err(|error| Fault(error.to_string())),
            Self::Isolated { file, helper: Program { file: program, arguments } } => {
                let arguments = arguments.iter().map(Into::into).collect();
                let helper = Helper { program: program.clone(), arguments };
                open_isolated(file, &helper).map_err(|error| Fault(error.to_string()))
            }
        }
    }
}
