//! The tables of operations and their steps: their rows, and the SQL that reads and changes them.

use rusqlite::{Connection, Row, params};
use vman_core::ident::{IssueId, OperationId, Timestamp, VmId};
use vman_core::operation::{
    Effect, Operation, OperationState, Reason, Step, StepState, Subject, Verb,
};
use vman_core::ports::{Page, RecordError};
use vman_core::repair::Attempt;

use crate::cells::{Cells, Fault, all, execute, first, integer, start_of_page};
use crate::issues;

pub(crate) fn find(connection: &Connection, id: OperationId) -> Result<Option<Operation>, Fault> {
    let sql = "SELECT * FROM operations WHERE id = ?1";
    first(connection, sql, [id.to_string()], |row| read(connection, row))
}

pub(crate) fn page(
    connection: &Connection,
    page: &Page<OperationId>,
) -> Result<Vec<Operation>, Fault> {
    let after = page.after.map(|id| id.to_string());
    let sql = "SELECT seq FROM operations WHERE id = ?1";
    let start = start_of_page(connection, sql, after, i64::MAX, "operation")?;
    let sql = "SELECT * FROM operations WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2";
    all(connection, sql, params![start, page.limit], |row| read(connection, row))
}

pub(crate) fn unended(
    connection: &Connection,
    subject: Option<&Subject>,
) -> Result<Vec<Operation>, Fault> {
    let sql = "SELECT * FROM operations WHERE state IN ('pending', 'running')
        AND (?1 IS NULL OR (subject_kind = ?1 AND subject_id = ?2)) ORDER BY seq";
    let values = params![subject.map(Subject::kind), subject.map(Subject::id)];
    all(connection, sql, values, |row| read(connection, row))
}

pub(crate) fn in_turn(connection: &Connection, turn: &Subject) -> Result<Vec<Operation>, Fault> {
    // The turn of a VM is its own and that of its disks.
    let sql = "SELECT * FROM operations WHERE state IN ('pending', 'running')
        AND ((turn_of IS NULL AND subject_kind = ?1 AND subject_id = ?2)
            OR (?1 = 'vm' AND turn_of = ?2)) ORDER BY seq";
    all(connection, sql, params![turn.kind(), turn.id()], |row| read(connection, row))
}

pub(crate) fn attempts(
    connection: &Connection,
    fingerprint: &str,
    since: Timestamp,
) -> Result<Vec<Attempt>, Fault> {
    let sql = "SELECT operations.* FROM operations JOIN issues ON operations.issue = issues.id
        WHERE issues.fingerprint = ?1 AND operations.created_at >= ?2
        AND operations.state NOT IN ('pending', 'running') ORDER BY operations.seq";
    all(connection, sql, params![fingerprint, integer(since.0)], |row| {
        let cells = Cells::new(row, "operations", "id")?;
        let verb = cells.word("verb", Verb::from_word)?;
        Ok(Attempt::new(verb, cells.time("created_at")?, cells.get("error")?))
    })
}

pub(crate) fn repairs(
    connection: &Connection,
    subject: &Subject,
    since: Timestamp,
) -> Result<u32, Fault> {
    let sql = "SELECT count(*) FROM operations WHERE reason = 'repair'
        AND subject_kind = ?1 AND subject_id = ?2 AND created_at >= ?3";
    let values = params![subject.kind(), subject.id(), integer(since.0)];
    let count = first(connection, sql, values, |row| Ok(row.get(0)?))?;
    Ok(count.unwrap_or(0))
}

pub(crate) fn repairs_of(
    connection: &Connection,
    issue: IssueId,
) -> Result<Vec<OperationId>, Fault> {
    let sql = "SELECT id FROM operations WHERE issue = ?1 ORDER BY seq";
    all(connection, sql, [issue.to_string()], |row| {
        Cells::new(row, "operations", "id")?.uuid("id").map(OperationId)
    })
}

fn read(connection: &Connection, row: &Row<'_>) -> Result<Operation, Fault> {
    let cells = Cells::new(row, "operations", "id")?;
    let id = OperationId(cells.uuid("id")?);
    let subject_id: String = cells.get("subject_id")?;
    let error: Option<String> = cells.get("error")?;
    Ok(Operation {
        id,
        subject: cells.word("subject_kind", |kind| Subject::from_words(kind, &subject_id))?,
        verb: cells.word("verb", Verb::from_word)?,
        reason: read_reason(&cells)?,
        state: cells.word("state", |word| OperationState::from_word(word, error.as_deref()))?,
        turn_of: cells.maybe_parsed("turn_of")?.map(VmId),
        cancel_requested: cells.get("cancel_requested")?,
        steps: read_steps(connection, id)?,
        created_at: cells.time("created_at")?,
        ended_at: cells.maybe_time("ended_at")?,
    })
}

