//! Disks of running machines: given, taken back, grown, and never in two machines.

use std::fs;

use uuid::Uuid;

use crate::conformance::bench::{Bench, IMAGE_SIZE, REPEATS, end_all, ours};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Fault, Outcome, Works, ensure, fails, until};
use crate::host::Client;
use crate::{
    DiskAttachment, DiskGrowth, DiskRemoval, DiskSpec, ErrorCode, ImageFormat, ImageGrowth,
    ImageRef, Unplug,
};

const NEEDS: &[Need] = &[Need::Machines, Need::HotPlug, Need::Images];

pub(super) const CASES: &[Case] = &[
    Case::new(
        "a-disk-comes-and-goes",
        "On each bus, ten times: given it is told of; taken back, its image is free.",
        NEEDS,
        |bench| Box::pin(comes_and_goes(bench)),
    ),
    Case::new(
        "a-disk-is-in-one-machine-alone",
        "An image that a machine has is a `conflict` for another until it is given back.",
        NEEDS,
        |bench| Box::pin(one_machine_alone(bench)),
    ),
    Case::new(
        "an-image-that-is-missing-or-another-is-not-attached",
        "It is `not-found`, or a `conflict`, and the machine has nothing of it.",
        NEEDS,
        |bench| Box::pin(not_attached(bench)),
    ),
    Case::new(
        "a-disk-in-use-grows-and-never-shrinks",
        "It grows ten times to a size; smaller is `invalid`, a disk it lacks `not-found`.",
        NEEDS,
        |bench| Box::pin(grows(bench)),
    ),
    Case::new(
        "disks-are-known-to-the-next-instance",
        "A disk that one instance attached is told of by the next, and taken back by it.",
        NEEDS,
        |bench| Box::pin(next_instance(bench)),
    ),
    Case::new(
        "an-image-in-use-is-read-and-not-resized",
        "While a machine has it open it is read; to grow it as a file is a `conflict`.",
        &[Need::Machines, Need::HotPlug, Need::Images, Need::Resize],
        |bench| Box::pin(in_use(bench)),
    ),
];

fn adding(id: Uuid, disk: &DiskSpec) -> DiskAttachment {
    DiskAttachment { id, disk: disk.clone() }
}

fn removing(id: Uuid, disk: &DiskSpec) -> DiskRemoval {
    DiskRemoval { id, disk: disk.id, path: Some(disk.path.clone()) }
}

/// Whether the machine is told to have a disk, where its disks are known.
async fn has(client: &Client, id: Uuid, disk: Uuid) -> Result<Option<bool>, Fault> {
    let seen = client.sight(id).await.works("looking at a machine")?;
    let seen = seen.ok_or_else(|| Fault(format!("machine {id} lives and is not seen")))?;
    Ok(seen.disks.map(|disks| disks.contains(&disk)))
}

/// Asks for a disk until it is given back. False where the guest keeps it, as it may that obeys
/// nothing.
async fn taken_back(
    bench: &Bench,
    client: &Client,
    id: Uuid,
    disk: &DiskSpec,
) -> Result<bool, Fault> {
    if !bench.subject().guest_obeys {
        let unplug = client.detach_disk(removing(id, disk)).await.works("taking a disk back")?;
        return Ok(unplug == Unplug::Done);
    }
    until("the guest gives a disk back", async || {
        let unplug = client.detach_disk(removing(id, disk)).await.works("taking a disk back")?;
        Ok((unplug == Unplug::Done).then_some(true))
    })
    .await
}

