//! The backend `qemu-tcg`: `vman-plugin-qemu` with emulation (TCG). Nothing but that choice is
//! made here.

use vman_plugin_qemu::{Acceleration, Accelerator, Qemu};

/// Runs machines with QEMU, which emulates them.
pub type QemuTcg = Qemu<Tcg>;

/// The choice of TCG; never built.
#[derive(Debug)]
pub enum Tcg {}

impl Acceleration for Tcg {
    const ACCELERATOR: Accelerator = Accelerator::Tcg;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}

vman_plugin::export_backend!(QemuTcg);
