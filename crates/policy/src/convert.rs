//! Between the words of the core and the records of the contract, both ways. What the contract
//! leaves open is passed on as it is; nothing is judged here.

use vman_core::coherence::Severity;
use vman_core::evidence::{Fact, Value};
use vman_core::repair::{self, CandidateKind, Decision, Verdict};

use crate::bindings::vman::policy::types as wit;
use crate::limits::ATTEMPTS_MAX;

/// The minor version of the contract that this host speaks.
const API_MINOR: u32 = 0;
/// For a subject without a record; records count from 1.
const NO_GENERATION: u64 = 0;

/// What a policy is shown of an issue.
pub(crate) fn issue(issue: &repair::Issue) -> wit::Issue {
    wit::Issue {
        id: issue.id.to_string(),
        fingerprint: issue.fingerprint.clone(),
        kind: issue.kind.word().to_owned(),
        severity: severity(issue.severity),
        subject: wit::Subject {
            kind: issue.subject.kind().to_owned(),
            id: issue.subject.id(),
            generation: issue.generation.map_or(NO_GENERATION, |generation| generation.0),
            labels: Vec::new(),
        },
        first_seen_ms: issue.first_seen.0,
        occurrences: issue.occurrences,
        facts: facts_out(&issue.facts),
        candidates: issue.candidates.iter().map(candidate).collect(),
    }
}

/// What a policy is told beside the issue.
pub(crate) fn context(context: &repair::Context) -> wit::Context {
    let too_many = context.attempts.len().saturating_sub(ATTEMPTS_MAX);
    wit::Context {
        now_ms: context.now.0,
        seed: context.seed,
        api_minor: API_MINOR,
        backend: context.backend.clone(),
        attempts: context.attempts[too_many..].iter().map(attempt).collect(),
        facts: facts_out(&context.facts),
    }
}

/// A policy's answer, as it gave it: not yet held against the case.
pub(crate) fn decision(decision: wit::Decision) -> Decision {
    Decision {
        verdict: verdict(decision.verdict),
        chosen: decision.chosen,
        recheck_after_ms: decision.recheck_after_ms,
        reason_code: decision.reason_code,
        message: decision.message,
        facts: decision.facts.into_iter().map(fact_in).collect(),
    }
}

fn severity(severity: Severity) -> wit::Severity {
    match severity {
        Severity::Info => wit::Severity::Info,
        Severity::Warning => wit::Severity::Warning,
        Severity::Error => wit::Severity::Error,
        Severity::Critical => wit::Severity::Critical,
    }
}

fn candidate(candidate: &repair::Candidate) -> wit::Candidate {
    let kind: CandidateKind = candidate.kind;
    wit::Candidate {
        id: candidate.id,
        kind: kind.word().to_owned(),
        destructive: kind.is_destructive(),
        reversible: kind.is_reversible(),
        facts: Vec::new(),
    }
}

fn attempt(attempt: &repair::Attempt) -> wit::Attempt {
    wit::Attempt {
        candidate_kind: attempt.candidate.clone(),
        at_ms: attempt.at.0,
        succeeded: attempt.succeeded,
        message: attempt.message.clone(),
    }
}

fn facts_out(facts: &[Fact]) -> Vec<wit::Fact> {
    let value = |value: &Value| match value {
        Value::Boolean(value) => wit::Value::Boolean(*value),
        Value::Integer(value) => wit::Value::Integer(*value),
        Value::Text(value) => wit::Value::Text(value.clone()),
        Value::Texts(values) => wit::Value::Texts(values.clone()),
    };
    facts
        .iter()
        .map(|fact| wit::Fact { key: fact.key.clone(), value: value(&fact.value) })
        .collect()
}

fn fact_in(fact: wit::Fact) -> Fact {
    let value = match fact.value {
        wit::Value::Boolean(value) => Value::Boolean(value),
        wit::Value::Integer(value) => Value::Integer(value),
        wit::Value::Text(value) => Value::Text(value),
        wit::Value::Texts(values) => Value::Texts(values),
    };
    Fact { key: fact.key, value }
}

fn verdict(verdict: wit::Verdict) -> Verdict {
    match verdict {
        wit::Verdict::Repair => Verdict::Repair,
        wit::Verdict::Hold => Verdict::Hold,
        wit::Verdict::Ignore => Verdict::Ignore,
        wit::Verdict::Escalate => Verdict::Escalate,
        wit::Verdict::Abstain => Verdict::Abstain,
    }
}

#[cfg(test)]
mod tests {
    use vman_core::ident::Timestamp;
    use vman_core::repair::{Attempt, Context};

    use super::*;

    fn facts() -> Vec<Fact> {
        let values = [
            Value::Boolean(true),
            Value::Integer(-7),
            Value::Text("ä".to_owned()),
            Value::Texts(vec!["a".to_owned(), String::new()]),
        ];
        values.into_iter().map(|value| Fact { key: "some.key".to_owned(), value }).collect()
    }

    #[test]
    fn facts_come_back_as_they_went() {
        let back: Vec<Fact> = facts_out(&facts()).into_iter().map(fact_in).collect();
        assert_eq!(back, facts());
    }

    #[test]
    fn of_too_many_attempts_the_newest_are_told_in_their_order() {
        let attempts = (0..ATTEMPTS_MAX as u64 + 3).map(|at| Attempt {
            candidate: "vm.restart".to_owned(),
            at: Timestamp(at),
            succeeded: true,
            message: String::new(),
        });
        let case = Context {
            now: Timestamp(9),
            seed: 1,
            backend: "dry-run".to_owned(),
            attempts: attempts.collect(),
            facts: facts(),
        };
        let told = context(&case);
        assert_eq!(told.attempts.len(), ATTEMPTS_MAX);
        assert_eq!(told.attempts.first().map(|attempt| attempt.at_ms), Some(3));
        assert!(told.attempts.is_sorted_by_key(|attempt| attempt.at_ms));
    }
}
