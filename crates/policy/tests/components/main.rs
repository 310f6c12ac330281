//! The built policies, loaded and asked as the daemon does it: `cargo xtask policies` makes them.
//! What a policy ought to answer is tested beside the policy; here it is that the host asks, bounds
//! and survives it.

#![cfg(test)]

mod chain;
mod limits;
mod load;
mod verdicts;

use std::path::{Path, PathBuf};

use uuid::Uuid;
use vman_core::coherence::{Incoherence, Wrong};
use vman_core::ident::{DiskId, Generation, IssueId, Timestamp, VmId};
use vman_core::ports::Judge;
use vman_core::repair::{Attempt, Context, Decision, Issue, JudgeFailure, Judgement, Mode};
use vman_policy::{Policies, PolicyBinding};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// The file of a built policy, in `VMAN_POLICY_DIR` or where the build puts it.
fn component(file: &str) -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/policies");
    let folder = std::env::var_os("VMAN_POLICY_DIR").map_or_else(built, PathBuf::from);
    let path = folder.join(format!("{file}.wasm"));
    assert!(path.is_file(), "{} is not there: run `cargo xtask policies`", path.display());
    path
}

fn binding(name: &str, file: &str, mode: Mode, config: &str) -> PolicyBinding {
    let (name, config_json) = (name.to_owned(), config.to_owned());
    PolicyBinding { name, path: component(file), mode, config_json }
}

/// A chain of one enforced policy.
fn enforced(file: &str, config: &str) -> Policies {
    Policies::load(vec![binding(file, file, Mode::Enforce, config)]).unwrap()
}

fn misbehaving(way: &str) -> Policies {
    enforced("misbehaving", &format!(r#"{{"do": "{way}"}}"#))
}

fn issue_of(wrong: Wrong) -> Issue {
    Issue::new(IssueId(Uuid::from_u128(5)), &Incoherence { wrong, seen_at: NOW })
}

/// A VM recorded running whose process is gone.
fn crashed() -> Issue {
    issue_of(Wrong::VmProcessMissing {
        vm: VmId(Uuid::from_u128(1)),
        generation: Generation(2),
        machine: None,
        ended: None,
    })
}

/// An issue that `restart-crashed` does not want to see.
fn disk_gone() -> Issue {
    issue_of(Wrong::DiskFileMissing {
        disk: DiskId(Uuid::from_u128(2)),
        generation: Generation(1),
        path: "disks/2.raw".to_owned(),
        holder: None,
    })
}

/// Restarts so many milliseconds ago, the oldest first.
fn after_restarts(ago_ms: &[u64]) -> Context {
    let restart = |ago: &u64| Attempt {
        candidate: "vm.restart".to_owned(),
        at: Timestamp(NOW.0 - ago),
        succeeded: true,
        message: String::new(),
    };
    Context {
        now: NOW,
        seed: 42,
        backend: "dry-run".to_owned(),
        attempts: ago_ms.iter().map(restart).collect(),
        facts: Vec::new(),
    }
}

/// The one judgement of a chain of one.
async fn judge(policies: &Policies, issue: &Issue, context: &Context) -> Judgement {
    let mut judgements = policies.judge(issue, context).await;
    assert_eq!(judgements.len(), 1, "{judgements:?}");
    judgements.remove(0)
}

async fn decision(policies: &Policies, issue: &Issue, context: &Context) -> Decision {
    judge(policies, issue, context).await.outcome.unwrap()
}

async fn failure(policies: &Policies) -> JudgeFailure {
    judge(policies, &crashed(), &after_restarts(&[])).await.outcome.unwrap_err()
}
