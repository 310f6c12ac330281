//! `/observer`

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use vman_api_types as body;

use crate::body::NoBody;
use crate::state::{ApiState, App};
use crate::{convert, docs};

/// How the observer is doing, and what its last look found
#[utoipa::path(get, path = "/observer/status", operation_id = "get_observer_status",
    tag = "observer",
    responses(
        (status = 200, description = "How it is doing", body = body::ObserverStatus),
    )
)]
pub(crate) async fn status(State(app): State<App>) -> Json<body::ObserverStatus> {
    Json(present(&app))
}

/// Look now
#[utoipa::path(post, path = "/observer/run", operation_id = "run_observer", tag = "observer",
    responses(
        (status = 202, description = "It will; this is how it is doing before",
            body = body::ObserverStatus,
            headers(("Location" = String, description = "Where `looks` then counts one more"))),
        docs::BadBody,
    )
)]
pub(crate) async fn run(State(app): State<App>, NoBody: NoBody) -> Response {
    let before = present(&app);
    app.observer.wake.notify_one();
    let location = [(header::LOCATION, "/observer/status")];
    (StatusCode::ACCEPTED, location, Json(before)).into_response()
}

fn present(app: &ApiState) -> body::ObserverStatus {
    let interval_ms = u64::try_from(app.observer.interval.as_millis()).unwrap_or(u64::MAX);
    convert::observer(&app.observer.status.borrow(), interval_ms)
}
