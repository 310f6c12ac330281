//! Machines: launched, found again, ended, seen.

use vman_core::ports::{MachineChange, VmTarget};
use vman_core::sighting::{ExitCause, FileKind, Guest};
use vman_core::template::Boot;
use vman_core::vm::Machine;

use super::*;

fn dry_run_machine() -> Machine {
    Machine { backend: "dry-run".to_owned(), process: None }
}

fn with(target: &Target, change: impl FnOnce(&mut VmTarget)) -> Target {
    let Target::Vm(target) = target else { panic!("not a VM: {target:?}") };
    let mut target = target.clone();
    change(&mut target);
    Target::Vm(target)
}

#[tokio::test]
async fn a_launch_done_twice_is_one_machine_that_is_seen() {
    let hands = Hands::new(plain()).await;
    let target = samples::target(samples::vm(1, VmState::Starting));
    let vm = samples::vm_id(1);
    hands.times(2, Effect::PrepareDirectory, &target).await;
    assert_eq!(hands.machine(vm).await, None, "a directory is no machine");
    let applied = hands.times(2, Effect::Launch, &target).await;
    assert_eq!(applied.machine, MachineChange::Lives(dry_run_machine()));
    let seen = hands.machine(vm).await.expect("it lives");
    assert_eq!((seen.machine, seen.guest), (dry_run_machine(), Guest::Running));
    assert!(seen.started_at.is_some(), "its directory tells its age");
    let starts = std::fs::read_to_string(hands.machine_file(vm)).expect("readable");
    let starts: Value = serde_json::from_str(&starts).expect("JSON");
    assert_eq!(starts["starts"], 1);
}

#[tokio::test]
async fn a_power_off_waits_for_the_guest_and_then_ends_the_machine() {
    let hands = Hands::new(json!({"shutdown_ms": 50})).await;
    let (vm, target) = hands.launched().await;
    let applied = hands.times(1, Effect::PowerOff, &target).await;
    assert_eq!(applied.machine, MachineChange::Gone);
    let note = applied.note.expect("the stages");
    assert!(note.starts_with("the guest powered off after"), "{note}");
    assert!(note.contains("; quit in"), "{note}");
    assert_eq!(hands.machine(vm).await, None);
    let again = hands.times(1, Effect::PowerOff, &target).await;
    assert_eq!(again.machine, MachineChange::Gone);
    assert_eq!(again.note.as_deref(), Some("it was gone already"));
}

#[tokio::test]
async fn a_guest_that_ignores_its_power_button_is_ended_after_its_grace() {
    let settings = json!({"ignore_power_button": true});
    let hands = Hands::with_grace(settings, Duration::from_millis(200)).await;
    let (vm, target) = hands.launched().await;
    let begun = std::time::Instant::now();
    let applied = hands.times(1, Effect::PowerOff, &target).await;
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let note = applied.note.expect("the stages");
    assert!(note.contains("; quit in"), "{note}");
    assert!(!note.contains("powered off after"), "{note}");
    assert_eq!(hands.machine(vm).await, None);
}

#[tokio::test]
async fn a_wait_for_a_guest_that_is_broken_off_leaves_a_machine_that_can_be_killed() {
    let hands = Hands::new(json!({"ignore_power_button": true})).await;
    let (vm, target) = hands.launched().await;
    let waiting = hands.apply(Effect::PowerOff, &target);
    let soon = Duration::from_millis(100);
    tokio::time::timeout(soon, waiting).await.expect_err("the guest does not obey");
    assert!(hands.machine(vm).await.is_some(), "it is left as it was");
    let applied = hands.times(2, Effect::Kill, &target).await;
    assert_eq!(applied.machine, MachineChange::Gone);
    assert_eq!(hands.machine(vm).await, None);
}

#[tokio::test]
async fn a_machine_that_cannot_be_seen_while_it_stops_is_ended_all_the_same() {
    let settings = json!({"fail_survey": "no answer", "ignore_power_button": true});
    let hands = Hands::with_grace(settings, Duration::from_millis(200)).await;
    let (vm, target) = hands.launched().await;
    let applied = hands.times(1, Effect::PowerOff, &target).await;
    assert_eq!(applied.machine, MachineChange::Gone);
    assert!(!hands.machine_file(vm).exists());
}

