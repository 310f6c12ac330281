//! The configuration: every setting, typed, with a default that works. It is settled from the
//! environment, one file and the defaults, in this order. Nothing on the host is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vman_core::network::Subnet;
use vman_plugin::host::Pin;

mod error;
mod network;
mod policies;
mod reader;
mod section;
mod sections;
pub(crate) mod show;
mod surroundings;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use error::{ConfigError, Origin};
pub(crate) use reader::Setting;
pub(crate) use surroundings::Surroundings;
pub(crate) use values::{AuthMode, BackendChoice, LogFormat, LogLevel, NetworkMode, PolicyMode};

/// Bytes of a configuration file.
const FILE_SIZE_MAX: u64 = 1024 * 1024;

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// The file that was read; none if everything comes from the environment and the defaults.
    pub(crate) file: Option<PathBuf>,
    /// What the user should know and what does not keep the daemon from running.
    pub(crate) warnings: Vec<String>,
    pub(crate) server: Server,
    pub(crate) auth: AuthMode,
    /// The folder of records, images and machines; absolute.
    pub(crate) storage: PathBuf,
    pub(crate) backend: Backend,
    /// The settings of each backend that has some, by its name.
    pub(crate) backends: BTreeMap<String, serde_json::Value>,
    pub(crate) plugins: Plugins,
    /// The folder where policies are found by name.
    pub(crate) policies: PathBuf,
    pub(crate) observer: Observer,
    pub(crate) repair: Repair,
    /// In the order they are asked.
    pub(crate) chain: Vec<Policy>,
    pub(crate) network: Network,
    pub(crate) log: Log,
}

/// `[plugins]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugins {
    /// The folder of plugin files; none if none was named and none is in the usual places.
    pub(crate) dir: Option<PathBuf>,
    /// Names of files that run in the daemon's own process.
    pub(crate) in_process: BTreeSet<String>,
    /// Hashes that files must have, by their names.
    pub(crate) pins: BTreeMap<String, Pin>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Port 0: any free one.
    pub(crate) listen: SocketAddr,
    /// Web origins whose pages may use the API, as browsers write them.
    pub(crate) cors_origins: Vec<String>,
}

/// `[backend]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) choice: BackendChoice,
    /// How long a guest may take to power itself off.
    pub(crate) stop_grace: Duration,
}

/// `[observer]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observer {
    /// Between whole looks.
    pub(crate) interval: Duration,
}

/// `[repair]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repair {
    pub(crate) enabled: bool,
    /// Repairs of one VM within the window, at most.
    pub(crate) budget: u32,
    pub(crate) window: Duration,
}

/// `[[policy]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) name: String,
    /// The component's file; absolute.
    pub(crate) path: PathBuf,
    pub(crate) mode: PolicyMode,
    /// JSON text.
    pub(crate) config: String,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) mode: NetworkMode,
    /// None: untagged.
    pub(crate) vlan_id: Option<u16>,
    pub(crate) bridge: String,
    /// The addresses that VMs get, and the router's.
    pub(crate) subnet: Subnet,
    /// The name server guests are given; none: the mode's own.
    pub(crate) dns: Option<Ipv4Addr>,
    /// The host's card that leads outside; none: where the default route goes.
    pub(crate) uplink: Option<String>,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) level: LogLevel,
    /// The log's file; none: the console alone.
    pub(crate) file: Option<PathBuf>,
    /// Size at which the file is put aside and a new one begun.
    pub(crate) max_bytes: u64,
    /// Files put aside that are kept.
    pub(crate) backup_count: u32,
    pub(crate) format: LogFormat,
}

/// The configuration, and where each of its values came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) settings: Vec<Setting>,
}

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// `--config`
    pub(crate) file: Option<PathBuf>,
    /// `--storage`
    pub(crate) storage: Option<PathBuf>,
}

/// Settles the configuration. Without a named file the system's is read, if it is there.
///
/// # Errors
/// The file cannot be read, or everything that is wrong in it and in the environment.
pub(crate) fn load(options: &Options, surroundings: &Surroundings) -> Result<Loaded, ConfigError> {
    let mut surroundings = surroundings.clone();
    surroundings.storage_option = options.storage.clone();
    let file = match &options.file {
        Some(file) => Some(file.clone()),
        None => Some(surroundings.system_file.clone()).filter(|file| file.exists()),
    };
    let text = file.as_deref().map(read).transpose()?.unwrap_or_default();
    sections::settle(&surroundings, file.as_deref(), &text)
}

fn read(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > FILE_SIZE_MAX {
        let message = format!("it has {size} bytes; {FILE_SIZE_MAX} are the most");
        return Err(unreadable(std::io::Error::other(message)));
    }
    std::fs::read_to_string(file).map_err(unreadable)
}
