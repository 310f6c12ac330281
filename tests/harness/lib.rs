//! What the whole-system tests share. A test here knows vman as its users do: the program, its
//! configuration, REST and the host's own view of processes and files; none of its crates.

mod cgroups;
mod daemon;
mod leftovers;
pub mod paths;
mod plugins;
mod points;
mod process;
mod rest;
mod setup;
pub mod source;
mod steps;
pub mod tally;
mod wait;

pub use daemon::Daemon;
pub use paths::{guest, plugins, program, program_with_points};
pub use plugins::{PluginFolder, broken_plugin, broken_plugins, unusual_plugin};
pub use points::Points;
pub use process::{Process, processes};
pub use rest::{Answer, Client};
pub use setup::Setup;
pub use steps::{NO_BODY, pid, text};
pub use wait::{LONG, SOON, wait_for};
