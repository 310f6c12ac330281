//! Machines that an earlier instance started, and processes that are no machines.

use std::process::{Child, Command, Stdio};

use uuid::Uuid;

use crate::conformance::bench::{Bench, REPEATS, end_all, in_state, is_gone, listed, ours};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Fault, Outcome, Works, ensure, fails};
use crate::conformance::process::Watched;
use crate::host::Client;
use crate::{ErrorCode, Machine, ProcessIdentity, RunState};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "a-machine-outlives-its-instance",
        "The next instance lists it, takes it up ten times as it was, and ends it.",
        &[Need::Machines],
        |bench| Box::pin(outlives(bench)),
    ),
    Case::new(
        "a-machine-need-not-be-reattached",
        "An instance that was told of no machine sees, relaunches and ends an earlier one's.",
        &[Need::Machines],
        |bench| Box::pin(not_reattached(bench)),
    ),
    Case::new(
        "no-stranger-is-taken-for-a-machine-or-signalled",
        "A pid that is another process's is `not-found`, and that process lives on.",
        &[Need::Machines, Need::Processes],
        |bench| Box::pin(strangers(bench)),
    ),
];

async fn outlives(bench: &Bench) -> Outcome {
    let first = bench.start()?;
    let (spec, machine) = bench.launched(&first.client).await?;
    first.end().await?;
    let next = bench.start()?;
    let client = &next.client;
    ensure!(listed(client).await? == [spec.id], "a new instance does not list the machine");
    for _ in 0..REPEATS {
        let seen = client.reattach(machine.clone()).await.works("`reattach`")?;
        ensure!(seen.machine == machine, "{machine:?} was reattached as {:?}", seen.machine);
    }
    in_state(client, spec.id, RunState::Running).await?;
    end_all(client, &[spec.id]).await?;
    next.end().await
}

async fn not_reattached(bench: &Bench) -> Outcome {
    let first = bench.start()?;
    let (spec, machine) = bench.launched(&first.client).await?;
    first.end().await?;
    // The very first thing that it is told.
    let second = bench.start()?;
    let again = second.client.launch(spec.clone()).await.works("launching what lives")?;
    ensure!(again == machine, "the machine {machine:?} lives, and {again:?} was launched");
    second.end().await?;
    let third = bench.start()?;
    in_state(&third.client, spec.id, RunState::Running).await?;
    third.end().await?;
    let fourth = bench.start()?;
    fourth.client.kill(spec.id).await.works("a kill, as an instance's first verb,")?;
    is_gone(&fourth.client, spec.id).await?;
    fourth.end().await
}

/// A process that has nothing to do with any machine; it ends with this value.
#[derive(Debug)]
pub(in crate::conformance) struct Stranger(Child);

impl Stranger {
    pub(in crate::conformance) fn start() -> Result<Self, Fault> {
        let mut cat = Command::new("cat");
        let child = cat.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        child.map(Self).map_err(|error| ours("a process `cat`", &error))
    }

    pub(in crate::conformance) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(in crate::conformance) fn lives(&mut self) -> Outcome {
        let lives = self.0.try_wait().is_ok_and(|ended| ended.is_none());
        ensure!(lives, "a process that is no machine was ended");
        Ok(())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It is our own child, not waited for yet: its pid is nobody else's.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn strangers(bench: &Bench) -> Outcome {
    let first = bench.start()?;
    let (spec, machine) = bench.launched(&first.client).await?;
    let Some(real) = machine.process.clone() else {
        return Err("`launch` named no process".to_owned().into());
    };
    first.end().await?;
    let mut stranger = Stranger::start()?;
    let pid = stranger.pid();
    let none = machine_named(&ProcessIdentity { pid, ..real.clone() }, Uuid::new_v4());
    for wrong in [
        machine_named(&ProcessIdentity { pid, ..real.clone() }, spec.id),
        machine_named(
            &ProcessIdentity { start_time: real.start_time + 1, ..real.clone() },
            spec.id,
        ),
        machine_named(&ProcessIdentity { boot_id: Uuid::nil(), ..real.clone() }, spec.id),
        machine_named(&ProcessIdentity { pid: u32::MAX, ..real.clone() }, spec.id),
        none.clone(),
    ] {
        let instance = bench.start()?;
        let what = format!("`reattach` of {wrong:?}, which is not the machine,");
        fails(instance.client.reattach(wrong).await, &what, &[ErrorCode::NotFound])?;
        instance.end().await?;
        stranger.lives()?;
    }
    let instance = bench.start()?;
    fails(instance.client.reattach(none.clone()).await, "`reattach`", &[ErrorCode::NotFound])?;
    ends_nobody(&instance.client, none.id, &mut stranger).await?;
    Watched::of(&machine)?;
    ends_nobody(&instance.client, Uuid::new_v4(), &mut stranger).await?;
    end_all(&instance.client, &[spec.id]).await?;
    ends_nobody(&instance.client, spec.id, &mut stranger).await?;
    instance.end().await
}

fn machine_named(process: &ProcessIdentity, id: Uuid) -> Machine {
    Machine { id, process: Some(process.clone()) }
}

async fn ends_nobody(client: &Client, id: Uuid, stranger: &mut Stranger) -> Outcome {
    client.kill(id).await.works("a kill of a machine that is not there")?;
    client.quit(id).await.works("a quit of a machine that is not there")?;
    stranger.lives()
}
