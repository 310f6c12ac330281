//! The backend in use: one instance at a time, and another one in its place once it has panicked,
//! hung or crashed, or a new version of it has come. Machines outlive both. Which backend it is was
//! chosen elsewhere.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};
use vman_plugin::host::{Client, Fault, Offer};
use vman_plugin::{BackendConfig, BackendError, ErrorCode, Event, Manifest};

/// New instances within [`RESTART_WINDOW`] of a backend whose verbs panic, without a pause.
const RESTARTS_MAX: u32 = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// The pause before the first new instance of a backend that crashed or hung; each further one
/// within the window is twice as long.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long a verb waits for a new instance.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a new instance to find the machines again, all together; those it has not found by then it
/// finds when it is asked for them.
const REATTACH_TIME_MAX: Duration = Duration::from_secs(2);
/// Machines that are found again at the same time.
const REATTACHED_AT_ONCE: usize = 32;

/// A backend that was started, and all it takes to start it again.
#[derive(Debug)]
pub struct Backend {
    pub(crate) offer: Offer,
    pub(crate) config: BackendConfig,
    pub(crate) client: Client,
    pub(crate) events: mpsc::Receiver<Event>,
}

impl Backend {
    pub fn name(&self) -> &str {
        &self.manifest().name
    }

    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        self.offer.manifest()
    }
}

/// The present instance of a backend.
#[derive(Debug)]
pub(crate) struct Instance {
    /// The same for every version of it.
    name: String,
    current: RwLock<Current>,
    /// Held while an instance is made anew.
    restarts: Mutex<Restarts>,
}

#[derive(Debug, Clone)]
struct Current {
    offer: Offer,
    config: BackendConfig,
    client: Client,
}

/// How often an instance was made anew.
#[derive(Debug, Default)]
struct Restarts {
    /// Within the window that began then.
    count: u32,
    since: Option<Instant>,
    /// When the next one is due, if the present one cannot be used.
    due: Option<Instant>,
}

/// Why there is no instance to ask.
#[derive(Debug)]
pub(crate) struct Absent {
    pub(crate) error: BackendError,
    /// When to ask again, if that is known.
    pub(crate) left: Option<Duration>,
}

impl Instance {
    /// Also its events.
    pub(crate) fn new(backend: Backend) -> (Self, mpsc::Receiver<Event>) {
        let name = backend.name().to_owned();
        let Backend { offer, config, client, events } = backend;
        let current = RwLock::new(Current { offer, config, client });
        (Self { name, current, restarts: Mutex::default() }, events)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn offer(&self) -> Offer {
        self.current().offer
    }

    /// Why the present one cannot be used.
    pub(crate) fn fault(&self) -> Option<String> {
        self.current().client.fault().map(ToString::to_string)
    }

    /// One that can be used, for which is waited a little; `listen` gets the events of a new one.
    pub(crate) async fn client(
        &self,
        listen: impl Fn(mpsc::Receiver<Event>),
    ) -> Result<Client, BackendError> {
        let ends = Instant::now() + PATIENCE;
        // Each round but the last waits for the time at which an instance is due.
        loop {
            if let Some(client) = self.sound() {
                return Ok(client);
            }
            let mut restarts = self.restarts.lock().await;
            match self.renewed(&mut restarts, &listen).await {
                Ok(client) => return Ok(client),
                Err(Absent { left: Some(left), .. }) if Instant::now() + left < ends => {
                    drop(restarts);
                    tokio::time::sleep(left).await;
                }
                Err(absent) => return Err(absent.error),
            }
        }
    }

    /// The present one, or one that is due; nothing is waited for.
    pub(crate) async fn present(
        &self,
        listen: impl Fn(mpsc::Receiver<Event>),
    ) -> Result<Client, Absent> {
        if let Some(client) = self.sound() {
            return Ok(client);
        }
        let Ok(mut restarts) = self.restarts.try_lock() else {
            let why = format!("backend {}: an instance of it is being made anew", self.name);
            let error = BackendError::new(ErrorCode::Broken, why);
            return Err(Absent { error, left: Some(RESTART_PAUSE) });
        };
        self.renewed(&mut restarts, &listen).await
    }

    async fn renewed(
        &self,
        restarts: &mut Restarts,
        listen: &impl Fn(mpsc::Receiver<Event>),
    ) -> Result<Client, Absent> {
        let Current { offer, config, client } = self.current();
        // Somebody else may have made it anew meanwhile.
        let Some(fault) = client.fault() else { return Ok(client) };
        let left = restarts.left(fault);
        if !left.is_zero() {
            let error = self.not_yet(fault, restarts.count, left);
            return Err(Absent { error, left: Some(left) });
        }
        restarts.spend();
        warn!(backend = self.name, "{fault}: a new instance takes over");
        let started = start(offer, config).await;
        let backend = started.map_err(|error| {
            error!(backend = self.name, "no new instance of it can be started: {error}");
            Absent { error, left: None }
        })?;
        restarts.due = None;
        Ok(self.take_over(backend, listen).await)
    }

    /// Has another version take the place of the present one, which ends when it has ended what it
    /// is at.
    pub(crate) async fn replace(&self, backend: Backend, listen: impl Fn(mpsc::Receiver<Event>)) {
        let mut restarts = self.restarts.lock().await;
        let (before, now) = (self.offer(), &backend.offer);
        let (before, now) = (&before.manifest().version, &now.manifest().version);
        info!(backend = self.name, "version {now} takes over from version {before}");
        *restarts = Restarts::default();
        self.take_over(backend, &listen).await;
    }

    async fn take_over(&self, backend: Backend, listen: &impl Fn(mpsc::Receiver<Event>)) -> Client {
        let Backend { offer, config, client, events } = backend;
        listen(events);
        let current = Current { offer, config, client: client.clone() };
        // The old one ends here, and lets go of the machines.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        if timeout(REATTACH_TIME_MAX, reattach(&client)).await.is_err() {
            warn!(backend = self.name, "not every machine was found again at once");
        }
        client
    }

