//! The policy as the host asks it: configuration text, issue and context in, decision out.

use vman_policy_sdk::{Attempt, Severity, Subject, Verdict, decide, validate};

use super::*;

const NOW: u64 = 1_700_000_000_000;

fn candidate(id: u32, kind: &str) -> Candidate {
    let kind = kind.into();
    Candidate { id, kind, destructive: false, reversible: true, facts: Vec::new() }
}

fn issue(kind: &str, candidates: Vec<Candidate>) -> Issue {
    let subject = Subject { kind: "vm".into(), id: "v1".into(), generation: 1, labels: Vec::new() };
    Issue {
        id: "i1".into(),
        fingerprint: "f1".into(),
        kind: kind.into(),
        severity: Severity::Error,
        subject,
        first_seen_ms: NOW,
        occurrences: 1,
        facts: Vec::new(),
        candidates,
    }
}

fn crashed() -> Issue {
    let candidates = vec![candidate(0, "vm.mark-stopped"), candidate(7, "vm.restart")];
    issue("vm.process-missing", candidates)
}

fn context(restarted_ms_ago: &[u64]) -> Context {
    let attempts = restarted_ms_ago.iter().map(|ago| Attempt {
        candidate_kind: "vm.restart".into(),
        at_ms: NOW - ago,
        succeeded: true,
        message: String::new(),
    });
    Context {
        now_ms: NOW,
        seed: 42,
        api_minor: 0,
        backend: "qemu-tcg".into(),
        attempts: attempts.collect(),
        facts: Vec::new(),
    }
}

fn judge(config: &str, issue: &Issue, context: &Context) -> Decision {
    decide::<RestartCrashed>(config, issue, context).expect("the policy answers")
}

#[test]
fn the_first_crash_is_answered_by_the_restart_candidate() {
    let decision = judge("{}", &crashed(), &context(&[]));
    assert_eq!(decision.verdict, Verdict::Repair);
    assert_eq!(decision.chosen, [7]);
    assert_eq!(decision.reason_code, "restart");
}

#[test]
fn a_crash_right_after_a_restart_waits_and_says_how_long() {
    let decision = judge("{}", &crashed(), &context(&[200]));
    assert_eq!(decision.verdict, Verdict::Hold);
    assert!(decision.chosen.is_empty());
    let wait = decision.recheck_after_ms.expect("a hold names its end");
    assert!((800..=925).contains(&wait), "{wait}");
}

#[test]
fn too_many_restarts_are_left_to_a_person() {
    let decision = judge("{}", &crashed(), &context(&[50_000, 40_000, 30_000, 20_000, 10_000]));
    assert_eq!(decision.verdict, Verdict::Escalate);
    assert!(decision.message.contains("restarted 5 times"), "{}", decision.message);
}

#[test]
fn attempts_of_other_repairs_do_not_count() {
    let mut context = context(&[10]);
    context.attempts[0].candidate_kind = "vm.resume".into();
    assert_eq!(judge("{}", &crashed(), &context).verdict, Verdict::Repair);
}

#[test]
fn other_kinds_and_issues_without_a_restart_are_left_to_the_next_policy() {
    let other = issue("disk.file-missing", vec![candidate(0, "vm.restart")]);
    assert_eq!(judge("{}", &other, &context(&[])).verdict, Verdict::Abstain);
    let none = issue("vm.process-missing", vec![candidate(0, "vm.mark-stopped")]);
    assert_eq!(judge("{}", &none, &context(&[])).verdict, Verdict::Abstain);
}

#[test]
fn the_configuration_is_obeyed() {
    let config = r#"{"first_delay_ms": 100, "max_attempts": 1}"#;
    assert_eq!(judge(config, &crashed(), &context(&[99])).verdict, Verdict::Escalate);
    let config = r#"{"first_delay_ms": 100}"#;
    assert_eq!(judge(config, &crashed(), &context(&[100])).verdict, Verdict::Repair);
}

#[test]
fn every_problem_of_the_configuration_is_named_by_its_key() {
    let config = r#"{"first_delay_ms": 5000, "max_delay_ms": 10, "max_attempts": 0, "retry": 1}"#;
    let problems = validate::<RestartCrashed>(config);
    let mut paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["max_attempts", "max_delay_ms", "retry"]);
}

#[test]
fn a_wrong_configuration_is_a_failure_and_never_a_decision() {
    let answer = decide::<RestartCrashed>(r#"{"retry": 1}"#, &crashed(), &context(&[]));
    let message = answer.expect_err("the key is unknown");
    assert!(message.contains("`retry`"), "{message}");
}
