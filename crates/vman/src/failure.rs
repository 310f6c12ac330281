//! Why a command did not do what it was asked for, and what it tells the shell.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use thiserror::Error;
use vman_api_types::{Operation, Problem};

use crate::config::ConfigError;
use crate::serve::ServeError;

/// The request was refused or failed.
const EXIT_FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const EXIT_USAGE: u8 = 2;
/// The daemon cannot be reached.
const EXIT_UNREACHABLE: u8 = 3;

/// Why a command ended without success.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// What was typed cannot be done.
    #[error("{0}")]
    Usage(String),
    #[error("cannot reach the daemon{at}: {why}\n  next: {next}")]
    Unreachable { at: String, why: String, next: String },
    /// The daemon said no; `what` was to be done.
    #[error("{}", refusal(.what, .problem))]
    Refused { what: String, problem: Box<Problem> },
    #[error("{}", failed_operation(.0))]
    Operation(Box<Operation>),
    #[error("{0}")]
    Failed(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
    /// The daemon did not start, or did not go on.
    #[error("{0}")]
    Serve(#[from] ServeError),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) => EXIT_USAGE.into(),
            Self::Unreachable { .. } => EXIT_UNREACHABLE.into(),
            Self::Refused { .. }
            | Self::Operation(_)
            | Self::Failed(_)
            | Self::Output(_)
            | Self::Serve(_) => EXIT_FAILED.into(),
        }
    }

    /// Nobody reads the output any more, which is no failure of ours.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn refusal(what: &str, problem: &Problem) -> String {
    let mut text = format!("cannot {what}: {} ({})", problem.detail, problem.code);
    for field in &problem.problems {
        line(&mut text, &field.field, &field.problem);
    }
    if let Some(hint) = &problem.hint {
        line(&mut text, "next", hint);
    }
    if let Some(operation) = problem.operation {
        line(&mut text, "see", &format!("vman operation show {operation}"));
    }
    text
}

fn failed_operation(operation: &Operation) -> String {
    let why = operation.error.as_deref().unwrap_or("no reason is recorded");
    let subject = &operation.subject;
    let Operation { kind, state, .. } = operation;
    let mut text = format!("{kind} of {} {} {state}: {why}", subject.kind, subject.id);
    for step in &operation.steps {
        let note = step.note.as_deref().unwrap_or_default();
        line(&mut text, &step.name, format!("{} {note}", step.state).trim_end());
    }
    line(&mut text, "see", &format!("vman operation show {}", operation.id));
    text
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n  {key}: {value}");
}
