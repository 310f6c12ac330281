//! One `vman serve` for the demo: its folder, its configuration, its start and its end. It does not
//! talk to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::leftovers;

const READY_WITHIN: Duration = Duration::from_secs(30);
const ENDED_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What makes this run differ from `vman serve` without a configuration: a folder of its own, any
/// free port, a backend that works on every machine, and a policy that repairs.
const CONFIG: &str = r#"[server]
listen = "127.0.0.1:0"

[auth]
mode = "token"

[storage]
path = "@storage@"

[backend]
use = "@backend@"

[[policy]]
name = "restart-crashed"
mode = "enforce"
"#;

/// A running daemon. When dropped before [`Daemon::stop`], it and its machines are ended.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Daemon {
    /// Starts `program` in `folder`, with machines of the emulator.
    pub(crate) fn start(program: &Path, folder: &Path) -> Result<Self> {
        Self::start_as(program, folder, &Self::config("qemu-tcg"))
    }

    /// The configuration with this backend.
    pub(crate) fn config(backend: &str) -> String {
        CONFIG.replace("@backend@", backend)
    }

    /// Writes the configuration into `folder` and starts `program` with it.
    pub(crate) fn start_as(program: &Path, folder: &Path, config: &str) -> Result<Self> {
        let storage = folder.join("storage");
        let config = config.replace("@storage@", &storage.to_string_lossy());
        let file = folder.join("vman.toml");
        fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
        let log = File::create(folder.join("vman.log")).context("creating the log")?;
        let child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, folder: folder.to_path_buf() })
    }

    /// Waits until it has told its address and answers there.
    pub(crate) fn client(&mut self) -> Result<Client> {
        let storage = self.storage();
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("`vman serve` ended at once ({status})");
            }
            let address = fs::read_to_string(storage.join("run/address"));
            let token = fs::read_to_string(storage.join("token"));
            if let (Ok(address), Ok(token)) = (address, token) {
                let client = Client::new(address.trim(), token.trim());
                if client.get("/health").is_ok() {
                    return Ok(client);
                }
            }
            if Instant::now() > until {
                bail!("`vman serve` did not answer within {READY_WITHIN:?}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Result<i32> {
        i32::try_from(self.child.id()).context("the daemon's process id is out of range")
    }

    /// The folder in which it keeps everything.
    pub(crate) fn storage(&self) -> PathBuf {
        self.folder.join("storage")
    }

    /// Asks it to end, waits for it, and tells how it ended.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(self.pid()?).context("the daemon has the process id 0")?;
        kill_process(pid, Signal::TERM).context("sending SIGTERM to the daemon")?;
        let until = Instant::now() + ENDED_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("the daemon did not end within {ENDED_WITHIN:?} of SIGTERM");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // The demo failed; what it started must not stay. Errors would hide the reason.
        drop(self.stop());
        drop(self.child.kill());
        drop(self.child.wait());
        drop(leftovers::end_processes(&self.folder.to_string_lossy()));
    }
}
