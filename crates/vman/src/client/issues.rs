//! `vman issue …`: what disagreed, what the policies said, and what was done.

use std::io::{self, Write};

use serde_json::Value;
use vman_api_types::{Candidate, Decision, Fact, FactValue, Issue};

use super::connection::{Connection, parsed};
use super::output::Output;
use super::vms::in_state;
use super::{operations, references};
use crate::cli::IssueCommand;
use crate::failure::Failure;

pub(crate) fn run<W: Write>(
    command: IssueCommand,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    match command {
        IssueCommand::List { state } => {
            let what = "list the issues";
            list(what, connection.list(what, &in_state("/issues", state.as_deref())?)?, output)
        }
        IssueCommand::Show { id } => {
            let id = references::id(connection, "issue", "/issues", &id)?;
            let what = format!("show issue {id}");
            let body = connection.get(&what, &format!("/issues/{id}"))?.body;
            if output.is_json() {
                return Ok(output.json(&body)?);
            }
            Ok(story(&parsed(&what, body)?, output)?)
        }
    }
}

fn list<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let issues: Vec<Issue> = parsed(what, body)?;
    let row = |issue: Issue| {
        vec![
            issue.id.to_string(),
            issue.kind,
            issue.severity,
            issue.state,
            format!("{} {}", issue.subject.kind, issue.subject.id),
            issue.occurrences.to_string(),
            issue.last_seen,
        ]
    };
    let titles = ["ID", "KIND", "SEVERITY", "STATE", "SUBJECT", "SEEN", "LAST SEEN"];
    Ok(output.rows(&titles, issues.into_iter().map(row).collect())?)
}

fn story<W: Write>(issue: &Issue, output: &mut Output<W>) -> io::Result<()> {
    output.fields(vec![
        ("id", issue.id.to_string()),
        ("kind", issue.kind.clone()),
        ("severity", issue.severity.clone()),
        ("subject", format!("{} {}", issue.subject.kind, issue.subject.id)),
        ("state", issue.state.clone()),
        ("message", issue.message.clone()),
        ("first seen", issue.first_seen.clone()),
        ("last seen", format!("{} ({} times)", issue.last_seen, issue.occurrences)),
        ("resolved", issue.resolved_at.clone().unwrap_or_default()),
        ("resolution", issue.resolution.clone().unwrap_or_default()),
    ])?;
    if !issue.evidence.is_empty() {
        output.heading("evidence")?;
        output.rows(&["FACT", "VALUE"], issue.evidence.iter().map(fact).collect())?;
    }
    if !issue.candidates.is_empty() {
        output.heading("possible repairs")?;
        let rows = issue.candidates.iter().map(candidate).collect();
        output.rows(&["ID", "KIND", "DESTRUCTIVE", "REVERSIBLE"], rows)?;
    }
    for decision in &issue.decisions {
        output.heading(&format!("policy {} at {}", decision.policy, decision.at))?;
        decided(decision, issue, output)?;
    }
    for operation in issue.operations.iter().flatten() {
        output.heading(&format!("repair {}", operation.id))?;
        operations::show(operation, output)?;
    }
    Ok(())
}

fn decided<W: Write>(decision: &Decision, issue: &Issue, output: &mut Output<W>) -> io::Result<()> {
    let kind = |id: &u32| {
        let candidate = issue.candidates.iter().find(|candidate| candidate.id == *id);
        candidate.map_or_else(|| id.to_string(), |candidate| candidate.kind.clone())
    };
    let chosen: Vec<String> = decision.chosen.iter().map(kind).collect();
    let error = decision.error.as_ref().map(|error| format!("{}: {}", error.kind, error.message));
    let recheck = decision.recheck_after_ms.map(|after| format!("in {after} ms"));
    output.fields(vec![
        ("verdict", decision.verdict.clone().unwrap_or_default()),
        ("chosen", chosen.join(", ")),
        ("reason", decision.reason_code.clone().unwrap_or_default()),
        ("message", decision.message.clone().unwrap_or_default()),
        ("error", error.unwrap_or_default()),
        ("asks again", recheck.unwrap_or_default()),
        ("mode", decision.mode.clone()),
        ("enforced", decision.enforced.to_string()),
        ("hash", decision.policy_hash.clone()),
        ("took", format!("{} us, {} fuel", decision.duration_us, decision.fuel)),
    ])
}

fn fact(fact: &Fact) -> Vec<String> {
    let value = match &fact.value {
        FactValue::Boolean(value) => value.to_string(),
        FactValue::Integer(value) => value.to_string(),
        FactValue::Text(value) => value.clone(),
        FactValue::Texts(values) => values.join(", "),
    };
    vec![fact.key.clone(), value]
}

fn candidate(candidate: &Candidate) -> Vec<String> {
    vec![
        candidate.id.to_string(),
        candidate.kind.clone(),
        candidate.destructive.to_string(),
        candidate.reversible.to_string(),
    ]
}