async fn comes_and_goes(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    for bus in bench.capabilities().hot_plug.clone() {
        let disk = bench.disk(client, bus).await?;
        for _ in 0..REPEATS {
            client.attach_disk(adding(spec.id, &disk)).await.works("giving a disk")?;
        }
        let told = has(client, spec.id, disk.id).await?;
        ensure!(told != Some(false), "a machine was given a disk on {bus:?} and is told without");
        let back = taken_back(bench, client, spec.id, &disk).await?;
        let told = has(client, spec.id, disk.id).await?;
        ensure!(
            told.is_none_or(|has| has != back),
            "the disk on {bus:?} is {}given back, and the machine is told {} it",
            if back { "" } else { "not " },
            if back { "with" } else { "without" }
        );
        if back {
            for _ in 0..REPEATS {
                let again = client.detach_disk(removing(spec.id, &disk)).await;
                let again = again.works("taking a disk back again")?;
                ensure!(again == Unplug::Done, "a disk that was given back is waited for");
            }
            client.attach_disk(adding(spec.id, &disk)).await.works("giving it again")?;
        }
    }
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn one_machine_alone(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (holder, _) = bench.launched(client).await?;
    let (other, _) = bench.launched(client).await?;
    let bus = bench.capabilities().hot_plug[0];
    let disk = bench.disk(client, bus).await?;
    client.attach_disk(adding(holder.id, &disk)).await.works("giving a disk")?;
    for _ in 0..2 {
        let attached = client.attach_disk(adding(other.id, &disk)).await;
        fails(attached, "giving a disk that another machine has", &[ErrorCode::Conflict])?;
        let told = has(client, other.id, disk.id).await?;
        ensure!(told != Some(true), "a machine is told to have what it was refused");
    }
    end_all(client, &[holder.id]).await?;
    let attached = client.attach_disk(adding(other.id, &disk)).await;
    attached.works("giving a disk whose machine has ended")?;
    end_all(client, &[other.id]).await?;
    instance.end().await
}

async fn not_attached(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    for bus in bench.capabilities().hot_plug.clone() {
        let good = bench.disk(client, bus).await?;
        let path = bench.images_dir().join("no-such-image");
        let missing = DiskSpec { id: Uuid::new_v4(), path, ..good.clone() };
        let attached = client.attach_disk(adding(spec.id, &missing)).await;
        fails(attached, "giving a disk whose image is not there", &[ErrorCode::NotFound])?;
        ensure!(!missing.path.exists(), "attaching made an image");
        let told = has(client, spec.id, missing.id).await?;
        ensure!(told != Some(true), "the machine is told to have a disk that is not there");
        if bench.capabilities().image_formats.contains(&ImageFormat::Qcow2) {
            let path = bench.images_dir().join(format!("{bus:?}"));
            fs::write(&path, [7; 4096]).map_err(|error| ours("a file", &error))?;
            let format = ImageFormat::Qcow2;
            let another = DiskSpec { id: Uuid::new_v4(), path, format, ..good.clone() };
            let attached = client.attach_disk(adding(spec.id, &another)).await;
            fails(attached, "giving an image of another format", &[ErrorCode::Conflict])?;
        }
        client.attach_disk(adding(spec.id, &good)).await.works("giving what is there")?;
    }
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn grows(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    for bus in bench.capabilities().hot_plug.clone() {
        let disk = bench.disk(client, bus).await?;
        client.attach_disk(adding(spec.id, &disk)).await.works("giving a disk")?;
        let growth = |virtual_size| DiskGrowth { id: spec.id, disk: disk.id, virtual_size };
        for _ in 0..REPEATS {
            client.resize_disk(growth(IMAGE_SIZE * 2)).await.works("growing a disk")?;
        }
        let image = ImageRef { path: disk.path.clone(), format: disk.format };
        let info = client.inspect_image(image).await.works("reading an image in use")?;
        ensure!(info.virtual_size == IMAGE_SIZE * 2, "a disk was grown and its image is {info:?}");
        let smaller = client.resize_disk(growth(IMAGE_SIZE)).await;
        fails(smaller, "making a disk smaller", &[ErrorCode::Invalid])?;
    }
    let none = DiskGrowth { id: spec.id, disk: Uuid::new_v4(), virtual_size: IMAGE_SIZE };
    let grown = client.resize_disk(none).await;
    fails(grown, "growing a disk that the machine lacks", &[ErrorCode::NotFound])?;
    end_all(client, &[spec.id]).await?;
    instance.end().await
}

async fn next_instance(bench: &Bench) -> Outcome {
    let first = bench.start()?;
    let (spec, machine) = bench.launched(&first.client).await?;
    let bus = bench.capabilities().hot_plug[0];
    let disk = bench.disk(&first.client, bus).await?;
    first.client.attach_disk(adding(spec.id, &disk)).await.works("giving a disk")?;
    first.end().await?;
    let next = bench.start()?;
    let client = &next.client;
    client.reattach(machine).await.works("`reattach`")?;
    until("the next instance tells the disk", async || {
        // Not known is no lie; it may come to be.
        Ok((has(client, spec.id, disk.id).await? == Some(true)).then_some(()))
    })
    .await?;
    client.attach_disk(adding(spec.id, &disk)).await.works("giving it a disk that it has")?;
    if taken_back(bench, client, spec.id, &disk).await? {
        let told = has(client, spec.id, disk.id).await?;
        ensure!(told != Some(true), "a disk was given back, and the machine is told with it");
    }
    end_all(client, &[spec.id]).await?;
    next.end().await
}

async fn in_use(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, _) = bench.launched(client).await?;
    let bus = bench.capabilities().hot_plug[0];
    let disk = bench.disk(client, bus).await?;
    client.attach_disk(adding(spec.id, &disk)).await.works("giving a disk")?;
    let image = ImageRef { path: disk.path.clone(), format: disk.format };
    let info = client.inspect_image(image).await.works("reading an image in use")?;
    ensure!(info.virtual_size == IMAGE_SIZE, "an image in use is {info:?}");
    let growth =
        ImageGrowth { path: disk.path.clone(), format: disk.format, virtual_size: IMAGE_SIZE * 2 };
    let grown = client.resize_image(growth.clone()).await;
    fails(grown, "growing an image in use as a file", &[ErrorCode::Conflict])?;
    end_all(client, &[spec.id]).await?;
    client.resize_image(growth).await.works("growing it once its machine has ended")?;
    instance.end().await
}
