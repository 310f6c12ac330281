//! HTTP in, commands out: translates requests into commands and reads of the engine, and what
//! comes back into the bodies of `vman-api-types`. Nothing is decided here, no record is changed
//! here, and no type of the domain is ever written to the wire.

mod accepted;
mod auth;
mod backends;
mod body;
mod connections;
mod convert;
mod disks;
mod docs;
mod fields;
mod health;
mod issues;
mod keyed;
mod network;
mod observer;
mod operations;
mod page;
mod path;
mod policies;
mod prefer;
mod problem;
mod request_log;
mod router;
mod server;
mod state;
mod templates;
mod vms;
mod vocabulary;

pub use router::router;
pub use server::{SHUTDOWN_GRACE, serve};
pub use state::{ApiState, Auth, Backends, ObserverHandle};
