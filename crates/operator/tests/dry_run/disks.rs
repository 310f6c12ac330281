//! Disks of machines: prepared before a start, given, taken back and made larger while it runs.

use std::collections::BTreeSet;

use vman_core::ident::DiskId;
use vman_core::vm::{FailureReason, Machine, Vm};

use super::*;

impl Hands {
    fn image(&self, disk: &Disk) -> PathBuf {
        self.path(&format!("disks/{}", disk.file_name()))
    }

    /// An image of this disk, as its record says.
    async fn make_image(&self, disk: &Disk) {
        self.times(1, Effect::CreateImage, &disk_target(disk)).await;
    }

    /// The machine of VM 1, with these disks, whose images are made.
    async fn launched_with(&self, disks: &[&Disk]) -> Target {
        for disk in disks {
            self.make_image(disk).await;
        }
        let target = with_disks(disks);
        for effect in [Effect::PrepareDirectory, Effect::PrepareDisks, Effect::Launch] {
            self.times(1, effect, &target).await;
        }
        target
    }

    /// The disks that the machine of VM 1 is seen to have.
    async fn disks_seen(&self) -> BTreeSet<DiskId> {
        let seen = self.machine(samples::vm_id(1)).await.expect("it lives");
        seen.disks.expect("the backend knows them")
    }
}

fn grown(disk: &Disk, size_gib: u64) -> Disk {
    Disk { state: DiskState::Resizing(size_gib), ..disk.clone() }
}

fn ids(numbers: &[u8]) -> BTreeSet<DiskId> {
    numbers.iter().map(|number| samples::disk_id(*number)).collect()
}

#[tokio::test]
async fn images_that_were_never_made_are_made_before_a_start_and_discarded_after_a_failure() {
    let hands = Hands::new(plain()).await;
    let (old, new) = (held(1, DiskState::Attached), held(2, DiskState::Creating));
    hands.make_image(&old).await;
    let target = with_disks(&[&old, &new]);
    let applied = hands.times(2, Effect::PrepareDisks, &target).await;
    let note = applied.note.expect("what was made");
    assert!(note.contains(&new.file_name()) && !note.contains(&old.file_name()), "{note}");
    assert!(hands.image(&new).exists());
    hands.times(2, Effect::DiscardNewDisks, &target).await;
    assert!(hands.image(&old).exists() && !hands.image(&new).exists());
}

#[tokio::test]
async fn every_image_that_is_not_what_is_recorded_is_named_with_both_sides_and_what_to_do() {
    let hands = Hands::new(plain()).await;
    let [missing, other, small, large] = [1, 2, 3, 4].map(|n| held(n, DiskState::Attached));
    std::fs::write(hands.image(&other), "not an image").expect("written");
    hands.make_image(&Disk { size_gib: 3, ..small.clone() }).await;
    hands.make_image(&Disk { size_gib: 5, ..large.clone() }).await;
    let small = Disk { size_gib: 4, ..small };
    let target = with_disks(&[&missing, &other, &small, &large]);
    let refusal = hands.refusal(Effect::PrepareDisks, &target).await;
    let path = hands.image(&missing);
    let absent = "the image of disk";
    for part in [
        &format!("{absent} {} is missing: restore {} or detach it", missing.id, path.display()),
        &format!("{absent} {}, {}, is recorded as", other.id, hands.image(&other).display()),
        &format!("{}, is recorded as qcow2 of 4 GiB: it is of 3 GiB; restore", small.file_name()),
        &format!("{}, is recorded as qcow2 of 1 GiB: it is of 5 GiB; if", large.file_name()),
        "resize the disk to 5 GiB",
    ] {
        assert!(refusal.contains(part), "{part} in {refusal}");
    }
}

#[tokio::test]
async fn an_image_of_another_format_is_refused_whatever_it_holds() {
    let hands = Hands::new(plain()).await;
    let disk = held(1, DiskState::Attached);
    let raw = Disk { format: vman_core::disk::ImageFormat::Raw, ..disk.clone() };
    hands.make_image(&raw).await;
    std::fs::rename(hands.image(&raw), hands.image(&disk)).expect("renamed");
    let refusal = hands.refusal(Effect::PrepareDisks, &with_disks(&[&disk])).await;
    for part in ["is recorded as qcow2 of 1 GiB", "raw", "restore the image that is recorded"] {
        assert!(refusal.contains(part), "{part} in {refusal}");
    }
}

