//! What one process of the suite is told to do, and what it says of it: a line of JSON each. Which
//! processes there are, and what their answers mean, is told in `runner`.

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::bench::{Bench, in_state};
use super::cases;
use super::fault::{Fault, Works};
use super::runner::Program;
use super::subject::Subject;
use crate::host::Client;
use crate::{Machine, MachineSpec, Manifest, RunState};

/// Bytes of a task: a few specifications of machines.
const TASK_LENGTH_MAX: u64 = 1 << 20;

/// For one process, from its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) subject: Subject,
    /// Laid out already.
    pub(super) folder: PathBuf,
    pub(super) program: Option<Program>,
    pub(super) role: Role,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Role {
    /// Open the backend, and say its name.
    Name,
    /// Open the backend, and say what it is and whether it can run machines here.
    Describe,
    /// Run the case of this name.
    Case(String),
    /// Be a host that is going to be killed.
    Hold(Box<Hold>),
    /// End every machine of the folder.
    Sweep,
}

/// What a host does until its standard input ends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hold {
    pub(super) reattach: Vec<Machine>,
    pub(super) launch: Vec<MachineSpec>,
    /// Launched once the others are told of.
    pub(super) late: Option<MachineSpec>,
}

/// What a process says, on its standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Said {
    Name(String),
    Described(Description),
    Case {
        notes: Vec<String>,
        fault: Option<String>,
    },
    Held(Vec<Machine>),
    /// The machines that were there.
    Swept(Vec<Uuid>),
    /// It could not be done.
    Fault(String),
}

/// A backend that was opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) manifest: Manifest,
    /// Why no machine can be run on this host, if none can.
    pub(super) unable: Option<String>,
}

/// Does what one process of the suite is told on `input`, and says on `output` what it came to.
///
/// # Errors
/// There is no task, or nobody to tell.
pub fn carry_out(mut input: impl BufRead, output: impl Write) -> io::Result<()> {
    let mut line = String::new();
    input.by_ref().take(TASK_LENGTH_MAX).read_line(&mut line)?;
    let Task { subject, folder, program, role } = serde_json::from_str(&line)?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let bench = match Bench::new(subject, folder, program) {
        Ok(bench) => bench,
        Err(fault) => return say(output, &Said::Fault(fault.0)),
    };
    let said = match role {
        Role::Name => Ok(Said::Name(bench.offer().manifest().name.clone())),
        Role::Describe => runtime.block_on(describe(&bench)).map(Said::Described),
        Role::Case(name) => Ok(runtime.block_on(case(&bench, &name))),
        Role::Hold(hold) => return be_a_host(&bench, *hold, &runtime, input, output),
        Role::Sweep => runtime.block_on(sweep(&bench)).map(Said::Swept),
    };
    say(output, &said.unwrap_or_else(|fault| Said::Fault(fault.0)))?;
    // What hangs in a plugin is not waited for.
    runtime.shutdown_background();
    Ok(())
}

fn say(mut output: impl Write, said: &Said) -> io::Result<()> {
    // After whatever the plugin has written there, on a line of its own.
    writeln!(output, "\n{}", serde_json::to_string(said)?)?;
    output.flush()
}

async fn describe(bench: &Bench) -> Result<Description, Fault> {
    let manifest = bench.offer().manifest().clone();
    let instance = bench.start()?;
    // A probe that fails is a case's business.
    let unable = match instance.client.probe().await {
        Ok(probe) if !probe.usable => cannot(bench, &instance.client, probe.reason).await,
        Ok(_) | Err(_) => None,
    };
    instance.end().await?;
    Ok(Description { manifest, unable })
}

/// A guest that is given may run where the backend expects none to.
async fn cannot(bench: &Bench, client: &Client, reason: String) -> Option<String> {
    if bench.subject().guest.is_none() {
        return Some(reason);
    }
    let tried = async {
        let spec = bench.spec(client).await?;
        let launched = client.launch(spec.clone()).await.works("a launch");
        let seen = match launched {
            Ok(_) => in_state(client, spec.id, RunState::Running).await.map(drop),
            Err(fault) => Err(fault),
        };
        client.kill(spec.id).await.works("a kill")?;
        seen
    };
    tried.await.err().map(|fault| format!("{reason}; tried all the same: {fault}"))
}

async fn case(bench: &Bench, name: &str) -> Said {
    let Some(case) = cases::all().into_iter().find(|case| case.name == name) else {
        return Said::Fault(format!("no case is called `{name}`"));
    };
    let outcome = (case.run)(bench).await;
    Said::Case { notes: bench.notes(), fault: outcome.err().map(|fault| fault.0) }
}

fn be_a_host(
    bench: &Bench,
    hold: Hold,
    runtime: &Runtime,
    mut input: impl BufRead,
    output: impl Write,
) -> io::Result<()> {
    let held = runtime.block_on(async {
        let instance = bench.start()?;
        for machine in hold.reattach {
            instance.client.reattach(machine).await.works("`reattach`")?;
        }
        let mut machines = Vec::new();
        for spec in hold.launch {
            let machine = instance.client.launch(spec).await.works("a launch")?;
            in_state(&instance.client, machine.id, RunState::Running).await?;
            machines.push(machine);
        }
        Ok::<_, Fault>((instance, machines))
    });
    match held {
        Ok((instance, machines)) => {
            say(output, &Said::Held(machines))?;
            if let Some(late) = hold.late {
                let client = instance.client.clone();
                runtime.spawn(async move { client.launch(late).await });
            }
            // Its end comes from outside, or with that of whoever started it.
            io::copy(&mut input, &mut io::sink())?;
            Ok(())
        }
        Err(fault) => say(output, &Said::Fault(fault.0)),
    }
}

/// Ends what is there, and tells what it was.
pub(super) async fn sweep(bench: &Bench) -> Result<Vec<Uuid>, Fault> {
    let mut left = Vec::new();
    for folder in [bench.machines_dir(), bench.other_dir()] {
        let instance = bench.start_in(folder)?;
        let survey = instance.client.survey().await.works("a survey of what is left")?;
        for seen in survey.machines {
            instance.client.kill(seen.machine.id).await.works("ending what is left")?;
            left.push(seen.machine.id);
        }
        instance.end().await?;
    }
    Ok(left)
}
