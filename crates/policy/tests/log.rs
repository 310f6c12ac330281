//! What policies write to vman's log. A process of its own: a log is one per process, and the lines
//! of other tests would be in it.

#![cfg(test)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use uuid::Uuid;
use vman_core::coherence::{Incoherence, Wrong};
use vman_core::ident::{Generation, IssueId, Timestamp, VmId};
use vman_core::ports::Judge;
use vman_core::repair::{Context, Issue, Mode};
use vman_policy::limits::LOG_LINES_MAX;
use vman_policy::{Policies, PolicyBinding};

/// What the log was written to.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn binding(name: &str, file: &str, config: &str) -> PolicyBinding {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/policies");
    let folder = std::env::var_os("VMAN_POLICY_DIR").map_or_else(built, PathBuf::from);
    let path = folder.join(format!("{file}.wasm"));
    assert!(path.is_file(), "{} is not there: run `cargo xtask policies`", path.display());
    let (name, config_json) = (name.to_owned(), config.to_owned());
    PolicyBinding { name, path, mode: Mode::Shadow, config_json }
}

fn crashed() -> Issue {
    let wrong = Wrong::VmProcessMissing {
        vm: VmId(Uuid::from_u128(1)),
        generation: Generation(2),
        machine: None,
        ended: None,
    };
    Issue::new(IssueId(Uuid::from_u128(5)), &Incoherence { wrong, seen_at: Timestamp(10) })
}

#[tokio::test]
async fn what_policies_log_is_told_under_their_names_and_bounded() {
    let written = Written::default();
    let writer = written.clone();
    tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .init();
    let quiet = binding("the-quiet-one", "log_only", "{}");
    let chatty = binding("the-chatty-one", "misbehaving", r#"{"do": "log-forever"}"#);
    let policies = Policies::load(vec![quiet, chatty]).unwrap();
    let context = Context {
        now: Timestamp(20),
        seed: 1,
        backend: "dry-run".to_owned(),
        attempts: Vec::new(),
        facts: Vec::new(),
    };
    policies.judge(&crashed(), &context).await;

    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let lines_of = |name: &str| -> Vec<&str> {
        text.lines().filter(|line| line.contains(&format!("policy=\"{name}\""))).collect()
    };
    let quiet = lines_of("the-quiet-one");
    assert_eq!(quiet.len(), 1, "{text}");
    assert!(quiet[0].starts_with("ERROR policy: vm.process-missing of vm "), "{text}");
    let chatty = lines_of("the-chatty-one");
    assert_eq!(chatty.len(), LOG_LINES_MAX + 1, "{text}");
    assert!(chatty[0].contains("INFO policy: line 0"), "{text}");
    assert!(chatty[LOG_LINES_MAX].contains("more lines dropped"), "{text}");
}
