//! Runs each case in a process of its own, so that a plugin that crashes or hangs ends nothing but
//! that; and looks afterwards for what it left. What a case is, is not known here.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::bench::{lay_out, ours, progress, working_folder};
use super::case::{Case, Need, lacking};
use super::fault::{Fault, SOON};
use super::leftovers;
use super::subject::{Opening, Subject};
use super::tail::Tail;
use super::task::{Description, Role, Said, Task};
use super::verdict::{Checked, Report, Verdict};
use crate::Machine;

/// To open a backend, and to launch one machine.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(120);
/// To end whatever a case left.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Begins the name of a case's folder.
const PREFIX: &str = "vman-check-";

/// What is told of a backend that cannot even be opened.
const OPENING: Case =
    Case::new("loading", "The backend is opened, and an instance of it is made.", &[], |_| {
        Box::pin(std::future::ready(Ok(())))
    });

/// A program of the suite's own, and the arguments it is started with: one that calls
/// [`carry_out`](super::carry_out), or that is a [`Helper`](crate::host::Helper).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub file: PathBuf,
    pub arguments: Vec<String>,
}

/// Runs the cases, `jobs` at the same time, and tells them in their order.
///
/// # Errors
/// A folder or a process of the suite's own cannot be made.
pub async fn check(
    subject: &Subject,
    cases: &[Case],
    program: &Program,
    jobs: usize,
) -> io::Result<Checked> {
    let mode = subject.opening.mode();
    let Description { manifest, unable } = match described(subject, program).await? {
        Ok(description) => description,
        Err(report) => {
            return Ok(Checked { mode, manifest: None, unable: None, reports: vec![*report] });
        }
    };
    let reports = stream::iter(cases).map(|case| {
        let lack = lacking(case, &manifest.capabilities, subject, true).map(str::to_owned);
        let unable = unable.is_some() && case.needs.contains(&Need::Machines);
        let unable = unable.then(|| "no machine can be run here".to_owned());
        one(subject, *case, program, lack.or(unable))
    });
    let reports: Vec<io::Result<Report>> = reports.buffered(jobs.max(1)).collect().await;
    let reports = reports.into_iter().collect::<io::Result<_>>()?;
    Ok(Checked { mode, manifest: Some(manifest), unable, reports })
}

/// The name of the backend; none if it cannot be opened, as [`check`] then tells.
///
/// # Errors
/// As for [`check`].
pub async fn name(opening: &Opening, program: &Program) -> io::Result<Option<String>> {
    let settings = serde_json::Value::Null;
    let (guest, guest_obeys, seed, request) = (None, false, 0, None);
    let opening = opening.clone();
    let subject = Subject { opening, settings, guest, guest_obeys, seed, request };
    let folder = new_folder()?;
    let ran = run(&subject, folder.path(), program, Role::Name, DESCRIBE_TIMEOUT).await?;
    Ok(match ran.said {
        Some(Said::Name(name)) => Some(name),
        Some(
            Said::Described(_)
            | Said::Case { .. }
            | Said::Held(_)
            | Said::Swept(_)
            | Said::Fault(_),
        )
        | None => None,
    })
}

async fn described(
    subject: &Subject,
    program: &Program,
) -> io::Result<Result<Description, Box<Report>>> {
    let folder = new_folder()?;
    let begun = Instant::now();
    let ran = run(subject, folder.path(), program, Role::Describe, DESCRIBE_TIMEOUT).await?;
    let verdict = match ran.said {
        Some(Said::Described(description)) if ran.ended_well() => return Ok(Ok(description)),
        Some(Said::Fault(why)) => Verdict::Failed { why },
        Some(
            Said::Name(_) | Said::Described(_) | Said::Case { .. } | Said::Held(_) | Said::Swept(_),
        )
        | None => ran.without_answer(DESCRIBE_TIMEOUT, folder.path()),
    };
    leftovers::end(folder.path()).await;
    let report = Report::new(&OPENING, subject.opening.mode(), verdict, begun.elapsed());
    Ok(Err(Box::new(Report { stderr: ran.stderr, ..report })))
}

async fn one(
    subject: &Subject,
    case: Case,
    program: &Program,
    skip: Option<String>,
) -> io::Result<Report> {
    let mode = subject.opening.mode();
    if let Some(why) = skip {
        return Ok(Report::new(&case, mode, Verdict::Skipped { why }, Duration::ZERO));
    }
    let folder = new_folder()?;
    let begun = Instant::now();
    let role = Role::Case(case.name.to_owned());
    let ran = run(subject, folder.path(), program, role, case.timeout).await?;
    let took = begun.elapsed();
    let (verdict, notes) = match &ran.said {
        Some(Said::Case { notes, fault: None }) if ran.ended_well() => {
            (Verdict::Passed, notes.clone())
        }
        Some(Said::Case { notes, fault: Some(why) }) if ran.ended_well() => {
            (Verdict::Failed { why: why.clone() }, notes.clone())
        }
        Some(Said::Fault(why)) => (Verdict::Failed { why: why.clone() }, vec![]),
        Some(
            Said::Name(_) | Said::Case { .. } | Said::Described(_) | Said::Held(_) | Said::Swept(_),
        )
        | None => (ran.without_answer(case.timeout, folder.path()), vec![]),
    };
    let left = left_behind(subject, &case, program, folder.path()).await?;
    let verdict = verdict.with_leftovers(left);
    let stderr = if verdict.is_bad() { ran.stderr } else { String::new() };
    let report = Report::new(&case, mode, verdict, took);
    Ok(Report { notes, stderr, ..report })
}

