//! Machines on real QEMU, from launch to end, through the contract's verbs.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::host::{Host, Kvm, LONG, Tcg, pid, run_state, wait_until};
use uuid::Uuid;
use vman_plugin::{
    Backend, Boot, Control, DiskSpec, ErrorCode, Event, ImageFormat, ImageRef, ImageSpec, Machine,
    MachineSpec, Nic, ProcessIdentity, RunState,
};
use vman_plugin_qemu::{Acceleration, CONSOLE_LOG, CONSOLE_SOCKET, PID_FILE, Qemu};

async fn lives_obeys_its_power_button_and_quits<A: Acceleration>(host: &Host, backend: Qemu<A>) {
    let id = Uuid::new_v4();
    let spec = host.spec(id);
    let before = std::time::Instant::now();
    host.launch(&backend, &spec).await;
    println!("launch took {:?} ({:?})", before.elapsed(), A::ACCELERATOR);
    host.console_shows(&spec, "TINY-UP q35 rom").await;
    assert_eq!(run_state(&backend, id).await, Some(RunState::Running));

    backend.power_button(id).await.unwrap();
    let off = Event::MachineChanged { id, run_state: RunState::GuestShutdown };
    host.event("the guest's shutdown", |event| *event == off).await;
    host.console_shows(&spec, "TINY-BUTTON").await;
    assert_eq!(run_state(&backend, id).await, Some(RunState::GuestShutdown));

    backend.quit(id).await.unwrap();
    assert_eq!(run_state(&backend, id).await, None);
    let reason = host.ended(id).await;
    assert!(reason.contains("exit status: 0"), "{reason}");
    backend.quit(id).await.unwrap();
    backend.kill(id).await.unwrap();
    let error = backend.power_button(id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_machine_under_tcg_lives_obeys_its_power_button_and_quits() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    lives_obeys_its_power_button_and_quits(&host, backend).await;
}

/// Where `/dev/kvm` cannot be opened there is nothing to run, and the backend has to say so.
#[tokio::test]
async fn a_machine_under_kvm_lives_obeys_its_power_button_and_quits_or_the_probe_says_why_not() {
    let host = Host::new();
    let backend = host.backend::<Kvm>();
    let opens = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = opens {
        let probe = backend.probe().await.unwrap();
        assert!(!probe.usable && probe.reason.contains(&error.to_string()), "{probe:?}");
        println!("no KVM here: {}", probe.reason);
    } else {
        lives_obeys_its_power_button_and_quits(&host, backend).await;
    }
}

#[tokio::test]
async fn launching_twice_gives_the_same_process() {
    let host = Host::new();
    let (backend, spec) = (host.backend::<Tcg>(), host.spec(Uuid::new_v4()));
    let first = host.launch(&backend, &spec).await;
    assert_eq!(backend.launch(spec.clone()).await.unwrap(), first);
    // A daemon that was restarted does not know that it launched it.
    drop(backend);
    assert_eq!(host.backend::<Tcg>().launch(spec).await.unwrap(), first);
}

#[tokio::test]
async fn a_machine_killed_from_outside_is_told_of_and_absent() {
    let host = Host::new();
    let (backend, id) = (host.backend::<Tcg>(), Uuid::new_v4());
    let spec = host.spec(id);
    let first = host.launch(&backend, &spec).await;
    host.kill_all();
    let reason = host.ended(id).await;
    assert!(reason.contains("SIGKILL"), "{reason}");
    assert_eq!(run_state(&backend, id).await, None);
    let gone = backend.reattach(first.clone()).await.unwrap_err();
    assert_eq!(gone.code, ErrorCode::NotFound);
    // Stale sockets, pid file and logs are no hindrance.
    let second = host.launch(&backend, &spec).await;
    assert_ne!(second.process, first.process);
}

#[tokio::test]
async fn a_new_instance_finds_machines_by_survey_and_by_reattaching() {
    let host = Host::new();
    let (old, id) = (host.backend::<Tcg>(), Uuid::new_v4());
    let spec = host.spec(id);
    let machine = host.launch(&old, &spec).await;
    drop(old);

    let new = host.backend::<Tcg>();
    let sighting = new.reattach(machine.clone()).await.unwrap();
    assert_eq!(sighting.machine, machine);
    assert_eq!(sighting.control, Control::Connected { run_state: RunState::Running });
    drop(new);

    let other = host.backend::<Tcg>();
    let first_look = other.survey().await.unwrap();
    assert_eq!(first_look.machines.len(), 1);
    assert_eq!(first_look.machines[0].machine, machine);
    assert!(matches!(first_look.machines[0].control, Control::Unreachable { .. }));
    assert_eq!(run_state(&other, id).await, Some(RunState::Running));
    host.console_shows(&spec, "TINY-UP").await;
    other.power_button(id).await.unwrap();
    let off = Event::MachineChanged { id, run_state: RunState::GuestShutdown };
    host.event("the guest's shutdown", |event| *event == off).await;

    // The guest's end stays readable for an instance that was not there to hear of it.
    drop(other);
    let late = host.backend::<Tcg>();
    assert_eq!(run_state(&late, id).await, Some(RunState::GuestShutdown));
    late.kill(id).await.unwrap();
    assert_eq!(run_state(&late, id).await, None);
}

#[tokio::test]
async fn a_process_that_is_not_the_machine_is_neither_taken_for_it_nor_killed() {
    let host = Host::new();
    let (backend, id) = (host.backend::<Tcg>(), Uuid::new_v4());
    let spec = host.spec(id);
    let machine = host.launch(&backend, &spec).await;
    let mut stranger = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let real = machine.process.clone().unwrap();
    for wrong in [
        ProcessIdentity { pid: stranger.id(), ..real.clone() },
        ProcessIdentity { start_time: real.start_time - 1, ..real.clone() },
        ProcessIdentity { boot_id: Uuid::nil(), ..real.clone() },
    ] {
        let fresh = host.backend::<Tcg>();
        let error = fresh.reattach(Machine { id, process: Some(wrong) }).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
    }
    // A pid file that lies is not what a machine is found by.
    std::fs::write(spec.directory.join(PID_FILE), stranger.id().to_string()).unwrap();
    host.backend::<Tcg>().kill(id).await.unwrap();
    host.ended(id).await;
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test]
async fn a_machine_that_cannot_start_says_why_and_leaves_nothing_running() {
    let host = Host::new();
    let (backend, id) = (host.backend::<Tcg>(), Uuid::new_v4());
    let boot = Boot::Firmware { firmware: host.path("no-such.rom") };
    let error = backend.launch(MachineSpec { boot, ..host.spec(id) }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("no-such.rom"), "{error}");
    assert_eq!(run_state(&backend, id).await, None);

    let settings = serde_json::json!({"binary": "/no/such/qemu"});
    let broken = host.backend_with::<Tcg>(settings);
    let error = broken.launch(host.spec(Uuid::new_v4())).await.unwrap_err();
    assert!(error.message.contains("/no/such/qemu"), "{error}");
    let probe = broken.probe().await.unwrap();
    assert!(!probe.usable && probe.reason.contains("/no/such/qemu"), "{probe:?}");
}

#[tokio::test]
async fn a_machine_has_its_disks_and_its_card_and_a_disk_in_use_is_a_conflict() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    // The tiny disk counts its boots in its last read sector.
    let path = host.path("root,disk.img");
    std::fs::copy(host.path("tiny/tiny.img"), &path).unwrap();
    let data = host.path("data.qcow2");
    let format = ImageFormat::Qcow2;
    let image = ImageSpec { path: data.clone(), format, virtual_size: 1 << 20 };
    backend.create_image(image).await.unwrap();
    let disk = |path, format| DiskSpec {
        id: Uuid::new_v4(),
        path,
        format,
        serial: "01234567890123456789".to_owned(),
        bus: vman_plugin::Bus::VirtioBlk,
    };
    let disks = vec![disk(path, ImageFormat::Raw), disk(data.clone(), format)];
    let nic = Nic::User {
        mac: "52:54:00:12:34:56".to_owned(),
        network: "10.7.0.0/24".to_owned(),
        gateway: [10, 7, 0, 1].into(),
        address: [10, 7, 0, 9].into(),
        dns: Some([10, 7, 0, 3].into()),
    };
    let spec = host.spec(Uuid::new_v4());
    let spec = MachineSpec { boot: Boot::RootDisk, disks, nic, ..spec };
    host.launch(&backend, &spec).await;
    host.console_shows(&spec, "TINY-UP q35 disk boots=1").await;

    let other = host.spec(Uuid::new_v4());
    let other = MachineSpec { disks: vec![disk(data.clone(), format)], ..other };
    let error = backend.launch(other).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict, "{error}");
    // Readable while the machine has it open.
    let info = backend.inspect_image(ImageRef { path: data, format }).await.unwrap();
    assert_eq!(info.virtual_size, 1 << 20);

    backend.kill(spec.id).await.unwrap();
    host.launch(&backend, &spec).await;
    host.console_shows(&spec, "TINY-UP q35 disk boots=2").await;
}

