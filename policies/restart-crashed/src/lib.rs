//! Restarts a machine whose process ended without anybody having asked for it: the first time at
//! once, then with growing delays, and after too many restarts it leaves the machine to a person.
//! It answers only issues of the kind `vm.process-missing`.
#![cfg_attr(target_family = "wasm", no_std)]

use core::time::Duration;

use vman_policy_sdk::alloc::format;
use vman_policy_sdk::alloc::string::String;
use vman_policy_sdk::alloc::vec;
use vman_policy_sdk::alloc::vec::Vec;
use vman_policy_sdk::log::{self, Level};
use vman_policy_sdk::{Candidate, Context, Decision, Issue, Policy, PolicyInfo, Reader};

mod backoff;

pub use backoff::Limits;
use backoff::Plan;

/// The policy.
#[derive(Debug)]
pub struct RestartCrashed;

vman_policy_sdk::export_policy!(RestartCrashed);

const ISSUE_KIND: &str = "vm.process-missing";
const CANDIDATE_KIND: &str = "vm.restart";
/// A day: the longest time a key may name.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// The most restarts a key may allow within the window.
const MOST_ATTEMPTS: u64 = 1000;

impl Policy for RestartCrashed {
    type Config = Limits;

    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: "restart-crashed".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            issue_kinds: vec![ISSUE_KIND.into()],
            needs: Vec::new(),
        }
    }

    fn configure(reader: &mut Reader) -> Limits {
        let first_delay = reader.integer("first_delay_ms", 1..=DAY_MS, 1000);
        let max_delay = reader.integer("max_delay_ms", 1..=DAY_MS, 60_000);
        let max_attempts = reader.integer("max_attempts", 1..=MOST_ATTEMPTS, 5);
        let window = reader.integer("window_ms", 1..=DAY_MS, 600_000);
        if first_delay > max_delay {
            let message = format!("must not be less than first_delay_ms, which is {first_delay}");
            reader.note("max_delay_ms", message);
        }
        Limits {
            first_delay: Duration::from_millis(first_delay),
            max_delay: Duration::from_millis(max_delay),
            max_attempts,
            window: Duration::from_millis(window),
        }
    }

    fn decide(limits: &Limits, issue: &Issue, context: &Context) -> Result<Decision, String> {
        if issue.kind != ISSUE_KIND {
            return Ok(Decision::abstain("other-kind", format!("only {ISSUE_KIND} is judged")));
        }
        let Some(restart) = issue.candidate(CANDIDATE_KIND) else {
            return Ok(Decision::abstain("no-restart", "no restart is allowed for this machine"));
        };
        let decision = answer(restart, limits, context);
        log::write(Level::Info, &format!("vm {}: {}", issue.subject.id, decision.message));
        Ok(decision)
    }
}

fn answer(restart: &Candidate, limits: &Limits, context: &Context) -> Decision {
    let attempts =
        context.attempts.iter().filter(|attempt| attempt.candidate_kind == CANDIDATE_KIND);
    let attempts: Vec<u64> = attempts.map(|attempt| attempt.at_ms).collect();
    let window = span(limits.window);
    match backoff::plan(context.now_ms, context.seed, &attempts, limits) {
        Plan::Restart { earlier } => {
            let number = earlier + 1;
            let most = limits.max_attempts;
            let message = format!("restart {number} of at most {most} within {window}");
            Decision::repair(restart, "restart", message)
        }
        Plan::Wait { wait, earlier } => {
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let message = format!("restarted {earlier} times within {window}, wait {wait} ms");
            Decision::hold(wait, "backing-off", message)
        }
        Plan::GiveUp { earlier } => {
            let message = format!(
                "restarted {earlier} times within {window} and down again: find out why it ends, \
                 then start it by hand"
            );
            Decision::escalate("too-many-restarts", message)
        }
    }
}

/// A length of time as a message tells it.
fn span(time: Duration) -> String {
    if time.subsec_millis() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{} ms", time.as_millis())
    }
}

#[cfg(test)]
mod tests;
