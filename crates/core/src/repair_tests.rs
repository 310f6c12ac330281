//! Answers that can be used and answers that cannot, and how a chain of them is settled.

use uuid::Uuid;

use super::*;
use crate::ident::VmId;

fn issue() -> Issue {
    let wrong = Wrong::VmProcessMissing {
        vm: VmId(Uuid::from_u128(1)),
        generation: Generation(2),
        machine: None,
        ended: None,
    };
    let found = Incoherence { wrong, seen_at: Timestamp(10) };
    Issue::new(IssueId(Uuid::from_u128(5)), &found)
}

fn decision(verdict: Verdict, chosen: &[u32]) -> Decision {
    Decision {
        verdict,
        chosen: chosen.to_vec(),
        recheck_after_ms: None,
        reason_code: "test".to_owned(),
        message: String::new(),
        facts: vec![],
    }
}

fn judgement(policy: &str, mode: Mode, outcome: Result<Decision, JudgeFailure>) -> Judgement {
    Judgement {
        policy: policy.to_owned(),
        policy_hash: "00".to_owned(),
        mode,
        outcome,
        fuel: 1,
        duration_us: 1,
    }
}

fn failure() -> JudgeFailure {
    JudgeFailure { kind: JudgeFailureKind::Trap, message: "boom".to_owned(), trace: None }
}

#[test]
fn a_decision_can_choose_only_what_the_case_offers() {
    let issue = issue();
    assert_eq!(decision(Verdict::Repair, &[0, 1]).check(&issue), Ok(()));
    let refused = [
        (decision(Verdict::Repair, &[7]), InvalidDecision::UnknownCandidate(7)),
        (decision(Verdict::Repair, &[0, 0]), InvalidDecision::ChosenTwice(0)),
        (decision(Verdict::Repair, &[]), InvalidDecision::NothingChosen),
        (decision(Verdict::Hold, &[0]), InvalidDecision::ChosenWithoutRepair("hold")),
    ];
    for (decision, expected) in refused {
        assert_eq!(decision.check(&issue), Err(expected));
    }
    let mut long = decision(Verdict::Ignore, &[]);
    long.message = "x".repeat(MESSAGE_LENGTH_MAX + 1);
    assert!(matches!(long.check(&issue), Err(InvalidDecision::TooLong { what: "message", .. })));
}

#[test]
fn the_first_enforced_answer_that_is_not_abstain_wins() {
    let chain = [
        judgement("shadowed", Mode::Shadow, Ok(decision(Verdict::Ignore, &[]))),
        judgement("shy", Mode::Enforce, Ok(decision(Verdict::Abstain, &[]))),
        judgement("bold", Mode::Enforce, Ok(decision(Verdict::Repair, &[1]))),
        judgement("late", Mode::Enforce, Ok(decision(Verdict::Ignore, &[]))),
    ];
    let expected =
        Ruling::Repair { policy: "bold".to_owned(), chosen: vec![CandidateKind::VmMarkStopped] };
    assert_eq!(rule(&issue(), &chain), expected);
}

#[test]
fn a_broken_policy_does_not_hand_its_case_to_the_next_one() {
    let chain = [
        judgement("broken", Mode::Enforce, Err(failure())),
        judgement("bold", Mode::Enforce, Ok(decision(Verdict::Repair, &[0]))),
    ];
    assert!(matches!(
        rule(&issue(), &chain),
        Ruling::Leave { why: Leave::PolicyFailed { .. }, .. }
    ));
}

#[test]
fn without_an_enforced_answer_the_host_is_left_alone() {
    let shadow = [judgement("s", Mode::Shadow, Ok(decision(Verdict::Repair, &[0])))];
    let abstaining = [judgement("a", Mode::Enforce, Ok(decision(Verdict::Abstain, &[])))];
    for chain in [&shadow[..], &abstaining[..], &[]] {
        assert_eq!(
            rule(&issue(), chain),
            Ruling::Leave { recheck_after_ms: None, why: Leave::NobodyAnswered }
        );
    }
}

#[test]
fn a_recheck_comes_neither_without_pause_nor_never() {
    for (asked, given) in [(u64::MAX, RECHECK_AFTER_MS_MAX), (0, RECHECK_AFTER_MS_MIN)] {
        let mut held = decision(Verdict::Hold, &[]);
        held.recheck_after_ms = Some(asked);
        let ruling = rule(&issue(), &[judgement("h", Mode::Enforce, Ok(held))]);
        assert_eq!(ruling, Ruling::Leave { recheck_after_ms: Some(given), why: Leave::Held });
    }
}

#[test]
fn every_kind_has_a_safe_default_and_every_candidate_a_command() {
    for kind in Kind::ALL {
        assert_eq!(safe_default(*kind), SafeDefault::LogOnly);
    }
    for candidate in CandidateKind::ALL {
        let by_word = CandidateKind::from_word(candidate.word());
        assert_eq!(by_word, Some(*candidate));
        assert_eq!(CandidateKind::of(RepairCommand::from(*candidate).verb()), Some(*candidate));
        assert!(!(candidate.is_destructive() && candidate.is_reversible()));
    }
}
