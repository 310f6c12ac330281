//! Keeps the history bounded: the oldest of what has ended goes, what has not ended never does.

use rusqlite::{Connection, params};
use vman_core::ident::IssueId;

use crate::cells::{Fault, execute};

/// How much of the history is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// Ended operations; the repairs among them are counted apart, so that no flood of other
    /// commands can make room in the repair budget.
    pub(crate) operations: u32,
    /// Resolved issues that no kept operation names.
    pub(crate) issues: u32,
    /// Requests that are known again when they are repeated.
    pub(crate) requests: u32,
    /// Judgements on one issue: one that stays open is judged again and again.
    pub(crate) judgements: u32,
}

/// What a store keeps.
pub(crate) const KEPT: Kept =
    Kept { operations: 10_000, issues: 10_000, requests: 10_000, judgements: 200 };

/// Commits from one pruning to the next: what is kept may be exceeded by what they add.
pub(crate) const COMMITS_BETWEEN: u64 = 256;

pub(crate) fn prune(connection: &Connection, kept: Kept) -> Result<(), Fault> {
    let operations = "DELETE FROM operations WHERE state NOT IN ('pending', 'running')
        AND (reason = 'repair') = ?1 AND seq <= (
            SELECT seq FROM operations
            WHERE state NOT IN ('pending', 'running') AND (reason = 'repair') = ?1
            ORDER BY seq DESC LIMIT 1 OFFSET ?2)";
    for are_repairs in [false, true] {
        execute(connection, operations, params![are_repairs, kept.operations])?;
    }
    let issues = "DELETE FROM issues WHERE state = 'resolved'
        AND seq <= (SELECT seq FROM issues WHERE state = 'resolved'
            ORDER BY seq DESC LIMIT 1 OFFSET ?1)
        AND NOT EXISTS (SELECT 1 FROM operations WHERE operations.issue = issues.id)";
    execute(connection, issues, [kept.issues])?;
    let requests = "DELETE FROM requests WHERE seq <= (
        SELECT seq FROM requests ORDER BY seq DESC LIMIT 1 OFFSET ?1)";
    execute(connection, requests, [kept.requests])?;
    Ok(())
}

/// Keeps the newest judgements on one issue.
pub(crate) fn prune_judgements(
    connection: &Connection,
    issue: IssueId,
    kept: u32,
) -> Result<(), Fault> {
    let sql = "DELETE FROM judgements WHERE issue = ?1 AND seq <= (
        SELECT seq FROM judgements WHERE issue = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)";
    execute(connection, sql, params![issue.to_string(), kept])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use vman_core::ident::OperationId;
    use vman_core::operation::{OperationState, Reason};
    use vman_core::ports::{JudgementRecord, KeptRequest, LetIn};
    use vman_core::repair::{IssueState, Resolution, Verdict};
    use vman_core::testing::samples::{
        MADE_AT, answer, issue, issue_id, name, operation, operation_id,
    };

    use super::*;
    use crate::{issues, open, operations, requests};

    fn database() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let connection = open::writer(&folder.path().join("vman.db")).expect("opens");
        (folder, connection)
    }

    fn add_operation(to: &Connection, number: u8, state: OperationState, reason: Reason) {
        let mut added = operation(number);
        (added.state, added.reason) = (state, reason);
        operations::add(to, &added).expect("added");
    }

    fn is_kept(from: &Connection, id: OperationId) -> bool {
        operations::find(from, id).expect("readable").is_some()
    }

    #[test]
    fn the_oldest_ended_operations_go_and_the_unended_stay_whatever_their_age() {
        let (_folder, database) = database();
        add_operation(&database, 1, OperationState::Running, Reason::User);
        for number in 2..=5 {
            add_operation(&database, number, OperationState::Succeeded, Reason::User);
        }
        prune(&database, Kept { operations: 2, ..KEPT }).expect("pruned");
        let kept = (1..=5).filter(|number| is_kept(&database, operation_id(*number)));
        assert_eq!(kept.collect::<Vec<_>>(), [1, 4, 5]);
        let steps: i64 = database
            .query_row("SELECT count(DISTINCT operation) FROM operation_steps", [], |row| {
                row.get(0)
            })
            .expect("readable");
        assert_eq!(steps, 3, "steps go with their operation");
    }

    #[test]
    fn a_flood_of_commands_makes_no_room_in_the_repair_budget() {
        let (_folder, database) = database();
        issues::put(&database, &issue(1)).expect("added");
        let repair = Reason::Repair { issue: issue_id(1), policy: "bold".to_owned() };
        add_operation(&database, 1, OperationState::Succeeded, repair);
        for number in 2..=9 {
            add_operation(&database, number, OperationState::Succeeded, Reason::User);
        }
        prune(&database, Kept { operations: 1, ..KEPT }).expect("pruned");
        let count = operations::repairs(&database, &operation(1).subject, MADE_AT);
        assert_eq!(count.expect("readable"), 1);
    }

    #[test]
    fn resolved_issues_go_unless_an_operation_names_them() {
        let (_folder, database) = database();
        for number in 1..=5 {
            let mut added = issue(number);
            if number != 2 {
                added.state = IssueState::Resolved { at: MADE_AT, how: Resolution::ByItself };
            }
            issues::put(&database, &added).expect("added");
        }
        let repair = Reason::Repair { issue: issue_id(1), policy: "bold".to_owned() };
        add_operation(&database, 1, OperationState::Succeeded, repair);
        prune(&database, Kept { issues: 1, ..KEPT }).expect("pruned");
        let kept = (1..=5).filter(|number| issues::know(&database, issue_id(*number)).is_ok());
        assert_eq!(kept.collect::<Vec<_>>(), [1, 2, 5]);
    }

    #[test]
    fn the_oldest_requests_are_forgotten() {
        let (_folder, database) = database();
        let key = |number: u32| format!("key-{number}").parse().expect("valid");
        for number in 1..=5 {
            let let_in = LetIn::Template(name("small"));
            let fingerprint = "POST /templates".to_owned();
            let request = KeptRequest { key: key(number), fingerprint, let_in, at: MADE_AT };
            requests::keep(&database, &request).expect("kept");
        }
        prune(&database, Kept { requests: 2, ..KEPT }).expect("pruned");
        let is_kept =
            |number: &u32| requests::find(&database, &key(*number)).expect("readable").is_some();
        assert_eq!((1..=5).filter(is_kept).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn an_issue_that_stays_open_keeps_its_newest_judgements() {
        let (_folder, database) = database();
        issues::put(&database, &issue(1)).expect("added");
        for number in 0..=KEPT.judgements {
            let judgement = answer(&format!("p{number}"), Verdict::Hold, &[]);
            let record = JudgementRecord { issue: issue_id(1), at: MADE_AT, judgement };
            issues::add_judgement(&database, &record).expect("added");
        }
        let kept = issues::judgements(&database, issue_id(1)).expect("readable");
        assert_eq!(kept.len(), KEPT.judgements as usize);
        assert_eq!(kept[0].judgement.policy, "p1");
    }
}
