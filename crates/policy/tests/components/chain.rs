//! Who is asked, in which order, and when no more are.

use vman_core::repair::{Leave, Ruling, Verdict, rule};

use super::*;

async fn asked(bindings: Vec<PolicyBinding>, issue: &Issue) -> Vec<Judgement> {
    Policies::load(bindings).unwrap().judge(issue, &after_restarts(&[])).await
}

fn names(judgements: &[Judgement]) -> Vec<&str> {
    judgements.iter().map(|judgement| judgement.policy.as_str()).collect()
}

#[tokio::test]
async fn after_an_enforced_answer_only_shadows_are_asked() {
    let chain = vec![
        binding("shadow-1", "log_only", Mode::Shadow, "{}"),
        binding("first", "restart_crashed", Mode::Enforce, "{}"),
        binding("late", "log_only", Mode::Enforce, "{}"),
        binding("off", "log_only", Mode::Off, "{}"),
        binding("shadow-2", "misbehaving", Mode::Shadow, r#"{"do": "trap"}"#),
    ];
    let judgements = asked(chain, &crashed()).await;
    assert_eq!(names(&judgements), ["shadow-1", "first", "shadow-2"]);
    let modes: Vec<Mode> = judgements.iter().map(|judgement| judgement.mode).collect();
    assert_eq!(modes, [Mode::Shadow, Mode::Enforce, Mode::Shadow]);
    let ruling = rule(&crashed(), &judgements);
    assert!(matches!(ruling, Ruling::Repair { policy, .. } if policy == "first"));
}

#[tokio::test]
async fn a_policy_is_not_asked_about_kinds_it_does_not_name() {
    let chain = vec![
        binding("restart", "restart_crashed", Mode::Enforce, "{}"),
        binding("log", "log_only", Mode::Enforce, "{}"),
    ];
    let judgements = asked(chain, &disk_gone()).await;
    assert_eq!(names(&judgements), ["log"]);
    assert_eq!(judgements[0].outcome.as_ref().unwrap().verdict, Verdict::Ignore);
}

#[tokio::test]
async fn an_abstention_passes_the_case_on() {
    let mut without_restart = crashed();
    without_restart.candidates.retain(|candidate| candidate.kind.word() != "vm.restart");
    let chain = vec![
        binding("restart", "restart_crashed", Mode::Enforce, "{}"),
        binding("log", "log_only", Mode::Enforce, "{}"),
    ];
    let judgements = asked(chain, &without_restart).await;
    assert_eq!(names(&judgements), ["restart", "log"]);
    assert_eq!(judgements[0].outcome.as_ref().unwrap().verdict, Verdict::Abstain);
}

#[tokio::test]
async fn a_failure_is_not_handed_on_to_a_bolder_policy() {
    let chain = vec![
        binding("broken", "misbehaving", Mode::Enforce, r#"{"do": "trap"}"#),
        binding("bold", "restart_crashed", Mode::Enforce, "{}"),
    ];
    let judgements = asked(chain, &crashed()).await;
    assert_eq!(names(&judgements), ["broken"]);
    let ruling = rule(&crashed(), &judgements);
    assert!(matches!(ruling, Ruling::Leave { why: Leave::PolicyFailed { .. }, .. }));
}

#[tokio::test]
async fn without_policies_nobody_answers() {
    let judgements = asked(Vec::new(), &crashed()).await;
    assert_eq!(judgements, []);
}