#[tokio::test]
async fn a_machine_that_does_not_quit_is_killed() {
    let hands = Hands::new(json!({"fail_quit": "it does not listen"})).await;
    let (vm, target) = hands.launched().await;
    let applied = hands.times(1, Effect::End, &target).await;
    assert_eq!(applied.machine, MachineChange::Gone);
    let note = applied.note.expect("the stages");
    assert!(note.contains("it does not listen"), "{note}");
    assert!(note.ends_with("killed"), "{note}");
    assert_eq!(hands.machine(vm).await, None);
}

#[tokio::test]
async fn ending_and_killing_what_is_gone_is_a_success() {
    let hands = Hands::new(plain()).await;
    let (vm, target) = hands.launched().await;
    for (effect, target) in [
        (Effect::End, &target),
        (Effect::Kill, &target),
        (Effect::Kill, &Target::Machine(vm)),
        (Effect::Kill, &Target::Machine(samples::vm_id(9))),
    ] {
        let applied = hands.times(2, effect, target).await;
        assert_eq!(applied.machine, MachineChange::Gone, "{}", effect.word());
    }
    hands.times(2, Effect::RemoveDirectory, &target).await;
    assert!(!hands.path(&format!("machines/{vm}")).exists());
}

#[tokio::test]
async fn a_machine_outlives_the_daemon_and_is_found_again() {
    let hands = Hands::new(plain()).await;
    let (vm, target) = hands.launched().await;
    let hands = hands.restarted(plain()).await;
    assert!(hands.machine(vm).await.is_some());
    let applied = hands.times(2, Effect::Adopt, &target).await;
    assert_eq!(applied.machine, MachineChange::Lives(dry_run_machine()));
    hands.times(1, Effect::Kill, &target).await;
    let refusal = hands.refusal(Effect::Adopt, &target).await;
    assert_eq!(refusal, format!("no machine of VM {vm} lives"));
}

#[tokio::test]
async fn a_machine_whose_file_is_removed_is_absent_and_that_is_noticed() {
    let hands = Hands::new(plain()).await;
    let (vm, _) = hands.launched().await;
    std::fs::remove_file(hands.machine_file(vm)).expect("removed");
    hands.wake().await;
    assert_eq!(hands.machine(vm).await, None);
    let files = hands.look().await.files;
    let directory = format!("machines/{vm}");
    let seen = files.known().expect("files can be surveyed").get(&directory).cloned();
    assert_eq!(seen.expect("it stays").kind, FileKind::MachineDirectory);
}

#[tokio::test]
async fn a_guest_in_trouble_and_one_that_cannot_be_asked_are_told_apart() {
    let hands = Hands::new(plain()).await;
    let (vm, _) = hands.launched().await;
    let file = hands.machine_file(vm);
    let running = std::fs::read_to_string(&file).expect("readable");
    for (state, guest) in [
        ("paused", Guest::Paused),
        ("guest-shutdown", Guest::ShutDown),
        ("guest-panicked", Guest::Panicked),
        ("io-error", Guest::IoError),
    ] {
        std::fs::write(&file, running.replace("\"running\"", &format!("\"{state}\""))).expect("ok");
        assert_eq!(hands.machine(vm).await.expect("it lives").guest, guest);
    }
    std::fs::write(&file, "{").expect("written");
    let guest = hands.machine(vm).await.expect("not absent").guest;
    assert!(matches!(guest, Guest::Unknown(_)), "{guest:?}");
}

#[tokio::test]
async fn what_the_backend_cannot_survey_is_unknown_and_the_files_are_still_seen() {
    let hands = Hands::new(json!({"fail_survey": "no answer"})).await;
    let sightings = hands.look().await;
    let vman_core::sighting::Surveyed::Unknown(reason) = sightings.machines else {
        panic!("not unknown: {:?}", sightings.machines);
    };
    assert!(reason.starts_with("backend dry-run: "), "{reason}");
    assert!(reason.contains("no answer"), "{reason}");
    assert!(sightings.files.known().is_some());
    assert_eq!(sightings.backend.as_deref(), Some("dry-run"));
    assert!(sightings.devices.known().is_none(), "devices are not the operator's");
}

#[tokio::test]
async fn a_machine_is_paused_resumed_and_reset_and_says_so() {
    let hands = Hands::new(plain()).await;
    let (vm, target) = hands.launched().await;
    for (effect, guest) in [
        (Effect::Pause, Guest::Paused),
        (Effect::Reset, Guest::Paused),
        (Effect::Resume, Guest::Running),
        (Effect::Reset, Guest::Running),
    ] {
        hands.times(2, effect, &target).await;
        assert_eq!(hands.machine(vm).await.expect("it lives").guest, guest, "{}", effect.word());
    }
    hands.times(1, Effect::Kill, &target).await;
    for effect in [Effect::Pause, Effect::Resume, Effect::Reset] {
        let refusal = hands.refusal(effect, &target).await;
        assert!(refusal.starts_with(&format!("the machine of VM {vm} is gone")), "{refusal}");
        assert!(refusal.ends_with("start the VM again"), "{refusal}");
    }
}