#[tokio::test]
async fn an_image_that_was_missing_and_is_there_again_is_taken() {
    let hands = Hands::new(plain()).await;
    let disk = held(1, DiskState::Missing);
    let refusal = hands.refusal(Effect::PrepareDisks, &with_disks(&[&disk])).await;
    assert!(refusal.contains("is missing: restore "), "{refusal}");
    hands.launched_with(&[&disk]).await;
    assert_eq!(hands.disks_seen().await, ids(&[1]));
}

#[tokio::test]
async fn a_disk_that_has_failed_is_not_started_with() {
    let hands = Hands::new(plain()).await;
    let reason = FailureReason("vm.start: disk full".to_owned());
    let disk = held(1, DiskState::Failed(reason));
    hands.make_image(&disk).await;
    let refusal = hands.refusal(Effect::PrepareDisks, &with_disks(&[&disk])).await;
    assert!(refusal.contains("has failed (vm.start: disk full): detach it"), "{refusal}");
}

#[tokio::test]
async fn a_machine_starts_without_the_disks_that_it_was_asked_for() {
    let hands = Hands::new(plain()).await;
    let (kept, leaving) = (held(1, DiskState::Attached), held(2, DiskState::Detaching));
    hands.make_image(&kept).await;
    let target = with_disks(&[&kept, &leaving]);
    for effect in [Effect::PrepareDirectory, Effect::PrepareDisks, Effect::Launch] {
        hands.times(1, effect, &target).await;
    }
    assert_eq!(hands.disks_seen().await, ids(&[1]));
}

#[tokio::test]
async fn a_disk_is_given_and_taken_while_the_machine_runs_once_however_often() {
    let hands = Hands::new(plain()).await;
    let disk = held(1, DiskState::Attaching);
    hands.launched_with(&[]).await;
    hands.make_image(&disk).await;
    hands.times(2, Effect::AttachDisk, &disk_target(&disk)).await;
    assert_eq!(hands.disks_seen().await, ids(&[1]));
    hands.times(2, Effect::DetachDisk, &disk_target(&disk)).await;
    assert_eq!(hands.disks_seen().await, ids(&[]));
}

#[tokio::test]
async fn a_disk_is_not_given_if_its_image_is_wrong_or_the_machine_gone() {
    let hands = Hands::new(plain()).await;
    let disk = held(1, DiskState::Attaching);
    let target = hands.launched_with(&[]).await;
    let refusal = hands.refusal(Effect::AttachDisk, &disk_target(&disk)).await;
    assert!(refusal.contains("is missing: restore "), "{refusal}");
    hands.make_image(&Disk { size_gib: 2, ..disk.clone() }).await;
    let refusal = hands.refusal(Effect::AttachDisk, &disk_target(&disk)).await;
    assert!(refusal.contains("it is of 2 GiB"), "{refusal}");
    assert_eq!(hands.disks_seen().await, ids(&[]));
    hands.times(1, Effect::Kill, &target).await;
    let disk = Disk { size_gib: 2, ..disk };
    let refusal = hands.refusal(Effect::AttachDisk, &disk_target(&disk)).await;
    assert!(refusal.contains("is gone") && refusal.contains("start the VM"), "{refusal}");
}

#[tokio::test]
async fn a_disk_of_a_machine_that_is_gone_is_taken_at_once() {
    let hands = Hands::new(plain()).await;
    let disk = held(1, DiskState::Detaching);
    hands.times(2, Effect::DetachDisk, &disk_target(&disk)).await;
}

