//! The eyes: at every wake and at least every few seconds it reads the records, looks at the host,
//! and names what disagrees. It holds reading ports only, so it cannot act; what it finds goes as a
//! value to the engine. What counts as disagreement is decided in `vman_core::coherence`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, info, warn};
use vman_core::coherence::{Look, look};
use vman_core::ident::Timestamp;
use vman_core::ports::{Clock, ObserverHealth, ObserverStatus, Recall, RecordError, Survey};
use vman_core::sighting::{Sightings, Surveyed};

/// The longest time between two whole looks.
pub const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// The shortest rest between two looks. It is never shorter than the look before it either:
/// whoever wakes without end does not have the daemon looking without end.
const REST_MIN: Duration = Duration::from_millis(2);
/// The longest such rest.
const REST_MAX: Duration = Duration::from_millis(100);
/// A survey that takes longer leaves its subjects unknown.
const SURVEY_TIME_MAX: Duration = Duration::from_secs(3);
/// Looks that may wait for the engine; the observer then waits too.
const LOOKS_WAITING_MAX: usize = 2;

/// What the observer reads from.
pub struct Ports {
    pub recall: Arc<dyn Recall>,
    pub surveys: Vec<Arc<dyn Survey>>,
    pub clock: Arc<dyn Clock>,
    /// Makes it look at once. Carries no data: it looks for itself.
    pub wake: Arc<Notify>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").field("surveys", &self.surveys.len()).finish_non_exhaustive()
    }
}

/// Looks until nobody listens any more.
#[derive(Debug)]
pub struct Observer {
    ports: Ports,
    interval: Duration,
    status: watch::Sender<ObserverStatus>,
    looks: mpsc::Sender<Look>,
}

/// Where the observer's findings come out.
#[derive(Debug)]
pub struct Findings {
    pub looks: mpsc::Receiver<Look>,
    pub status: watch::Receiver<ObserverStatus>,
}

impl Observer {
    /// An `interval` above [`INTERVAL_MAX`] is cut to it.
    pub fn new(ports: Ports, interval: Duration) -> (Self, Findings) {
        let (status, status_receiver) = watch::channel(ObserverStatus::default());
        let (looks, looks_receiver) = mpsc::channel(LOOKS_WAITING_MAX);
        let interval = interval.min(INTERVAL_MAX);
        let findings = Findings { looks: looks_receiver, status: status_receiver };
        (Self { ports, interval, status, looks }, findings)
    }

    /// Runs until the receiver of the looks is dropped.
    pub async fn run(self) {
        loop {
            let begun = tokio::time::Instant::now();
            // Asked for before looking: a wake during the look makes another one.
            let woken = self.ports.wake.notified();
            if !self.look_once().await {
                return;
            }
            let ended = tokio::time::Instant::now();
            let rest = (ended - begun).clamp(REST_MIN, REST_MAX);
            tokio::select! {
                () = woken => debug!("woken"),
                () = tokio::time::sleep_until(begun + self.interval) => {}
                () = self.looks.closed() => return,
            }
            tokio::time::sleep_until(ended + rest).await;
        }
    }

    /// False once nobody listens.
    async fn look_once(&self) -> bool {
        let begun = Instant::now();
        // Of what bears the very millisecond in which a look begins it is not known which came
        // first: a look tells of what was over before.
        let at = self.ports.clock.now().minus(1);
        match self.compare(at).await {
            Ok((seen, health)) => {
                self.tell(&seen, health, begun.elapsed());
                self.looks.send(seen).await.is_ok()
            }
            Err(error) => {
                self.tell_blind(&error);
                !self.looks.is_closed()
            }
        }
    }

    /// The records are read first: what is made after that may be seen, but is not missed.
    async fn compare(&self, at: Timestamp) -> Result<(Look, ObserverHealth), RecordError> {
        let recorded = self.ports.recall.recorded().await?;
        let sightings = self.survey().await;
        Ok((look(&recorded, &sightings, at), health(&sightings)))
    }

    async fn survey(&self) -> Sightings {
        let surveys = self.ports.surveys.iter();
        // Side by side: together they take no longer than one may.
        let surveyed = join_all(surveys.map(|survey| in_time(survey.as_ref()))).await;
        surveyed.into_iter().fold(Sightings::default(), Sightings::merge)
    }

    fn tell(&self, seen: &Look, health: ObserverHealth, took: Duration) {
        let mut found: BTreeMap<&'static str, u64> = BTreeMap::new();
        for incoherence in &seen.incoherences {
            *found.entry(incoherence.wrong.kind().word()).or_default() += 1;
        }
        let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        debug!(duration_us, incoherences = seen.incoherences.len(), "looked");
        self.status.send_modify(|status| {
            if status.health != health {
                tell_health(&health);
            }
            status.last_look = Some(seen.at);
            status.duration_us = duration_us;
            status.looks += 1;
            status.health = health;
            status.found = found.into_iter().collect();
        });
    }

    fn tell_blind(&self, error: &RecordError) {
        warn!(%error, "cannot read the records: nothing is compared");
        let health = ObserverHealth::Degraded(error.to_string());
        self.status.send_modify(|status| status.health = health);
    }
}

/// One survey; unknown if it takes too long.
async fn in_time(survey: &dyn Survey) -> Sightings {
    match tokio::time::timeout(SURVEY_TIME_MAX, survey.survey()).await {
        Ok(seen) => seen,
        Err(_elapsed) => {
            warn!("a survey took longer than {SURVEY_TIME_MAX:?}");
            Sightings::default()
        }
    }
}

fn tell_health(health: &ObserverHealth) {
    match health {
        ObserverHealth::Starting => {}
        ObserverHealth::Healthy => info!("everything can be looked at"),
        ObserverHealth::Degraded(reason) => warn!("not everything can be looked at: {reason}"),
    }
}

fn health(sightings: &Sightings) -> ObserverHealth {
    fn unknown<T>(what: &str, part: &Surveyed<T>) -> Option<String> {
        match part {
            Surveyed::Known(_) => None,
            Surveyed::Unknown(reason) => Some(format!("{what}: {reason}")),
        }
    }
    let reasons: Vec<String> = [
        unknown("machines", &sightings.machines),
        unknown("files", &sightings.files),
        unknown("network devices", &sightings.devices),
    ]
    .into_iter()
    .flatten()
    .collect();
    if reasons.is_empty() {
        ObserverHealth::Healthy
    } else {
        ObserverHealth::Degraded(reasons.join("; "))
    }
}
