//! The tables of issues and of the judgements on them: their rows, and the SQL that reads and
//! changes them.

use rusqlite::{Connection, Row, params};
use vman_core::coherence::{Kind, Severity};
use vman_core::ident::{Generation, IssueId, OperationId};
use vman_core::operation::Subject;
use vman_core::ports::{JudgementRecord, Page, RecordError};
use vman_core::repair::{
    Decision, Issue, IssueState, JudgeFailure, JudgeFailureKind, Judgement, Mode, Resolution,
    Verdict,
};

use crate::cells::{Cells, Fault, all, execute, first, integer, start_of_page};
use crate::json;
use crate::prune::{KEPT, prune_judgements};

pub(crate) fn find(connection: &Connection, id: IssueId) -> Result<Option<Issue>, Fault> {
    first(connection, "SELECT * FROM issues WHERE id = ?1", [id.to_string()], read)
}

/// `NotFound` if it is not recorded.
pub(crate) fn know(connection: &Connection, id: IssueId) -> Result<(), Fault> {
    let sql = "SELECT 1 FROM issues WHERE id = ?1";
    first(connection, sql, [id.to_string()], |_| Ok(()))?
        .ok_or_else(|| RecordError::NotFound(format!("issue {id}")).into())
}

pub(crate) fn page(
    connection: &Connection,
    state: Option<&str>,
    page: &Page<IssueId>,
) -> Result<Vec<Issue>, Fault> {
    let after = page.after.map(|id| id.to_string());
    let sql = "SELECT seq FROM issues WHERE id = ?1";
    let start = start_of_page(connection, sql, after, i64::MAX, "issue")?;
    let sql = "SELECT * FROM issues WHERE seq < ?1 AND (?2 IS NULL OR state = ?2)
        ORDER BY seq DESC LIMIT ?3";
    all(connection, sql, params![start, state, page.limit], read)
}

pub(crate) fn unresolved(connection: &Connection) -> Result<Vec<Issue>, Fault> {
    all(connection, "SELECT * FROM issues WHERE state <> 'resolved' ORDER BY seq", [], read)
}

fn read(row: &Row<'_>) -> Result<Issue, Fault> {
    let cells = Cells::new(row, "issues", "id")?;
    let subject_id: String = cells.get("subject_id")?;
    Ok(Issue {
        id: IssueId(cells.uuid("id")?),
        fingerprint: cells.get("fingerprint")?,
        kind: cells.word("kind", Kind::from_word)?,
        severity: cells.word("severity", Severity::from_word)?,
        subject: cells.word("subject_kind", |kind| Subject::from_words(kind, &subject_id))?,
        generation: cells.maybe_number("generation")?.map(Generation),
        message: cells.get("message")?,
        facts: cells.word("facts", json::read_facts)?,
        candidates: cells.word("candidates", json::read_candidates)?,
        state: read_state(&cells)?,
        first_seen: cells.time("first_seen")?,
        last_seen: cells.time("last_seen")?,
        occurrences: cells.small_number("occurrences")?,
        recheck_at: cells.maybe_time("recheck_at")?,
    })
}

fn read_state(cells: &Cells<'_>) -> Result<IssueState, Fault> {
    Ok(match cells.get::<String>("state")?.as_str() {
        "open" => IssueState::Open,
        "repairing" => IssueState::Repairing(OperationId(cells.uuid("repair")?)),
        "resolved" => IssueState::Resolved {
            at: cells.time("resolved_at")?,
            how: cells.word("resolution", Resolution::from_word)?,
        },
        _ => return Err(cells.broken("state", "it is none of its values")),
    })
}

