//! Requests that no host sends: by the hundred, made from a seed, and none of them may crash the
//! backend, stay unanswered, or touch what is not its own.

use std::fs;
use std::path::Path;

use crate::conformance::bench::{Bench, end_all, in_state, listed, ours, working_folder};
use crate::conformance::case::{Case, Need};
use crate::conformance::cases::Stranger;
use crate::conformance::fault::{Fault, Outcome, Works, ensure};
use crate::conformance::process::{boot_id, start_time};
use crate::conformance::raw::{Answer, ask};
use crate::host::{Client, Dropped};
use crate::{Boot, ProcessIdentity, RunState};

mod request;

use request::World;

/// The name of the case that sends them.
pub const ODD_REQUESTS: &str = "odd-requests-harm-nobody";

pub(super) const CASES: &[Case] = &[Case::new(
    ODD_REQUESTS,
    "Two thousand requests, broken in every way, are each answered once and touch nothing else.",
    &[Need::Machines],
    |bench| Box::pin(odd_requests(bench)),
)
.within(300)];

/// Requests of one seed.
const REQUESTS: u32 = 2000;
/// Bytes of a request that are shown.
const SHOWN: usize = 2000;

async fn odd_requests(bench: &Bench) -> Outcome {
    let other = bench.start_in(bench.other_dir())?;
    let neighbour = bench.spec_in(&other.client, &bench.other_dir()).await?;
    other.client.launch(neighbour.clone()).await.works("a launch in another folder")?;
    let mut stranger = Stranger::start()?;

    let instance = bench.start()?;
    let client = &instance.client;
    let seed = bench.subject().seed;
    let world = world(bench, &stranger)?;
    let numbers = match bench.subject().request {
        Some(number) => number..number.saturating_add(1),
        None => 0..REQUESTS,
    };
    for number in numbers {
        let name = format!("request {seed}:{number}");
        bench.is_at(&name);
        let request = request::make(&world, seed, number);
        let shown = String::from_utf8_lossy(&request[..request.len().min(SHOWN)]).into_owned();
        let answer = ask(client, request).await;
        let alone = bench.subject().request.is_some();
        if alone {
            bench.note(format!("{name}: {shown}"));
        }
        match answer {
            Ok(Answer::Ok(json)) if alone => bench.note(format!("it was answered with {json}")),
            Ok(Answer::Failed(error)) if alone => {
                bench.note(format!("it was refused: {}", error.message));
            }
            Ok(Answer::Ok(_) | Answer::Failed(_)) => {}
            Err(Fault(why)) => return Err(Fault(format!("{name}: {why}; it was {shown}"))),
        }
    }
    bench.is_at("the look after all requests");
    stranger.lives()?;
    in_state(&other.client, neighbour.id, RunState::Running).await?;
    ensure!(listed(&other.client).await? == [neighbour.id], "another folder has more machines");
    end_all(&other.client, &[neighbour.id]).await?;
    other.end().await?;
    works_still(bench, client).await?;
    nothing_elsewhere(&bench.other_dir(), 1)?;
    nothing_elsewhere(&working_folder(bench.folder()), 0)?;
    instance.end().await
}

/// What the requests speak of.
fn world(bench: &Bench, stranger: &Stranger) -> Result<World, Fault> {
    let pid = stranger.pid();
    let start_time = start_time(pid).unwrap_or_default().wrapping_add(1);
    let capabilities = bench.capabilities();
    let world = World::new(
        bench.subject().seed,
        &bench.machines_dir(),
        &bench.images_dir(),
        bench.subject().guest.clone().unwrap_or(Boot::RootDisk),
        ProcessIdentity { pid, start_time, boot_id: boot_id()? },
        capabilities.image_formats.clone(),
        capabilities.hot_plug.clone(),
    );
    for machine in &world.machines {
        let directory = bench.machines_dir().join(machine.to_string());
        fs::create_dir(&directory).map_err(|error| ours("a machine's directory", &error))?;
    }
    Ok(world)
}

/// It is not poisoned, nothing was answered twice, and a machine can be launched and all be ended.
async fn works_still(bench: &Bench, client: &Client) -> Outcome {
    let left = listed(client).await?;
    end_all(client, &left).await?;
    let (spec, _) = bench.launched(client).await?;
    end_all(client, &[spec.id]).await?;
    let dropped = client.dropped();
    ensure!(
        Dropped { events: 0, ..dropped } == Dropped::default(),
        "answers that came twice or late: {dropped:?}"
    );
    Ok(())
}

fn nothing_elsewhere(folder: &Path, entries: usize) -> Outcome {
    let found = fs::read_dir(folder).map_err(|error| ours("a look at a folder", &error))?;
    let found: Vec<_> = found.flatten().map(|entry| entry.file_name()).collect();
    ensure!(found.len() == entries, "requests made {found:?} in a folder that none named");
    Ok(())
}
