//! Which keys there are, their defaults and their limits. How a key is looked up is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vman_plugin::host::Pin;

use super::error::{ConfigError, Origin};
use super::reader::Reader;
use super::section::from_text;
use super::surroundings::Surroundings;
use super::values::{AuthMode, BackendChoice, LogFile, LogFormat, LogLevel, Period, json};
use super::{Backend, Config, Loaded, Log, Observer, Plugins, Repair, Server, network, policies};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
const DEFAULT_STOP_GRACE: Duration = Duration::from_secs(10);
const STOP_GRACE_MAX: Duration = Duration::from_secs(3600);
/// The most time there may be between whole looks.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Looking more often would leave no time for anything else.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const DEFAULT_BUDGET: u32 = 5;
const BUDGET_MAX: u32 = 1000;
const DEFAULT_WINDOW: Duration = Duration::from_secs(600);
const WINDOW_MIN: Duration = Duration::from_secs(1);
const WINDOW_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const DEFAULT_LOG_NAME: &str = "vman.log";
const DEFAULT_LOG_BYTES: u64 = 10 * 1024 * 1024;
/// One long line still fits.
const LOG_BYTES_MIN: u64 = 64 * 1024;
const LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;
const DEFAULT_BACKUP_COUNT: u32 = 5;
const BACKUP_COUNT_MAX: u32 = 100;
const CORS_ORIGINS_MAX: usize = 64;
/// Overrides the choice of the backend.
const DRY_RUN_VARIABLE: &str = "VMAN_OPERATOR_DRY_RUN";

/// Settles every key from `text`, the content of `file`, and from the surroundings.
///
/// # Errors
/// Everything that is wrong.
pub(super) fn settle(
    surroundings: &Surroundings,
    file: Option<&Path>,
    text: &str,
) -> Result<Loaded, ConfigError> {
    let mut reader = Reader::new(surroundings, file.unwrap_or(Path::new("")), text)?;
    let mut warnings = Vec::new();
    let server = server(&mut reader);
    let auth = auth(&mut reader, &server);
    let storage = storage(&mut reader);
    let backend = backend(&mut reader);
    let backends = backends(&mut reader);
    let plugins = plugins(&mut reader);
    let policies = policies::folder(&mut reader);
    let observer = observer(&mut reader);
    let repair = repair(&mut reader);
    let chain = policies::chain(&mut reader, &policies, &mut warnings);
    let network = network::settle(&mut reader);
    let log = log(&mut reader, &storage);
    let settings = reader.end()?;
    let config = Config {
        file: file.map(Path::to_owned),
        warnings,
        server,
        auth,
        storage,
        backend,
        backends,
        plugins,
        policies,
        observer,
        repair,
        chain,
        network,
        log,
    };
    Ok(Loaded { config, settings })
}

fn server(reader: &mut Reader<'_>) -> Server {
    let mut section = reader.section("server");
    let listen = section.key("listen").or(DEFAULT_LISTEN);
    let cors_origins = section
        .key("cors_origins")
        .checked_or(|origins: &Vec<String>| are_origins(origins), Vec::new());
    section.end();
    Server { listen, cors_origins }
}

/// As browsers write them (RFC 6454, 6.2).
fn are_origins(origins: &[String]) -> Result<(), String> {
    if origins.len() > CORS_ORIGINS_MAX {
        return Err(format!("{CORS_ORIGINS_MAX} origins are the most"));
    }
    let is_origin = |origin: &String| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(|host| {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"/?#@*".contains(c))
        })
    };
    match origins.iter().find(|origin| !is_origin(origin)) {
        Some(origin) => Err(format!(
            "{origin:?} is no web origin: write e.g. \"https://console.example.org\", without a \
             path and without wildcards"
        )),
        None => Ok(()),
    }
}

fn auth(reader: &mut Reader<'_>, server: &Server) -> AuthMode {
    let mut section = reader.section("auth");
    let mode = section.key("mode").or(AuthMode::Token);
    section.end();
    if mode == AuthMode::None && !server.listen.ip().is_loopback() {
        let listen = server.listen;
        reader.blame(
            "auth.mode",
            format!(
                "\"none\" would let everyone who reaches {listen} control this host: use \
                 \"token\", or let [server] listen be a loopback address"
            ),
        );
    }
    mode
}

fn storage(reader: &mut Reader<'_>) -> PathBuf {
    let default = reader.surroundings.default_storage();
    let option = reader.surroundings.storage_option.clone();
    let mut section = reader.section("storage");
    let path = section.key("path").variable("VMAN_STORAGE_PATH").path(default);
    section.end();
    if let Some(given) = option {
        let path = std::path::absolute(&given).unwrap_or(given);
        reader.override_with(
            "storage.path",
            &path.display().to_string(),
            Origin::CommandLine("--storage"),
        );
        return path;
    }
    path.unwrap_or_else(|| {
        let message = "there is no folder for it: neither XDG_DATA_HOME nor HOME is set; set it \
                       in the file or by VMAN_STORAGE_PATH";
        reader.blame("storage.path", message.to_owned());
        PathBuf::new()
    })
}

fn backend(reader: &mut Reader<'_>) -> Backend {
    let mut section = reader.section("backend");
    let mut choice = section.key("use").checked_or(is_backend, BackendChoice::Auto);
    let grace = section
        .key("stop_grace")
        .checked_or(within(Duration::ZERO, STOP_GRACE_MAX), Period(DEFAULT_STOP_GRACE));
    section.end();
    if let Some(text) = reader.surroundings.variable(DRY_RUN_VARIABLE) {
        let origin = Origin::Environment(DRY_RUN_VARIABLE);
        match from_text::<bool>(&text.to_string_lossy()) {
            Ok(true) => {
                choice = BackendChoice::Name("dry-run".to_owned());
                reader.override_with("backend.use", &choice, origin);
            }
            Ok(false) => {}
            Err(message) => reader.wrong(origin, format!("{message}; write true or false")),
        }
    }
    Backend { choice, stop_grace: grace.0 }
}