#[tokio::test]
async fn a_guest_that_does_not_let_go_is_not_waited_for_and_its_letting_go_wakes() {
    let hands = Hands::new(json!({"unplug_ms": 1000})).await;
    let disk = held(1, DiskState::Attached);
    hands.launched_with(&[&disk]).await;
    let begun = std::time::Instant::now();
    let waiting = hands.apply(Effect::DetachDisk, &disk_target(&disk)).await;
    let Err(ApplyError::LeftToTheGuest(text)) = waiting else { panic!("{waiting:?}") };
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for part in [&disk.id.to_string(), "has not let go", "`detaching`", "reset or stop the VM"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(hands.disks_seen().await, ids(&[1]), "its image is in use");
    // Whatever woke before, it wakes until the disk is gone.
    while hands.disks_seen().await != ids(&[]) {
        hands.wake().await;
    }
}

#[tokio::test]
async fn a_guest_that_says_no_is_told_apart_from_a_failure() {
    let hands = Hands::new(json!({"refuse_unplug": true})).await;
    let disk = held(1, DiskState::Attached);
    hands.launched_with(&[&disk]).await;
    let refused = hands.apply(Effect::DetachDisk, &disk_target(&disk)).await;
    assert!(matches!(refused, Err(ApplyError::Refused(_))), "{refused:?}");
    let hands = hands.restarted(json!({"fail_detach": "no answer"})).await;
    let failed = hands.apply(Effect::DetachDisk, &disk_target(&disk)).await;
    let Err(ApplyError::Failed(text)) = failed else { panic!("{failed:?}") };
    assert!(text.contains("no answer"), "{text}");
    assert_eq!(hands.disks_seen().await, ids(&[1]));
}

#[tokio::test]
async fn a_reset_gives_back_what_a_guest_ignored_to_be_asked_for() {
    let hands = Hands::new(json!({"ignore_unplug": true})).await;
    let disk = held(1, DiskState::Attached);
    let target = hands.launched_with(&[&disk]).await;
    let waiting = hands.apply(Effect::DetachDisk, &disk_target(&disk)).await;
    assert!(matches!(waiting, Err(ApplyError::LeftToTheGuest(_))), "{waiting:?}");
    hands.times(1, Effect::Reset, &target).await;
    assert_eq!(hands.disks_seen().await, ids(&[]));
    hands.times(1, Effect::DetachDisk, &disk_target(&disk)).await;
}

#[tokio::test]
async fn an_image_grows_with_and_without_a_machine_and_the_record_follows() {
    let hands = Hands::new(plain()).await;
    let free = samples::disk(2, DiskState::Available);
    let disk = held(1, DiskState::Attached);
    hands.make_image(&free).await;
    hands.times(2, Effect::ResizeImage, &disk_target(&grown(&free, 3))).await;
    let target = hands.launched_with(&[&disk]).await;
    let applied = hands.times(2, Effect::ResizeImage, &disk_target(&grown(&disk, 2))).await;
    assert_eq!(applied.note.as_deref(), Some("the guest sees it"));
    hands.times(1, Effect::Kill, &target).await;
    // Its machine is gone, and it is still the VM's.
    let applied = hands.times(2, Effect::ResizeImage, &disk_target(&grown(&disk, 4))).await;
    assert_eq!(applied.note, None);
    // Whether the growth was recorded or is yet to be, the image is what is wanted.
    for recorded in [grown(&disk, 4), Disk { size_gib: 4, ..disk.clone() }] {
        hands.times(1, Effect::PrepareDisks, &with_disks(&[&recorded])).await;
    }
    hands.refusal(Effect::PrepareDisks, &with_disks(&[&disk])).await;
}

#[tokio::test]
async fn the_image_of_a_machine_that_lives_is_not_grown_behind_its_back() {
    let hands = Hands::new(plain()).await;
    let disk = held(1, DiskState::Attached);
    hands.make_image(&disk).await;
    let target = hands.launched_with(&[]).await;
    let refusal = hands.refusal(Effect::ResizeImage, &disk_target(&grown(&disk, 2))).await;
    assert!(refusal.contains("says that it does not have disk"), "{refusal}");
    hands.times(1, Effect::PrepareDisks, &with_disks(&[&disk])).await;
    hands.times(1, Effect::Kill, &target).await;
    hands.times(1, Effect::ResizeImage, &disk_target(&grown(&disk, 2))).await;
}

#[tokio::test]
async fn a_growth_that_fails_says_why() {
    let hands = Hands::new(json!({"fail_resize": "no room"})).await;
    let disk = samples::disk(1, DiskState::Available);
    hands.make_image(&disk).await;
    let refusal = hands.refusal(Effect::ResizeImage, &disk_target(&grown(&disk, 2))).await;
    assert!(refusal.contains("no room"), "{refusal}");
    let refusal = hands.refusal(Effect::ResizeImage, &disk_target(&disk)).await;
    assert!(refusal.contains("no size is recorded"), "{refusal}");
}

#[tokio::test]
async fn the_disks_of_a_machine_of_another_backend_are_not_touched() {
    let hands = Hands::new(plain()).await;
    let disk = held(1, DiskState::Attached);
    hands.launched_with(&[&disk]).await;
    let machine = Some(Machine { backend: "qemu-kvm".to_owned(), process: None });
    let vm = Some(Vm { machine, ..samples::vm(1, VmState::Running) });
    let foreign = Target::Disk(Box::new(DiskTarget { disk: grown(&disk, 2), vm }));
    for effect in [Effect::AttachDisk, Effect::ResizeImage] {
        let refusal = hands.refusal(effect, &foreign).await;
        assert!(refusal.contains("started by backend qemu-kvm"), "{refusal}");
    }
    // Its guest was not asked, so it has it as before.
    let refused = hands.apply(Effect::DetachDisk, &foreign).await;
    assert!(matches!(refused, Err(ApplyError::Refused(_))), "{refused:?}");
    assert_eq!(hands.disks_seen().await, ids(&[1]));
}
