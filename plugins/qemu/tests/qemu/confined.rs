//! Machines on real QEMU as the kernel sees them: whose they are, what they may do, which cgroup
//! they are in, and that nothing of them is left. Root can give machines users of their own; for
//! another user these tests show that it is said that he cannot.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::host::{Host, Tcg, cgroup, pid, run_state, wait_until};
use rustix::fs::{Access, access};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::json;
use uuid::Uuid;
use vman_plugin::{
    Backend, DiskAttachment, DiskRemoval, DiskSpec, ExitCause, ImageFormat, ImageGrowth, ImageSpec,
    Machine, MachineSpec, Unplug,
};
use vman_plugin_qemu::{CONSOLE_LOG, QEMU_LOG, Qemu};

/// The default of `uid_base`, and the length of the range.
const USERS: std::ops::Range<u32> = 2_100_000_000..2_101_000_000;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Fields of `/proc/PID/status`.
fn status(machine: &Machine) -> HashMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", pid(machine))).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The one user of all four kinds.
fn uid(machine: &Machine) -> u32 {
    let status = status(machine);
    let all: Vec<_> = status["Uid"].split('\t').collect();
    assert!(all.iter().all(|uid| *uid == all[0]), "{all:?}");
    assert_eq!(status["Gid"], status["Uid"]);
    all[0].parse().unwrap()
}

/// A disk with an image of its own.
async fn disk(host: &Host, backend: &Qemu<Tcg>, name: &str, format: ImageFormat) -> DiskSpec {
    let path = host.path(name);
    let image = ImageSpec { path: path.clone(), format, virtual_size: 1 << 20 };
    backend.create_image(image).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    DiskSpec {
        id: Uuid::new_v4(),
        path,
        format,
        serial: name.to_owned(),
        bus: vman_plugin::Bus::default(),
    }
}

/// What the user may, tried on a thread of that user.
fn may(uid: u32, path: &Path, how: Access) -> bool {
    let path = path.to_owned();
    let tried = std::thread::spawn(move || {
        set_thread_groups(&[]).unwrap();
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        set_thread_res_gid(group, group, group).unwrap();
        set_thread_res_uid(user, user, user).unwrap();
        access(path, how).is_ok()
    });
    tried.join().unwrap()
}

#[tokio::test]
async fn a_machine_has_a_user_of_its_own_no_capability_and_cannot_gain_any() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let spec = host.spec(Uuid::new_v4());
    let machine = host.launch(&backend, &spec).await;
    let status = status(&machine);
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Seccomp"], "2");
    let notes = backend.probe().await.unwrap().notes;
    if is_root() {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status[set], "0000000000000000", "{set}");
        }
        assert_eq!(status["Groups"].trim(), "");
        assert!(USERS.contains(&uid(&machine)), "{}", uid(&machine));
        assert!(notes[0].contains("a user of its own"), "{notes:?}");
    } else {
        assert!(notes[0].contains("only root"), "{notes:?}");
    }
}

#[tokio::test]
async fn two_machines_have_two_users_and_neither_reaches_what_is_the_others() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let mut all = Vec::new();
    for name in ["one", "two"] {
        let disks = vec![disk(&host, &backend, name, ImageFormat::Qcow2).await];
        let spec = MachineSpec { disks, ..host.spec(Uuid::new_v4()) };
        let machine = host.launch(&backend, &spec).await;
        all.push((uid(&machine), spec));
    }
    if !is_root() {
        assert_eq!(all[0].0, all[1].0);
        return;
    }
    assert_ne!(all[0].0, all[1].0);
    for (own, other) in [(0, 1), (1, 0)] {
        let (uid, spec) = (all[own].0, &all[other].1);
        let both = Access::READ_OK | Access::WRITE_OK;
        assert!(may(uid, &all[own].1.disks[0].path, both));
        assert!(!may(uid, &spec.disks[0].path, Access::READ_OK));
        assert!(!may(uid, &spec.directory.join(CONSOLE_LOG), Access::READ_OK));
        assert!(!may(uid, &spec.directory, Access::EXEC_OK));
    }
}

