//! The host is killed by SIGKILL, and the next one finds what it left: machines that run, machines
//! that were taken up again, and one that was just being launched.

use std::time::Duration;

use crate::conformance::bench::{Bench, end_all, in_state, listed};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Fault, Outcome, Works, ensure};
use crate::conformance::runner::{Held, Program};
use crate::conformance::task::{Hold, Role, Task};
use crate::{Machine, MachineSpec, RunState};

pub(super) const CASES: &[Case] = &[Case::new(
    "machines-outlive-hosts-that-crash",
    "Killed again and again, also in the middle of a launch, hosts leave machines that live on.",
    &[Need::Machines, Need::Program],
    |bench| Box::pin(hosts_crash(bench)),
)
.within(240)];

/// From the order to launch to the host's end: while a launch is under way, if it takes any time.
const MOMENTS_MS: [u64; 3] = [0, 15, 60];

async fn hosts_crash(bench: &Bench) -> Outcome {
    let Some(program) = bench.program() else {
        return Err("the suite was given no program".to_owned().into());
    };
    let setting_up = bench.start()?;
    let mut specs = Vec::new();
    for _ in 0..2 {
        specs.push(bench.spec(&setting_up.client).await?);
    }
    let late = bench.spec(&setting_up.client).await?;
    setting_up.end().await?;

    let machines = crashed(bench, program, &specs, &[], None).await?;
    found(bench, &machines).await?;
    for moment in MOMENTS_MS {
        let moment = Some((&late, Duration::from_millis(moment)));
        let again = crashed(bench, program, &specs, &machines, moment).await?;
        ensure!(again == machines, "launched again after a crash they are {again:?}");
        found(bench, &machines).await?;
        let next = bench.start()?;
        end_all(&next.client, &[late.id]).await?;
        next.end().await?;
    }
    let last = bench.start()?;
    let ids: Vec<_> = specs.iter().map(|spec| spec.id).collect();
    end_all(&last.client, &ids).await?;
    ensure!(listed(&last.client).await?.is_empty(), "all were ended, and something is listed");
    last.end().await
}

/// A host that takes machines up, launches, is launching one more, and is killed.
async fn crashed(
    bench: &Bench,
    program: &Program,
    launch: &[MachineSpec],
    reattach: &[Machine],
    late: Option<(&MachineSpec, Duration)>,
) -> Result<Vec<Machine>, Fault> {
    let hold = Hold {
        reattach: reattach.to_vec(),
        launch: launch.to_vec(),
        late: late.map(|(spec, _)| spec.clone()),
    };
    let task = Task {
        subject: bench.subject().clone(),
        folder: bench.folder().to_owned(),
        program: None,
        role: Role::Hold(Box::new(hold)),
    };
    let held = Held::start(program, &task).await?;
    if let Some((_, moment)) = late {
        // The moment is what is tried; nothing tells of it.
        tokio::time::sleep(moment).await;
    }
    held.kill().await
}

async fn found(bench: &Bench, machines: &[Machine]) -> Outcome {
    let next = bench.start()?;
    let ids = listed(&next.client).await?;
    for machine in machines {
        ensure!(ids.contains(&machine.id), "after a crash {machine:?} is not listed");
        let seen = next.client.reattach(machine.clone()).await.works("`reattach` after a crash")?;
        ensure!(seen.machine == *machine, "{machine:?} was reattached as {:?}", seen.machine);
        in_state(&next.client, machine.id, RunState::Running).await?;
    }
    next.end().await
}
