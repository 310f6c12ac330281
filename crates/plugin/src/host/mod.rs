//! The host's side: finds backends, linked in or as files, makes instances of them and calls
//! their verbs. Both kinds go through the same C table and the same JSON. It starts no instance by
//! itself and does not decide which backend is used.

mod client;
mod error;
pub(crate) mod link;
mod registry;
mod slots;
#[cfg(test)]
mod tests;
mod trust;
mod worker;

pub use client::{Client, Dropped};
pub use error::{LoadError, Mismatch};
pub use registry::{Offer, Registry, Source, open_file, scan};
