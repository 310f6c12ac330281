//! `/operations`

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use vman_api_types as body;
use vman_core::ident::{Invalid, OperationId};
use vman_core::lifecycle::NotCancellable;
use vman_core::operation::OperationState;
use vman_core::ports::RecordError;
use vman_engine::EngineError;

use crate::body::NoBody;
use crate::fields::string;
use crate::page::{self, PageQuery, Query};
use crate::path::Named;
use crate::prefer::{Prefer, WAIT_MAX, seconds};
use crate::problem::{Fault, excerpt};
use crate::state::App;
use crate::{accepted, convert, docs};

/// All operations, newest first
#[utoipa::path(get, path = "/operations", operation_id = "list_operations", tag = "operations",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of them", body = [body::Operation]),
        docs::BadQuery, docs::NotNow,
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    Query(mut query): Query,
) -> Result<Response, Fault> {
    let page = page::read::<OperationId>(&mut query);
    query.finish(|| Some(()))?;
    let limit = page.limit;
    let operations = page::listed(app.engine.recall().operations(page).await)?;
    let last = operations.last().map(|operation| operation.id.to_string());
    let bodies = operations.into_iter().map(convert::operation).collect();
    Ok(page::answer("/operations", None, limit, last, bodies))
}

/// One operation, now or once it has ended
#[utoipa::path(get, path = "/operations/{id}", operation_id = "get_operation", tag = "operations",
    params(
        ("id" = uuid::Uuid, Path),
        ("wait" = Option<String>, Query, description = "How long to wait for its end: seconds, \
            or with a unit, e.g. `500ms`; more than 60 seconds are taken as 60", example = "30s"),
    ),
    responses(
        (status = 200, description = "The operation", body = body::Operation),
        docs::BadQuery, docs::Unknown, docs::NotNow,
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    Named(id): Named<OperationId>,
    Query(mut query): Query,
) -> Result<Json<body::Operation>, Fault> {
    let wait = query.optional("wait", wait);
    query.finish(|| Some(()))?;
    let operation = match wait {
        Some(wait) => app.engine.wait(id, wait).await?,
        None => app.engine.recall().operation(id).await?,
    };
    let operation = operation.ok_or_else(|| Fault::unknown("operation", &id.to_string()))?;
    Ok(Json(convert::operation(operation)))
}

/// Have an operation broken off: a start, a restart, a stop, a deletion or the making of a disk
///
/// It ends as `cancelled` once what it has done so far is undone; one that only waits for a guest
/// ends at once. What it has begun and cannot take back goes on to its own end.
#[utoipa::path(post, path = "/operations/{id}/cancel", operation_id = "cancel_operation",
    tag = "operations",
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N` waits for the end"),
    ),
    responses(
        (status = 200, description = "It is cancelled", body = body::Operation),
        (status = 202, description = "It will be; the operation as it is now",
            body = body::Operation, headers(("Location" = String, description = "It"))),
        docs::BadBody, docs::Unknown, docs::Conflict, docs::NotNow,
    )
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    Named(id): Named<OperationId>,
    prefer: Prefer,
    NoBody: NoBody,
) -> Result<Response, Fault> {
    let asked = match app.engine.cancel(id).await {
        Err(EngineError::Record(RecordError::NotFound(_))) => {
            return Err(Fault::unknown("operation", &id.to_string()));
        }
        asked => asked?,
    };
    let operation = match prefer.wait {
        Some(wait) => app.engine.wait(id, wait).await?.unwrap_or(asked),
        None => asked,
    };
    let (verb, why) = (operation.verb, NotCancellable::Ended);
    let response = match &operation.state {
        OperationState::Cancelled(_) => Json(convert::operation(operation)).into_response(),
        OperationState::Pending | OperationState::Running => {
            accepted::object(StatusCode::ACCEPTED, id, convert::operation(operation))
        }
        // Its own end came first.
        OperationState::Succeeded | OperationState::Failed(_) => {
            return Err(EngineError::NotCancellable { operation: id, verb, why }.into());
        }
    };
    Ok(prefer.applied(response))
}

/// A number of seconds, or a duration with its unit.
fn wait(value: Value) -> Result<Duration, Invalid> {
    let text = string(value)?;
    if let Some(wait) = seconds(&text) {
        return Ok(wait.min(WAIT_MAX));
    }
    let wait = humantime::parse_duration(&text).map_err(|error| {
        Invalid(format!(
            "must be seconds, or a duration such as 500ms, not {:?}: {error}",
            excerpt(&text)
        ))
    })?;
    Ok(wait.min(WAIT_MAX))
}
