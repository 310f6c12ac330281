//! Many machines, several instances, verbs that are given up, and an instance that goes while verbs
//! are under way.

use std::time::Duration;

use futures_util::future::{join, join_all};

use crate::conformance::bench::{Bench, Instance, end_all, hurried, in_state, is_gone, listed};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Fault, Outcome, Works, ensure, told, until};
use crate::{ErrorCode, RunState};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "many-machines-live-side-by-side",
        "Launched, seen and ended at the same time, each is itself, and every verb is answered.",
        &[Need::Machines],
        |bench| Box::pin(many(bench)),
    ),
    Case::new(
        "instances-with-their-own-folders-see-their-own-machines",
        "No instance sees or ends a machine of another folder.",
        &[Need::Machines],
        |bench| Box::pin(own_folders(bench)),
    ),
    Case::new(
        "instances-over-one-folder-agree",
        "Two instances at once see the same machines, and what one ends is gone for the other.",
        &[Need::Machines],
        |bench| Box::pin(one_folder(bench)),
    ),
    Case::new(
        "a-launch-that-was-given-up-leaves-nothing",
        "Given up at any moment and then killed it does not live, and the instance goes on.",
        &[Need::Machines],
        |bench| Box::pin(given_up(bench)),
    ),
    Case::new(
        "an-instance-goes-while-verbs-are-under-way",
        "It is destroyed in time, crashes nothing, and the next one goes on from what it left.",
        &[Need::Machines],
        |bench| Box::pin(goes_meanwhile(bench)),
    ),
];

/// Machines at the same time.
const MANY: usize = 8;
/// From a launch's order to its being given up.
const MOMENTS_MS: [u64; 8] = [0, 1, 3, 8, 20, 45, 90, 180];

async fn many(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let mut specs = Vec::new();
    for _ in 0..MANY {
        specs.push(bench.spec(client).await?);
    }
    let launches = join_all(specs.iter().map(|spec| client.launch(spec.clone())));
    let looks = async {
        for _ in 0..MANY {
            listed(client).await?;
        }
        Ok::<_, Fault>(())
    };
    let (launched, looked) = join(launches, looks).await;
    looked?;
    for (spec, machine) in specs.iter().zip(launched) {
        let machine = machine.works("one of many launches")?;
        ensure!(machine.id == spec.id, "{} was launched as {machine:?}", spec.id);
    }
    let mut ids: Vec<_> = specs.iter().map(|spec| spec.id).collect();
    ids.sort_unstable();
    ensure!(listed(client).await? == ids, "not exactly the {MANY} that were launched are listed");
    for killed in join_all(ids.iter().map(|id| client.kill(*id))).await {
        killed.works("one of many kills")?;
    }
    ensure!(listed(client).await?.is_empty(), "all were killed, and some are listed");
    ensure!(client.dropped().answers == 0, "some verb was answered twice");
    instance.end().await
}

async fn own_folders(bench: &Bench) -> Outcome {
    let [ours, theirs] = [bench.start()?, bench.start_in(bench.other_dir())?];
    let (spec, _) = bench.launched(&ours.client).await?;
    let other = bench.spec_in(&theirs.client, &bench.other_dir()).await?;
    theirs.client.launch(other.clone()).await.works("a launch in another folder")?;
    ensure!(listed(&ours.client).await? == [spec.id], "a machine of another folder is listed");
    ensure!(listed(&theirs.client).await? == [other.id], "a machine of another folder is listed");
    let seen = theirs.client.sight(spec.id).await.works("looking for a machine elsewhere")?;
    ensure!(seen.is_none(), "a machine of another folder is seen: {seen:?}");
    theirs.client.kill(spec.id).await.works("a kill of a machine that is not there")?;
    theirs.client.quit(spec.id).await.works("a quit of a machine that is not there")?;
    in_state(&ours.client, spec.id, RunState::Running).await?;
    end_all(&theirs.client, &[other.id]).await?;
    in_state(&ours.client, spec.id, RunState::Running).await?;
    end_all(&ours.client, &[spec.id]).await?;
    theirs.end().await?;
    ours.end().await
}

async fn one_folder(bench: &Bench) -> Outcome {
    let [first, second] = [bench.start()?, bench.start()?];
    let (spec, machine) = bench.launched(&first.client).await?;
    for Instance { client, .. } in [&first, &second] {
        ensure!(listed(client).await? == [spec.id], "one of two instances does not list it");
        // One of them may be unable to speak with it: a hypervisor may have one ear.
        let seen = client.sight(spec.id).await.works("looking at it")?;
        let seen = seen.map(|seen| seen.machine);
        ensure!(seen.as_ref() == Some(&machine), "launched as {machine:?} it is seen as {seen:?}");
    }
    end_all(&second.client, &[spec.id]).await?;
    until("it is gone in the other instance too", async || {
        let seen = first.client.sight(spec.id).await.works("looking at it")?;
        Ok(seen.is_none().then_some(()))
    })
    .await?;
    is_gone(&first.client, spec.id).await?;
    second.end().await?;
    first.end().await
}

async fn given_up(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    for moment in MOMENTS_MS {
        let spec = bench.spec(client).await?;
        match hurried(client, moment).launch(spec.clone()).await {
            Ok(_) => {}
            Err(error) => ensure!(
                error.code == ErrorCode::Timeout,
                "a launch given up after {moment} ms failed as {}",
                told(&error)
            ),
        }
        end_all(client, &[spec.id]).await?;
    }
    let dropped = client.dropped();
    ensure!(dropped.operations == 0, "a launch that was cancelled is not answered: {dropped:?}");
    ensure!(listed(client).await?.is_empty(), "what was given up and killed is listed");
    instance.end().await
}

async fn goes_meanwhile(bench: &Bench) -> Outcome {
    let setting_up = bench.start()?;
    let mut specs = Vec::new();
    for _ in 0..MOMENTS_MS.len() {
        specs.push(bench.spec(&setting_up.client).await?);
    }
    setting_up.end().await?;
    for (moment, spec) in MOMENTS_MS.into_iter().zip(&specs) {
        let instance = bench.start()?;
        let moment = Duration::from_millis(moment);
        {
            // Given up in whatever state they are; no answer counts.
            let both = join(instance.client.launch(spec.clone()), instance.client.survey());
            drop(tokio::time::timeout(moment, both).await);
        }
        instance.end().await?;
    }
    let next = bench.start()?;
    for spec in &specs {
        end_all(&next.client, &[spec.id]).await?;
    }
    ensure!(listed(&next.client).await?.is_empty(), "all were killed, and some are listed");
    next.end().await
}
