//! The accelerators, and what follows from the choice: names, the default CPU model, and what the
//! host must have. How QEMU is started is not told here.

use crate::kvm_probe;

/// Makes one backend of this library: implemented by a type that is never built.
pub trait Acceleration: Send + Sync + 'static {
    const ACCELERATOR: Accelerator;
    /// The version of the crate that offers the backend.
    const VERSION: &'static str;
}

/// How QEMU runs guest code. Always given to QEMU explicitly: its own fallback from KVM to TCG
/// happens only when `/dev/kvm` cannot be opened, so it would hide a KVM that cannot run guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// The name QEMU uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The name in `[backend] use`.
    pub fn backend_name(self) -> &'static str {
        match self {
            Self::Kvm => "qemu-kvm",
            Self::Tcg => "qemu-tcg",
        }
    }

    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Kvm => "QEMU with hardware virtualisation (KVM)",
            Self::Tcg => "QEMU with emulation (TCG): works everywhere, slowly",
        }
    }

    /// The CPU model where the settings name none.
    ///
    /// TCG: `max`, all that TCG emulates, since guests built for x86-64-v2 and later do not start
    /// on `qemu64`. KVM: `host`, where the hardware virtualises; where it does not, `host` and
    /// `max` abort QEMU (it fails to set MSRs it was promised), and `qemu64` starts everywhere.
    pub(crate) fn default_cpu(self) -> &'static str {
        match self {
            Self::Tcg => "max",
            Self::Kvm if kvm_probe::runs_guests().is_ok() => "host",
            Self::Kvm => "qemu64",
        }
    }
}
