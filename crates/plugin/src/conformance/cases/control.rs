//! Halting a guest, letting it go on, resetting it; and what a backend that cannot says.

use uuid::Uuid;

use crate::conformance::bench::{Bench, REPEATS, end_all, in_state};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Outcome, Works, ensure, fails};
use crate::{
    Bus, DiskAttachment, DiskGrowth, DiskRemoval, DiskSpec, ErrorCode, ImageFormat, ImageGrowth,
    RunState,
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "a-guest-pauses-and-goes-on",
        "It is paused when the verb returns, stays so in the next instance, and goes on.",
        &[Need::Machines, Need::Pause],
        |bench| Box::pin(pauses(bench)),
    ),
    Case::new(
        "a-reset-keeps-the-machine",
        "Reset again and again it is the same machine, and its guest runs.",
        &[Need::Machines, Need::Reset],
        |bench| Box::pin(resets(bench)),
    ),
    Case::new(
        "what-it-lacks-is-unsupported",
        "A verb whose capability it does not have is `unsupported`, in words.",
        &[],
        |bench| Box::pin(lacks(bench)),
    ),
];

/// A guest boots anew each time.
const RESETS: usize = 3;

async fn pauses(bench: &Bench) -> Outcome {
    let first = bench.start()?;
    let (spec, machine) = bench.launched(&first.client).await?;
    for _ in 0..REPEATS {
        first.client.pause(spec.id).await.works("pausing")?;
        in_state(&first.client, spec.id, RunState::Paused).await?;
    }
    first.end().await?;
    let next = bench.start()?;
    let client = &next.client;
    client.reattach(machine).await.works("`reattach` of a paused machine")?;
    in_state(client, spec.id, RunState::Paused).await?;
    for _ in 0..REPEATS {
        client.resume(spec.id).await.works("letting it go on")?;
        in_state(client, spec.id, RunState::Running).await?;
    }
    for _ in 0..2 {
        client.pause(spec.id).await.works("pausing again")?;
        client.resume(spec.id).await.works("letting it go on again")?;
    }
    in_state(client, spec.id, RunState::Running).await?;
    client.pause(spec.id).await.works("pausing for the last time")?;
    end_all(client, &[spec.id]).await?;
    next.end().await
}

async fn resets(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, machine) = bench.launched(client).await?;
    for _ in 0..RESETS {
        client.reset(spec.id).await.works("a reset")?;
        let seen = in_state(client, spec.id, RunState::Running).await?;
        ensure!(seen.machine == machine, "{machine:?} was reset and is {:?}", seen.machine);
    }
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn lacks(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (id, disk, can) = (Uuid::new_v4(), Uuid::new_v4(), bench.capabilities());
    let (path, format) = (bench.images_dir().join("none"), ImageFormat::Raw);
    let virtual_size = 1 << 20;
    let mut results = Vec::new();
    if !can.pause {
        results.push(("`pause`", client.pause(id).await));
        results.push(("`resume`", client.resume(id).await));
    }
    if !can.reset {
        results.push(("`reset`", client.reset(id).await));
    }
    if can.hot_plug.is_empty() {
        let (serial, bus) = ("none".to_owned(), Bus::default());
        let spec = DiskSpec { id: disk, path: path.clone(), format, serial, bus };
        let removal = DiskRemoval { id, disk, path: None };
        let attached = client.attach_disk(DiskAttachment { id, disk: spec }).await;
        results.push(("`attach-disk`", attached));
        results.push(("`detach-disk`", client.detach_disk(removal).await.map(drop)));
        let growth = DiskGrowth { id, disk, virtual_size };
        results.push(("`resize-disk`", client.resize_disk(growth).await));
    }
    if !can.resize {
        let growth = ImageGrowth { path, format, virtual_size };
        results.push(("`resize-image`", client.resize_image(growth).await));
    }
    for (verb, result) in results {
        fails(result, verb, &[ErrorCode::Unsupported])?;
    }
    instance.end().await
}
