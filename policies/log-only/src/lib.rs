//! The default policy: it writes down what was found and leaves the host as it is. It never
//! repairs.
#![cfg_attr(target_family = "wasm", no_std)]

use vman_policy_sdk::alloc::format;
use vman_policy_sdk::alloc::string::String;
use vman_policy_sdk::alloc::vec::Vec;
use vman_policy_sdk::log::{self, Level};
use vman_policy_sdk::{Context, Decision, Issue, Policy, PolicyInfo, Reader, Severity};

/// The policy; it has no configuration.
#[derive(Debug)]
pub struct LogOnly;

vman_policy_sdk::export_policy!(LogOnly);

impl Policy for LogOnly {
    type Config = ();

    fn describe() -> PolicyInfo {
        PolicyInfo {
            name: "log-only".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            issue_kinds: Vec::new(),
            needs: Vec::new(),
        }
    }

    fn configure(_: &mut Reader) {}

    fn decide((): &(), issue: &Issue, _: &Context) -> Result<Decision, String> {
        let line = line(issue);
        log::write(level(issue.severity), &line);
        Ok(Decision::ignore("log-only", format!("logged, the host is left as it is: {line}")))
    }
}

fn line(issue: &Issue) -> String {
    let subject = &issue.subject;
    let (kind, seen) = (&issue.kind, issue.occurrences);
    let candidates: Vec<&str> = issue.candidates.iter().map(|one| one.kind.as_str()).collect();
    let possible = if candidates.is_empty() { "none".into() } else { candidates.join(", ") };
    format!(
        "{kind} of {} {}, seen {seen} times, possible repairs: {possible}",
        subject.kind, subject.id
    )
}

fn level(severity: Severity) -> Level {
    match severity {
        Severity::Info => Level::Info,
        Severity::Warning => Level::Warn,
        Severity::Error | Severity::Critical => Level::Error,
    }
}

#[cfg(test)]
mod tests {
    use vman_policy_sdk::{Candidate, Subject, Verdict, decide, validate};

    use super::*;

    fn issue() -> Issue {
        Issue {
            id: "i1".into(),
            fingerprint: "f1".into(),
            kind: "vm.process-missing".into(),
            severity: Severity::Error,
            subject: Subject {
                kind: "vm".into(),
                id: "v1".into(),
                generation: 3,
                labels: Vec::new(),
            },
            first_seen_ms: 1,
            occurrences: 2,
            facts: Vec::new(),
            candidates: vec![Candidate {
                id: 0,
                kind: "vm.restart".into(),
                destructive: false,
                reversible: true,
                facts: Vec::new(),
            }],
        }
    }

    fn context() -> Context {
        Context {
            now_ms: 9,
            seed: 0,
            api_minor: 0,
            backend: "dry-run".into(),
            attempts: Vec::new(),
            facts: Vec::new(),
        }
    }

    #[test]
    fn it_ignores_an_issue_that_could_be_repaired_and_says_what_it_saw() {
        let decision = decide::<LogOnly>("", &issue(), &context()).expect("it judges");
        assert_eq!(decision.verdict, Verdict::Ignore);
        assert!(decision.chosen.is_empty());
        assert!(decision.message.contains("vm v1"), "{}", decision.message);
        assert!(decision.message.contains("vm.restart"), "{}", decision.message);
    }

    #[test]
    fn it_refuses_any_configuration_key() {
        assert!(validate::<LogOnly>("{}").is_empty());
        let problems = validate::<LogOnly>(r#"{"level": "info"}"#);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path, "level");
    }
}
