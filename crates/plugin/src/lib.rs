//! The backend contract, both sides: what a plugin author implements (`Backend`), the messages
//! and the C ABI between a plugin and its host, (feature `host`) the registry and loader the
//! daemon uses, and (feature `conformance`) the suite that any backend must pass. It knows nothing
//! of vman's records, policies or API, and runs no machine itself.

mod abi;
mod backend;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod deadline;
mod export;
#[cfg(feature = "host")]
pub mod host;
mod instance;
mod message;
mod wire;

pub use backend::{Backend, BackendContext, BackendError, ErrorCode, LogLevel};
pub use message::{
    BackendConfig, Boot, Bus, Capabilities, Control, DiskAttachment, DiskGrowth, DiskRemoval,
    DiskSpec, Event, ExitCause, ImageFormat, ImageGrowth, ImageInfo, ImageRef, ImageSpec, Machine,
    MachineEnd, MachineSighting, MachineSpec, Manifest, Nic, Probe, ProcessIdentity, RunState,
    Survey, Unplug,
};

/// For `export_backend!` alone.
#[doc(hidden)]
pub mod __private {
    pub use inventory;

    pub use crate::abi::{PluginTable, TableCell};
    pub use crate::export::StaticBackend;
}
