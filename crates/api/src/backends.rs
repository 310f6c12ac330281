//! `/backends`

use axum::Json;
use axum::extract::State;
use vman_api_types as body;

use crate::state::App;

/// The backends, and which of them this host can use
#[utoipa::path(get, path = "/backends", operation_id = "list_backends", tag = "backends", responses(
    (status = 200, description = "All of them", body = [body::Backend]),
))]
pub(crate) async fn list(State(app): State<App>) -> Json<Vec<body::Backend>> {
    Json(app.backends.now())
}
