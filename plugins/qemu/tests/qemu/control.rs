//! Halting, going on and resetting on real QEMU, and what becomes of verbs while a machine's
//! process itself is stopped.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::host::{Host, Kvm, LONG, Tcg, pid, run_state, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;
use vman_plugin::{
    Backend, BackendError, Boot, Bus, Control, DiskAttachment, DiskRemoval, DiskSpec, ErrorCode,
    ImageFormat, Machine, MachineSpec, RunState,
};
use vman_plugin_qemu::{Acceleration, CONSOLE_LOG, CONSOLE_SOCKET, PID_FILE, Qemu};

/// What nobody has to wait for.
const AT_ONCE: Duration = Duration::from_secs(1);
/// More than any verb waits for a machine that does not answer.
const BOUND: Duration = Duration::from_secs(10);

fn type_in(spec: &MachineSpec, keys: &[u8]) {
    let mut console = UnixStream::connect(spec.directory.join(CONSOLE_SOCKET)).unwrap();
    console.write_all(keys).unwrap();
}

/// How often the guest has started.
fn starts(spec: &MachineSpec) -> usize {
    let text = std::fs::read_to_string(spec.directory.join(CONSOLE_LOG)).unwrap();
    text.matches("TINY-UP").count()
}

async fn started<A: Acceleration>(host: &Host, backend: &Qemu<A>) -> (MachineSpec, Machine) {
    let spec = host.spec(Uuid::new_v4());
    let machine = host.launch(backend, &spec).await;
    host.console_shows(&spec, "TINY-UP").await;
    (spec, machine)
}

fn signal(machine: &Machine, signal: Signal) {
    kill_process(Pid::from_raw(pid(machine).cast_signed()).unwrap(), signal).unwrap();
}

/// The state as it is known when a verb has returned, without waiting for it.
async fn known<A: Acceleration>(backend: &Qemu<A>, id: Uuid) -> Option<RunState> {
    match backend.sight(id).await.unwrap()?.control {
        Control::Connected { run_state } => Some(run_state),
        Control::Unreachable { reason } => panic!("{reason}"),
    }
}

async fn pauses_goes_on_and_resets<A: Acceleration>(host: &Host, backend: Qemu<A>) {
    let (spec, _) = started(host, &backend).await;
    let id = spec.id;
    for _ in 0..2 {
        backend.pause(id).await.unwrap();
        assert_eq!(known(&backend, id).await, Some(RunState::Paused));
    }
    type_in(&spec, b"p");
    for _ in 0..2 {
        backend.resume(id).await.unwrap();
        assert_eq!(known(&backend, id).await, Some(RunState::Running));
    }
    host.console_shows(&spec, "TINY-PONG").await;

    backend.reset(id).await.unwrap();
    assert_eq!(known(&backend, id).await, Some(RunState::Running));
    wait_until("the second start", || (starts(&spec) == 2).then_some(())).await;

    backend.pause(id).await.unwrap();
    backend.reset(id).await.unwrap();
    assert_eq!(known(&backend, id).await, Some(RunState::Paused));
    assert_eq!(starts(&spec), 2);
    backend.resume(id).await.unwrap();
    wait_until("the third start", || (starts(&spec) == 3).then_some(())).await;

    backend.kill(id).await.unwrap();
    for gone in [backend.pause(id).await, backend.resume(id).await, backend.reset(id).await] {
        assert_eq!(gone.unwrap_err().code, ErrorCode::NotFound);
    }
    assert_eq!(backend.sight(id).await.unwrap(), None);
}

#[tokio::test]
async fn a_guest_under_tcg_pauses_goes_on_and_resets() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    pauses_goes_on_and_resets(&host, backend).await;
}

/// `None` where `/dev/kvm` cannot be opened; the backend has to say so then.
async fn kvm(host: &Host) -> Option<Qemu<Kvm>> {
    let backend = host.backend::<Kvm>();
    let opens = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    let Err(error) = opens else { return Some(backend) };
    let probe = backend.probe().await.unwrap();
    assert!(!probe.usable && probe.reason.contains(&error.to_string()), "{probe:?}");
    println!("no KVM here: {}", probe.reason);
    None
}

#[tokio::test]
async fn a_guest_under_kvm_pauses_goes_on_and_resets_or_the_probe_says_why_not() {
    let host = Host::new();
    if let Some(backend) = kvm(&host).await {
        pauses_goes_on_and_resets(&host, backend).await;
    }
}

#[tokio::test]
async fn a_guest_that_is_off_neither_pauses_nor_goes_on_and_is_named() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (spec, _) = started(&host, &backend).await;
    type_in(&spec, b"q");
    wait_for(&backend, spec.id, RunState::GuestShutdown).await;
    for answer in
        [backend.pause(spec.id).await, backend.resume(spec.id).await, backend.reset(spec.id).await]
    {
        let error = answer.unwrap_err();
        assert_eq!(error.code, ErrorCode::Conflict);
        assert!(error.message.contains("powered itself off"), "{error}");
    }
}

#[tokio::test]
async fn a_guest_that_has_panicked_goes_on_only_by_a_reset() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (spec, _) = started(&host, &backend).await;
    type_in(&spec, b"k");
    wait_for(&backend, spec.id, RunState::GuestPanicked).await;
    let error = backend.resume(spec.id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("panicked") && error.message.contains("reset"), "{error}");
    backend.reset(spec.id).await.unwrap();
    assert_eq!(known(&backend, spec.id).await, Some(RunState::Running));
    wait_until("the second start", || (starts(&spec) == 2).then_some(())).await;
}

