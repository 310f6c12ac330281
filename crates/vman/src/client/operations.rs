//! `vman operation …`, and how an operation is printed.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::Value;
use vman_api_types::{Operation, OperationReason, OperationStep};

use super::connection::{Connection, parsed};
use super::output::Output;
use super::{follow, references};
use crate::cli::OperationCommand;
use crate::failure::Failure;

pub(crate) fn run<W: Write>(
    command: OperationCommand,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    match command {
        OperationCommand::List => {
            let what = "list the operations";
            list(what, connection.list(what, "/operations")?, output)
        }
        OperationCommand::Show { id, wait } => {
            let id = references::id(connection, "operation", "/operations", &id)?;
            let path = format!("/operations/{id}");
            let (operation, body) = match wait.at_most() {
                Some(at_most) => follow::follow(connection, &path, at_most)?,
                None => {
                    let what = format!("show operation {id}");
                    let body = connection.get(&what, &path)?.body;
                    (parsed(&what, body.clone())?, body)
                }
            };
            print(&operation, &body, output)
        }
        OperationCommand::Cancel { id, wait } => cancel(&id, wait.at_most(), connection, output),
    }
}

fn cancel<W: Write>(
    id: &str,
    wait: Option<Duration>,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let id = references::id(connection, "operation", "/operations", id)?;
    let (what, path) = (format!("cancel operation {id}"), format!("/operations/{id}"));
    let asked = connection.act(&what, &format!("{path}/cancel"))?;
    let (operation, body) = match wait {
        Some(at_most) => follow::follow(connection, &path, at_most)?,
        None => (parsed(&what, asked.body.clone())?, asked.body),
    };
    print(&operation, &body, output)?;
    if operation.ended_at.is_some() && operation.state != "cancelled" {
        let state = &operation.state;
        return Err(Failure::Failed(format!("cannot {what}: it {state} before it could be")));
    }
    Ok(())
}

fn print<W: Write>(
    operation: &Operation,
    body: &Value,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(body)?);
    }
    Ok(show(operation, output)?)
}

fn list<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let operations: Vec<Operation> = parsed(what, body)?;
    let row = |operation: Operation| {
        vec![
            operation.id.to_string(),
            operation.kind,
            operation.subject.id,
            operation.state,
            reason(&operation.reason),
            operation.created_at,
            milliseconds(operation.duration_ms),
        ]
    };
    let titles = ["ID", "KIND", "SUBJECT", "STATE", "REASON", "CREATED", "TOOK"];
    Ok(output.rows(&titles, operations.into_iter().map(row).collect())?)
}

/// An operation and its steps, for people.
pub(super) fn show<W: Write>(operation: &Operation, output: &mut Output<W>) -> io::Result<()> {
    output.fields(vec![
        ("id", operation.id.to_string()),
        ("kind", operation.kind.clone()),
        ("subject", format!("{} {}", operation.subject.kind, operation.subject.id)),
        ("state", state(operation)),
        ("reason", reason(&operation.reason)),
        ("error", operation.error.clone().unwrap_or_default()),
        ("created", operation.created_at.clone()),
        ("took", milliseconds(operation.duration_ms)),
    ])?;
    if operation.steps.is_empty() {
        return Ok(());
    }
    output.heading("steps")?;
    let row = |step: &OperationStep| {
        vec![
            step.name.clone(),
            step.state.clone(),
            milliseconds(step.duration_ms),
            step.note.clone().unwrap_or_default(),
        ]
    };
    output.rows(&["STEP", "STATE", "TOOK", "NOTE"], operation.steps.iter().map(row).collect())
}

fn state(operation: &Operation) -> String {
    let is_to_end = operation.cancel_requested && operation.ended_at.is_none();
    let more = if is_to_end { ", to be cancelled" } else { "" };
    format!("{}{more}", operation.state)
}

fn reason(reason: &OperationReason) -> String {
    let issue = reason.issue_id.map(|issue| format!(" of issue {issue}"));
    let policy = reason.policy.as_ref().map(|policy| format!(" by {policy}"));
    let more: String = issue.into_iter().chain(policy).collect();
    format!("{}{more}", reason.kind)
}

fn milliseconds(duration: Option<u64>) -> String {
    duration.map(|duration| format!("{duration} ms")).unwrap_or_default()
}
