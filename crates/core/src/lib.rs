//! The words of vman, and every decision that vman itself takes.
//!
//! Pure: there is no clock, file, socket, async runtime or serialisation here, so nothing in this
//! crate can fail because of the host. Whoever calls brings the time and the facts; what comes back
//! is a value.
//!
//! In reading order: the nouns ([`template`], [`vm`], [`disk`], [`network`], [`operation`]), what a
//! command leads to ([`lifecycle`]), what is on the host ([`sighting`]), what disagrees
//! ([`coherence`], [`evidence`]), what may be done about it ([`repair`]), and what the rest of vman
//! must offer ([`ports`]).

pub mod coherence;
pub mod disk;
pub mod evidence;
pub mod ident;
pub mod lifecycle;
pub mod network;
pub mod operation;
pub mod ports;
pub mod repair;
pub mod sighting;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vm;
mod words;