/// A KVM that emulates lacks RDRAND, where hardware goes on to the HLT behind it.
#[tokio::test]
async fn a_guest_that_its_hypervisor_cannot_carry_on_is_named() {
    let host = Host::new();
    let Some(backend) = kvm(&host).await else { return };
    let mut rom = vec![0xf4; 65536];
    rom[0xfff0..0xfff4].copy_from_slice(&[0x0f, 0xc7, 0xf0, 0xf4]);
    std::fs::write(host.path("odd.rom"), rom).unwrap();
    let boot = Boot::Firmware { firmware: host.path("odd.rom") };
    let spec = MachineSpec { boot, ..host.spec(Uuid::new_v4()) };
    host.launch(&backend, &spec).await;
    if !std::path::Path::new("/sys/module/kvm_pvm").exists() {
        return assert_eq!(run_state(&backend, spec.id).await, Some(RunState::Running));
    }
    wait_for(&backend, spec.id, RunState::InternalError).await;
    let error = backend.resume(spec.id).await.unwrap_err();
    assert!(error.message.contains("internal-error"), "{error}");
    // It goes on, and comes to the same end.
    backend.reset(spec.id).await.unwrap();
    wait_for(&backend, spec.id, RunState::InternalError).await;
}

async fn wait_for<A: Acceleration>(backend: &Qemu<A>, id: Uuid, state: RunState) {
    let start = Instant::now();
    while run_state(backend, id).await != Some(state) {
        assert!(start.elapsed() < LONG, "not {state:?} in {LONG:?}");
    }
}

/// Within the bound, an error that says so and what to do.
async fn fails_in_time(what: &str, verb: impl Future<Output = Result<(), BackendError>>) {
    let before = Instant::now();
    let error = verb.await.unwrap_err();
    let took = before.elapsed();
    println!("{what}: {took:?}: {error}");
    assert_eq!(error.code, ErrorCode::Timeout, "{what}: {error}");
    assert!(error.message.contains("kill"), "{what}: {error}");
    assert!(took < BOUND, "{what} took {took:?}");
}

/// Surveys and sights the stopped machine, and works on another, for a while.
async fn nobody_else_waits(backend: &Qemu<Tcg>, id: Uuid, other: Uuid) {
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while start.elapsed() < BOUND {
        let before = Instant::now();
        assert_eq!(backend.survey().await.unwrap().machines.len(), 2);
        let sighting = backend.sight(id).await.unwrap().unwrap();
        backend.pause(other).await.unwrap();
        backend.resume(other).await.unwrap();
        slowest = slowest.max(before.elapsed());
        let silent = u64::try_from(start.elapsed().as_millis()).unwrap();
        assert!(sighting.age_ms.abs_diff(silent) < 2500, "{sighting:?} after {silent} ms");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("slowest round: {slowest:?}");
    assert!(slowest < AT_ONCE, "{slowest:?}");
}

#[tokio::test]
async fn a_stopped_process_costs_nobody_else_and_fails_its_verbs_in_time_and_heals() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (spec, machine) = started(&host, &backend).await;
    let (_, other) = started(&host, &backend).await;
    let id = spec.id;
    // So that it has not spoken for a moment.
    tokio::time::sleep(Duration::from_millis(200)).await;
    signal(&machine, Signal::STOP);
    tokio::join!(
        async {
            fails_in_time("power button", backend.power_button(id)).await;
            let sighting = backend.sight(id).await.unwrap().unwrap();
            assert!(matches!(sighting.control, Control::Unreachable { .. }), "{sighting:?}");
            assert_eq!(sighting.disks, None);
        },
        fails_in_time("quit", backend.quit(id)),
        fails_in_time("pause", backend.pause(id)),
        nobody_else_waits(&backend, id, other.id),
    );
    let path = host.path("tiny/tiny.img");
    let (serial, format, bus) = ("s".to_owned(), ImageFormat::Raw, Bus::VirtioScsi);
    let disk = DiskSpec { id: Uuid::new_v4(), path, format, serial, bus };
    let removal = DiskRemoval { id, disk: disk.id, path: None };
    tokio::join!(
        fails_in_time("reset", backend.reset(id)),
        fails_in_time("attach", backend.attach_disk(DiskAttachment { id, disk })),
        fails_in_time("detach", async { backend.detach_disk(removal).await.map(drop) }),
    );

    signal(&machine, Signal::CONT);
    assert_eq!(run_state(&backend, id).await, Some(RunState::Running));
    // Nothing of what was asked for meanwhile is carried out now.
    type_in(&spec, b"p");
    host.console_shows(&spec, "TINY-PONG").await;
    assert_eq!(starts(&spec), 1);
    assert!(!std::fs::read_to_string(spec.directory.join(CONSOLE_LOG)).unwrap().contains("BUTTON"));
    assert_eq!(known(&backend, id).await, Some(RunState::Running));
    assert_eq!(backend.sight(id).await.unwrap().unwrap().disks, Some(vec![]));
    backend.pause(id).await.unwrap();
    backend.quit(id).await.unwrap();
}

/// Freeing a block at its end costs QEMU more than all the rest of ending.
#[tokio::test]
async fn the_pid_file_of_a_machine_holds_nothing_but_its_lock_and_goes_with_it() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    let (spec, _) = started(&host, &backend).await;
    let path = spec.directory.join(PID_FILE);
    let size = || std::fs::metadata(&path).unwrap().len();
    wait_until("an empty pid file", || (size() == 0).then_some(())).await;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    assert!(rustix::fs::fcntl_lock(&file, lock).is_err(), "a second QEMU could start");
    backend.quit(spec.id).await.unwrap();
    assert!(!path.exists());
}
