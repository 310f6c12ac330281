//! `/operations`

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;
use vman_api_types as body;
use vman_core::ident::{Invalid, OperationId};

use crate::fields::string;
use crate::page::{self, PageQuery, Query};
use crate::path::Named;
use crate::prefer::WAIT_MAX;
use crate::problem::{Fault, excerpt};
use crate::state::App;
use crate::{convert, docs};

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
        ("wait" = Option<String>, Query, description = "How long to wait for its end, e.g. `30s` \
            or `500ms`; more than 60 seconds are taken as 60", example = "30s"),
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

fn wait(value: Value) -> Result<Duration, Invalid> {
    let text = string(value)?;
    let wait = humantime::parse_duration(&text).map_err(|error| {
        Invalid(format!("must be a duration such as 30s, not {:?}: {error}", excerpt(&text)))
    })?;
    Ok(wait.min(WAIT_MAX))
}
