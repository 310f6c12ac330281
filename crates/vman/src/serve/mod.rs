//! `vman serve`: opens what the daemon works with, hands the parts to each other, and waits for the
//! signal to end. It wires; everything it wires decides for itself. Machines are left running when
//! it ends.

pub(crate) mod backend;
mod boot;
mod error;
mod folder;
mod policies;
mod token;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tracing::{info, warn};
use vman_api::{ApiState, Auth, Backends, ObserverHandle};
use vman_api_types::NetworkConfig;
use vman_core::ident::Timestamp;
use vman_core::ports::Clock;
use vman_engine::{Engine, EngineConfig, RepairConfig, RepairLoop};
use vman_network::Networker;
use vman_observer::Observer;
use vman_operator::{Operator, OperatorConfig, Storage};
use vman_store::Store;

use crate::config::{AuthMode, Config};

pub(crate) use error::ServeError;
use folder::RunFolder;

/// Runs the daemon until it is told to end by SIGTERM, SIGINT, or SIGHUP (its terminal is gone).
pub(crate) fn run(config: Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let served = runtime.block_on(serve(config));
    // What is under way is recorded and taken up at the next start: nothing is waited for.
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> Result<(), ServeError> {
    info!(version = env!("CARGO_PKG_VERSION"), storage = %config.storage.display(), "starting");
    let mut folder = RunFolder::open(&config.storage)?;
    let storage = Storage::open(config.storage.clone())
        .map_err(|source| ServeError::folder(&config.storage, source))?;
    let auth = match config.auth {
        AuthMode::Token => Auth::Token(token::read_or_make(&config.storage)?),
        AuthMode::None => {
            warn!("no token is needed: every user of this host may use the API");
            Auth::None
        }
    };
    let listener = TcpListener::bind(config.server.listen)
        .await
        .map_err(|source| ServeError::Listen { address: config.server.listen, source })?;
    let address = listener.local_addr().map_err(ServeError::Runtime)?;

    let parts = wire(&config, storage).await?;
    let told = told_to_end()?;
    let engine = parts.engine.clone();
    let until_told_to_end = async move {
        told.await;
        // Whoever waits for an operation hears now how far it is.
        engine.close();
    };
    let state = ApiState {
        engine: parts.engine,
        observer: parts.observer,
        network: parts.network,
        backends: parts.backends,
        policies: parts.policies,
        auth,
        cors_origins: config.server.cors_origins.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    folder.tell_address(address)?;
    info!(%address, "listening");
    let ended = vman_api::serve(listener, vman_api::router(state), until_told_to_end).await;
    info!("ended; machines are left running");
    ended.map_err(ServeError::Serve)
}

/// What the API needs of the parts that run beside it.
struct Parts {
    engine: Engine,
    observer: ObserverHandle,
    network: NetworkConfig,
    backends: Backends,
    policies: Vec<vman_api_types::Policy>,
}

async fn wire(config: &Config, storage: Storage) -> Result<Parts, ServeError> {
    let wake = Arc::new(Notify::new());
    let wake_observer: Arc<dyn Fn() + Send + Sync> = {
        let wake = Arc::clone(&wake);
        Arc::new(move || wake.notify_one())
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    #[cfg(feature = "crash-points")]
    let clock = crate::points::clock(clock);
    let store = Arc::new(Store::open(&config.storage.join("vman.db"))?);
    let networker = Arc::new(Networker::settle(networker_config(config))?);
    let network = networker.network().clone();
    info!(mode = network.mode.word(), "network: {}", network.reason);
    let chain = config.chain.clone();
    let loading = tokio::task::spawn_blocking(move || policies::load(&chain));
    let wanted = backend::wanted(config, &storage.machines());
    let chosen = vman_operator::choose(&wanted).await?;
    backend::tell(config, &chosen);
    let name = chosen.backend.name().to_owned();
    let image_formats = backend::image_formats(&chosen.backend);
    let operator = Arc::new(Operator::new(
        OperatorConfig {
            storage,
            stop_grace: config.backend.stop_grace,
            wake: Arc::clone(&wake_observer),
        },
        wanted,
        chosen,
    ));

    let (policies, policy_reports) = loading.await.map_err(ServeError::Loading)??;
    let ports = vman_engine::Ports {
        record: store.clone(),
        network: networker.clone(),
        operator: operator.clone(),
        judge: policies,
        clock: Arc::clone(&clock),
        wake_observer,
    };
    #[cfg(feature = "crash-points")]
    let ports = crate::points::before(ports);
    let repair = RepairConfig {
        enabled: config.repair.enabled,
        budget: config.repair.budget,
        window: config.repair.window,
    };
    if !repair.enabled {
        warn!("repair is switched off: issues are named and judged, and nothing is done");
    }
    let stop_grace = config.backend.stop_grace;
    let engine_config = EngineConfig { network, backend: name, image_formats, stop_grace, repair };
    let engine = Engine::new(ports, engine_config);
    let left = engine.recover().await?;
    if left > 0 {
        info!(operations = left, "taking up what the last daemon had begun");
    }
    boot::start_what_ran(&engine).await?;
    let network = network_config(&networker);
    let backends = Backends::new({
        let operator = Arc::clone(&operator);
        move || backend::reports(operator.backends())
    });
    tokio::spawn({
        let operator = Arc::clone(&operator);
        async move { operator.watch_plugins().await }
    });
    let observer = observe(config, &engine, store, operator, networker, clock, wake);
    Ok(Parts { engine, observer, network, backends, policies: policy_reports })
}

fn observe(
    config: &Config,
    engine: &Engine,
    store: Arc<Store>,
    operator: Arc<Operator>,
    networker: Arc<Networker>,
    clock: Arc<dyn Clock>,
    wake: Arc<Notify>,
) -> ObserverHandle {
    let ports = vman_observer::Ports {
        recall: store,
        surveys: vec![operator, networker],
        clock,
        wake: Arc::clone(&wake),
    };
    let interval = config.observer.interval;
    let (observer, findings) = Observer::new(ports, interval);
    tokio::spawn(RepairLoop::new(engine.clone(), findings.looks).run());
    tokio::spawn(observer.run());
    ObserverHandle { status: findings.status, wake, interval }
}

/// What the network is asked to be.
pub(crate) fn networker_config(config: &Config) -> vman_network::NetworkConfig {
    use crate::config::NetworkMode as Asked;
    vman_network::NetworkConfig {
        mode: match config.network.mode {
            Asked::Auto => vman_network::Mode::Auto,
            Asked::Bridge => vman_network::Mode::Bridge,
            Asked::User => vman_network::Mode::User,
            Asked::None => vman_network::Mode::None,
        },
        subnet: config.network.subnet.network(),
        gateway: Some(config.network.subnet.gateway()),
        dns: config.network.dns,
        bridge: config.network.bridge.clone(),
        vlan_id: config.network.vlan_id,
        uplink: config.network.uplink.clone(),
    }
}

fn network_config(networker: &Networker) -> NetworkConfig {
    let network = networker.network();
    NetworkConfig {
        mode: network.mode.word().to_owned(),
        reason: network.reason.clone(),
        subnet: network.subnet.network().to_string(),
        gateway: network.subnet.gateway().to_string(),
        dns: network.dns.map(|dns| dns.to_string()),
        bridge: networker.bridge().map(str::to_owned),
        vlan_id: networker.vlan_id(),
        uplink: networker.uplink().map(str::to_owned),
    }
}

fn told_to_end() -> Result<impl Future<Output = ()> + Send + 'static, ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(ServeError::Runtime)?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hang_up.recv() => "SIGHUP",
        };
        info!(signal = name, "ending");
    })
}

/// The wall clock.
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // A clock before 1970 is as wrong as one at 1970.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Options, Surroundings};

    /// What `vman serve` says to a configuration with which it cannot start.
    fn refusal(section: &str) -> String {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("vman.toml");
        let text =
            format!("[server]\nlisten = \"127.0.0.1:0\"\n[storage]\npath = \"storage\"\n{section}");
        std::fs::write(&file, text).expect("written");
        let options = Options { file: Some(file), storage: None };
        let loaded = config::load(&options, &Surroundings::default()).expect("a configuration");
        run(loaded.config).expect_err("it cannot start").to_string()
    }

    #[test]
    fn bridge_mode_is_refused_by_the_network_with_the_modes_there_are() {
        let refusal = refusal("[network]\nmode = \"bridge\"\n");
        for part in ["mode", "bridge mode is not available", "\"user\"", "\"none\"", "\"auto\""] {
            assert!(refusal.contains(part), "{part} in {refusal}");
        }
    }

    #[test]
    fn a_backend_that_does_not_exist_is_refused_by_its_name() {
        let refusal = refusal("[backend]\nuse = \"qemu-txg\"\n");
        assert!(refusal.contains("qemu-txg") && refusal.contains("qemu-tcg"), "{refusal}");
    }
}