fn read_reason(cells: &Cells<'_>) -> Result<Reason, Fault> {
    Ok(match cells.get::<String>("reason")?.as_str() {
        "user" => Reason::User,
        "guest" => Reason::Guest,
        "boot" => Reason::Boot,
        "repair" => {
            Reason::Repair { issue: IssueId(cells.uuid("issue")?), policy: cells.get("policy")? }
        }
        _ => return Err(cells.broken("reason", "it is none of its values")),
    })
}

fn read_steps(connection: &Connection, operation: OperationId) -> Result<Vec<Step>, Fault> {
    let sql = "SELECT * FROM operation_steps WHERE operation = ?1 ORDER BY position";
    all(connection, sql, [operation.to_string()], |row| {
        let cells = Cells::new(row, "operation_steps", "operation")?;
        Ok(Step {
            effect: cells.word("effect", Effect::from_word)?,
            undo: cells.maybe_word("undo", Effect::from_word)?,
            state: cells.word("state", StepState::from_word)?,
            started_at: cells.maybe_time("started_at")?,
            ended_at: cells.maybe_time("ended_at")?,
            note: cells.get("note")?,
        })
    })
}

pub(crate) fn add(connection: &Connection, operation: &Operation) -> Result<(), Fault> {
    if find(connection, operation.id)?.is_some() {
        return Err(RecordError::Exists(format!("operation {}", operation.id)).into());
    }
    let (reason, issue, policy) = match &operation.reason {
        Reason::User => ("user", None, None),
        Reason::Guest => ("guest", None, None),
        Reason::Boot => ("boot", None, None),
        Reason::Repair { issue, policy } => ("repair", Some(*issue), Some(policy)),
    };
    if let Some(issue) = issue {
        issues::know(connection, issue)?;
    }
    let sql = "INSERT INTO operations (id, subject_kind, subject_id, turn_of, verb, reason, issue,
        policy, state, error, cancel_requested, created_at, ended_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let values = params![
        operation.id.to_string(),
        operation.subject.kind(),
        operation.subject.id(),
        operation.turn_of.map(|vm| vm.to_string()),
        operation.verb.word(),
        reason,
        issue.map(|issue| issue.to_string()),
        policy,
        operation.state.word(),
        operation.state.error(),
        operation.cancel_requested,
        integer(operation.created_at.0),
        operation.ended_at.map(|at| integer(at.0)),
    ];
    execute(connection, sql, values)?;
    for (index, step) in operation.steps.iter().enumerate() {
        let sql = "INSERT INTO operation_steps
            (effect, undo, state, started_at, ended_at, note, operation, position)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        write_step(connection, sql, operation.id, index, step)?;
    }
    Ok(())
}

/// How many rows `sql` wrote; its parameters are those of an INSERT into `operation_steps`.
fn write_step(
    connection: &Connection,
    sql: &str,
    operation: OperationId,
    index: usize,
    step: &Step,
) -> Result<usize, Fault> {
    let values = params![
        step.effect.word(),
        step.undo.map(Effect::word),
        step.state.word(),
        step.started_at.map(|at| integer(at.0)),
        step.ended_at.map(|at| integer(at.0)),
        step.note,
        operation.to_string(),
        i64::try_from(index).unwrap_or(i64::MAX),
    ];
    execute(connection, sql, values)
}

pub(crate) fn set_state(
    connection: &Connection,
    id: OperationId,
    state: &OperationState,
    at: Timestamp,
) -> Result<(), Fault> {
    let sql = "UPDATE operations SET state = ?2, error = ?3, ended_at = ?4 WHERE id = ?1";
    let ended_at = state.is_ended().then_some(integer(at.0));
    let values = params![id.to_string(), state.word(), state.error(), ended_at];
    match execute(connection, sql, values)? {
        0 => Err(RecordError::NotFound(format!("operation {id}")).into()),
        _ => Ok(()),
    }
}

pub(crate) fn request_cancel(connection: &Connection, id: OperationId) -> Result<(), Fault> {
    let sql = "UPDATE operations SET cancel_requested = 1
        WHERE id = ?1 AND state IN ('pending', 'running')";
    match execute(connection, sql, [id.to_string()])? {
        0 if find(connection, id)?.is_none() => {
            Err(RecordError::NotFound(format!("operation {id}")).into())
        }
        0 => Err(RecordError::Stale(format!("operation {id}")).into()),
        _ => Ok(()),
    }
}

pub(crate) fn set_step(
    connection: &Connection,
    id: OperationId,
    index: usize,
    step: &Step,
) -> Result<(), Fault> {
    let sql = "UPDATE operation_steps SET effect = ?1, undo = ?2, state = ?3, started_at = ?4,
        ended_at = ?5, note = ?6 WHERE operation = ?7 AND position = ?8";
    match write_step(connection, sql, id, index, step)? {
        0 if find(connection, id)?.is_none() => {
            Err(RecordError::NotFound(format!("operation {id}")).into())
        }
        0 => Err(RecordError::NotFound(format!("step {index} of operation {id}")).into()),
        _ => Ok(()),
    }
}
