//! Starting QEMU so that it outlives us, as whom and where it is told to, and what the kernel tells
//! of a process by its descriptor: the only unsafe code of this crate but for the KVM probe. What
//! QEMU is told, and as whom it runs, is not decided here.
//!
//! Not `std::process::Command`: it cannot make a child inside a cgroup, and moving one there stops
//! it, and whoever forks, for milliseconds.
//!
//! Nor a plain fork: it has the daemon's memory copied on the next write, so that the daemon stands
//! still at every page for the milliseconds after a start. The child borrows the memory instead, on
//! a stack of its own, and whoever makes it waits until it has executed the program, as after
//! vfork(2).
#![allow(unsafe_code, reason = "clone3, fork, execve, close_range and an ioctl on a pidfd")]

use std::convert::Infallible;
use std::ffi::{CString, c_char, c_long};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal};
use rustix::fs::{Access, Mode};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, WaitId, WaitIdOptions, dumpable_behavior, set_dumpable_behavior, umask, waitid,
};
use rustix::thread::{
    Gid, Uid, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::exit::Status;

/// The first descriptor after standard input, output and error.
const FIRST_FOREIGN_FD: c_long = 3;

/// clone(2): the child handles no signal as we do. The kernel's number; libc's is too wide a type.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// clone(2): the child begins in the cgroup of a descriptor.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Bytes of the child's stack: it calls little, and nothing deep.
const STACK: usize = 64 << 10;

/// Held while a child borrows the daemon's memory.
static BORROWED: Mutex<()> = Mutex::new(());

/// Whom a process becomes. Its capabilities go with root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The only other groups it has.
    pub(crate) groups: Vec<u32>,
}

/// A process to be: everything is decided, and laid out for the time between fork and exec, when
/// nothing can be allocated.
#[derive(Debug)]
pub(crate) struct Plan {
    program: CString,
    arguments: Vec<CString>,
    directory: CString,
    output: File,
    identity: Option<Identity>,
    reach: Vec<(CString, Access)>,
}

impl Plan {
    /// `program` in `directory`, standard output and error to `output`.
    pub(crate) fn new(
        program: &Path,
        arguments: &[String],
        directory: &Path,
        output: File,
    ) -> io::Result<Self> {
        let program = c_path(program)?;
        let mut all = vec![program.clone()];
        for argument in arguments {
            all.push(CString::new(argument.as_str())?);
        }
        let directory = c_path(directory)?;
        Ok(Self { program, arguments: all, directory, output, identity: None, reach: Vec::new() })
    }

    /// As another user, who must have access to all of `reach` before the program is executed.
    pub(crate) fn run_as(
        mut self,
        identity: Identity,
        reach: &[(&Path, Access)],
    ) -> io::Result<Self> {
        self.identity = Some(identity);
        let reach = reach.iter().map(|(path, access)| Ok((c_path(path)?, *access)));
        self.reach = reach.collect::<io::Result<_>>()?;
        Ok(self)
    }
}

/// What a process that was not started failed at.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// The child was not made.
    Fork(io::Error),
    /// It was not made inside the cgroup.
    Cgroup(io::Error),
    /// A step that asks for no right, and does not fail.
    Prepare(io::Error),
    /// It could not take its identity.
    Become(io::Error),
    /// This one of the things it must reach is out of its user's reach.
    Reach(usize, io::Error),
    Execute(io::Error),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fork(error) => write!(f, "no process could be made: {error}"),
            Self::Cgroup(error) => write!(f, "no process could be made in the cgroup: {error}"),
            Self::Prepare(error) => write!(f, "its process could not be prepared: {error}"),
            Self::Become(error) => write!(f, "its process could not take its user: {error}"),
            Self::Reach(_, error) => write!(f, "its user lacks access: {error}"),
            Self::Execute(error) => write!(f, "it could not be executed: {error}"),
        }
    }
}

