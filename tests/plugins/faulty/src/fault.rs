//! What goes wrong, and where: the settings `[backends.faulty]`. What would have been done
//! otherwise is not known here.

use std::fs;
use std::future::pending;
use std::hint::black_box;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use serde::Deserialize;
use serde_json::Value;
use vman_plugin::{BackendError, ErrorCode};

/// Long enough to be seen, and shorter than every deadline.
const SLOW: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    #[serde(default)]
    always: Vec<Order>,
    /// A file with such a list, as JSON, which may come, change and go at any time.
    told_in: Option<PathBuf>,
}

/// What goes wrong in which verb.
#[derive(Debug, Clone, Deserialize)]
struct Order {
    fault: Fault,
    /// The operation's name, as in the contract; also `create` and `destroy`.
    verb: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// Fails, as a verb may.
    Error,
    Slow,
    Panic,
    /// Never ends; ends when it is told to.
    Hang,
    /// Never ends, and keeps its thread whatever it is told.
    Block,
    Abort,
    Segfault,
    /// Uses up its stack.
    Overflow,
    /// Ends the process as if all were well.
    Exit,
}

impl Settings {
    pub(crate) fn parse(settings: Value) -> Result<Self, BackendError> {
        let parsed = serde_json::from_value(settings);
        parsed.map_err(|error| {
            BackendError::new(ErrorCode::Invalid, format!("[backends.faulty]: {error}"))
        })
    }

    /// Goes wrong, if this is the verb for it.
    pub(crate) async fn strike(&self, verb: &str) -> Result<(), BackendError> {
        match self.fault_of(verb) {
            Some(Fault::Hang) => pending().await,
            Some(Fault::Slow) => {
                tokio::time::sleep(SLOW).await;
                Ok(())
            }
            Some(fault) => fault.strike(verb),
            None => Ok(()),
        }
    }

    /// As [`strike`](Self::strike), in a function that cannot wait.
    pub(crate) fn strike_at_once(&self, verb: &str) -> Result<(), BackendError> {
        self.fault_of(verb).map_or(Ok(()), |fault| fault.strike(verb))
    }

    fn fault_of(&self, verb: &str) -> Option<Fault> {
        let told = || fs::read(self.told_in.as_ref()?).ok();
        let told: Option<Vec<Order>> = told().and_then(|json| serde_json::from_slice(&json).ok());
        let told = told.unwrap_or_default();
        let mut orders = self.always.iter().chain(&told);
        orders.find(|order| order.verb == verb).map(|order| order.fault)
    }
}

impl Fault {
    fn strike(self, verb: &str) -> Result<(), BackendError> {
        match self {
            Self::Error => {
                let why = format!("`{verb}` fails, as it was told to");
                Err(BackendError::new(ErrorCode::Failed, why))
            }
            Self::Slow => {
                thread::sleep(SLOW);
                Ok(())
            }
            Self::Panic => panic!("told to panic in `{verb}`"),
            Self::Hang | Self::Block => loop {
                thread::park();
            },
            Self::Abort => std::process::abort(),
            // Whoever handles the first one may leave it at that.
            Self::Segfault => loop {
                let _ = kill_process(getpid(), Signal::SEGV);
            },
            Self::Overflow => {
                let why = format!("its stack has room for {}", deeper(0));
                Err(BackendError::new(ErrorCode::Failed, why))
            }
            Self::Exit => exit(),
        }
    }
}

#[expect(clippy::exit, reason = "it is what is to go wrong")]
fn exit() -> ! {
    std::process::exit(0)
}

fn deeper(depth: u64) -> u64 {
    let room = black_box([depth; 512]);
    if black_box(depth) == u64::MAX { 0 } else { deeper(depth + 1) + room[0] }
}
