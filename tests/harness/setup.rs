//! How a test wants its daemon: a configuration file as a user would write it, and the files that
//! its templates boot.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::daemon::Daemon;
use crate::paths;

/// Looks often, so that no test waits long for what only a look can find.
const INTERVAL: &str = "300ms";
/// A busy host must not make a graceful end look like a firm one.
const STOP_GRACE: &str = "30s";

/// A configuration in the making.
#[derive(Debug, Clone)]
pub struct Setup {
    listen: String,
    backend: String,
    auth: &'static str,
    cors_origins: Vec<&'static str>,
    stop_grace: &'static str,
    interval: &'static str,
    /// Where it is not the one with all of ours.
    plugins: Option<PathBuf>,
    in_plugins: String,
    tables: String,
    boot: Vec<&'static str>,
}

impl Setup {
    /// `name` stands behind `use =` of `[backend]`.
    pub fn backend(name: &str) -> Self {
        Self {
            listen: "127.0.0.1:0".to_owned(),
            backend: name.to_owned(),
            auth: "token",
            cors_origins: Vec::new(),
            stop_grace: STOP_GRACE,
            interval: INTERVAL,
            plugins: None,
            in_plugins: String::new(),
            tables: String::new(),
            boot: Vec::new(),
        }
    }

    /// Not a free port, but this address.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        address.clone_into(&mut self.listen);
        self
    }

    /// Whoever reaches the daemon may use it.
    #[must_use]
    pub fn without_token(mut self) -> Self {
        self.auth = "none";
        self
    }

    /// A web origin whose pages may call.
    #[must_use]
    pub fn cors_origin(mut self, origin: &'static str) -> Self {
        self.cors_origins.push(origin);
        self
    }

    /// How long a guest may take to power itself off, as the configuration writes it.
    #[must_use]
    pub fn stop_grace(mut self, grace: &'static str) -> Self {
        self.stop_grace = grace;
        self
    }

    /// The time between two looks, as the configuration writes it.
    #[must_use]
    pub fn interval(mut self, interval: &'static str) -> Self {
        self.interval = interval;
        self
    }

    /// No backend but those that are linked in, and none of QEMU but the one that is used: each is
    /// tried at every start.
    #[must_use]
    pub fn fewest_backends(mut self) -> Self {
        self.plugins = Some("no-plugins".into());
        for other in ["qemu-kvm", "qemu-tcg"].into_iter().filter(|name| *name != self.backend) {
            writeln!(self.tables, "[backends.{other}]\nbinary = \"/not/wanted\"")
                .expect("a string takes everything");
        }
        self
    }

    /// Further lines of the table `[plugins]`.
    #[must_use]
    pub fn in_plugins(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.in_plugins);
        self
    }

    /// Another folder of plugins.
    #[must_use]
    pub fn plugins(mut self, folder: &Path) -> Self {
        self.plugins = Some(folder.to_owned());
        self
    }

    /// Further tables, in TOML.
    #[must_use]
    pub fn with(mut self, tables: &str) -> Self {
        self.tables.push_str(tables);
        self.tables.push('\n');
        self
    }

    /// Asks a policy after those named before; `config` is TOML, e.g. `{ max_attempts = 3 }`.
    #[must_use]
    pub fn policy(mut self, name: &str, config: &str) -> Self {
        writeln!(self.tables, "[[policy]]\nname = \"{name}\"\nconfig = {config}")
            .expect("a string takes everything");
        self
    }

    /// A guest's file that templates may name.
    #[must_use]
    pub fn boot_file(mut self, name: &'static str) -> Self {
        self.boot.push(name);
        self
    }

    /// No machine is a process.
    pub(crate) fn simulates(&self) -> bool {
        self.backend == "dry-run"
    }

    /// Starts a daemon with it, in a folder of its own.
    pub fn start(self) -> Daemon {
        Daemon::start(&self)
    }

    /// The configuration file's text.
    pub(crate) fn toml(&self) -> String {
        let Self { listen, backend, auth, cors_origins, stop_grace, interval, .. } = self;
        let Self { in_plugins, tables, .. } = self;
        let plugins = self.plugins.clone().unwrap_or_else(paths::plugins);
        let policies = paths::policies();
        format!(
            "[server]\nlisten = \"{listen}\"\ncors_origins = {cors_origins:?}\n\
             [auth]\nmode = \"{auth}\"\n\
             [storage]\npath = \"storage\"\n[backend]\nuse = \"{backend}\"\n\
             stop_grace = \"{stop_grace}\"\n\
             [plugins]\ndir = {plugins:?}\n{in_plugins}\n[policies]\ndir = {policies:?}\n\
             [observer]\ninterval = \"{interval}\"\n{tables}"
        )
    }

    pub(crate) fn lend_boot_files(&self, storage: &Path) {
        let folder = storage.join("boot");
        fs::create_dir_all(&folder).expect("the folder is ours");
        for name in &self.boot {
            fs::copy(paths::guest(name), folder.join(name)).expect("the guest is readable");
        }
    }
}