/// Starts a process of `plan`, a child that is [waited for](exit_of) through its descriptor or not
/// at all. Returns its pid once the program was really executed.
pub(crate) fn spawn(plan: &Plan, cgroup: Option<BorrowedFd<'_>>) -> Result<u32, SpawnError> {
    let null = File::open("/dev/null").map_err(SpawnError::Fork)?;
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| SpawnError::Fork(e.into()))?;
    let pointers = |texts: &[CString]| {
        let all = texts.iter().map(|text| text.as_ptr());
        all.chain([std::ptr::null()]).collect::<Vec<*const c_char>>()
    };
    // The daemon's environment may hold secrets, and QEMU's modules must not come from it.
    let (arguments, environment) = (pointers(&plan.arguments), pointers(&[c"LC_ALL=C".to_owned()]));
    let tell_fd = tell.as_fd();
    let child = Child {
        plan,
        null: &null,
        tell: tell_fd,
        arguments: &arguments,
        environment: &environment,
    };
    // Until the child has let go of our handlers none of them may run in it.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let made = lend_memory(|| make(&child, cgroup));
    if let Ok(mask) = mask {
        let _ = mask.thread_set_mask();
    }
    drop(tell);
    let pid = made.map_err(|error| match cgroup {
        Some(_) => SpawnError::Cgroup(error),
        None => SpawnError::Fork(error),
    })?;
    let mut words = [0; Failed::BYTES];
    match rustix::io::retry_on_intr(|| rustix::io::read(&told, &mut words)) {
        Ok(Failed::BYTES) => {
            // It ends by itself; nobody else waits for it.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            Err(Failed::from_bytes(words).error())
        }
        // Closed by the program's execution.
        Ok(_) | Err(_) => Ok(pid.as_raw_pid().cast_unsigned()),
    }
}

/// Makes the process and ends it as soon as its program was executed: shows that it can be.
pub(crate) fn try_out(plan: &Plan) -> Result<(), SpawnError> {
    let pid = Pid::from_raw(spawn(plan, None)?.cast_signed()).expect("a process has a number");
    // Nobody else waits for it, so its pid is its own; if this fails it has ended already.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    Ok(())
}

/// A process that changes its user while it has the daemon's memory takes from the memory that it
/// may be dumped and traced, so that its new user cannot reach into it; once it has memory of its
/// own, the daemon's is as it was. One at a time: none must give back what another one needs.
fn lend_memory<T>(lend: impl FnOnce() -> T) -> T {
    let _alone = BORROWED.lock().unwrap_or_else(PoisonError::into_inner);
    let before = dumpable_behavior();
    let lent = lend();
    if let Ok(before) = before {
        // It was so before; a daemon that cannot be dumped works as well.
        let _ = set_dumpable_behavior(before);
    }
    lent
}

/// Has the child run; returns once it has executed its program, or has ended. With a cgroup it
/// begins in there, or is not made.
fn make(child: &Child<'_>, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Pid> {
    // SAFETY: a structure of numbers, for which zeros are "nothing of it": clone(2).
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_CLEAR_SIGHAND;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    match clone_borrowing(arguments, child) {
        // A container that filters clone3 out, a kernel before 5.5, or another processor.
        Err(_) if cgroup.is_none() => fork(child),
        made => made,
    }
}

