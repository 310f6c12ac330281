//! A policy that misbehaves costs its own judgement, and nothing else.

use std::time::{Duration, Instant};

use vman_core::repair::{JudgeFailureKind, Verdict};
use vman_policy::limits::{DEADLINE, FUEL_MAX};

use super::*;

/// Far above the deadline, for a busy machine; far below for ever.
const BOUNDED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_endless_loop_runs_out_of_fuel() {
    let policies = misbehaving("loop");
    let started = Instant::now();
    let judgement = judge(&policies, &crashed(), &after_restarts(&[])).await;
    assert!(started.elapsed() < BOUNDED, "{:?}", started.elapsed());
    let failure = judgement.outcome.unwrap_err();
    if failure.kind == JudgeFailureKind::Deadline {
        // The wall clock may come first on a host that is busy with other things.
        assert!(judgement.duration_us >= DEADLINE.as_micros() as u64, "{failure:?}");
    } else {
        assert_eq!(failure.kind, JudgeFailureKind::Fuel, "{failure:?}");
        assert_eq!(judgement.fuel, FUEL_MAX);
        let said = "it used up its 10,000,000 units of fuel (an endless loop?)";
        assert_eq!(failure.message, said);
    }
}

#[tokio::test]
async fn a_panic_is_a_trap_with_its_trace_beside_the_message() {
    let failure = failure(&misbehaving("trap")).await;
    assert_eq!(failure.kind, JudgeFailureKind::Trap);
    assert!(!failure.message.contains('\n'), "{}", failure.message);
    assert!(failure.trace.unwrap().contains("wasm backtrace"));
}

/// Filling what it got costs fuel, too, so either limit may be the first.
#[tokio::test]
async fn hoarding_memory_is_ended() {
    let failure = failure(&misbehaving("allocate")).await;
    let ends = [JudgeFailureKind::Memory, JudgeFailureKind::Fuel, JudgeFailureKind::Deadline];
    assert!(ends.contains(&failure.kind), "{failure:?}");
}

#[tokio::test]
async fn logging_without_end_is_ended() {
    let started = Instant::now();
    let failure = failure(&misbehaving("log-forever")).await;
    assert!(started.elapsed() < BOUNDED, "{:?}", started.elapsed());
    let ends = [JudgeFailureKind::Fuel, JudgeFailureKind::Deadline];
    assert!(ends.contains(&failure.kind), "{failure:?}");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_taken() {
    let failure = failure(&misbehaving("flood")).await;
    assert_eq!(failure.kind, JudgeFailureKind::Oversized, "{failure:?}");
    assert!(failure.message.contains("64 KiB"), "{}", failure.message);
}

#[tokio::test]
async fn an_invented_candidate_is_not_taken() {
    let failure = failure(&misbehaving("invent")).await;
    assert_eq!(failure.kind, JudgeFailureKind::Invalid);
    assert!(failure.message.contains("which the case does not have"), "{}", failure.message);
}

#[tokio::test]
async fn an_error_of_the_policy_is_told_in_its_words() {
    let failure = failure(&misbehaving("fail")).await;
    assert_eq!(failure.to_string(), "declined: this policy always fails");
}

#[tokio::test]
async fn after_every_failure_the_next_policy_and_the_next_case_are_as_ever() {
    let ways = ["loop", "trap", "allocate", "log-forever", "flood", "invent", "fail"];
    let mut bindings: Vec<PolicyBinding> = ways
        .iter()
        .map(|way| binding(way, "misbehaving", Mode::Shadow, &format!(r#"{{"do": "{way}"}}"#)))
        .collect();
    bindings.push(binding("good", "restart_crashed", Mode::Enforce, "{}"));
    let policies = Policies::load(bindings).unwrap();
    let mut fuel = Vec::new();
    for _ in 0..3 {
        let judgements = policies.judge(&crashed(), &after_restarts(&[])).await;
        let (good, bad) = judgements.split_last().unwrap();
        assert_eq!(bad.len(), ways.len());
        assert!(bad.iter().all(|judgement| judgement.outcome.is_err()), "{bad:?}");
        assert_eq!(good.outcome.as_ref().unwrap().verdict, Verdict::Repair);
        fuel.push(good.fuel);
    }
    assert!(fuel.iter().all(|one| *one == fuel[0]), "{fuel:?}");
}

/// The guests run on threads of their own: the one thread of this runtime takes turns meanwhile.
/// Were it blocked, every poll would find its judgement ready.
#[tokio::test]
async fn a_policy_that_loops_does_not_hold_up_the_async_runtime() {
    let looping = |number: usize| {
        let name = format!("loop-{number}");
        binding(&name, "misbehaving", Mode::Shadow, r#"{"do": "loop"}"#)
    };
    let policies = Policies::load((0..8).map(looping).collect()).unwrap();
    let (issue, context) = (crashed(), after_restarts(&[]));
    let mut turns = 0_u64;
    let judged = policies.judge(&issue, &context);
    tokio::pin!(judged);
    let judgements = loop {
        tokio::select! {
            biased;
            judgements = &mut judged => break judgements,
            () = tokio::task::yield_now() => turns += 1,
        }
    };
    assert!(judgements.iter().all(|judgement| judgement.outcome.is_err()), "{judgements:?}");
    assert!(turns > 0, "the runtime took no turn meanwhile");
}
