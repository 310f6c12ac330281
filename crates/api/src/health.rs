//! `/health` and `/ready`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use vman_api_types as body;

use crate::docs;
use crate::problem::Fault;
use crate::state::App;

/// Whether the daemon answers; needs no token
#[utoipa::path(get, path = "/health", operation_id = "get_health", tag = "about", responses(
    (status = 200, description = "It does", body = body::Health),
))]
pub(crate) async fn health(State(app): State<App>) -> Json<body::Health> {
    Json(body::Health { status: "ok".to_owned(), version: app.version.clone() })
}

/// Whether the observer has looked at the host once
#[utoipa::path(get, path = "/ready", operation_id = "get_ready", tag = "about", responses(
    (status = 200, description = "It has", body = body::Ready), docs::NotNow,
))]
pub(crate) async fn ready(State(app): State<App>) -> Result<Json<body::Ready>, Fault> {
    if app.observer.status.borrow().looks > 0 {
        return Ok(Json(body::Ready { status: "ready".to_owned() }));
    }
    let detail = "the observer has not looked at the host yet";
    Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail)
        .hint("ask again in a moment; GET /observer/status says more"))
}
