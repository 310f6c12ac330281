//! A verb that is cancelled in the plugin itself, as its deadline does it.

use crate::ErrorCode;
use crate::conformance::bench::{Bench, end_all, hurried, listed};
use crate::conformance::case::{Case, Need};
use crate::conformance::fault::{Fault, Outcome, Works, ensure, until};
use crate::conformance::process::Watched;

pub(super) const CASES: &[Case] = &[Case::new(
    "a-verb-that-waits-ends-when-it-is-cancelled",
    "A `quit` of a machine that hangs is given up, is answered all the same, and a kill follows.",
    &[Need::Machines, Need::Processes],
    |bench| Box::pin(cancelled(bench)),
)];

/// Shorter than any backend waits for a machine that does not answer.
const IMPATIENCE_MS: u64 = 50;

async fn cancelled(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let (spec, machine) = bench.launched(client).await?;
    let watched = Watched::of(&machine)?;
    watched.stop()?;
    let quit = hurried(client, IMPATIENCE_MS).quit(spec.id).await;
    match quit {
        Err(error) if error.code == ErrorCode::Timeout => {}
        Err(error) => Err(error).works("a quit that was given up")?,
        Ok(()) => ensure!(watched.has_ended(), "`quit` succeeded, and the machine lives"),
    }
    ensure!(
        watched.has_ended() || listed(client).await? == [spec.id],
        "a machine that hangs is not listed any more"
    );
    end_all(client, &[spec.id]).await?;
    until("the quit that was given up is answered", async || {
        let dropped = client.dropped();
        Ok((dropped.answers >= dropped.operations).then_some(()))
    })
    .await
    .map_err(|_: Fault| Fault("a quit that was cancelled is never answered".to_owned()))?;
    instance.end().await
}
