//! `/network`

use axum::Json;
use axum::extract::State;
use vman_api_types as body;

use crate::state::App;

/// How machines reach the network
#[utoipa::path(get, path = "/network/config", operation_id = "get_network_config", tag = "network",
    responses(
        (status = 200, description = "The network", body = body::NetworkConfig),
    )
)]
pub(crate) async fn config(State(app): State<App>) -> Json<body::NetworkConfig> {
    Json(app.network.clone())
}
