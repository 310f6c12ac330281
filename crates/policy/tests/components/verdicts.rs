//! The shipped policies answer through the host what they answer on their own.

use std::time::Instant;

use vman_core::repair::{CandidateKind, Ruling, Verdict, rule};

use super::*;

#[tokio::test]
async fn log_only_leaves_a_crashed_vm_as_it_is() {
    let answer = decision(&enforced("log_only", "{}"), &crashed(), &after_restarts(&[])).await;
    assert_eq!(answer.verdict, Verdict::Ignore);
    assert_eq!(answer.reason_code, "log-only");
    assert!(answer.message.contains(&crashed().subject.id()), "{}", answer.message);
    assert!(answer.message.contains("vm.restart, vm.mark-stopped"), "{}", answer.message);
}

#[tokio::test]
async fn restart_crashed_restarts_then_backs_off_then_calls_for_a_person() {
    let policies = enforced("restart_crashed", "{}");
    let issue = crashed();
    let first = judge(&policies, &issue, &after_restarts(&[])).await;
    let Ruling::Repair { policy, chosen } = rule(&issue, &[first]) else {
        panic!("the first crash is repaired");
    };
    assert_eq!((policy.as_str(), chosen), ("restart_crashed", vec![CandidateKind::VmRestart]));

    let held = decision(&policies, &issue, &after_restarts(&[5000, 500])).await;
    assert_eq!(held.verdict, Verdict::Hold);
    let wait = held.recheck_after_ms.unwrap();
    assert!((1500..=1750).contains(&wait), "{wait}");

    let often: Vec<u64> = (1..=5).rev().map(|minute| minute * 60_000).collect();
    let escalated = decision(&policies, &issue, &after_restarts(&often)).await;
    assert_eq!(escalated.verdict, Verdict::Escalate);
}

#[tokio::test]
async fn the_configuration_reaches_the_policy() {
    let policies = enforced("restart_crashed", r#"{"max_attempts": 1}"#);
    let answer = decision(&policies, &crashed(), &after_restarts(&[1000])).await;
    assert_eq!(answer.verdict, Verdict::Escalate);
}

#[tokio::test]
async fn the_same_case_has_the_same_answer_and_the_same_fuel() {
    let policies = enforced("restart_crashed", "{}");
    let context = after_restarts(&[5000, 500]);
    let first = judge(&policies, &crashed(), &context).await;
    assert!(first.fuel > 0);
    for _ in 0..20 {
        let again = judge(&policies, &crashed(), &context).await;
        assert_eq!(again.outcome, first.outcome);
        assert_eq!(again.fuel, first.fuel);
    }
    let elsewhere = judge(&enforced("restart_crashed", "{}"), &crashed(), &context).await;
    assert_eq!(elsewhere.fuel, first.fuel);
    let other = judge(&policies, &crashed(), &after_restarts(&[])).await;
    assert_ne!(other.fuel, first.fuel);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cases_at_once_are_all_answered_and_told_how_long_they_took() {
    const CASES: usize = 500;
    let policies = std::sync::Arc::new(enforced("restart_crashed", "{}"));
    let started = Instant::now();
    let mut cases = tokio::task::JoinSet::new();
    for _ in 0..CASES {
        let policies = std::sync::Arc::clone(&policies);
        cases.spawn(async move { judge(&policies, &crashed(), &after_restarts(&[])).await });
    }
    let mut durations: Vec<u64> = Vec::new();
    while let Some(judgement) = cases.join_next().await {
        let judgement = judgement.unwrap();
        assert_eq!(judgement.outcome.map(|answer| answer.verdict), Ok(Verdict::Repair));
        durations.push(judgement.duration_us);
    }
    assert_eq!(durations.len(), CASES);
    durations.sort_unstable();
    let (median, p99) = (durations[CASES / 2], durations[CASES * 99 / 100]);
    println!("{CASES} cases in {:?}, each p50 {median} us, p99 {p99} us", started.elapsed());
}
