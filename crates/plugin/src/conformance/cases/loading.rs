//! What a backend says of itself, and instances before there is any machine.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::ErrorCode;
use crate::conformance::bench::{Bench, REPEATS, listed};
use crate::conformance::case::Case;
use crate::conformance::fault::{Outcome, Works, ensure, told};
use crate::host::Dropped;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "manifest-is-whole",
        "The manifest has a version, describes the backend, lists nothing twice, and stays so.",
        &[],
        |bench| Box::pin(manifest_is_whole(bench)),
    ),
    Case::new(
        "probe-gives-its-reason",
        "Each probe says whether machines run here, the same each time, and why.",
        &[],
        |bench| Box::pin(probe_gives_its_reason(bench)),
    ),
    Case::new(
        "odd-settings-are-taken-or-refused-in-words",
        "Settings of no use make an instance, or an `invalid` with a reason, and never a crash.",
        &[],
        |bench| Box::pin(odd_settings(bench)),
    ),
    Case::new(
        "instances-come-and-go",
        "An instance is made and destroyed ten times, and several live at the same time.",
        &[],
        |bench| Box::pin(instances_come_and_go(bench)),
    ),
    Case::new(
        "an-empty-folder-has-no-machines",
        "Where nothing was launched nothing is listed, seen or ended.",
        &[],
        |bench| Box::pin(an_empty_folder(bench)),
    ),
];

/// The first three numbers of a semantic version.
const VERSION_NUMBERS: usize = 3;

async fn manifest_is_whole(bench: &Bench) -> Outcome {
    let manifest = bench.offer().manifest();
    let numbers = manifest.version.split(['-', '+']).next().unwrap_or_default().split('.');
    let numbers: Vec<Result<u64, _>> = numbers.map(str::parse).collect();
    ensure!(
        numbers.len() == VERSION_NUMBERS && numbers.iter().all(Result::is_ok),
        "the version {:?} is not MAJOR.MINOR.PATCH",
        manifest.version
    );
    ensure!(!manifest.description.trim().is_empty(), "the description is empty");
    let capabilities = &manifest.capabilities;
    for (position, format) in capabilities.image_formats.iter().enumerate() {
        let before = &capabilities.image_formats[..position];
        ensure!(!before.contains(format), "`image_formats` lists {format:?} twice");
    }
    for (position, bus) in capabilities.hot_plug.iter().enumerate() {
        ensure!(!capabilities.hot_plug[..position].contains(bus), "`hot_plug` lists {bus:?} twice");
    }
    let again = bench.subject().opening.open()?;
    ensure!(again.manifest() == manifest, "asked again it is {:?}", again.manifest());
    Ok(())
}

async fn probe_gives_its_reason(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let first = instance.client.probe().await.works("a probe")?;
    ensure!(!first.reason.trim().is_empty(), "the probe gives no reason: {first:?}");
    let empty = first.notes.iter().any(|note| note.trim().is_empty());
    ensure!(!empty, "the probe has an empty note: {first:?}");
    let again = instance.client.probe().await.works("a second probe")?;
    ensure!(
        (again.usable, &again.hypervisor) == (first.usable, &first.hypervisor),
        "the first probe says {first:?} and the second {again:?}"
    );
    ensure!(listed(&instance.client).await?.is_empty(), "probing left a machine");
    instance.end().await
}

async fn odd_settings(bench: &Bench) -> Outcome {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let odd = [
        Value::Null,
        json!([1]),
        json!("x"),
        json!(-1.5),
        json!({"no-such-setting-anywhere": 1}),
        json!({"": {"": deep}}),
        json!({"long": "x".repeat(1 << 20)}),
    ];
    for settings in odd {
        let shown: String = settings.to_string().chars().take(40).collect();
        bench.is_at(&format!("the settings {shown}"));
        let config = crate::BackendConfig { machines_dir: bench.machines_dir(), settings };
        match bench.offer().start(config) {
            Ok((client, _events)) => drop(client),
            Err(error) => ensure!(
                error.code == ErrorCode::Invalid && !error.message.trim().is_empty(),
                "the settings {shown} are refused as {}; it must be `invalid`, with a reason",
                told(&error)
            ),
        }
    }
    let instance = bench.start()?;
    listed(&instance.client).await?;
    instance.end().await
}

async fn instances_come_and_go(bench: &Bench) -> Outcome {
    for _ in 0..REPEATS {
        let instance = bench.start()?;
        listed(&instance.client).await?;
        instance.end().await?;
    }
    let mut all = Vec::new();
    for _ in 0..REPEATS {
        all.push(bench.start()?);
    }
    for instance in &all {
        listed(&instance.client).await?;
    }
    for instance in all {
        instance.end().await?;
    }
    Ok(())
}

async fn an_empty_folder(bench: &Bench) -> Outcome {
    let instance = bench.start()?;
    let client = &instance.client;
    let id = Uuid::new_v4();
    for _ in 0..REPEATS {
        let survey = client.survey().await.works("a survey")?;
        ensure!(
            survey.machines.is_empty() && survey.ended.is_empty(),
            "nothing was ever launched, and a survey tells {survey:?}"
        );
        let seen = client.sight(id).await.works("looking at no machine")?;
        ensure!(seen.is_none(), "nothing was ever launched, and `sight` tells {seen:?}");
        client.kill(id).await.works("a kill of a machine that never was")?;
        client.quit(id).await.works("a quit of a machine that never was")?;
    }
    ensure!(client.dropped() == Dropped::default(), "dropped: {:?}", client.dropped());
    instance.end().await
}