#[tokio::test]
async fn a_machine_boots_its_kernel_also_beside_a_disk() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (path, format) = (host.path("data.raw"), ImageFormat::Raw);
    let image = ImageSpec { path: path.clone(), format, virtual_size: 1 << 20 };
    backend.create_image(image).await.unwrap();
    let (serial, bus) = ("data".to_owned(), vman_plugin::Bus::VirtioBlk);
    let disk = DiskSpec { id: Uuid::new_v4(), path, format, serial, bus };
    let kernel = host.path("tiny/tiny.elf");
    let boot = Boot::Kernel { kernel, initrd: None, cmdline: String::new() };
    let spec = host.spec(Uuid::new_v4());
    let spec = MachineSpec { boot, disks: vec![disk], ..spec };
    host.launch(&backend, &spec).await;
    host.console_shows(&spec, "TINY-UP q35 kernel").await;
}

#[tokio::test]
async fn what_the_guest_does_by_itself_is_told() {
    let host = Host::new();
    let (backend, id) = (host.backend::<Tcg>(), Uuid::new_v4());
    let spec = host.spec(id);
    host.launch(&backend, &spec).await;
    host.console_shows(&spec, "TINY-UP").await;
    let mut console = UnixStream::connect(spec.directory.join(CONSOLE_SOCKET)).unwrap();
    console.write_all(b"p").unwrap();
    host.console_shows(&spec, "TINY-PONG").await;
    console.write_all(b"k").unwrap();
    let panicked = Event::MachineChanged { id, run_state: RunState::GuestPanicked };
    host.event("the guest's panic", |event| *event == panicked).await;
    assert_eq!(run_state(&backend, id).await, Some(RunState::GuestPanicked));
}

