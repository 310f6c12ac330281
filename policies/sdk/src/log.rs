//! Lines for the daemon's log. The host keeps a bounded number of lines per call.

pub use crate::bindings::vman::policy::log::Level;

/// Writes one line. Does nothing outside of a component, so that logic can be tested natively.
pub fn write(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::vman::policy::log::write(level, message);
    #[cfg(not(target_family = "wasm"))]
    let _ = (level, message);
}
