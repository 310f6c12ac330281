//! The backend `qemu-kvm`: `vman-plugin-qemu` with hardware virtualisation (KVM). Nothing but that
//! choice is made here.

use vman_plugin_qemu::{Acceleration, Accelerator, Qemu};

/// Runs machines with QEMU, on the processor.
pub type QemuKvm = Qemu<Kvm>;

/// The choice of KVM; never built.
#[derive(Debug)]
pub enum Kvm {}

impl Acceleration for Kvm {
    const ACCELERATOR: Accelerator = Accelerator::Kvm;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
}

vman_plugin::export_backend!(QemuKvm);
