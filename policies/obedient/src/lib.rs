//! A test fixture, not shipped: a policy that chooses the repair which its configuration names,
//! wherever it is offered, so that tests can see every repair carried out. The configuration is
//! `{ candidate = "vm.restart" }`. It reads that in a way of its own: the tests compile it often,
//! and a reader of JSON would be half of it.
#![cfg_attr(target_family = "wasm", no_std)]

use vman_policy_sdk::alloc::string::String;
use vman_policy_sdk::alloc::vec;
use vman_policy_sdk::alloc::vec::Vec;
use vman_policy_sdk::{ConfigProblem, Context, Decision, Guest, Issue, PolicyInfo};

/// The policy.
#[derive(Debug)]
pub struct Obedient;

vman_policy_sdk::export_guest!(Obedient);

/// The kinds of candidates that it can be told to choose, as they stand in JSON.
const CANDIDATES: &[&str] = &[
    "\"vm.restart\"",
    "\"vm.mark-stopped\"",
    "\"vm.mark-running\"",
    "\"vm.stop\"",
    "\"process.kill\"",
    "\"disk.mark-missing\"",
    "\"disk.mark-available\"",
    "\"disk.detach\"",
    "\"file.quarantine\"",
];

impl Guest for Obedient {
    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: "obedient".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            issue_kinds: Vec::new(),
            needs: Vec::new(),
        }
    }

    fn validate_config(config: String) -> Vec<ConfigProblem> {
        match wanted(&config) {
            Some(_) => Vec::new(),
            None => {
                let message = "names no repair that there is".into();
                vec![ConfigProblem { path: "candidate".into(), message }]
            }
        }
    }

    fn decide(config: String, issue: Issue, _: Context) -> Result<Decision, String> {
        let candidate = wanted(&config).and_then(|wanted| issue.candidate(wanted));
        Ok(match candidate {
            Some(candidate) => Decision::repair(candidate, "told", "told to do it"),
            None => Decision::abstain("not-offered", "what it was told to do is not offered"),
        })
    }
}

fn wanted(config: &str) -> Option<&'static str> {
    let named = CANDIDATES.iter().find(|candidate| config.contains(*candidate));
    named.map(|quoted| quoted.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repair_that_the_configuration_names_is_wanted() {
        assert_eq!(wanted(r#"{"candidate":"vm.stop"}"#), Some("vm.stop"));
        assert_eq!(wanted(r#"{"candidate":"vm.mark-stopped"}"#), Some("vm.mark-stopped"));
        assert_eq!(wanted("{}"), None);
        assert_eq!(Obedient::validate_config("{}".into()).len(), 1);
    }
}