/// clone3(2) with CLONE_VM and CLONE_VFORK.
#[cfg(target_arch = "x86_64")]
fn clone_borrowing(mut arguments: libc::clone_args, child: &Child<'_>) -> io::Result<Pid> {
    #[repr(align(16))]
    #[expect(dead_code, reason = "only its room is used")]
    struct Stack([u8; STACK]);

    let mut stack = Box::<Stack>::new_uninit();
    arguments.flags |= (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    arguments.stack = stack.as_mut_ptr().addr() as u64;
    arguments.stack_size = STACK as u64;
    let returned: i64;
    // SAFETY: the kernel reads `arguments`, and stops this thread until the child has executed a
    // program or has ended, so that the stack and `child` outlive the child's use of them. The
    // child begins at the stack's upper end, aligned as the psABI wants it for a call, and does not
    // come back from it. It has memory in common with this process and runs what makes system calls
    // only, and neither allocates nor takes a lock; registers are its own.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => returned,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") run_child as extern "C" fn(&Child<'_>) -> !,
            in("r13") child,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    drop(stack);
    of_number(returned)
}

#[cfg(not(target_arch = "x86_64"))]
fn clone_borrowing(_: libc::clone_args, _: &Child<'_>) -> io::Result<Pid> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

extern "C" fn run_child(child: &Child<'_>) -> ! {
    child.run()
}

/// With a copy of all memory.
fn fork(child: &Child<'_>) -> io::Result<Pid> {
    // SAFETY: the child makes system calls only, and ends in execve or _exit.
    match unsafe { libc::fork() } {
        0 => child.run(),
        -1 => Err(io::Error::last_os_error()),
        pid => of_number(pid.into()),
    }
}

/// What the kernel returns to the parent: a pid, or an error's number below zero.
fn of_number(returned: i64) -> io::Result<Pid> {
    let number = i32::try_from(returned).map_err(io::Error::other)?;
    // It takes no number below zero.
    let pid = if number > 0 { Pid::from_raw(number) } else { None };
    pid.ok_or_else(|| io::Error::from_raw_os_error(-number))
}

/// The child until it executes its program, in the memory of a threaded process or in a copy of it:
/// it makes system calls only, and neither allocates nor takes a lock.
struct Child<'p> {
    plan: &'p Plan,
    null: &'p File,
    /// Where it says why it cannot go on.
    tell: BorrowedFd<'p>,
    arguments: &'p [*const c_char],
    environment: &'p [*const c_char],
}

impl Child<'_> {
    fn run(&self) -> ! {
        let Err(failed) = self.execute();
        let _ = rustix::io::write(self.tell, &failed.to_bytes());
        // SAFETY: ends this process without running what the parent has registered for its end.
        unsafe { libc::_exit(127) }
    }

    fn execute(&self) -> Result<Infallible, Failed> {
        let plan = self.plan;
        prepare(plan, self.null).map_err(|error| Failed::at(Failed::PREPARE, error))?;
        if let Some(identity) = &plan.identity {
            become_user(identity).map_err(|error| Failed::at(Failed::BECOME, error.into()))?;
        }
        for (stage, (path, access)) in (Failed::REACH..).zip(&plan.reach) {
            rustix::fs::access(path, *access).map_err(|error| Failed::at(stage, error.into()))?;
        }
        // A program that QEMU would execute gains nothing by it: not by a set-uid bit either.
        set_no_new_privs(true).map_err(|error| Failed::at(Failed::BECOME, error.into()))?;
        let _ = SigSet::empty().thread_set_mask();
        let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: all three are or hold pointers to strings of the parent, which are there in this
        // process, too, and both lists end with a null.
        unsafe { libc::execve(plan.program.as_ptr(), arguments, environment) };
        Err(Failed::at(Failed::EXECUTE, io::Error::last_os_error()))
    }
}

fn prepare(plan: &Plan, null: &File) -> io::Result<()> {
    // A session of its own: signals to the daemon's group or terminal do not reach the machine.
    rustix::process::setsid()?;
    umask(Mode::from_raw_mode(0o077));
    rustix::process::chdir(plan.directory.as_c_str())?;
    rustix::stdio::dup2_stdin(null)?;
    rustix::stdio::dup2_stdout(&plan.output)?;
    rustix::stdio::dup2_stderr(&plan.output)?;
    // Without clone3 the child has our handlers, and none of them may run in it; and Rust ignores
    // SIGPIPE, which would stay so over exec.
    for each in Signal::iterator().filter(|each| !matches!(each, Signal::SIGKILL | Signal::SIGSTOP))
    {
        // SAFETY: the default is no handler of ours.
        unsafe { signal(each, SigHandler::SigDfl) }?;
    }
    close_foreign_fds_on_exec()
}

