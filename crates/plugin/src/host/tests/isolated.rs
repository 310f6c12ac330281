//! Plugins in a process of their own: what is asked reaches them, and what becomes of them when
//! they crash, hang, or are needed no longer. The helper is this very test program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{SOON, build_c, config};
use crate::host::{
    Client, Fault, Helper, LoadError, Mode, Offer, Terms, open, open_isolated, serve_plugin,
};
use crate::{ErrorCode, Event};

/// Tells this program that it is a helper.
const IS_HELPER: &str = "VMAN_TEST_IS_PLUGIN_HELPER";

#[test]
fn this_program_is_the_helper_where_it_is_told_so() {
    if std::env::var_os(IS_HELPER).is_none() {
        return;
    }
    let arguments: Vec<_> = std::env::args().collect();
    let place = arguments.iter().position(|argument| argument == "--").unwrap();
    let (file, pin) = (&arguments[place + 1], arguments.get(place + 3));
    let pin = pin.map(|pin| pin.parse().unwrap());
    serve_plugin(Path::new(file), pin.as_ref()).unwrap();
}

fn helper() -> Helper {
    let program = std::env::current_exe().unwrap();
    let test = concat!(module_path!(), "::this_program_is_the_helper_where_it_is_told_so");
    let test = test.strip_prefix("vman_plugin::").unwrap();
    let is_helper = format!("{IS_HELPER}=1");
    let arguments = [&is_helper, program.to_str().unwrap(), "--exact", test, "--nocapture", "--"];
    Helper { program: "env".into(), arguments: arguments.map(Into::into).into() }
}

/// A plugin in C whose instance does what is said here when it is made, asked and ended.
struct Made {
    folder: TempDir,
    file: PathBuf,
}

impl Made {
    fn new(create: &str, submit: &str, destroy: &str, elsewhere: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = format!(
            r#"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "vman_backend.h"
static const struct vman_host *host;
static uint64_t number;
static void answer(uint64_t op, const char *json) {{
    struct vman_buf answer = {{(const uint8_t *)json, strlen(json)}};
    host->complete(number, op, VMAN_STATUS_OK, answer);
}}
{elsewhere}
static void *create(const struct vman_host *table, uint64_t instance, struct vman_buf config,
                    struct vman_buf *error) {{
    (void)config; (void)error;
    host = table; number = instance;
    {create}
    return &host;
}}
static int32_t submit(void *instance, uint64_t op, struct vman_buf request) {{
    (void)instance; (void)op; (void)request; (void)answer;
    {submit}
    return 0;
}}
static void cancel(void *instance, uint64_t op) {{ (void)instance; (void)op; }}
static void destroy(void *instance) {{ (void)instance; {destroy} }}
#define MANIFEST "{{\"name\": \"made\", \"version\": \"1.0.0\", \"description\": \"\"," \
    " \"capabilities\": {{}}}}"
static const struct vman_plugin table = {{
    .magic = VMAN_MAGIC, .size = sizeof(struct vman_plugin), .abi_major = VMAN_ABI_MAJOR,
    .manifest = {{(const uint8_t *)MANIFEST, sizeof(MANIFEST) - 1}},
    .create = create, .submit = submit, .cancel = cancel, .destroy = destroy,
}};
const struct vman_plugin *vman_plugin_entry(void) {{ return &table; }}
"#
        );
        let file = build_c(folder.path(), &source, "../../plugins");
        Self { folder, file }
    }

    fn offer(&self) -> Offer {
        open_isolated(&self.file, &helper()).unwrap()
    }

    fn start(&self) -> (Client, mpsc::Receiver<Event>) {
        self.offer().start(config(json!({}))).unwrap()
    }
}

fn pid(client: &Client) -> Pid {
    Pid::from_raw(client.pid().unwrap().cast_signed()).unwrap()
}

