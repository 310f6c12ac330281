//! A backend whose verbs panic: another instance takes over, not without end.

use super::*;

#[tokio::test]
async fn after_a_panic_another_instance_goes_on_with_the_machines() {
    let hands = Hands::new(plain()).await;
    let (vm, target) = hands.launched().await;
    let hands = hands.restarted(json!({"panic_launch": true})).await;
    let other = samples::target(samples::vm(2, VmState::Starting));
    hands.times(1, Effect::PrepareDirectory, &other).await;
    let refusal = hands.refusal(Effect::Launch, &other).await;
    assert!(refusal.contains("panicked"), "{refusal}");
    assert!(hands.machine(vm).await.is_some(), "machines outlive an instance");
    std::fs::remove_file(hands.machine_file(vm)).expect("removed");
    hands.wake().await;
    hands.times(1, Effect::Kill, &target).await;
    assert_eq!(hands.machine(vm).await, None);
}

#[tokio::test]
async fn a_backend_that_panics_at_everything_is_not_started_without_end() {
    let hands = Hands::new(json!({"panic_launch": true})).await;
    let target = samples::target(samples::vm(1, VmState::Starting));
    hands.times(1, Effect::PrepareDirectory, &target).await;
    // The first instance, and those that took over.
    for _ in 0..6 {
        let refusal = hands.refusal(Effect::Launch, &target).await;
        assert!(refusal.contains("`panic_launch` is on"), "{refusal}");
    }
    let refusal = hands.refusal(Effect::Launch, &target).await;
    assert!(refusal.contains("5 instances were made anew"), "{refusal}");
    let vman_core::sighting::Surveyed::Unknown(reason) = hands.look().await.machines else {
        panic!("what cannot be asked is not absent");
    };
    assert!(reason.contains("report it to its authors"), "{reason}");
}
