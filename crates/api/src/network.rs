//! `/network`

use axum::Json;
use axum::extract::State;
use vman_api_types as body;

use crate::state::App;

/// How machines reach the network
#[utoipa::path(get, path = "/network/config", tag = "network", responses(
    (status = 200, body = body::NetworkConfig),
))]
pub(crate) async fn config(State(app): State<App>) -> Json<body::NetworkConfig> {
    Json(app.network.clone())
}
