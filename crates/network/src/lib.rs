//! Network of the machines: ensure, remove, survey.
//!
//! [`Networker`] settles once, when the daemon starts, how machines reach the network, and says
//! why. In user mode the backend itself routes, so nothing of it is ever made on the host. Devices
//! marked as ours are looked for in every mode: an earlier run may have left one. Which address a
//! VM gets is decided elsewhere.

mod networker;
mod settings;
mod survey;

pub use networker::Networker;
pub use settings::{Mode, NetworkConfig, NetworkError, Problem};
pub use survey::ALIAS_PREFIX;