/// The groups first, while there is the right to set them. Raw system calls: only this thread is
/// left to change.
fn become_user(identity: &Identity) -> rustix::io::Result<()> {
    // Gid is a number alone, and the list is short: it is copied without allocating.
    let mut groups = [Gid::from_raw(identity.gid); 4];
    let count = identity.groups.len().min(groups.len());
    for (group, raw) in groups.iter_mut().zip(&identity.groups) {
        *group = Gid::from_raw(*raw);
    }
    set_thread_groups(groups.get(..count).unwrap_or_default())?;
    let (gid, uid) = (Gid::from_raw(identity.gid), Uid::from_raw(identity.uid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
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

/// What the child says through the pipe when it cannot go on.
struct Failed {
    stage: u32,
    errno: i32,
}

impl Failed {
    const BYTES: usize = 8;
    const PREPARE: u32 = 0;
    const BECOME: u32 = 1;
    const EXECUTE: u32 = 2;
    /// And on: the number of what is out of reach added.
    const REACH: u32 = 3;

    fn at(stage: u32, error: io::Error) -> Self {
        Self { stage, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    fn to_bytes(&self) -> [u8; Self::BYTES] {
        (u64::from(self.stage) << 32 | u64::from(self.errno.cast_unsigned())).to_ne_bytes()
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let both = u64::from_ne_bytes(bytes);
        let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default();
        Self { stage: low(both >> 32), errno: low(both).cast_signed() }
    }

    fn error(&self) -> SpawnError {
        let error = io::Error::from_raw_os_error(self.errno);
        match self.stage {
            Self::PREPARE => SpawnError::Prepare(error),
            Self::BECOME => SpawnError::Become(error),
            Self::EXECUTE => SpawnError::Execute(error),
            stage => SpawnError::Reach((stage - Self::REACH) as usize, error),
        }
    }
}

/// Has a helper program end with the daemon, however suddenly: the next daemon does the same work
/// anew, and two would meet in one file. prctl(2): the thread that spawns it must live as long.
pub(crate) fn end_with_us(command: &mut tokio::process::Command) {
    let us = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It ended before it could be said.
        match rustix::process::getppid() {
            Some(parent) if parent == us => Ok(()),
            Some(_) | None => Err(rustix::io::Errno::SRCH.into()),
        }
    };
    // SAFETY: it makes two system calls, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
}

/// Lets a process's descriptor be waited for: it becomes readable when the process has ended.
pub(crate) fn wait_on(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, and handed out by no one as anything but a borrow: it stays
    // open, and the same, until the registration is dropped with it.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Has the kernel free the memory of a process that got SIGKILL while it ends, on this processor
/// beside its own: process_mrelease(2), since Linux 5.15. Takes as long as there is memory.
pub(crate) fn release_memory(pidfd: BorrowedFd<'_>) {
    // SAFETY: two numbers; it does nothing to a process that is not ending. Without it the memory
    // is freed all the same.
    let _ = unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) };
}

/// How the process of this descriptor ended, and waits for it where it is a child of ours: it is
/// no zombie after this. Must have ended. Of another's child the kernel tells since 6.15, and once
/// its own parent has waited for it.
pub(crate) fn exit_of(pidfd: BorrowedFd<'_>) -> Status {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    if let Ok(Some(status)) = waitid(WaitId::PidFd(pidfd), options) {
        return match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Status::Exited(code),
            (None, Some(signal)) => Status::Signalled(signal),
            (None, None) => Status::Unseen,
        };
    }
    // SAFETY: a structure of numbers.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the request writes at most the size of the structure, which is part of its number.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    if done == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0 {
        Status::from_wait(info.exit_code)
    } else {
        Status::Unseen
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_returns_is_a_pid_or_the_error_that_it_names() {
        assert_eq!(of_number(7).unwrap().as_raw_pid(), 7);
        for error in [libc::EAGAIN, libc::EBUSY, libc::ENODEV, libc::ENOSYS] {
            assert_eq!(of_number((-error).into()).unwrap_err().raw_os_error(), Some(error));
        }
        of_number(i64::MIN).unwrap_err();
    }
}
