//! Finding and running the helper programs: bounded in time and in output, never through a shell.
//! Machines are not started here (see `spawn`).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::owner::Owner;
use crate::spawn::end_with_us;

/// A program of the Debian packages, with the package's name for the message when it is absent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) setting: &'static str,
}

pub(crate) const QEMU: Program =
    Program { name: "qemu-system-x86_64", package: "qemu-system-x86", setting: "binary" };

pub(crate) const QEMU_IMG: Program =
    Program { name: "qemu-img", package: "qemu-utils", setting: "qemu_img" };

/// Bytes kept of each of a program's two outputs.
const MAX_OUTPUT: u64 = 256 * 1024;

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The program's path: as set, or from `PATH`. The error says what to install or to set.
pub(crate) fn find(program: Program, set: Option<&Path>) -> Result<PathBuf, String> {
    let Program { name, package, setting } = program;
    if let Some(path) = set {
        return if executable(path) {
            Ok(path.to_owned())
        } else {
            Err(format!(
                "the setting `{setting}` names {}, which is not a program: correct it, or leave \
                 it out to take {name} from PATH",
                path.display()
            ))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_absolute() && executable(candidate))
        .ok_or_else(|| {
            format!(
                "{name} is not in PATH: install it (Debian, Ubuntu: apt-get install \
                 --no-install-recommends qemu-system-x86 qemu-utils; this one is in {package}), \
                 or name it by the setting `{setting}`"
            )
        })
}

/// Runs a program to its end, with nothing to read; it is killed when `deadline` has passed, when
/// the future is dropped, and when the daemon ends. To be polled on a thread of the runtime: it
/// must outlive the program.
pub(crate) async fn run(path: &Path, args: &[&str], deadline: Duration) -> Result<Output, Failure> {
    run_as(path, args, Stdio::null(), None, deadline).await
}

/// [`run`] as another user where one is given, without any other group and, that user not being
/// root, without capabilities. The program gets nothing of our environment, which that user could
/// read.
pub(crate) async fn run_as(
    path: &Path,
    args: &[&str],
    stdin: Stdio,
    user: Option<Owner>,
    deadline: Duration,
) -> Result<Output, Failure> {
    let not_run = |error| Failure::NotRun(format!("{}: {error}", path.display()));
    let mut command = Command::new(path);
    command
        .args(args)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(Owner { uid, gid }) = user {
        // Where we are root this also drops all groups.
        command.uid(uid).gid(gid);
    }
    // Applied after the change of user, which would undo it: prctl(2).
    end_with_us(&mut command);
    let mut child = command.spawn().map_err(|error| {
        // Only a change of user gives EPERM: a program that cannot be executed gives EACCES.
        let no_user = user.is_some() && error.raw_os_error() == Some(nix::libc::EPERM);
        if no_user { Failure::NotAsUser } else { not_run(error) }
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async { tokio::join!(child.wait(), read(stdout), read(stderr)) };
    let (status, stdout, stderr) = tokio::time::timeout(deadline, all)
        .await
        .map_err(|_| Failure::Deadline(format!("{} took over {deadline:?}", path.display())))?;
    Ok(Output { success: status.map_err(not_run)?.success(), stdout, stderr })
}

/// Why a program gave no output.
#[derive(Debug)]
pub(crate) enum Failure {
    NotRun(String),
    /// No process can become another user here.
    NotAsUser,
    Deadline(String),
}

impl Failure {
    pub(crate) fn message(self) -> String {
        match self {
            Self::NotRun(message) | Self::Deadline(message) => message,
            Self::NotAsUser => "a process cannot become another user here".to_owned(),
        }
    }
}

fn executable(path: &Path) -> bool {
    path.is_file() && access(path, Access::EXEC_OK).is_ok()
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read before an error is still worth showing; the exit status tells the rest.
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}
