//! QEMU's control socket with as little as will do: one connection that is kept, one command at a
//! time, and the events in between (QEMU's docs/interop/qmp-spec). What commands mean is not known
//! here.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// The longest that QEMU may say nothing while something is waited for.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
/// Events that are kept for later, and lines that are read while waiting for one.
const LINES_MAX: usize = 100;

/// A connection.
#[derive(Debug)]
pub(crate) struct Control {
    stream: BufReader<UnixStream>,
    events: VecDeque<Value>,
}

impl Control {
    /// Connects; `None` while nobody listens yet. Ready for commands when it returns.
    pub(crate) fn connect(socket: &Path) -> Result<Option<Self>> {
        let Ok(stream) = UnixStream::connect(socket) else { return Ok(None) };
        stream.set_read_timeout(Some(SAYS_WITHIN))?;
        let mut control = Self { stream: BufReader::new(stream), events: VecDeque::new() };
        let greeting = control.line()?;
        ensure!(greeting.get("QMP").is_some(), "not QEMU's greeting: {greeting}");
        control.command("qmp_capabilities", json!({}))?;
        Ok(Some(control))
    }

    /// Sends a command and gives what it returns.
    pub(crate) fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        self.say(name, arguments)?;
        for _ in 0..LINES_MAX {
            let mut line = self.line()?;
            if let Some(error) = line.get("error") {
                bail!("QEMU refused {name}: {error}");
            }
            if let Some(returned) = line.get_mut("return") {
                return Ok(returned.take());
            }
            self.events.push_back(line);
            self.events.truncate(LINES_MAX);
        }
        bail!("no answer to {name} among {LINES_MAX} lines")
    }

    /// Sends a command whose answer may not come any more.
    pub(crate) fn say(&mut self, name: &str, arguments: Value) -> Result<()> {
        // In one write: QEMU may be gone before the second, since a command ends with its brace.
        let line = format!("{}\n", json!({"execute": name, "arguments": arguments}));
        let told = self.stream.get_mut().write_all(line.as_bytes());
        told.with_context(|| format!("telling QEMU to {name}"))
    }

    /// Waits for an event that `is`, and passes those before it over.
    pub(crate) fn event(&mut self, is: impl Fn(&Value) -> bool) -> Result<()> {
        for _ in 0..LINES_MAX {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.line()?,
            };
            if is(&event) {
                return Ok(());
            }
        }
        bail!("not among {LINES_MAX} events of QEMU")
    }

    fn line(&mut self) -> Result<Value> {
        let mut text = String::new();
        self.stream.read_line(&mut text).context("reading QEMU's control socket")?;
        serde_json::from_str(&text).with_context(|| format!("QEMU said {text:?}"))
    }
}
