//! The backend in use: one instance at a time, and another one in its place once a verb of it has
//! panicked. Machines outlive both. Which backend it is was chosen elsewhere.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, timeout};
use tracing::{error, warn};
use vman_plugin::host::{Client, Offer};
use vman_plugin::{BackendConfig, BackendError, ErrorCode, Event};

/// New instances within [`RESTART_WINDOW`]: a backend that panics at everything is not started
/// without end.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
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
        &self.offer.manifest().name
    }
}

/// The present instance of a backend.
#[derive(Debug)]
pub(crate) struct Instance {
    offer: Offer,
    config: BackendConfig,
    client: RwLock<Client>,
    /// When an instance was last made anew. Held while one is being made.
    restarts: Mutex<VecDeque<Instant>>,
}

impl Instance {
    /// Also its events.
    pub(crate) fn new(backend: Backend) -> (Self, mpsc::Receiver<Event>) {
        let Backend { offer, config, client, events } = backend;
        let (client, restarts) = (RwLock::new(client), Mutex::default());
        (Self { offer, config, client, restarts }, events)
    }

    pub(crate) fn name(&self) -> &str {
        &self.offer.manifest().name
    }

    /// One that can be used; `listen` gets the events of a new one.
    pub(crate) async fn client(
        &self,
        listen: impl FnOnce(mpsc::Receiver<Event>),
    ) -> Result<Client, BackendError> {
        if let Some(client) = self.sound() {
            return Ok(client);
        }
        let mut restarts = self.restarts.lock().await;
        // Somebody else may have made it anew meanwhile.
        if let Some(client) = self.sound() {
            return Ok(client);
        }
        self.spend_restart(&mut restarts)?;
        warn!(backend = self.name(), "a verb of it has panicked: a new instance takes over");
        let started = start(self.offer.clone(), self.config.clone()).await;
        let Backend { client, events, .. } = started.inspect_err(|why| {
            error!(backend = self.name(), "no new instance of it can be started: {why}");
        })?;
        listen(events);
        // The old one ends here, and lets go of the machines.
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client.clone();
        if timeout(REATTACH_TIME_MAX, reattach(&client)).await.is_err() {
            warn!(backend = self.name(), "not every machine was found again at once");
        }
        Ok(client)
    }

    fn sound(&self) -> Option<Client> {
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner);
        (!client.poisoned()).then(|| client.clone())
    }

    fn spend_restart(&self, restarts: &mut VecDeque<Instant>) -> Result<(), BackendError> {
        let now = Instant::now();
        restarts.retain(|restart| now.duration_since(*restart) < RESTART_WINDOW);
        if restarts.len() >= RESTARTS_MAX {
            let why = format!(
                "backend {}: its verbs panicked, and {RESTARTS_MAX} instances were made anew \
                 within {RESTART_WINDOW:?}; the next one is made later: report it to its authors",
                self.name()
            );
            return Err(BackendError::new(ErrorCode::Broken, why));
        }
        restarts.push_back(now);
        Ok(())
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