/// Else a log that is cut would grow again to its old length, with a hole in it.
#[tokio::test]
async fn qemu_appends_to_its_console_log_and_inherits_no_descriptor_of_ours() {
    let host = Host::new();
    let (backend, spec) = (host.backend::<Tcg>(), host.spec(Uuid::new_v4()));
    // A descriptor that a careless library has left open for children.
    let careless = std::fs::File::open("/dev/zero").unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    let machine = host.launch(&backend, &spec).await;
    let proc = std::path::PathBuf::from(format!("/proc/{}", pid(&machine)));
    let mut appends = None;
    for entry in std::fs::read_dir(proc.join("fd")).unwrap().map(Result::unwrap) {
        let target = std::fs::read_link(entry.path()).unwrap();
        assert_ne!(target, std::path::Path::new("/dev/zero"));
        if target == spec.directory.join(CONSOLE_LOG) {
            let info = std::fs::read_to_string(proc.join("fdinfo").join(entry.file_name()));
            let info = info.unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            appends = Some(flags & rustix::fs::OFlags::APPEND.bits() != 0);
        }
    }
    assert_eq!(appends, Some(true));
    let session = std::fs::read_to_string(proc.join("stat")).unwrap();
    let session = session.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, pid(&machine).to_string(), "QEMU leads a session of its own");
}

#[tokio::test]
async fn a_machine_whose_control_socket_hangs_is_unreachable_and_can_still_be_killed() {
    let host = Host::new();
    let (backend, id) = (host.backend::<Tcg>(), Uuid::new_v4());
    let spec = host.spec(id);
    let machine = host.launch(&backend, &spec).await;
    let process = rustix::process::Pid::from_raw(pid(&machine).cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
    let start = std::time::Instant::now();
    loop {
        let survey = backend.survey().await.unwrap();
        if matches!(survey.machines[0].control, Control::Unreachable { .. }) {
            break;
        }
        assert!(start.elapsed() < LONG, "a hanging machine is still called connected");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let fresh = host.backend::<Tcg>();
    let sighting = fresh.reattach(machine).await.unwrap();
    assert!(matches!(sighting.control, Control::Unreachable { .. }), "{sighting:?}");
    backend.kill(id).await.unwrap();
    wait_until("the end", || backend_is_empty(&host)).await;
}

fn backend_is_empty(host: &Host) -> Option<()> {
    let text = host.machines_dir();
    let ours = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text.to_str().unwrap())
    };
    let mut all = std::fs::read_dir("/proc").unwrap().map(Result::unwrap);
    (!all.any(ours)).then_some(())
}
