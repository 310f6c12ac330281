//! What the daemon hands to the API when it wires it up. Nothing here is read from a file.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use vman_api_types::{Backend, NetworkConfig, Policy};
use vman_core::ports::ObserverStatus;
use vman_engine::Engine;

/// All that the handlers need.
#[derive(Debug)]
pub struct ApiState {
    pub engine: Engine,
    pub observer: ObserverHandle,
    /// Answered as it is by `GET /network/config`.
    pub network: NetworkConfig,
    /// Answered by `GET /backends`.
    pub backends: Backends,
    /// Answered as they are by `GET /policies`.
    pub policies: Vec<Policy>,
    pub auth: Auth,
    /// Origins that browsers may call from, e.g. `https://console.example`. `http://localhost` and
    /// `http://127.0.0.1` stand for every port of theirs.
    pub cors_origins: Vec<String>,
    /// The daemon's version.
    pub version: String,
}

/// The backends as they are now.
#[derive(Clone)]
pub struct Backends(Arc<dyn Fn() -> Vec<Backend> + Send + Sync>);

impl Backends {
    /// `look` must not block.
    pub fn new(look: impl Fn() -> Vec<Backend> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    pub(crate) fn now(&self) -> Vec<Backend> {
        (self.0)()
    }
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backends")
    }
}

/// The observer, as far as the API may touch it.
#[derive(Debug, Clone)]
pub struct ObserverHandle {
    pub status: watch::Receiver<ObserverStatus>,
    /// Asks for a look now.
    pub wake: Arc<Notify>,
    /// Between whole looks.
    pub interval: Duration,
}

/// Who may call.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Whoever sends this bearer token. An empty one lets nobody in.
    Token(String),
    /// Everyone who can connect, except web pages of strangers: `Host` must be an address or
    /// `localhost`, and an `Origin` must be one of [`ApiState::cors_origins`].
    None,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(..)",
            Self::None => "None",
        })
    }
}

pub(crate) type App = Arc<ApiState>;
