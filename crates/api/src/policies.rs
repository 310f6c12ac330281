//! `/policies`

use axum::Json;
use axum::extract::State;
use vman_api_types as body;

use crate::state::App;

/// The policies, in the order they are asked
#[utoipa::path(get, path = "/policies", operation_id = "list_policies", tag = "policies", responses(
    (status = 200, description = "All of them", body = [body::Policy]),
))]
pub(crate) async fn list(State(app): State<App>) -> Json<Vec<body::Policy>> {
    Json(app.policies.clone())
}
