//! Remembers: the only SQL of vman.
//!
//! [`Store`] keeps every record in one SQLite file. One thread owns the only writing connection, so
//! changes are applied one after another, each commit in one transaction that is on the disk before
//! it is answered. A few more threads read, each from its own snapshot, and wait for no writer.
//! Nothing here decides what a change means; what may be asked is said by `vman_core::ports`.

mod cells;
mod disks;
mod issues;
mod json;
mod open;
mod operations;
mod prune;
mod requests;
mod store;
mod templates;
mod threads;
mod vms;
mod write;

pub use open::StoreError;
pub use store::Store;
