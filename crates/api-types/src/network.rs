//! How machines reach the network.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /network/config`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkConfig {
    /// `user`: the backend routes, every machine is alone in a private network of its own. `none`:
    /// machines have no card.
    #[schema(example = "user")]
    pub mode: String,
    /// Why this mode.
    pub reason: String,
    /// The addresses that VMs get, in CIDR notation.
    #[schema(example = "10.77.0.0/24")]
    pub subnet: String,
    /// The router's address in the subnet.
    #[schema(example = "10.77.0.1")]
    pub gateway: String,
    /// The name server guests are given; `null`: the mode's own.
    #[schema(required = true, example = "9.9.9.9")]
    pub dns: Option<String>,
    /// The bridge machines are joined to; `null` in modes without one.
    #[schema(required = true, example = "vman0")]
    pub bridge: Option<String>,
    /// The VLAN machines are in; `null`: untagged.
    #[schema(required = true, example = 100)]
    pub vlan_id: Option<u16>,
    /// The host's card that leads outside; `null` in modes without one.
    #[schema(required = true, example = "eth0")]
    pub uplink: Option<String>,
}
