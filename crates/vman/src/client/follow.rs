//! Waits for the end of an operation. What the operation does is not known here.

use std::thread;
use std::time::{Duration, Instant};

use vman_api_types::Operation;

use super::connection::{Answer, Connection, parsed};
use crate::failure::Failure;

/// How long one request waits; the daemon allows a minute.
const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// Between two requests, in case the daemon does not wait.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a deletion is waited for that goes on after its request.
const DELETION_WAIT: Duration = Duration::from_secs(60);

/// The operation at `location` once it has ended, or as it is after `at_most`.
pub(super) fn follow(
    connection: &Connection,
    location: &str,
    at_most: Duration,
) -> Result<(Operation, serde_json::Value), Failure> {
    let deadline = Instant::now() + at_most;
    let what = "see the operation";
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = left.min(REQUEST_WAIT).as_millis();
        let body = connection.get(what, &format!("{location}?wait={wait}ms"))?.body;
        let operation: Operation = parsed(what, body.clone())?;
        if has_ended(&operation) || left.is_zero() {
            return Ok((operation, body));
        }
        thread::sleep(PAUSE.min(left));
    }
}

/// Waits for the operation that an answer names, if it names one.
///
/// # Errors
/// It failed or was cancelled, or it has not ended after `at_most`.
pub(super) fn success(
    connection: &Connection,
    answer: &Answer,
    at_most: Duration,
) -> Result<(), Failure> {
    let Some(location) = &answer.location else { return Ok(()) };
    let (operation, _) = follow(connection, location, at_most)?;
    succeeded(operation, at_most)
}

/// # Errors
/// The operation failed or was cancelled, or it had not ended when it had been waited for.
pub(super) fn succeeded(operation: Operation, waited: Duration) -> Result<(), Failure> {
    match operation.state.as_str() {
        "succeeded" => Ok(()),
        "failed" | "cancelled" => Err(Failure::Operation(Box::new(operation))),
        unended => Err(Failure::Failed(format!(
            "{} is still {unended} after {} s; it goes on: `vman operation show {} --wait`",
            operation.kind,
            waited.as_secs(),
            operation.id
        ))),
    }
}

/// Waits for a deletion.
///
/// # Errors
/// As [`success`].
pub(super) fn deletion(connection: &Connection, answer: &Answer) -> Result<(), Failure> {
    success(connection, answer, DELETION_WAIT)
}

fn has_ended(operation: &Operation) -> bool {
    operation.ended_at.is_some()
}