    fn not_yet(&self, fault: &Fault, count: u32, left: Duration) -> BackendError {
        let why = format!(
            "backend {}: {fault}; {count} instances were made anew within {RESTART_WINDOW:?}, and \
             the next one is in {left:.1?}: report it to its authors if it goes on",
            self.name
        );
        BackendError::new(ErrorCode::Broken, why)
    }

    fn current(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn sound(&self) -> Option<Client> {
        let Current { client, .. } = self.current();
        client.fault().is_none().then_some(client)
    }
}

impl Restarts {
    /// How long until the next instance is due. Begins with the first one who asks.
    fn left(&mut self, fault: &Fault) -> Duration {
        let now = Instant::now();
        if self.since.is_some_and(|since| now.duration_since(since) >= RESTART_WINDOW) {
            (self.count, self.since) = (0, None);
        }
        let pause = self.pause(fault);
        let due = *self.due.get_or_insert(now + pause);
        due.saturating_duration_since(now)
    }

    fn pause(&self, fault: &Fault) -> Duration {
        match fault {
            // Nothing of it is left that could be in the way.
            Fault::Panicked(_) if self.count < RESTARTS_MAX => Duration::ZERO,
            Fault::Panicked(_) | Fault::Hung(_) | Fault::Crashed(_) => {
                RESTART_PAUSE.saturating_mul(1 << self.count.min(16)).min(RESTART_PAUSE_MAX)
            }
        }
    }

    /// One is made now; if that fails, the next one is due after a longer pause.
    fn spend(&mut self) {
        let now = Instant::now();
        self.count += 1;
        self.since.get_or_insert(now);
        self.due = None;
    }
}

/// The plugin's own code runs in `Offer::start`: not on a thread that others wait for.
pub(crate) async fn start(offer: Offer, config: BackendConfig) -> Result<Backend, BackendError> {
    let starting = (offer.clone(), config.clone());
    let started = tokio::task::spawn_blocking(move || starting.0.start(starting.1)).await;
    let started = started.unwrap_or_else(|error| {
        let why = format!("starting it failed: {error}");
        Err(BackendError::new(ErrorCode::Panicked, why))
    });
    started.map(|(client, events)| Backend { offer, config, client, events })
}

/// What fails here fails again, and is told, when the machine is asked for something.
async fn reattach(client: &Client) {
    let survey = client.survey().await.unwrap_or_default();
    let machines = survey.machines.into_iter().map(|sighting| client.reattach(sighting.machine));
    let _: Vec<_> = stream::iter(machines).buffer_unordered(REATTACHED_AT_ONCE).collect().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashed() -> Fault {
        Fault::Crashed("signal 9".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn each_crash_within_a_minute_is_followed_by_a_longer_pause_up_to_a_bound() {
        let mut restarts = Restarts::default();
        for pause in [250, 500, 1000, 2000, 4000, 8000, 16_000] {
            let pause = Duration::from_millis(pause);
            assert_eq!(restarts.left(&crashed()), pause);
            tokio::time::advance(pause / 2).await;
            assert_eq!(restarts.left(&crashed()), pause / 2, "it runs from the first who asks");
            tokio::time::advance(pause / 2).await;
            assert_eq!(restarts.left(&crashed()), Duration::ZERO);
            restarts.spend();
        }
        restarts.count = 100;
        assert_eq!(restarts.left(&crashed()), RESTART_PAUSE_MAX);
        tokio::time::advance(RESTART_WINDOW).await;
        restarts.spend();
        tokio::time::advance(RESTART_WINDOW).await;
        assert_eq!(restarts.left(&crashed()), RESTART_PAUSE, "what was long ago is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_panics_are_followed_by_no_pause() {
        let panicked = Fault::Panicked("so".to_owned());
        let mut restarts = Restarts::default();
        for _ in 0..RESTARTS_MAX {
            assert_eq!(restarts.left(&panicked), Duration::ZERO);
            restarts.spend();
        }
        assert!(restarts.left(&panicked) > PATIENCE, "nobody waits for that one");
    }
}
