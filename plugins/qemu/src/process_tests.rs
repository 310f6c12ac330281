//! Tests of `process` on processes of their own that only look like machines.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

const LONG: Duration = Duration::from_secs(10);

/// A shell whose command line says that it is machine `id`; ended when dropped.
struct Decoy(Child);

impl Decoy {
    fn start(machines_dir: &Path, id: Uuid) -> Self {
        let directory = machines_dir.join(id.to_string());
        fs::create_dir_all(&directory).unwrap();
        Self::start_in(&directory, machines_dir, id)
    }

    fn start_in(directory: &Path, machines_dir: &Path, id: Uuid) -> Self {
        let child = Command::new("sh")
            .args(["-c", "echo; read line", "sh", UUID_OPTION, &id.to_string(), PID_FILE_OPTION])
            .arg(pid_file(machines_dir, id))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut decoy = Self(child.unwrap());
        // Once it has run an instruction its command line is in /proc.
        decoy.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        decoy
    }

    fn found(&self, id: Uuid) -> Found {
        Found { id, identity: identity_of_child(self.0.id()).unwrap() }
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_command_line_is_a_machine_only_with_its_id_and_the_pid_file_of_that_id() {
    let (dir, id) = (Path::new("/m"), Uuid::from_u128(5));
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let ours = format!("qemu -uuid {id} -pidfile /m/{id}/qemu.pid -append -uuid");
    assert_eq!(machine_in(&words(&ours), dir), Some(id));
    for other in [
        "qemu".to_owned(),
        format!("qemu -uuid {id}"),
        format!("qemu -pidfile /m/{id}/qemu.pid -uuid"),
        format!("qemu -uuid x -pidfile /m/{id}/qemu.pid"),
        format!("qemu -uuid {id} -pidfile /elsewhere/{id}/qemu.pid"),
        format!("qemu -uuid {} -pidfile /m/{id}/qemu.pid", Uuid::from_u128(6)),
    ] {
        assert_eq!(machine_in(&words(&other), dir), None, "{other}");
    }
}

#[test]
fn a_scan_finds_a_living_machine_with_its_identity_and_no_zombie() {
    let (folder, id) = (folder(), Uuid::from_u128(11));
    let dir = folder.path().to_owned();
    let mut decoy = Decoy::start(&dir, id);
    assert_eq!(scan(&dir).unwrap(), [decoy.found(id)]);
    assert_eq!(scan(Path::new("/elsewhere")).unwrap(), []);
    decoy.0.kill().unwrap();
    // Ended and not waited for: it stays in /proc as a zombie.
    let pid = i32::try_from(decoy.0.id()).unwrap();
    while Process::new(pid).unwrap().is_alive() {
        std::thread::yield_now();
    }
    assert_eq!(scan(&dir).unwrap(), []);
}

#[tokio::test]
async fn a_held_machine_is_killed_and_its_end_is_seen() {
    let (folder, id) = (folder(), Uuid::from_u128(12));
    let dir = folder.path().to_owned();
    let mut decoy = Decoy::start(&dir, id);
    let held = Held::machine(&decoy.found(id), &dir).unwrap().unwrap();
    assert!(!held.has_ended());
    held.kill().unwrap();
    tokio::time::timeout(LONG, held.ended()).await.unwrap().unwrap();
    assert!(held.has_ended());
    assert!(!decoy.lives());
    held.kill().unwrap();
}

#[test]
fn a_process_that_is_stopped_does_not_run_and_does_once_it_is_told_to_go_on() {
    let (folder, id) = (folder(), Uuid::from_u128(14));
    let decoy = Decoy::start(folder.path(), id);
    let identity = decoy.found(id).identity;
    let pid = Pid::from_raw(identity.pid.cast_signed()).unwrap();
    let becomes = |wanted: bool| {
        let until = std::time::Instant::now() + LONG;
        while runs(&identity) != wanted {
            assert!(std::time::Instant::now() < until, "runs: {}", !wanted);
            std::thread::yield_now();
        }
    };
    becomes(true);
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    becomes(false);
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    becomes(true);
    let another = ProcessIdentity { start_time: identity.start_time + 1, ..identity.clone() };
    assert!(!runs(&another), "another process");
}

#[tokio::test]
async fn a_process_with_another_identity_is_not_held() {
    let (folder, id) = (folder(), Uuid::from_u128(13));
    let dir = folder.path().to_owned();
    let mut decoy = Decoy::start(&dir, id);
    let found = decoy.found(id);
    let mut earlier = found.clone();
    earlier.identity.start_time -= 1;
    let mut other_boot = found.clone();
    other_boot.identity.boot_id = Uuid::from_u128(1);
    let mut other_machine = found.clone();
    other_machine.id = Uuid::from_u128(14);
    for wrong in [earlier, other_boot, other_machine] {
        assert!(Held::machine(&wrong, &dir).unwrap().is_none(), "{wrong:?}");
    }
    assert!(Held::machine(&found, Path::new("/elsewhere")).unwrap().is_none());
    assert!(decoy.lives());
}

/// As one that a local user starts through a set-uid program: the command line is right.
#[test]
fn a_process_that_does_not_work_in_the_machines_directory_is_no_machine() {
    let (folder, id) = (folder(), Uuid::from_u128(15));
    let dir = folder.path();
    let _poser = Decoy::start_in(dir, dir, id);
    assert_eq!(scan(dir).unwrap(), []);
    let decoy = Decoy::start(dir, id);
    assert_eq!(scan(dir).unwrap(), [decoy.found(id)]);
    // A machine stays one when somebody has removed its directory.
    fs::remove_dir(dir.join(id.to_string())).unwrap();
    assert_eq!(scan(dir).unwrap(), [decoy.found(id)]);
}
