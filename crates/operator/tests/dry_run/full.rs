//! A file system without room: what fails says so and leaves nothing. It is a small tmpfs, in a
//! mount namespace of the test's own.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs `body` with a folder that is a file system of 256 KiB and 64 inodes. Needs root.
fn in_a_small_file_system(body: impl AsyncFnOnce(TempDir) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace; run as root");
        let nothing = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(nothing, "/", nothing, private, nothing).expect("what is mounted here stays here");
        let folder = tempfile::tempdir().expect("a folder");
        let small = Some("size=256k,nr_inodes=64,mode=0700");
        let flags = MsFlags::empty();
        mount(Some("small"), folder.path(), Some("tmpfs"), flags, small).expect("mounted");
        let mounted = Mounted(folder.path().to_owned());
        // Threads made from here on are in the namespace, too.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(body(folder));
        drop(mounted);
    });
    thread.join().expect("the test passes in its namespace");
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // The namespace would take it along in any case.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn fill(folder: &Path) {
    let zeros = vec![0; 4 << 20];
    std::fs::write(folder.join("boot/filler"), zeros).expect_err("there is no room for it");
}

fn entries(folder: PathBuf) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("readable");
    entries.map(|entry| entry.expect("readable").path()).collect()
}

#[test]
fn an_image_for_which_there_is_no_room_is_told_and_leaves_nothing() {
    in_a_small_file_system(async |folder| {
        let hands = Hands::over(folder, plain(), GRACE).await;
        fill(hands.folder.path());
        let disk = samples::disk(1, DiskState::Creating);
        let new = held(2, DiskState::Creating);
        for (effect, target, file) in [
            (Effect::CreateImage, disk_target(&disk), disk.file_name()),
            (Effect::PrepareDisks, with_disks(&[&new]), new.file_name()),
        ] {
            let refusal = hands.refusal(effect, &target).await;
            for part in [file.as_str(), "No space left on device", "/disks is full", "free some"] {
                assert!(refusal.contains(part), "{part} in {refusal}");
            }
        }
        assert_eq!(entries(hands.path("disks")), <[PathBuf; 0]>::default());
        std::fs::remove_file(hands.path("boot/filler")).expect("removed");
        hands.times(2, Effect::CreateImage, &disk_target(&disk)).await;
    });
}

#[test]
fn a_machine_directory_for_which_there_is_no_room_is_told_and_leaves_nothing() {
    in_a_small_file_system(async |folder| {
        let hands = Hands::over(folder, plain(), GRACE).await;
        let filler = (0..100).map(|number| hands.path(&format!("boot/{number}")));
        let made = filler.take_while(|path| std::fs::write(path, "").is_ok()).count();
        assert!(made < 100, "the inodes are used up");
        let target = samples::target(samples::vm(1, VmState::Starting));
        let refusal = hands.refusal(Effect::PrepareDirectory, &target).await;
        for part in ["cannot make the directory", "No space left", "/machines is full"] {
            assert!(refusal.contains(part), "{part} in {refusal}");
        }
        assert_eq!(entries(hands.path("machines")), <[PathBuf; 0]>::default());
        std::fs::remove_file(hands.path("boot/0")).expect("removed");
        hands.times(2, Effect::PrepareDirectory, &target).await;
    });
}