#[tokio::test]
async fn a_machine_keeps_its_user_when_it_is_launched_again_and_a_new_one_gets_another() {
    let host = Host::new();
    let (backend, spec) = (host.backend::<Tcg>(), host.spec(Uuid::new_v4()));
    let first = uid(&host.launch(&backend, &spec).await);
    backend.kill(spec.id).await.unwrap();
    drop(backend);
    let backend = host.backend::<Tcg>();
    let other = host.spec(Uuid::new_v4());
    let second = uid(&host.launch(&backend, &other).await);
    assert_eq!(uid(&host.launch(&backend, &spec).await), first);
    assert_eq!(is_root(), first != second);
}

#[tokio::test]
async fn a_machine_of_another_user_is_found_again_and_ended_by_a_new_instance() {
    let host = Host::new();
    let old = host.backend::<Tcg>();
    let spec = host.spec(Uuid::new_v4());
    let machine = host.launch(&old, &spec).await;
    drop(old);
    let new = host.backend::<Tcg>();
    assert!(run_state(&new, spec.id).await.is_some());
    let place = cgroup(&machine);
    new.kill(spec.id).await.unwrap();
    assert_eq!(run_state(&new, spec.id).await, None);
    let is_left = || place.as_ref().is_some_and(|place| place.exists());
    wait_until("the cgroup to be gone", || (!is_left()).then_some(())).await;
    let end = new.survey().await.unwrap().ended;
    assert_eq!((end.len(), end[0].cause), (1, ExitCause::Asked), "{end:?}");
}

#[tokio::test]
async fn where_users_of_their_own_are_not_possible_machines_run_as_the_daemon_and_it_is_said() {
    let host = Host::new();
    let own = rustix::process::geteuid().as_raw();
    for (settings, mode, words) in
        [(json!({}), 0o700, "chmod o+x"), (json!({"user": "off"}), 0o711, "`user` is \"off\"")]
    {
        fs::set_permissions(host.path(""), fs::Permissions::from_mode(mode)).unwrap();
        let backend = host.backend_with::<Tcg>(settings);
        let spec = host.spec(Uuid::new_v4());
        let machine = host.launch(&backend, &spec).await;
        assert_eq!(uid(&machine), own);
        assert_eq!(status(&machine)["NoNewPrivs"], "1");
        assert_eq!(fs::metadata(&spec.directory).unwrap().uid(), own);
        let notes = backend.probe().await.unwrap().notes;
        assert!(notes[0].starts_with("machines run as the daemon's own user: "), "{notes:?}");
        assert!(notes[0].contains(words) || !is_root(), "{notes:?}");
    }
}