/// Waits until no process has this pid: whoever started it has heard of its end.
fn gone(pid: Pid) {
    let begun = Instant::now();
    while test_kill_process(pid).is_ok() {
        assert!(begun.elapsed() < SOON, "process {pid:?} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn closed(events: &mut mpsc::Receiver<Event>) {
    let end = tokio::time::timeout(SOON, async { while events.recv().await.is_some() {} });
    end.await.unwrap();
}

const ANSWERS: &str = "answer(op, \"null\");";

#[tokio::test]
async fn what_is_asked_and_told_goes_through_the_helper() {
    let event = r#"static void tell(void) {
        const char *json = "{\"event\": \"machine-ended\", \"reason\": \"so\","
            " \"id\": \"00000000-0000-0000-0000-000000000007\"}";
        struct vman_buf event = {(const uint8_t *)json, strlen(json)};
        host->emit_event(number, event);
    }"#;
    let made = Made::new("tell();", &format!("tell(); {ANSWERS}"), "", event);
    let offer = made.offer();
    assert_eq!((offer.mode(), offer.manifest().name.as_str()), (Mode::Isolated, "made"));
    assert_eq!(offer.abi(), (1, 0));
    let (client, mut events) = offer.start(config(json!({}))).unwrap();
    assert_ne!(client.pid(), Some(std::process::id()));
    for _ in 0..10 {
        client.kill(Uuid::nil()).await.unwrap();
    }
    let told = Event::MachineEnded { id: Uuid::from_u128(7), reason: "so".to_owned() };
    for _ in 0..11 {
        assert_eq!(tokio::time::timeout(SOON, events.recv()).await.unwrap(), Some(told.clone()));
    }
}

#[tokio::test]
async fn a_helper_that_is_killed_fails_what_is_under_way_and_closes_its_events() {
    let made = Made::new("", "", "", "");
    let (client, mut events) = made.start();
    let (asked, pid) = (client.clone(), pid(&client));
    let call = tokio::spawn(async move { asked.kill(Uuid::nil()).await });
    tokio::task::yield_now().await;
    kill_process(pid, Signal::KILL).unwrap();
    let error = tokio::time::timeout(SOON, call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::Crashed);
    for part in ["made", &format!("pid {}", pid.as_raw_nonzero()), "signal 9"] {
        assert!(error.message.contains(part), "{part} in {error}");
    }
    closed(&mut events).await;
    assert!(matches!(client.fault(), Some(Fault::Crashed(_))));
    assert_eq!(client.survey().await.unwrap_err().code, ErrorCode::Crashed);
    gone(pid);
}

#[tokio::test]
async fn a_verb_that_ends_its_process_fails_alone_and_the_next_instance_is_sound() {
    for end in ["abort();", "*(volatile int *)0 = 0;", "_exit(3);"] {
        let submit = format!("if (getenv(\"VMAN_TEST_IS_PLUGIN_HELPER\")) {{ {end} }}");
        let made = Made::new("", &submit, "", "");
        let (client, _events) = made.start();
        let error = client.kill(Uuid::nil()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Crashed, "{end}");
        let (next, _events) = made.start();
        assert!(next.fault().is_none());
    }
}

#[tokio::test]
async fn a_submit_that_does_not_return_is_told_and_its_process_is_ended() {
    let made = Made::new("", "for (;;) pause();", "", "");
    let (client, mut events) = made.start();
    let pid = pid(&client);
    let patient = client.with_deadline(Duration::from_secs(60));
    let error = patient.kill(Uuid::nil()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Broken);
    assert!(error.message.contains("its `submit` has not returned for 5s"), "{error}");
    assert!(matches!(client.fault(), Some(Fault::Hung(_))));
    closed(&mut events).await;
    gone(pid);
}

#[tokio::test]
async fn an_operation_that_does_not_end_when_it_is_cancelled_costs_the_process() {
    let made = Made::new("", "", "", "");
    let (client, mut events) = made.start();
    let pid = pid(&client);
    let hurried = client.with_deadline(Duration::from_millis(20));
    let error = hurried.kill(Uuid::nil()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    let fault = client.fault().unwrap().to_string();
    assert!(fault.contains("`kill` did not end"), "{fault}");
    closed(&mut events).await;
    gone(pid);
}

#[tokio::test]
async fn the_process_ends_when_the_instance_is_needed_no_longer() {
    for destroy in ["", "for (;;) pause();"] {
        let made = Made::new("", ANSWERS, destroy, "");
        let (client, mut events) = made.start();
        let pid = pid(&client);
        client.kill(Uuid::nil()).await.unwrap();
        drop(client);
        closed(&mut events).await;
        gone(pid);
    }
}

#[test]
fn a_create_that_fails_in_whatever_way_is_an_error_and_leaves_no_process() {
    let refuses = r#"static const char why[] = "{\"code\": \"conflict\", \"message\": \"taken\"}";
        "#;
    let refuse = "error->ptr = (const uint8_t *)why; error->len = sizeof(why) - 1; return 0;";
    for (create, elsewhere, code, part) in [
        (refuse, refuses, ErrorCode::Conflict, "taken"),
        ("abort();", "", ErrorCode::Crashed, "signal 6"),
        ("for (;;) pause();", "", ErrorCode::Timeout, "10s"),
    ] {
        let made = Made::new(create, "", "", elsewhere);
        let error = made.offer().start(config(json!({}))).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(part), "{part} in {error}");
        drop(made.folder);
    }
}

#[test]
fn a_file_that_ends_whoever_opens_it_is_refused_by_name() {
    let at_once = "__attribute__((constructor)) static void at_once(void) { abort(); }";
    let made = Made::new("", "", "", at_once);
    let error = open_isolated(&made.file, &helper()).unwrap_err();
    assert!(matches!(error, LoadError::Crashed { .. }), "{error}");
    for part in ["made.so", "signal 6"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
}

#[test]
fn what_the_helper_refuses_is_told_in_the_same_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.so");
    fs::write(&file, "no library").unwrap();
    let here = open(&file, &Terms::default()).unwrap_err().to_string();
    let there = open_isolated(&file, &helper()).unwrap_err().to_string();
    assert_eq!(here, there);
    let pin = Some("00".repeat(32).parse().unwrap());
    let terms = |helper| Terms { helper, pin };
    let here = open(&file, &terms(None)).unwrap_err().to_string();
    assert!(here.contains("pinned"), "{here}");
    assert_eq!(here, open(&file, &terms(Some(helper()))).unwrap_err().to_string());
}

#[test]
fn a_helper_that_is_none_is_told() {
    let made = Made::new("", "", "", "");
    let start = |program: &str| {
        let helper = Helper { program: program.into(), arguments: vec![] };
        open_isolated(&made.file, &helper).unwrap_err().to_string()
    };
    assert!(start("/nonexistent").contains("made.so"));
    assert!(start("true").contains("exited with status 0"));
}

#[test]
fn a_file_that_was_replaced_is_not_taken_for_the_one_before() {
    let made = Made::new("", ANSWERS, "", "");
    let offer = made.offer();
    let text = replace(&fs::read(&made.file).unwrap(), b"1.0.0", b"2.0.0");
    let beside = made.folder.path().join("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, &made.file).unwrap();
    let error = offer.start(config(json!({}))).unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert_eq!(made.offer().manifest().version, "2.0.0");
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let places: Vec<_> =
        (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}
