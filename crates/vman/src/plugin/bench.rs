//! `vman plugin bench`: what a call costs on its way to a backend and back, in each way that a
//! backend can be run. What the backend does for it is not measured.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use vman_plugin::host::{Client, Offer, Registry, open_file, open_isolated};
use vman_plugin::{BackendConfig, BackendError};

use crate::cli::{Global, PluginBench};
use crate::client::Output;
use crate::config::{self, Surroundings};
use crate::failure::Failure;
use crate::serve::{ServeError, backend};

/// Calls before those that are measured: threads are there then, and caches warm.
const WARM_UP: u32 = 1000;

pub(super) fn run<W: Write>(
    global: &Global,
    arguments: &PluginBench,
    out: &mut Output<W>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    let config = config::load(&global.into(), &Surroundings::of_process())?.config;
    let mut measured = Vec::new();
    for offer in offers(&arguments.target)? {
        let name = &offer.manifest().name;
        let settings = config.backends.get(name).cloned().unwrap_or_else(|| json!({}));
        let machines_dir = config.storage.join("machines");
        let failed = |error: BackendError| Failure::Failed(error.to_string());
        let started = offer.start(BackendConfig { machines_dir, settings });
        let (client, _events) = started.map_err(failed)?;
        let times = runtime.block_on(measure(client, arguments.rounds)).map_err(failed)?;
        measured.push((offer, times));
    }
    tell(&measured, out)
}

/// One for each way to run it.
fn offers(target: &str) -> Result<Vec<Offer>, Failure> {
    let linked = Registry::linked().into_iter().find(|offer| offer.manifest().name == target);
    if let Some(linked) = linked {
        return Ok(vec![linked]);
    }
    let file = Path::new(target);
    if !target.ends_with(".so") {
        let why = format!("{target} is neither linked in nor a plugin's file, which ends in .so");
        return Err(Failure::Usage(why));
    }
    let opened = [open_file(file), open_isolated(file, &backend::helper())];
    opened.into_iter().map(|offer| offer.map_err(|why| Failure::Failed(why.to_string()))).collect()
}

/// On a thread of the runtime, as the daemon calls; in ascending order.
async fn measure(client: Client, rounds: u32) -> Result<Vec<Duration>, BackendError> {
    let calls = async move {
        for _ in 0..WARM_UP {
            client.measure().await?;
        }
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(client.measure().await?);
        }
        times.sort_unstable();
        Ok(times)
    };
    tokio::spawn(calls).await.expect("nothing in it panics, and it is not aborted")
}

fn tell<W: Write>(measured: &[(Offer, Vec<Duration>)], out: &mut Output<W>) -> Result<(), Failure> {
    let at = |times: &[Duration], share: f64| {
        let last = times.len().saturating_sub(1);
        let time = times.get((last as f64 * share) as usize).copied().unwrap_or_default();
        time.as_secs_f64() * 1e6
    };
    if out.is_json() {
        let told: serde_json::Value = measured
            .iter()
            .map(|(offer, times)| {
                json!({
                    "name": offer.manifest().name, "mode": offer.mode().word(),
                    "calls": times.len(), "median_us": at(times, 0.5), "p99_us": at(times, 0.99),
                })
            })
            .collect();
        return Ok(out.json(&told)?);
    }
    let row = |(offer, times): &(Offer, Vec<Duration>)| {
        vec![
            offer.manifest().name.clone(),
            offer.mode().word().to_owned(),
            times.len().to_string(),
            format!("{:.1}", at(times, 0.5)),
            format!("{:.1}", at(times, 0.99)),
        ]
    };
    let titles = ["NAME", "MODE", "CALLS", "MEDIAN us", "P99 us"];
    Ok(out.rows(&titles, measured.iter().map(row).collect())?)
}