/// What a case left on the host, in words; it is ended.
async fn left_behind(
    subject: &Subject,
    case: &Case,
    program: &Program,
    folder: &Path,
) -> io::Result<Option<String>> {
    let mut left = None;
    if case.needs.contains(&Need::Machines) {
        let swept = run(subject, folder, program, Role::Sweep, SWEEP_TIMEOUT).await?;
        left = match swept.said {
            Some(Said::Swept(machines)) if machines.is_empty() => None,
            Some(Said::Swept(machines)) => {
                Some(format!("it left {} machines: {machines:?}", machines.len()))
            }
            Some(Said::Fault(why)) => Some(format!("what it left cannot be ended: {why}")),
            Some(Said::Name(_) | Said::Case { .. } | Said::Described(_) | Said::Held(_)) | None => {
                let why = swept.without_answer(SWEEP_TIMEOUT, folder);
                Some(format!("what it left cannot be ended: {why}"))
            }
        };
    }
    Ok(left.or(leftovers::end(folder).await))
}

fn new_folder() -> io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    lay_out(folder.path())?;
    Ok(folder)
}

/// What a process came to.
#[derive(Debug)]
struct Ran {
    said: Option<Said>,
    /// None: it was ended, for it took too long.
    status: Option<ExitStatus>,
    stderr: String,
}

impl Ran {
    fn ended_well(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    fn without_answer(&self, after: Duration, folder: &Path) -> Verdict {
        let at = progress(folder).map(|at| format!(", at {at}")).unwrap_or_default();
        match self.status {
            Some(status) => Verdict::Crashed { how: format!("its process ended by {status}{at}") },
            None => {
                let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                Verdict::TimedOut { after, at }
            }
        }
    }
}

async fn run(
    subject: &Subject,
    folder: &Path,
    program: &Program,
    role: Role,
    limit: Duration,
) -> io::Result<Ran> {
    let program_too = matches!(role, Role::Case(_)).then(|| program.clone());
    let (subject, folder) = (subject.clone(), folder.to_owned());
    let task = Task { subject, folder, program: program_too, role };
    let (mut child, input, output) = spawn(program, &task).await?;
    // It has no more to be told.
    drop(input);
    let stdout = Tail::of(output);
    let stderr = child.stderr.take().map(Tail::of);
    let status = match timeout(limit, child.wait()).await {
        Ok(status) => Some(status?),
        Err(_) => {
            end_group(&child);
            child.wait().await?;
            None
        }
    };
    let said = stdout.end().await;
    let stderr = match stderr {
        Some(stderr) => stderr.end().await.trim().to_owned(),
        None => String::new(),
    };
    // A plugin may write there, too.
    let said = said.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    Ok(Ran { said, status, stderr })
}

/// Also the processes that it started in its turn, but for machines.
fn end_group(child: &Child) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        // It may have ended at this very moment.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

async fn spawn(
    program: &Program,
    task: &Task,
) -> io::Result<(Child, ChildStdin, BufReader<ChildStdout>)> {
    let mut command = Command::new(&program.file);
    command.args(&program.arguments).current_dir(working_folder(&task.folder));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The folder's name must be in no command line but a machine's.
    let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
    let mut input = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let line = serde_json::to_string(task)? + "\n";
    match input.write_all(line.as_bytes()).await {
        // It has ended already, which is told by its status.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        Ok(()) | Err(_) => {}
    }
    Ok((child, input, BufReader::new(output)))
}

/// A host that runs machines until it is killed.
#[derive(Debug)]
pub(super) struct Held {
    child: Child,
    /// While it is open the host goes on.
    _input: ChildStdin,
    machines: Vec<Machine>,
}

impl Held {
    /// Returns when its machines run.
    pub(super) async fn start(program: &Program, task: &Task) -> Result<Self, Fault> {
        let spawned = spawn(program, task).await;
        let (child, input, output) = spawned.map_err(|error| ours("a host", &error))?;
        let mut lines = output.lines();
        let said = timeout(SOON, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(said) = serde_json::from_str::<Said>(&line) {
                    return Some(said);
                }
            }
            None
        });
        match said.await {
            Ok(Some(Said::Held(machines))) => Ok(Self { child, _input: input, machines }),
            Ok(Some(Said::Fault(why))) => Err(Fault(format!("in another host: {why}"))),
            Ok(
                Some(Said::Name(_) | Said::Case { .. } | Said::Described(_) | Said::Swept(_))
                | None,
            ) => Err(Fault("a host ended before its machines ran".to_owned())),
            Err(_) => Err(Fault(format!("a host's machines do not run within {SOON:?}"))),
        }
    }

    /// Ends it by SIGKILL.
    pub(super) async fn kill(mut self) -> Result<Vec<Machine>, Fault> {
        self.child.kill().await.map_err(|error| ours("a host's end", &error))?;
        Ok(self.machines)
    }
}
