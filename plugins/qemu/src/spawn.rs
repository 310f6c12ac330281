//! Starting QEMU so that it outlives us, what its process is before QEMU's first instruction, and
//! the registration by which its end is waited for: the only unsafe code of this crate. What QEMU
//! is told is not decided here.
#![allow(unsafe_code, reason = "fork and exec, close_range(2), and registering a descriptor")]

use std::ffi::c_long;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use nix::libc;
use nix::sys::stat::{Mode, umask};
use nix::unistd::setsid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::command_line::QEMU_LOG;

/// The first descriptor after standard input, output and error.
const FIRST_FOREIGN_FD: c_long = 3;

/// Starts QEMU in `directory`, its output appended to [`QEMU_LOG`] there. Returns once the program
/// was really executed. The caller waits for the child; dropping it leaves QEMU running.
pub(crate) fn spawn(program: &Path, args: &[String], directory: &Path) -> io::Result<Child> {
    let log =
        OpenOptions::new().create(true).append(true).mode(0o600).open(directory.join(QEMU_LOG))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(directory)
        // The daemon's environment may hold secrets, and QEMU's modules must not come from it.
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: `prepare` runs between fork and exec in a copy of a threaded process, so it must be
    // async-signal-safe: it makes system calls only, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Lets a process's descriptor be waited for: it becomes readable when the process has ended.
pub(crate) fn wait_on(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and handed out by no one as anything but a borrow: it stays
    // open, and the same, until the registration is dropped with it.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// What the child does before exec. Dropping uid, gid and capabilities belongs at the end of it:
/// QEMU cannot do so itself under its own sandbox.
fn prepare() -> io::Result<()> {
    // A session of its own: signals to the daemon's group or terminal do not reach the machine.
    setsid()?;
    umask(Mode::from_bits_retain(0o077));
    close_foreign_fds_on_exec()
}

/// Rust opens everything close-on-exec; a foreign library in the daemon may not.
fn close_foreign_fds_on_exec() -> io::Result<()> {
    let (last, flags) = (c_long::from(u32::MAX), c_long::from(libc::CLOSE_RANGE_CLOEXEC));
    // SAFETY: close_range(2) takes three numbers and, with CLOEXEC, only sets descriptor flags.
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST_FOREIGN_FD, last, flags) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        // Kernels before 5.11; then Rust's own close-on-exec has to do.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        error => Err(error),
    }
}
