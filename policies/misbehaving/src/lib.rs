//! A test fixture, not shipped: a policy that does what no policy should, chosen by its
//! configuration, so that tests can show that the host survives it. The configuration is one of the
//! names below, as a JSON string, as the `do` of a JSON object, or plain.
#![cfg_attr(target_family = "wasm", no_std)]

use vman_policy_sdk::alloc::format;
use vman_policy_sdk::alloc::string::String;
use vman_policy_sdk::alloc::vec;
use vman_policy_sdk::alloc::vec::Vec;
use vman_policy_sdk::log::{self, Level};
use vman_policy_sdk::{ConfigProblem, Context, Decision, Guest, Issue, PolicyInfo, Verdict};

/// The ways to misbehave.
const WAYS: &[&str] = &["loop", "trap", "allocate", "log-forever", "invent", "flood", "fail"];
/// How much is asked for at a time by `allocate`, in bytes.
const CHUNK: usize = 1 << 20;
/// The length of the message that `flood` answers with, in bytes.
const FLOOD: usize = 4 << 20;

/// The policy.
#[derive(Debug)]
pub struct Misbehaving;

vman_policy_sdk::export_guest!(Misbehaving);

impl Guest for Misbehaving {
    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: "misbehaving".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            issue_kinds: Vec::new(),
            needs: Vec::new(),
        }
    }

    fn validate_config(config: String) -> Vec<ConfigProblem> {
        match way(&config) {
            Some(_) => Vec::new(),
            None => {
                let message = format!("must name one of {}", WAYS.join(", "));
                vec![ConfigProblem { path: String::new(), message }]
            }
        }
    }

    fn decide(config: String, issue: Issue, _: Context) -> Result<Decision, String> {
        match way(&config) {
            Some("loop") => spin(),
            Some("trap") => panic!("this policy traps"),
            Some("allocate") => hoard(),
            Some("log-forever") => chatter(),
            Some("invent") => Ok(invent(&issue)),
            Some("flood") => Ok(Decision::ignore("flood", "x".repeat(FLOOD))),
            Some(_) => Err("this policy always fails".into()),
            None => Err("the configuration names no way to misbehave".into()),
        }
    }
}

/// The way named by the configuration, past JSON's quotes and a table's `do`.
fn way(config: &str) -> Option<&'static str> {
    let inner = config.trim().trim_start_matches('{').trim_end_matches('}').trim();
    let inner =
        inner.strip_prefix("\"do\"").map_or(inner, |rest| rest.trim_start_matches([' ', ':']));
    let name = inner.trim_matches('"');
    WAYS.iter().find(|way| **way == name).copied()
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = core::hint::black_box(turns.wrapping_add(1));
    }
}

fn hoard() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(core::hint::black_box(Vec::<u8>::with_capacity(CHUNK)));
    }
}

fn chatter() -> ! {
    let mut line = 0_u64;
    loop {
        log::write(Level::Info, &format!("line {line}"));
        line = line.wrapping_add(1);
    }
}

/// Chooses a candidate that the host never offered.
fn invent(issue: &Issue) -> Decision {
    let unknown =
        issue.candidates.iter().map(|one| one.id).max().map_or(0, |id| id.wrapping_add(1));
    let mut decision = Decision::ignore("invent", "chooses what was not offered");
    decision.verdict = Verdict::Repair;
    decision.chosen = vec![unknown];
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_named_plainly_as_a_json_string_or_in_a_table() {
        for config in ["loop", "\"loop\"", r#"{"do": "loop"}"#, r#"{"do":"loop"}"#] {
            assert_eq!(way(config), Some("loop"), "{config}");
        }
        for config in ["", "{}", "dance", r#"{"do": "dance"}"#] {
            assert_eq!(way(config), None, "{config}");
        }
    }
}
