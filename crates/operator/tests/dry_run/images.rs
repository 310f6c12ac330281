//! Images: made, deleted, and moved out of the way.

use vman_core::ports::VmTarget;
use vman_core::sighting::FileKind;

use super::*;

fn disk() -> (Disk, Target, String) {
    let disk = samples::disk(1, DiskState::Creating);
    let path = format!("disks/{}", disk.file_name());
    (disk.clone(), disk_target(&disk), path)
}

#[tokio::test]
async fn an_image_is_made_once_seen_and_deleted_once() {
    let hands = Hands::new(plain()).await;
    let (_, target, path) = disk();
    hands.times(2, Effect::CreateImage, &target).await;
    let files = hands.look().await.files;
    assert_eq!(files.known().expect("known")[&path].kind, FileKind::Image);
    hands.times(2, Effect::DeleteImage, &target).await;
    assert_eq!(hands.look().await.files.known().map(|files| files.len()), Some(0));
}

#[tokio::test]
async fn an_image_that_cannot_be_made_says_why_and_leaves_no_file() {
    let hands = Hands::new(json!({"fail_create_image": "disk full"})).await;
    let (_, target, _) = disk();
    let refusal = hands.refusal(Effect::CreateImage, &target).await;
    assert!(refusal.contains("disk full"), "{refusal}");
    assert_eq!(hands.look().await.files.known().map(|files| files.len()), Some(0));
}

#[tokio::test]
async fn a_file_that_is_another_image_is_not_overwritten() {
    let hands = Hands::new(plain()).await;
    let (_, target, path) = disk();
    std::fs::write(hands.path(&path), "somebody's own").expect("written");
    let refusal = hands.refusal(Effect::CreateImage, &target).await;
    assert!(refusal.contains(&path), "{refusal}");
    let content = std::fs::read_to_string(hands.path(&path)).expect("readable");
    assert_eq!(content, "somebody's own");
}

#[tokio::test]
async fn a_machine_is_not_launched_without_the_image_of_its_disk() {
    let hands = Hands::new(plain()).await;
    let (disk, target, path) = disk();
    let Target::Vm(vm) = samples::target(samples::vm(1, VmState::Starting)) else {
        panic!("the sample is a VM's");
    };
    let vm = Target::Vm(Box::new(VmTarget { disks: vec![disk], ..*vm }));
    hands.times(1, Effect::PrepareDirectory, &vm).await;
    let refusal = hands.refusal(Effect::Launch, &vm).await;
    assert!(refusal.contains(&path), "{refusal}");
    hands.times(1, Effect::CreateImage, &target).await;
    hands.times(1, Effect::Launch, &vm).await;
}

#[tokio::test]
async fn a_stray_image_is_moved_to_quarantine_once_and_no_longer_seen() {
    let hands = Hands::new(plain()).await;
    std::fs::write(hands.path("disks/stray.raw"), "x").expect("written");
    let target = Target::File("disks/stray.raw".to_owned());
    let first = hands.times(1, Effect::QuarantineFile, &target).await;
    assert!(first.note.expect("where to").ends_with("quarantine/stray.raw"));
    assert_eq!(hands.times(1, Effect::QuarantineFile, &target).await, Applied::default());
    assert!(hands.path("quarantine/stray.raw").exists());
    assert_eq!(hands.look().await.files.known().map(|files| files.len()), Some(0));
    std::fs::write(hands.path("disks/stray.raw"), "another").expect("written");
    let refusal = hands.refusal(Effect::QuarantineFile, &target).await;
    assert!(refusal.contains("is there already"), "{refusal}");
    assert!(hands.path("disks/stray.raw").exists(), "nothing is overwritten");
}

#[tokio::test]
async fn a_stray_machine_directory_is_moved_with_what_it_holds() {
    let hands = Hands::new(plain()).await;
    let directory = format!("machines/{}", samples::vm_id(5));
    std::fs::create_dir(hands.path(&directory)).expect("made");
    std::fs::write(hands.path(&format!("{directory}/console.log")), "login:").expect("written");
    hands.times(2, Effect::QuarantineFile, &Target::File(directory.clone())).await;
    assert!(!hands.path(&directory).exists());
    let kept = format!("quarantine/{}/console.log", samples::vm_id(5));
    assert!(hands.path(&kept).exists());
}