/// As after the setting was changed, or the folder was closed and opened again.
#[tokio::test]
async fn a_machine_can_get_a_user_and_lose_it_again() {
    let host = Host::new();
    let spec = host.spec(Uuid::new_v4());
    for (user, own) in [("off", false), ("auto", true), ("off", false)] {
        let backend = host.backend_with::<Tcg>(json!({"user": user}));
        let machine = host.launch(&backend, &spec).await;
        assert_eq!(USERS.contains(&uid(&machine)), own && is_root(), "{user}");
        host.console_shows(&spec, "TINY-UP").await;
        backend.kill(spec.id).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_machine_planted_in_its_directory_leads_nowhere_when_it_starts_again() {
    let host = Host::new();
    let (backend, spec) = (host.backend::<Tcg>(), host.spec(Uuid::new_v4()));
    host.launch(&backend, &spec).await;
    backend.kill(spec.id).await.unwrap();
    let victim = host.path("victim");
    fs::write(&victim, "untouched").unwrap();
    let before = fs::metadata(&victim).unwrap();
    for name in [QEMU_LOG, "qemu.log.1", "console.log.1"] {
        let _ = fs::remove_file(spec.directory.join(name));
        symlink(&victim, spec.directory.join(name)).unwrap();
    }
    host.launch(&backend, &spec).await;
    let after = fs::metadata(&victim).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!((after.uid(), after.mode()), (before.uid(), before.mode()));
    assert!(fs::symlink_metadata(spec.directory.join(QEMU_LOG)).unwrap().is_file());
}

#[tokio::test]
async fn an_image_is_its_machines_users_from_the_attachment_to_the_detachment_alone() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (spec, other) = (host.spec(Uuid::new_v4()), host.spec(Uuid::new_v4()));
    let machine = host.launch(&backend, &spec).await;
    let other_machine = host.launch(&backend, &other).await;
    host.console_shows(&spec, "TINY-UP").await;
    let disk = disk(&host, &backend, "gained", ImageFormat::Raw).await;
    let (path, format) = (disk.path.clone(), disk.format);
    let owner = || fs::metadata(&path).unwrap().uid();
    let is_nobodys = || {
        let has = [uid(&machine), uid(&other_machine)];
        !is_root() || USERS.contains(&owner()) && !has.contains(&owner())
    };
    let attachment = |id| DiskAttachment { id, disk: disk.clone() };
    backend.attach_disk(attachment(spec.id)).await.unwrap();
    assert_eq!(owner(), uid(&machine));
    // The first one has it open, so the second does not get it.
    let error = backend.attach_disk(attachment(other.id)).await.unwrap_err();
    assert!(is_nobodys(), "{error}: {}", owner());
    backend.attach_disk(attachment(spec.id)).await.unwrap();
    assert_eq!(owner(), uid(&machine));
    let removal = DiskRemoval { id: spec.id, disk: disk.id, path: Some(path.clone()) };
    for _ in 0..2 {
        assert_eq!(backend.detach_disk(removal.clone()).await, Ok(Unplug::Done));
        assert!(is_nobodys(), "{}", owner());
    }
    let growth = ImageGrowth { path: path.clone(), format, virtual_size: 2 << 20 };
    backend.resize_image(growth).await.unwrap();
    backend.attach_disk(attachment(other.id)).await.unwrap();
    assert_eq!(owner(), uid(&other_machine));
}

#[tokio::test]
async fn a_machine_lives_in_a_cgroup_of_its_own_which_goes_with_it_however_it_ends() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let notes = backend.probe().await.unwrap().notes;
    println!("{notes:?}");
    let spec = host.spec(Uuid::new_v4());
    let id = spec.id;
    for way in ["quit", "kill", "killed by somebody else"] {
        let machine = host.launch(&backend, &spec).await;
        let Some(place) = cgroup(&machine) else {
            assert!(notes[1].starts_with("machines have no cgroups"), "{notes:?}");
            return;
        };
        assert!(notes[1].starts_with("each machine has a cgroup, with"), "{notes:?}");
        let inside = fs::read_to_string(place.join("cgroup.procs")).unwrap();
        assert_eq!(inside.trim(), pid(&machine).to_string());
        match way {
            "quit" => backend.quit(id).await.unwrap(),
            "kill" => backend.kill(id).await.unwrap(),
            _ => host.kill_all(),
        }
        let tree = place.parent().unwrap().to_owned();
        wait_until(way, || (!place.exists() && !tree.exists()).then_some(())).await;
        host.kill_all();
    }
}

#[tokio::test]
async fn the_cgroup_of_a_machine_that_ended_unseen_is_removed_by_the_next_instance() {
    let host = Host::new();
    let old = host.backend::<Tcg>();
    let spec = host.spec(Uuid::new_v4());
    let machine = host.launch(&old, &spec).await;
    let place = cgroup(&machine);
    drop(old);
    host.kill_all();
    let Some(place) = place else { return };
    let events = || fs::read_to_string(place.join("cgroup.events")).unwrap();
    wait_until("the end", || events().contains("populated 0").then_some(())).await;
    let new = host.backend::<Tcg>();
    let notes = new.probe().await.unwrap().notes;
    assert!(place.exists(), "who only asks changes nothing: {notes:?}");
    new.survey().await.unwrap();
    assert!(!place.exists());
}

#[tokio::test]
async fn a_machine_does_not_start_into_a_cgroup_that_its_last_run_still_fills() {
    let host = Host::new();
    let (backend, spec) = (host.backend::<Tcg>(), host.spec(Uuid::new_v4()));
    let Some(place) = cgroup(&host.launch(&backend, &spec).await) else { return };
    backend.kill(spec.id).await.unwrap();
    wait_until("the cgroup to be gone", || (!place.exists()).then_some(())).await;
    // As a process that does not end: it cannot be removed.
    let inner = place.join("inner");
    fs::create_dir_all(&inner).unwrap();
    let machine = host.launch(&backend, &spec).await;
    assert_eq!(cgroup(&machine), None);
    fs::remove_dir(inner).unwrap();
    backend.kill(spec.id).await.unwrap();
    let machine = host.launch(&backend, &spec).await;
    assert_eq!(cgroup(&machine), Some(place));
}
