//! What a case came to, as it is told.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::case::Case;
use crate::Manifest;
use crate::host::Mode;

/// What one case came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    Passed,
    /// It does not hold the contract.
    Failed {
        why: String,
    },
    /// The case's process ended before it had said anything.
    Crashed {
        how: String,
    },
    /// The case's process was ended.
    TimedOut {
        /// Milliseconds.
        after: u64,
        at: String,
    },
    /// It cannot be seen here.
    Skipped {
        why: String,
    },
}

impl Verdict {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "FAILED",
            Self::Crashed { .. } => "CRASHED",
            Self::TimedOut { .. } => "TIMED OUT",
            Self::Skipped { .. } => "skipped",
        }
    }

    /// Neither passed nor skipped.
    pub fn is_bad(&self) -> bool {
        match self {
            Self::Passed | Self::Skipped { .. } => false,
            Self::Failed { .. } | Self::Crashed { .. } | Self::TimedOut { .. } => true,
        }
    }

    pub fn is_skipped(&self) -> bool {
        match self {
            Self::Skipped { .. } => true,
            Self::Passed | Self::Failed { .. } | Self::Crashed { .. } | Self::TimedOut { .. } => {
                false
            }
        }
    }

    /// What was found left behind counts where nothing else was found.
    pub(super) fn with_leftovers(self, left: Option<String>) -> Self {
        match (self, left) {
            (Self::Passed, Some(why)) => Self::Failed { why },
            (verdict, _) => verdict,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => Ok(()),
            Self::Failed { why } | Self::Skipped { why } => f.write_str(why),
            Self::Crashed { how } => f.write_str(how),
            Self::TimedOut { after, at } => write!(f, "not within {after} ms{at}"),
        }
    }
}

/// One case in one mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub case: &'static str,
    pub holds: &'static str,
    #[serde(serialize_with = "word")]
    pub mode: Mode,
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Milliseconds.
    pub took: u64,
    /// What the case tells besides.
    pub notes: Vec<String>,
    /// The end of what the plugin wrote to its standard error, if it did not pass.
    pub stderr: String,
}

impl Report {
    pub(super) fn new(case: &Case, mode: Mode, verdict: Verdict, took: Duration) -> Self {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (notes, stderr) = (vec![], String::new());
        Self { case: case.name, holds: case.holds, mode, verdict, took, notes, stderr }
    }
}

fn word<S: Serializer>(mode: &Mode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.word())
}

/// All that was asked of one backend in one mode.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    #[serde(serialize_with = "word")]
    pub mode: Mode,
    /// None if it could not even be opened.
    pub manifest: Option<Manifest>,
    /// Why no machine can be run on this host, if none can: then much was skipped.
    pub unable: Option<String>,
    pub reports: Vec<Report>,
}
