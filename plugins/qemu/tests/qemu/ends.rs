//! Why machines ended, on real QEMU: each cause told apart, in the event and in the survey.

use std::io::Write;
use std::os::unix::net::UnixStream;

use crate::host::{Host, Tcg, pid, run_state, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;
use vman_plugin::{Backend, Event, ExitCause, Machine, MachineEnd, MachineSpec, RunState};
use vman_plugin_qemu::{CONSOLE_SOCKET, Qemu};

async fn end(host: &Host, backend: &Qemu<Tcg>, id: Uuid) -> MachineEnd {
    let reason = host.ended(id).await;
    let ended = backend.survey().await.unwrap().ended;
    let end = ended.into_iter().find(|end| end.machine.id == id).unwrap();
    assert_eq!(end.detail, reason);
    end
}

fn signal(machine: &Machine, signal: Signal) {
    let pid = Pid::from_raw(pid(machine).cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

async fn say(host: &Host, spec: &MachineSpec, word: &[u8]) {
    host.console_shows(spec, "TINY-UP").await;
    let mut console = UnixStream::connect(spec.directory.join(CONSOLE_SOCKET)).unwrap();
    console.write_all(word).unwrap();
}

#[tokio::test]
async fn a_guest_that_powered_off_and_one_that_panicked_are_told_from_one_that_was_asked() {
    let host = Host::new();
    let backend = host.backend::<Tcg>();
    for (word, run_state, cause) in [
        (b"q", Some(RunState::GuestShutdown), ExitCause::GuestShutdown),
        (b"k", Some(RunState::GuestPanicked), ExitCause::GuestPanic),
        (b"p", None, ExitCause::Asked),
    ] {
        let spec = host.spec(Uuid::new_v4());
        let id = spec.id;
        let machine = host.launch(&backend, &spec).await;
        say(&host, &spec, word).await;
        if let Some(run_state) = run_state {
            let changed = Event::MachineChanged { id, run_state };
            host.event("the guest's end", |event| *event == changed).await;
        }
        backend.quit(id).await.unwrap();
        let end = end(&host, &backend, id).await;
        assert_eq!((end.cause, end.machine), (cause, machine), "{}", end.detail);
    }
}

#[tokio::test]
async fn signals_and_crashes_are_told_apart_also_of_a_machine_of_an_earlier_instance() {
    let host = Host::new();
    for (sent, cause, words) in [
        (Signal::KILL, ExitCause::Killed, "SIGKILL"),
        (Signal::TERM, ExitCause::Killed, "terminating on signal 15"),
        (Signal::SEGV, ExitCause::Failed, "SIGSEGV"),
    ] {
        for restart in [false, true] {
            let mut backend = host.backend::<Tcg>();
            let spec = host.spec(Uuid::new_v4());
            let machine = host.launch(&backend, &spec).await;
            if restart {
                drop(backend);
                backend = host.backend::<Tcg>();
                assert!(run_state(&backend, spec.id).await.is_some());
            }
            signal(&machine, sent);
            let end = end(&host, &backend, spec.id).await;
            assert_eq!(end.cause, cause, "{}", end.detail);
            assert!(end.detail.contains(words), "{}", end.detail);
        }
    }
}

#[tokio::test]
async fn a_machine_that_was_waited_for_leaves_no_zombie() {
    let host = Host::new();
    let (old, spec) = (host.backend::<Tcg>(), host.spec(Uuid::new_v4()));
    let machine = host.launch(&old, &spec).await;
    // The one that started it is gone; the process is still its parent.
    drop(old);
    let new = host.backend::<Tcg>();
    assert!(run_state(&new, spec.id).await.is_some());
    signal(&machine, Signal::KILL);
    let proc = std::path::PathBuf::from(format!("/proc/{}", pid(&machine)));
    wait_until("the zombie to be gone", || (!proc.exists()).then_some(())).await;
}

#[tokio::test]
async fn only_the_newest_end_of_a_machine_is_told() {
    let host = Host::new();
    let (backend, spec) = (host.backend::<Tcg>(), host.spec(Uuid::new_v4()));
    host.launch(&backend, &spec).await;
    backend.quit(spec.id).await.unwrap();
    let machine = host.launch(&backend, &spec).await;
    backend.kill(spec.id).await.unwrap();
    let ended = backend.survey().await.unwrap().ended;
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0].machine, machine);
}
