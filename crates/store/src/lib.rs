//! Remembers: the only SQL of vman.
//!
//! [`Store`] keeps every record in one SQLite file. There is one writing connection, so changes are
//! applied one after another, each commit in one transaction that the daemon's death does not undo
//! once it is answered; that it outlives a loss of power, too, is waited for apart. A few more
//! connections read, each from its own snapshot, and wait for no writer. Nothing here decides what
//! a change means; what may be asked is said by `vman_core::ports`.

mod cells;
mod disks;
mod issues;
mod json;
mod open;
mod operations;
mod prune;
mod requests;
mod store;
mod syncer;
mod templates;
mod threads;
mod vms;
mod write;

pub use open::StoreError;
pub use store::Store;