pub(crate) fn put(connection: &Connection, issue: &Issue) -> Result<(), Fault> {
    let (repair, resolved_at, resolution) = match &issue.state {
        IssueState::Open => (None, None, None),
        IssueState::Repairing(operation) => (Some(operation.to_string()), None, None),
        IssueState::Resolved { at, how } => (None, Some(integer(at.0)), Some(how.word())),
    };
    let sql = "INSERT INTO issues (id, fingerprint, kind, severity, subject_kind, subject_id,
        generation, message, facts, candidates, state, repair, resolved_at, resolution,
        first_seen, last_seen, occurrences, recheck_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
        ON CONFLICT (id) DO UPDATE SET (fingerprint, kind, severity, subject_kind, subject_id,
        generation, message, facts, candidates, state, repair, resolved_at, resolution,
        first_seen, last_seen, occurrences, recheck_at)
        = (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)";
    let values = params![
        issue.id.to_string(),
        issue.fingerprint,
        issue.kind.word(),
        issue.severity.word(),
        issue.subject.kind(),
        issue.subject.id(),
        issue.generation.map(|generation| integer(generation.0)),
        issue.message,
        json::write_facts(&issue.facts),
        json::write_candidates(&issue.candidates),
        issue.state.word(),
        repair,
        resolved_at,
        resolution,
        integer(issue.first_seen.0),
        integer(issue.last_seen.0),
        issue.occurrences,
        issue.recheck_at.map(|at| integer(at.0)),
    ];
    execute(connection, sql, values)?;
    Ok(())
}

pub(crate) fn judgements(
    connection: &Connection,
    issue: IssueId,
) -> Result<Vec<JudgementRecord>, Fault> {
    let sql = "SELECT * FROM judgements WHERE issue = ?1 ORDER BY seq";
    all(connection, sql, [issue.to_string()], |row| {
        let cells = Cells::new(row, "judgements", "issue")?;
        let judgement = Judgement {
            policy: cells.get("policy")?,
            policy_hash: cells.get("policy_hash")?,
            mode: cells.word("mode", Mode::from_word)?,
            outcome: read_outcome(&cells)?,
            fuel: cells.number("fuel")?,
            duration_us: cells.number("duration_us")?,
        };
        Ok(JudgementRecord { issue, at: cells.time("at")?, judgement })
    })
}

fn read_outcome(cells: &Cells<'_>) -> Result<Result<Decision, JudgeFailure>, Fault> {
    let message = cells.get("message")?;
    let Some(verdict) = cells.maybe_word("verdict", Verdict::from_word)? else {
        let kind = cells.word("failure", JudgeFailureKind::from_word)?;
        return Ok(Err(JudgeFailure { kind, message, trace: cells.get("trace")? }));
    };
    Ok(Ok(Decision {
        verdict,
        chosen: cells.word("chosen", json::read_ids)?,
        recheck_after_ms: cells.maybe_number("recheck_after_ms")?,
        reason_code: cells.get("reason_code")?,
        message,
        facts: cells.word("facts", json::read_facts)?,
    }))
}

pub(crate) fn add_judgement(
    connection: &Connection,
    record: &JudgementRecord,
) -> Result<(), Fault> {
    know(connection, record.issue)?;
    let judgement = &record.judgement;
    let (decision, failure, message) = match &judgement.outcome {
        Ok(decision) => (Some(decision), None, &decision.message),
        Err(failure) => (None, Some(failure), &failure.message),
    };
    let sql = "INSERT INTO judgements (issue, at, policy, policy_hash, mode, fuel, duration_us,
        verdict, chosen, recheck_after_ms, reason_code, facts, failure, trace, message)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
    let values = params![
        record.issue.to_string(),
        integer(record.at.0),
        judgement.policy,
        judgement.policy_hash,
        judgement.mode.word(),
        integer(judgement.fuel),
        integer(judgement.duration_us),
        decision.map(|decision| decision.verdict.word()),
        decision.map(|decision| json::write_ids(&decision.chosen)),
        decision.and_then(|decision| decision.recheck_after_ms).map(integer),
        decision.map(|decision| &decision.reason_code),
        decision.map(|decision| json::write_facts(&decision.facts)),
        failure.map(|failure| failure.kind.word()),
        failure.and_then(|failure| failure.trace.as_ref()),
        message,
    ];
    execute(connection, sql, values)?;
    prune_judgements(connection, record.issue, KEPT.judgements)
}
