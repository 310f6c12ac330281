//! The host's side: finds backends, linked in or as files, makes instances of them and calls
//! their verbs. Both kinds go through the same C table and the same JSON. It starts no instance by
//! itself and does not decide which backend is used.

mod client;
mod error;
mod fault;
mod isolated;
pub(crate) mod link;
mod registry;
mod shared;
mod sidecar;
mod slots;
#[cfg(test)]
mod tests;
mod trust;
mod worker;

pub use client::{Client, Dropped};
pub use error::{LoadError, Mismatch};
pub use fault::Fault;
pub use isolated::{Helper, serve_plugin};
pub use registry::{
    Mode, Offer, Registry, Source, Terms, open, open_file, open_isolated, plugin_files_in,
};
pub use trust::Pin;
