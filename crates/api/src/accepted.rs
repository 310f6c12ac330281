//! What became of an accepted command, and the answers that every resource gives to it alike. What
//! the command does is not known here.

use std::time::Duration;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use vman_core::ident::OperationId;
use vman_core::operation::{Operation, OperationState, Subject, Verb};

use crate::convert;
use crate::prefer::{Prefer, WAIT_MAX};
use crate::problem::Fault;
use crate::state::ApiState;

/// How far an operation came while one waited.
#[derive(Debug)]
pub(crate) enum Outcome {
    Succeeded,
    /// It goes on.
    UnderWay(Operation),
}

/// Waits; an operation that failed is a problem.
pub(crate) async fn outcome(
    app: &ApiState,
    id: OperationId,
    at_most: Duration,
) -> Result<Outcome, Fault> {
    let operation = app.engine.wait(id, at_most).await?;
    let operation =
        operation.ok_or_else(|| Fault::internal(format!("operation {id} has no record")))?;
    match &operation.state {
        OperationState::Succeeded => Ok(Outcome::Succeeded),
        OperationState::Failed(error) => {
            Err(Fault::operation_failed(id, error).about(convert::subject(&operation.subject)))
        }
        OperationState::Pending | OperationState::Running => Ok(Outcome::UnderWay(operation)),
    }
}

/// 202, or 200 where it has ended: the object as it is now, and where its operation is.
pub(crate) fn object<T: Serialize>(status: StatusCode, id: OperationId, object: T) -> Response {
    (status, [(header::LOCATION, location(id))], Json(object)).into_response()
}

/// What a deletion answers: 204 once it is done; 202 with the operation if it goes on, or if the
/// client does not want to wait. `operation` is `None` if it was being deleted already.
pub(crate) async fn deletion(
    app: &ApiState,
    subject: Subject,
    verb: Verb,
    operation: Option<OperationId>,
    prefer: Prefer,
) -> Result<Response, Fault> {
    let id = match operation {
        Some(id) => Some(id),
        None => {
            let unended = app.engine.recall().unended(Some(&subject)).await?;
            unended.into_iter().find(|operation| operation.verb == verb).map(|other| other.id)
        }
    };
    // Without one the other deletion has ended meanwhile.
    let Some(id) = id else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    let response = match outcome(app, id, prefer.wait_or(WAIT_MAX)).await? {
        Outcome::Succeeded => StatusCode::NO_CONTENT.into_response(),
        Outcome::UnderWay(operation) => {
            object(StatusCode::ACCEPTED, id, convert::operation(operation))
        }
    };
    Ok(prefer.applied(response))
}

pub(crate) fn location(id: OperationId) -> String {
    format!("/operations/{id}")
}