#[tokio::test]
async fn a_paused_guest_is_not_waited_for_when_it_is_powered_off() {
    let hands = Hands::new(plain()).await;
    let (_, target) = hands.launched().await;
    hands.times(1, Effect::Pause, &target).await;
    let note = hands.times(1, Effect::PowerOff, &target).await.note.expect("the stages");
    assert!(note.starts_with("the guest cannot obey the power button: Paused; quit in"), "{note}");
}

#[tokio::test]
async fn how_a_machine_ended_is_told_as_long_as_it_is_kept() {
    let hands = Hands::new(plain()).await;
    let (vm, target) = hands.launched().await;
    hands.times(1, Effect::PowerOff, &target).await;
    let ended = hands.look().await.ended;
    assert_eq!(ended[&vm].machine, dry_run_machine());
    assert_eq!(ended[&vm].cause, ExitCause::GuestShutdown);
    hands.times(1, Effect::Launch, &target).await;
    std::fs::remove_file(hands.machine_file(vm)).expect("removed");
    while hands.look().await.ended.get(&vm).map(|ended| ended.cause) != Some(ExitCause::Unknown) {
        hands.wake().await;
    }
}

#[tokio::test]
async fn a_machine_of_another_backend_is_not_touched() {
    let hands = Hands::new(plain()).await;
    let (vm, target) = hands.launched().await;
    let foreign = with(&target, |target| {
        target.vm.machine = Some(Machine { backend: "qemu-kvm".to_owned(), process: None });
    });
    for effect in [
        Effect::Launch,
        Effect::Adopt,
        Effect::PowerOff,
        Effect::End,
        Effect::Kill,
        Effect::Pause,
        Effect::Resume,
        Effect::Reset,
    ] {
        let refusal = hands.refusal(effect, &foreign).await;
        assert!(refusal.contains("started by backend qemu-kvm"), "{refusal}");
        assert!(refusal.contains("set `[backend] use = \"qemu-kvm\"`"), "{refusal}");
    }
    assert!(hands.machine(vm).await.is_some());
}

#[tokio::test]
async fn a_launch_that_fails_says_why_and_leaves_no_machine() {
    let hands = Hands::new(json!({"fail_launch": "no room"})).await;
    let target = samples::target(samples::vm(1, VmState::Starting));
    hands.times(1, Effect::PrepareDirectory, &target).await;
    let refusal = hands.refusal(Effect::Launch, &target).await;
    assert!(refusal.contains("no room"), "{refusal}");
    assert_eq!(hands.machine(samples::vm_id(1)).await, None);
}

#[tokio::test]
async fn a_boot_file_that_is_not_there_is_named_with_where_to_put_it() {
    let hands = Hands::new(plain()).await;
    let target = with(&samples::target(samples::vm(1, VmState::Starting)), |target| {
        target.template.boot = Boot::Kernel {
            kernel: "vmlinuz".parse().expect("valid"),
            initrd: None,
            cmdline: vman_core::template::Cmdline::default(),
        };
    });
    hands.times(1, Effect::PrepareDirectory, &target).await;
    let refusal = hands.refusal(Effect::Launch, &target).await;
    assert!(refusal.contains("boot/vmlinuz"), "{refusal}");
    assert!(refusal.ends_with("copy it there"), "{refusal}");
    std::fs::write(hands.path("boot/vmlinuz"), "kernel").expect("written");
    hands.times(1, Effect::Launch, &target).await;
}

#[tokio::test]
async fn an_effect_on_what_it_does_not_fit_is_refused() {
    let hands = Hands::new(plain()).await;
    let vm = samples::target(samples::vm(1, VmState::Stopped));
    let machine = Target::Machine(samples::vm_id(1));
    let file = Target::File("disks/x.raw".to_owned());
    for (effect, target) in [
        (Effect::ConnectNetwork, &vm),
        (Effect::CreateImage, &vm),
        (Effect::Launch, &machine),
        (Effect::QuarantineFile, &machine),
        (Effect::Kill, &file),
    ] {
        let refusal = hands.refusal(effect, target).await;
        assert_eq!(refusal, format!("{} is not an effect on this subject", effect.word()));
    }
}
