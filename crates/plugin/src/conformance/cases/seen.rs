//! What is seen of machines: by one's sight and all's survey, also of those that hang, that were
//! ended by somebody else, and where the host cannot be looked at.

use std::fs;

use crate::conformance::bench::{Bench, end_all, in_state, is_gone, listed, ours};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Outcome, Works, ensure, fails, until};
use crate::conformance::process::{Watched, boot_id, start_time};
use crate::{ErrorCode, RunState};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "survey-and-sight-say-the-same",
        "A survey lists exactly the machines that live, each as `sight` and `launch` told it.",
        &[Need::Machines],
        |bench| Box::pin(survey_and_sight(bench)),
    ),
    Case::new(
        "a-machine-is-the-process-it-names",
        "Its pid, start time and boot id are those of a process that lives, and ends with it.",
        &[Need::Machines, Need::Processes],
        |bench| Box::pin(names_its_process(bench)),
    ),
    Case::new(
        "a-machine-that-was-killed-from-outside-is-gone",
        "When its process is killed it is absent, not found, and can be launched again.",
        &[Need::Machines, Need::Processes],
        |bench| Box::pin(killed_from_outside(bench)),
    ),
    Case::new(
        "a-machine-that-hangs-is-seen-and-killed",
        "A stopped process is still listed, holds up no look, and ends by `kill`.",
        &[Need::Machines, Need::Processes],
        |bench| Box::pin(hangs(bench)),
    ),
    Case::new(
        "a-folder-that-is-away-is-no-empty-survey",
        "Without its folder a survey fails or lists what lives; it never says that nothing does.",
        &[Need::Machines],
        |bench| Box::pin(folder_away(bench)),
    ),
];

async fn survey_and_sight(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(bench.launched(client).await?);
    }
    let survey = client.survey().await.works("a survey")?;
    for (spec, machine) in &all {
        let seen = in_state(client, spec.id, RunState::Running).await?;
        ensure!(seen.machine == *machine, "launched as {machine:?} and seen as {seen:?}");
        let listed = survey.machines.iter().find(|seen| seen.machine.id == spec.id);
        ensure!(
            listed.is_some_and(|listed| listed.machine == *machine),
            "launched as {machine:?} and listed as {listed:?}"
        );
    }
    let mut ids: Vec<_> = all.iter().map(|(spec, _)| spec.id).collect();
    ids.sort_unstable();
    ensure!(listed(client).await? == ids, "a survey lists something else than the two machines");
    end_all(client, &ids[..1]).await?;
    ensure!(listed(client).await? == ids[1..], "one was ended, and not one is left");
    end_all(client, &ids[1..]).await?;
    let survey = client.survey().await.works("a survey")?;
    let stranger = survey.ended.iter().find(|end| !ids.contains(&end.machine.id));
    ensure!(stranger.is_none(), "an end is told of a machine that never was: {stranger:?}");
    instance.end().await
}

async fn names_its_process(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let (spec, machine) = bench.launched(&instance.client).await?;
    let Some(process) = &machine.process else {
        return Err("it has the capability `processes`, and `launch` named none".to_owned().into());
    };
    let real = start_time(process.pid);
    ensure!(
        real == Some(process.start_time),
        "process {} began at {real:?} and is told to have begun at {}",
        process.pid,
        process.start_time
    );
    let boot = boot_id()?;
    ensure!(process.boot_id == boot, "the host's boot is {boot}, and {} is told", process.boot_id);
    let watched = Watched::hold(process)?;
    end_all(&instance.client, &[spec.id]).await?;
    ensure!(watched.has_ended(), "`kill` returned, and process {} lives", process.pid);
    instance.end().await
}

async fn killed_from_outside(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, machine) = bench.launched(client).await?;
    Watched::of(&machine)?.kill()?;
    until("the machine is seen to be gone", async || {
        Ok(client.sight(spec.id).await.works("looking at it")?.is_none().then_some(()))
    })
    .await?;
    is_gone(client, spec.id).await?;
    let reattached = client.reattach(machine).await;
    fails(reattached, "`reattach` of a machine that was killed", &[ErrorCode::NotFound])?;
    client.launch(spec.clone()).await.works("launching it over what was left")?;
    in_state(client, spec.id, RunState::Running).await?;
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn hangs(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, machine) = bench.launched(client).await?;
    let (other, _) = bench.launched(client).await?;
    let watched = Watched::of(&machine)?;
    watched.stop()?;
    let mut both = vec![spec.id, other.id];
    both.sort_unstable();
    for _ in 0..3 {
        ensure!(listed(client).await? == both, "a machine that hangs is not listed as living");
        let seen = client.sight(spec.id).await.works("looking at a machine that hangs")?;
        ensure!(seen.is_some(), "a machine that hangs is told to be gone");
    }
    // A new instance cannot speak with it either.
    let second = bench.start()?;
    let seen = second.client.reattach(machine).await.works("reattaching a machine that hangs")?;
    ensure!(seen.machine.id == spec.id, "another machine was reattached: {seen:?}");
    second.end().await?;
    end_all(client, &[spec.id, other.id]).await?;
    ensure!(watched.has_ended(), "`kill` returned, and the process that hung lives");
    instance.end().await
}

async fn folder_away(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    let (here, away) = (bench.machines_dir(), bench.folder().join("away"));
    let moved = |from, to| fs::rename(from, to).map_err(|error| ours("another folder", &error));
    moved(&here, &away)?;
    let survey = client.survey().await;
    moved(&away, &here)?;
    if let Ok(survey) = survey {
        let told = survey.machines.iter().any(|seen| seen.machine.id == spec.id);
        ensure!(told, "the folder was away, and a survey said that no machine lives");
    }
    in_state(client, spec.id, RunState::Running).await?;
    end_all(client, &[spec.id]).await?;
    instance.end().await
}
