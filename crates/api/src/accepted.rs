//! What became of an accepted command, and the answers that every resource gives to it alike. What
//! the command does is not known here.

use std::time::Duration;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use vman_core::ident::OperationId;
use vman_core::lifecycle::Denied;
use vman_core::operation::{Operation, OperationState, Subject, Verb};
use vman_engine::EngineError;

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

/// Waits; an operation that failed, or was cancelled, is a problem.
pub(crate) async fn outcome(
    app: &ApiState,
    id: OperationId,
    at_most: Duration,
) -> Result<Outcome, Fault> {
    let operation = app.engine.wait(id, at_most).await?;
    // A repeated request may ask for one that has ended so long ago that it is kept no more.
    let operation = operation.ok_or_else(|| Fault::unknown("operation", &id.to_string()))?;
    let subject = || convert::subject(&operation.subject);
    match &operation.state {
        OperationState::Succeeded => Ok(Outcome::Succeeded),
        OperationState::Failed(error) => Err(Fault::operation_failed(id, error).about(subject())),
        OperationState::Cancelled(who) => Err(Fault::operation_cancelled(id, who).about(subject())),
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

/// Why a command was not let in; where something else has to end first, its operation is named.
/// `vm` is the VM that a command on a disk concerns.
pub(crate) async fn refusal(app: &ApiState, error: EngineError, vm: Option<Subject>) -> Fault {
    let awaited = match &error {
        EngineError::Denied { subject, denied, .. } => awaited(*denied, subject, vm),
        EngineError::Full(subject) => Some(subject.clone()),
        EngineError::Record(_)
        | EngineError::NotFound(_)
        | EngineError::NoTemplate(_)
        | EngineError::PoolExhausted(_)
        | EngineError::NoFreeMountPoint(_)
        | EngineError::NoSuchImages { .. }
        | EngineError::KeyReused(_)
        | EngineError::NotCancellable { .. }
        | EngineError::Contended(_) => None,
    };
    let fault = Fault::from(error);
    let Some(subject) = awaited else { return fault };
    // The refusal stands, whether or not more can be said of it.
    match app.engine.recall().unended(Some(&subject)).await {
        Ok(unended) => match unended.last() {
            Some(operation) => fault.until(operation.id),
            None => fault,
        },
        Err(_) => fault,
    }
}

/// Whose operation has to end before what was denied can be asked for again.
fn awaited(denied: Denied, subject: &Subject, vm: Option<Subject>) -> Option<Subject> {
    match denied {
        Denied::BeingStarted
        | Denied::BeingStopped
        | Denied::BeingDeleted
        | Denied::BeingCreated
        | Denied::BeingMoved
        | Denied::BeingResized => Some(subject.clone()),
        Denied::VmInTransition => vm,
        Denied::NotRunning
        | Denied::Running
        | Denied::Paused
        | Denied::Smaller
        | Denied::Attached
        | Denied::AttachedElsewhere
        | Denied::Held
        | Denied::ImageMissing
        | Denied::Failed
        | Denied::OtherBackend => None,
    }
}

pub(crate) fn location(id: OperationId) -> String {
    format!("/operations/{id}")
}
