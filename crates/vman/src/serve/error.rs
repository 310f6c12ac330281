//! Why the daemon did not start, or did not go on.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error("the runtime cannot be set up: {0}")]
    Runtime(#[source] io::Error),
    #[error(
        "cannot use the storage folder {}: {source}; {}, or set `[storage] path`",
        path.display(),
        if is_full(source) { "free some space there" } else { "make it writable for this user" }
    )]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "another daemon uses the storage folder {}; end it first, or set `[storage] path`",
        .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "cannot use the token file {}: {source}; remove it to have a new one made, or make it \
         readable for this user",
        path.display()
    )]
    Token { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}: {source}; set `[server] listen`")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("no random bytes can be had: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Store(#[from] vman_store::StoreError),
    #[error(transparent)]
    Network(#[from] vman_network::NetworkError),
    #[error(transparent)]
    Policy(#[from] vman_policy::LoadError),
    #[error("loading the policies broke off: {0}")]
    Loading(#[source] tokio::task::JoinError),
    #[error(transparent)]
    Backend(#[from] vman_operator::ChooseError),
    #[error("what the last daemon left cannot be taken up: {0}")]
    Engine(#[from] vman_engine::EngineError),
    #[error("serving failed: {0}")]
    Serve(#[source] io::Error),
}

impl ServeError {
    pub(super) fn folder(path: &Path, source: io::Error) -> Self {
        Self::Folder { path: path.to_owned(), source }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
