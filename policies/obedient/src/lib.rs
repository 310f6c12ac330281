//! A test fixture, not shipped: a policy that chooses the repair which its configuration names,
//! wherever it is offered, so that tests can see every repair carried out.
#![cfg_attr(target_family = "wasm", no_std)]

use vman_policy_sdk::alloc::format;
use vman_policy_sdk::alloc::string::String;
use vman_policy_sdk::alloc::vec::Vec;
use vman_policy_sdk::{Context, Decision, Issue, Policy, PolicyInfo, Reader};

/// The policy.
#[derive(Debug)]
pub struct Obedient;

vman_policy_sdk::export_policy!(Obedient);

/// The kinds of candidates that it can be told to choose.
const CANDIDATES: &[&str] = &[
    "vm.restart",
    "vm.mark-stopped",
    "vm.mark-running",
    "vm.stop",
    "process.kill",
    "disk.mark-missing",
    "disk.mark-available",
    "disk.detach",
    "file.quarantine",
];

impl Policy for Obedient {
    type Config = &'static str;

    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: "obedient".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            issue_kinds: Vec::new(),
            needs: Vec::new(),
        }
    }

    fn configure(reader: &mut Reader) -> &'static str {
        reader.choice("candidate", CANDIDATES, CANDIDATES[0])
    }

    fn decide(wanted: &&'static str, issue: &Issue, _: &Context) -> Result<Decision, String> {
        Ok(match issue.candidate(wanted) {
            Some(candidate) => Decision::repair(candidate, "told", format!("told to do {wanted}")),
            None => Decision::abstain("not-offered", format!("{wanted} is not offered")),
        })
    }
}
