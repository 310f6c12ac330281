//! What a backend tells without being asked: hints, which may be lost, and never lies.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::conformance::bench::{Bench, end_all};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Fault, Outcome, SOON, Works, ensure};
use crate::host::Dropped;
use crate::{Event, RunState};

pub(super) const CASES: &[Case] = &[Case::new(
    "events-come-in-order-and-of-known-machines",
    "Each event parses and is of a machine that lives; after a machine's end come none of it.",
    &[Need::Machines],
    |bench| Box::pin(in_order(bench)),
)];

/// What is known of a machine from its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Lives,
    Ended,
}

async fn in_order(bench: &Bench) -> Outcome {
    let mut instance = bench.start()?;
    let client = instance.client.clone();
    let mut told = BTreeMap::new();
    for _ in 0..2 {
        let (spec, _) = bench.launched(&client).await?;
        told.insert(spec.id, Told::Lives);
        if bench.capabilities().pause {
            client.pause(spec.id).await.works("pausing")?;
            client.resume(spec.id).await.works("letting it go on")?;
        }
        for bus in bench.capabilities().hot_plug.clone() {
            let disk = bench.disk(&client, bus).await?;
            let attachment = crate::DiskAttachment { id: spec.id, disk };
            client.attach_disk(attachment).await.works("giving a disk")?;
        }
        end_all(&client, &[spec.id]).await?;
    }
    let dropped = client.dropped();
    ensure!(
        dropped == Dropped::default(),
        "events that do not parse, or answers that nobody waits for: {dropped:?}"
    );
    drop(client);
    drop(instance.client);
    let all = async {
        while let Some(event) = instance.events.recv().await {
            take(&mut told, &event)?;
        }
        Ok(())
    };
    let all = tokio::time::timeout(SOON, all).await;
    all.map_err(|_| Fault(format!("`destroy` has not returned within {SOON:?}")))?
}

fn take(told: &mut BTreeMap<Uuid, Told>, event: &Event) -> Outcome {
    let (id, now) = match event {
        Event::MachineChanged { id, run_state } => {
            ensure!(*run_state != RunState::Other, "a run state of no name: {event:?}");
            (id, Told::Lives)
        }
        Event::DiskDetached { id, .. } => (id, Told::Lives),
        Event::MachineEnded { id, reason } => {
            ensure!(!reason.trim().is_empty(), "a machine's end without a reason: {event:?}");
            (id, Told::Ended)
        }
        Event::Other => return Err(Fault("an event of no name that is known".to_owned())),
    };
    let before = told.insert(*id, now);
    ensure!(before.is_some(), "an event of a machine that never was: {event:?}");
    ensure!(before == Some(Told::Lives), "an event of a machine after its end: {event:?}");
    Ok(())
}
