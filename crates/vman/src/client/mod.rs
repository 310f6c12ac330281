//! The client commands: each is one or a few requests to the daemon and a printed answer. What the
//! daemon does is not known here.

mod actions;
mod boot_files;
mod connection;
mod disks;
mod follow;
mod issues;
mod operations;
mod output;
mod references;
mod status;
mod templates;
#[cfg(test)]
mod tests;
mod vms;

pub(crate) use connection::Connection;
pub(crate) use output::Output;

pub(crate) use disks::run as disk;
pub(crate) use issues::run as issue;
pub(crate) use operations::run as operation;
pub(crate) use status::{backends, health, network, policies, table as backend_table};
pub(crate) use templates::run as template;
pub(crate) use vms::run as vm;