fn is_backend(choice: &BackendChoice) -> Result<(), String> {
    match choice {
        BackendChoice::Auto => Ok(()),
        BackendChoice::Name(name) | BackendChoice::File(name) => is_file_name(name),
    }
}

fn is_file_name(name: &str) -> Result<(), String> {
    let checked: Result<vman_core::ident::FileName, _> = name.parse();
    checked.map(drop).map_err(|invalid| format!("{name:?}: {invalid}"))
}

fn backends(reader: &mut Reader<'_>) -> BTreeMap<String, serde_json::Value> {
    let mut backends = BTreeMap::new();
    for (name, origin, table) in reader.free_tables("backends") {
        if table.as_table().is_none_or(toml::Table::is_empty) {
            continue;
        }
        match json(table.clone()) {
            Ok(settings) => {
                reader.settle(format!("backends.{name}"), &table, origin);
                backends.insert(name, settings);
            }
            Err(message) => reader.wrong(origin, format!("[backends.{name}]: {message}")),
        }
    }
    backends
}

fn plugins(reader: &mut Reader<'_>) -> Plugins {
    let default = reader.surroundings.shipped("plugins");
    let mut section = reader.section("plugins");
    let dir = section.key("dir").path(default);
    let in_process = section.key("in_process").checked_or(
        |names: &BTreeSet<String>| names.iter().try_for_each(|name| is_plugin_file(name)),
        BTreeSet::new(),
    );
    let pins = section.key("sha256").checked_or(
        |pins: &BTreeMap<String, String>| {
            pins.iter().try_for_each(|(name, pin)| {
                is_plugin_file(name)?;
                pin.parse::<Pin>().map(drop)
            })
        },
        BTreeMap::new(),
    );
    section.end();
    // Those that do not parse were refused.
    let pins = pins.into_iter().filter_map(|(name, pin)| Some((name, pin.parse().ok()?))).collect();
    Plugins { dir, in_process, pins }
}

fn is_plugin_file(name: &str) -> Result<(), String> {
    is_file_name(name)?;
    if name.ends_with(".so") {
        return Ok(());
    }
    Err(format!("{name:?} is not the name of a plugin's file, which ends in .so"))
}

fn observer(reader: &mut Reader<'_>) -> Observer {
    let mut section = reader.section("observer");
    let check = within(INTERVAL_MIN, INTERVAL_MAX);
    let interval = section.key("interval").checked_or(check, Period(INTERVAL_MAX));
    section.end();
    Observer { interval: interval.0 }
}

fn repair(reader: &mut Reader<'_>) -> Repair {
    let mut section = reader.section("repair");
    let enabled = section.key("enabled").or(true);
    let budget = section.key("budget").checked_or(
        |budget: &u32| at_most(u64::from(*budget), u64::from(BUDGET_MAX)),
        DEFAULT_BUDGET,
    );
    let check = within(WINDOW_MIN, WINDOW_MAX);
    let window = section.key("window").checked_or(check, Period(DEFAULT_WINDOW));
    section.end();
    Repair { enabled, budget, window: window.0 }
}

fn log(reader: &mut Reader<'_>, storage: &Path) -> Log {
    let mut section = reader.section("log");
    let level = section.key("level").variable("VMAN_LOG_LEVEL").or(LogLevel::Info);
    let name = section
        .key("file")
        .variable("VMAN_LOG_FILE")
        .checked_or(is_log_file, LogFile::Wanted(true));
    let dir = section.key("dir").variable("VMAN_LOG_DIR").path(Some(storage.join("logs")));
    let max_bytes = section.key("max_bytes").variable("VMAN_LOG_MAX_BYTES").checked_or(
        |bytes: &u64| {
            if *bytes < LOG_BYTES_MIN {
                return Err(format!("{bytes} bytes are too few: {LOG_BYTES_MIN} are the least"));
            }
            at_most(*bytes, LOG_BYTES_MAX)
        },
        DEFAULT_LOG_BYTES,
    );
    let backup_count = section.key("backup_count").variable("VMAN_LOG_BACKUP_COUNT").checked_or(
        |count: &u32| at_most(u64::from(*count), u64::from(BACKUP_COUNT_MAX)),
        DEFAULT_BACKUP_COUNT,
    );
    let format = section.key("format").or(LogFormat::Text);
    section.end();
    let name = match name {
        LogFile::Wanted(true) => Some(DEFAULT_LOG_NAME.to_owned()),
        LogFile::Wanted(false) => None,
        LogFile::Name(name) => Some(name),
    };
    let file = dir.zip(name).map(|(dir, name)| dir.join(name));
    Log { level, file, max_bytes, backup_count, format }
}

fn is_log_file(file: &LogFile) -> Result<(), String> {
    match file {
        LogFile::Wanted(_) => Ok(()),
        LogFile::Name(name) => {
            is_file_name(name).map_err(|refusal| format!("{refusal}; [log] dir names its folder"))
        }
    }
}

fn within(least: Duration, most: Duration) -> impl FnOnce(&Period) -> Result<(), String> {
    move |period| {
        let (least, most) = (Period(least), Period(most));
        if *period > most {
            return Err(format!("{period} is too long: {most} is the most"));
        }
        if *period < least {
            return Err(format!("{period} is too short: {least} is the least"));
        }
        Ok(())
    }
}

fn at_most(value: u64, most: u64) -> Result<(), String> {
    if value > most {
        return Err(format!("{value} is too much: {most} is the most"));
    }
    Ok(())
}
