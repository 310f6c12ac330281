//! Tests of `qmp` against a scripted monitor: what a real QEMU does only when it is ill or newer.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use super::*;

const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "#,
    r#""capabilities": ["oob", "of-the-future"]}}"#
);

/// What every event ends with.
pub(crate) const TIME: &str = r#""timestamp": {"seconds": 1, "microseconds": 2}}"#;

/// Greets, and answers the n-th command by the n-th script entry's lines.
pub(crate) fn monitor(
    directory: &Path,
    script: Vec<Vec<String>>,
) -> tokio::task::JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(directory.join(QMP_SOCKET)).unwrap();
    tokio::spawn(async move {
        let (read, mut write) = listener.accept().await.unwrap().0.into_split();
        let mut commands = BufReader::new(read).lines();
        write.write_all(format!("{GREETING}\r\n").as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        for answers in script {
            let Some(command) = commands.next_line().await.unwrap() else { break };
            let command: serde_json::Value = serde_json::from_str(&command).unwrap();
            seen.push(command["execute"].as_str().unwrap().to_owned());
            for answer in answers {
                write.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
        }
        seen
    })
}

pub(crate) fn opening(id: Uuid) -> Vec<Vec<String>> {
    let uuid = format!(r#"{{"return": {{"UUID": "{id}"}}}}"#);
    vec![vec![r#"{"return": {}}"#.to_owned()], vec![uuid]]
}

/// A connection to machine `id`, for whose [`opening`] this process answers.
pub(crate) async fn opened(directory: &Path, id: Uuid) -> Connection {
    let mut connection = Connection::open(directory, std::process::id()).await.unwrap();
    connection.verify(id).await.unwrap();
    connection
}

pub(crate) fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

#[tokio::test]
async fn fields_states_and_events_of_another_qemu_do_not_end_the_connection() {
    let (folder, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(1));
    let mut script = opening(id);
    script.push(vec![
        format!(r#"{{"event": "OF_THE_FUTURE", "data": {{}}, {TIME}"#),
        format!(r#"{{"event": "STOP", {TIME}"#),
        r#"{"return": {"status": "running", "singlestep": false, "running": true}}"#.to_owned(),
    ]);
    script.push(lines(&[r#"{"return": {"status": "of-the-future"}}"#]));
    script.push(lines(&[r#"{"error": {"class": "GenericError", "desc": "not now"}}"#]));
    let monitor = monitor(folder.path(), script);
    let mut connection = opened(folder.path(), id).await;
    assert_eq!(connection.run_state().await, Ok(RunState::Running));
    assert_eq!(connection.notice().await, Ok(Notice::RunState));
    assert_eq!(connection.run_state().await, Ok(RunState::Other));
    assert_eq!(connection.power_button().await, Err(QmpError::Refused("not now".to_owned())));
    assert_eq!(
        monitor.await.unwrap(),
        ["qmp_capabilities", "query-uuid", "query-status", "query-status", "system_powerdown"]
    );
    assert!(connection.notice().await.unwrap_err().contains("closed"));
}

#[tokio::test]
async fn events_that_came_with_an_answer_are_kept_in_order_each_once() {
    let (folder, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(1));
    let (one, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
    let event = |name: &str, device: &str| {
        format!(r#"{{"event": "{name}", "data": {{{device}"path": "/x"}}, {TIME}"#)
    };
    let of = |disk| format!(r#""device": "{}", "#, crate::devices::disk_name(disk));
    let off = r#""data": {"guest": true, "reason": "guest-shutdown"}"#;
    let mut script = opening(id);
    script.push(vec![
        event("DEVICE_UNPLUG_GUEST_ERROR", &of(other)),
        // What a disk's device has inside, and a device that is no disk's.
        event("DEVICE_DELETED", ""),
        event("DEVICE_DELETED", r#""device": "net0", "#),
        event("DEVICE_DELETED", &of(one)),
        event("DEVICE_DELETED", &of(one)),
        format!(r#"{{"event": "SHUTDOWN", {off}, {TIME}"#),
        r#"{"return": {"status": "running"}}"#.to_owned(),
    ]);
    let _monitor = monitor(folder.path(), script);
    let mut connection = opened(folder.path(), id).await;
    connection.run_state().await.unwrap();
    for expected in [Notice::UnplugRefused(other), Notice::Unplugged(one), Notice::GuestShutdown] {
        assert_eq!(connection.next_notice(), Some(expected));
    }
    assert_eq!(connection.next_notice(), None);
}

#[tokio::test]
async fn a_monitor_of_another_machine_or_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (id, pid) = (Uuid::from_u128(1), std::process::id());
    let _monitor = monitor(folder.path(), opening(Uuid::from_u128(2)));
    let mut connection = Connection::open(folder.path(), pid).await.unwrap();
    let error = connection.verify(id).await.unwrap_err().to_string();
    assert!(error.contains("answers for machine"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let _monitor = monitor(folder.path(), opening(id));
    let error = Connection::open(folder.path(), 1).await.err().unwrap();
    assert!(error.contains("is served by process"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_does_not_answer_is_given_up_within_the_deadline() {
    let (folder, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(1));
    let mut script = opening(id);
    script.push(Vec::new());
    script.push(Vec::new());
    let _monitor = monitor(folder.path(), script);
    let mut connection = opened(folder.path(), id).await;
    let error = connection.run_state().await.unwrap_err();
    assert!(matches!(&error, QmpError::Broken(why) if why.contains("query-status")), "{error}");
}

#[tokio::test]
async fn a_long_error_is_cut_at_a_character() {
    let (folder, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(1));
    let mut script = opening(id);
    let words = format!("x{}", "é".repeat(MAX_WORDS));
    script.push(vec![format!(r#"{{"error": {{"class": "GenericError", "desc": "{words}"}}}}"#)]);
    let _monitor = monitor(folder.path(), script);
    let mut connection = opened(folder.path(), id).await;
    let cut = words[..MAX_WORDS - 1].to_owned();
    assert_eq!(connection.power_button().await, Err(QmpError::Refused(cut)));
}

#[tokio::test]
async fn a_line_without_end_ends_the_connection() {
    let (folder, id) = (tempfile::tempdir().unwrap(), Uuid::from_u128(1));
    let mut script = opening(id);
    script.push(vec!["x".repeat(MAX_LINE + 1)]);
    let _monitor = monitor(folder.path(), script);
    let mut connection = opened(folder.path(), id).await;
    assert!(matches!(connection.run_state().await, Err(QmpError::Broken(_))));
}

#[tokio::test]
async fn a_socket_in_a_directory_deeper_than_an_address_holds_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let id = Uuid::from_u128(1);
    // A listener cannot be bound by so long a path either: it goes through a short name.
    let short = folder.path().join("short");
    std::os::unix::fs::symlink(&deep, &short).unwrap();
    let _monitor = monitor(&short, opening(id));
    opened(&deep, id).await;
}

#[test]
fn qemus_run_states_are_ours() {
    for (status, state) in [
        ("running", RunState::Running),
        ("paused", RunState::Paused),
        ("prelaunch", RunState::Paused),
        ("shutdown", RunState::GuestShutdown),
        ("guest-panicked", RunState::GuestPanicked),
        ("io-error", RunState::IoError),
        ("internal-error", RunState::InternalError),
        ("watchdog", RunState::Other),
    ] {
        assert_eq!(run_state(status), state, "{status}");
    }
}
