//! What the QEMU backends share: everything but the choice of accelerator, which the crates
//! `vman-plugin-qemu-kvm` and `vman-plugin-qemu-tcg` make. Not here: what a machine should be
//! doing, which is the daemon's to know; this crate only carries out and looks.
//!
//! A machine is one QEMU process in its own session, so that it outlives the daemon. It is found
//! again by `/proc` alone: its command line carries its id and its pid file. QEMU's working
//! directory is the machine's, where its sockets and logs are. Where the host allows it, the
//! process is of a user of its own and in a cgroup of its own; what is in its directory is then
//! its own too, and is trusted no more than the guest.

mod accelerator;
mod aftermath;
mod backend;
mod block;
mod cgroup;
mod command_line;
mod confine;
mod devices;
mod disks;
mod exit;
mod failure;
mod files;
mod holder;
mod image;
mod kvm_probe;
mod launch;
#[cfg(test)]
mod limits_tests;
mod log;
mod machine;
mod owner;
mod probe;
mod process;
mod program;
mod qmp;
mod registry;
mod settings;
mod spawn;
mod talk;

pub use accelerator::{Acceleration, Accelerator};
pub use backend::Qemu;
pub use command_line::{CONSOLE_LOG, CONSOLE_SOCKET, PID_FILE, QEMU_LOG, QMP_SOCKET};

use vman_plugin::{BackendError, ErrorCode};

/// On a thread that may wait: on a slow file system the kernel takes its time.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BackendError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| failed(format!("work on files or processes was cut short: {error}")))
}

fn invalid(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorCode::Invalid, message)
}

fn failed(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorCode::Failed, message)
}

fn timeout(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorCode::Timeout, message)
}

fn not_found(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorCode::NotFound, message)
}

fn conflict(message: impl Into<String>) -> BackendError {
    BackendError::new(ErrorCode::Conflict, message)
}
