//! Tables made by hand: refused ones, and some that answer as no plugin may.

use std::ffi::c_void;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{SOON, config};
use crate::abi::{
    ABI_MAJOR, ABI_MINOR, Entry, HostLink, HostTable, MAGIC, PLUGIN_TABLE_1_0_SIZE, PluginTable,
    VmanBuf, check,
};
use crate::host::shared::EVENT_QUEUE;
use crate::host::{Client, Dropped, Mismatch, Offer, Source};
use crate::wire::{STATUS_FAILED, STATUS_OK};
use crate::{BackendError, ErrorCode, Event, RunState, deadline};

type Submit = extern "C" fn(*mut c_void, u64, VmanBuf) -> i32;

extern "C" fn create(
    _host: *const HostTable,
    instance: u64,
    _config: VmanBuf,
    _error: *mut VmanBuf,
) -> *mut c_void {
    std::ptr::without_provenance_mut(instance as usize)
}

extern "C" fn create_nothing(
    _host: *const HostTable,
    _instance: u64,
    _config: VmanBuf,
    _error: *mut VmanBuf,
) -> *mut c_void {
    std::ptr::null_mut()
}

extern "C" fn cancel(_instance: *mut c_void, _op: u64) {}

extern "C" fn destroy(_instance: *mut c_void) {}

fn table(submit: Submit) -> PluginTable {
    let manifest = json!({
        "name": "handmade", "version": "1.0.0", "description": "", "capabilities": {},
        "a-field-of-tomorrow": 1,
    });
    PluginTable {
        magic: MAGIC,
        size: PLUGIN_TABLE_1_0_SIZE as u32,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        manifest: VmanBuf::lend(Vec::leak(manifest.to_string().into_bytes())),
        create: Some(create),
        submit: Some(submit),
        cancel: Some(cancel),
        destroy: Some(destroy),
        get_extension: None,
    }
}

fn entry(table: PluginTable) -> Entry {
    let table: &'static PluginTable = Box::leak(Box::new(table));
    Entry::linked(table)
}

pub(super) fn start(submit: Submit) -> (Client, mpsc::Receiver<Event>) {
    let offer = Offer::new(entry(table(submit)), Source::Linked).unwrap();
    offer.start(config(json!({}))).unwrap()
}

pub(super) fn answer(instance: *mut c_void, op: u64, status: i32, json: &str) {
    HostLink::of(instance.addr() as u64).complete(op, status, json.as_bytes());
}

extern "C" fn answers_once(instance: *mut c_void, op: u64, _request: VmanBuf) -> i32 {
    answer(instance, op, STATUS_OK, "null");
    0
}

extern "C" fn answers_twice(instance: *mut c_void, op: u64, _request: VmanBuf) -> i32 {
    answer(instance, op, STATUS_OK, "null");
    answer(instance, op, STATUS_FAILED, "{}");
    0
}

extern "C" fn refuses(_instance: *mut c_void, _op: u64, _request: VmanBuf) -> i32 {
    7
}

extern "C" fn answers_nonsense(instance: *mut c_void, op: u64, _request: VmanBuf) -> i32 {
    answer(instance, op, STATUS_OK, "}{");
    0
}

extern "C" fn fails_in_words_of_tomorrow(instance: *mut c_void, op: u64, _request: VmanBuf) -> i32 {
    let error = r#"{"code": "no-such-code-yet", "message": "it is so", "more": 1}"#;
    answer(instance, op, 99, error);
    0
}

extern "C" fn blocks(_instance: *mut c_void, _op: u64, _request: VmanBuf) -> i32 {
    loop {
        std::thread::park();
    }
}

static UNANSWERED: Mutex<Option<Sender<(usize, u64)>>> = Mutex::new(None);

extern "C" fn hands_over(instance: *mut c_void, op: u64, _request: VmanBuf) -> i32 {
    let sender = UNANSWERED.lock().unwrap_or_else(PoisonError::into_inner);
    sender.as_ref().unwrap().send((instance.addr(), op)).unwrap();
    0
}

static SUBMITTED: AtomicU32 = AtomicU32::new(0);
static CANCELLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn answers_all_but_the_first(instance: *mut c_void, op: u64, _: VmanBuf) -> i32 {
    if SUBMITTED.fetch_add(1, Ordering::SeqCst) > 0 {
        answer(instance, op, STATUS_OK, "null");
    }
    0
}

extern "C" fn counts(_instance: *mut c_void, _op: u64) {
    CANCELLED.fetch_add(1, Ordering::SeqCst);
}

/// What one instance was told, in its order: the verb's name, or `cancel`, and the operation.
static TOLD: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());

extern "C" fn notes_and_answers_kill(instance: *mut c_void, op: u64, request: VmanBuf) -> i32 {
    let request: Value = serde_json::from_slice(&request.copied()).unwrap();
    let verb = request["op"].as_str().unwrap();
    TOLD.lock().unwrap().push((verb.to_owned(), op));
    if verb == "kill" {
        answer(instance, op, STATUS_OK, "null");
    }
    0
}

extern "C" fn notes_cancel(_instance: *mut c_void, op: u64) {
    TOLD.lock().unwrap().push(("cancel".to_owned(), op));
}

#[test]
fn a_table_that_does_not_fit_is_refused_with_both_sides_values() {
    let good = table(answers_once);
    let size = PLUGIN_TABLE_1_0_SIZE as u32;
    for (entry, mismatch, parts) in [
        (Entry::NULL, Mismatch::NoTable, &["no table"][..]),
        (
            Entry::cut_off(5, size, ABI_MAJOR),
            Mismatch::Magic { theirs: 5 },
            &["0x0000000000000005", "0x766d616e706c7567"],
        ),
        (
            Entry::cut_off(MAGIC, size, 2),
            Mismatch::Major { theirs: 2 },
            &["ABI version 2", "this host 1"],
        ),
        (
            Entry::cut_off(MAGIC, 24, ABI_MAJOR),
            Mismatch::Size { theirs: 24 },
            &["24 bytes", "needs 80"],
        ),
        (entry(PluginTable { submit: None, ..good }), Mismatch::Missing("submit"), &["`submit`"]),
    ] {
        let refused = check(entry).unwrap_err();
        assert_eq!(refused, mismatch);
        for part in parts {
            assert!(refused.to_string().contains(part), "{part} in {refused}");
        }
    }
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    for manifest in ["", "{}", "[", r#"{"name": 3}"#] {
        let bad =
            PluginTable { manifest: VmanBuf::lend(manifest.as_bytes()), ..table(answers_once) };
        let refused = check(entry(bad)).unwrap_err();
        assert!(matches!(refused, Mismatch::Manifest(_)), "{refused}");
    }
    for name in ["", "Q", "a b", "../x"] {
        let manifest = json!({
            "name": name, "version": "1", "description": "", "capabilities": {},
        });
        let bad = PluginTable {
            manifest: VmanBuf::lend(Vec::leak(manifest.to_string().into_bytes())),
            ..table(answers_once)
        };
        let refused = Offer::new(entry(bad), Source::Linked).unwrap_err();
        assert!(refused.to_string().contains("the name"), "{refused}");
    }
}

#[test]
fn a_newer_and_longer_table_is_used_as_far_as_it_is_known() {
    let newer = PluginTable { abi_minor: 9, size: 800, ..table(answers_once) };
    let offer = Offer::new(entry(newer), Source::Linked).unwrap();
    assert_eq!(offer.abi(), (ABI_MAJOR, ABI_MINOR));
    assert_eq!(offer.manifest().name, "handmade");
}

#[test]
fn an_instance_that_is_not_made_is_an_error_even_without_a_reason() {
    let mute = PluginTable { create: Some(create_nothing), ..table(answers_once) };
    let offer = Offer::new(entry(mute), Source::Linked).unwrap();
    let error = offer.start(config(json!({}))).unwrap_err();
    assert_eq!(error.code, ErrorCode::Broken);
}

#[tokio::test]
async fn a_second_answer_is_dropped_and_counted() {
    let (client, _events) = start(answers_twice);
    client.quit(Uuid::nil()).await.unwrap();
    client.quit(Uuid::nil()).await.unwrap();
    // The second answer of the last call may still be on its way.
    let dropped = tokio::time::timeout(SOON, async {
        while client.dropped().answers < 2 {
            tokio::task::yield_now().await;
        }
        client.dropped()
    });
    let two = Dropped { answers: 2, ..Dropped::default() };
    assert_eq!(dropped.await.unwrap(), two);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_dropped_and_counted_and_reaches_no_other_operation() {
    let (sender, unanswered) = channel();
    *UNANSWERED.lock().unwrap() = Some(sender);
    let (client, _events) = start(hands_over);
    let patient = client.with_deadline(deadline::KILL * 10);
    let next = tokio::spawn(async move { patient.kill(Uuid::nil()).await });
    tokio::task::yield_now().await;
    let (_, op) = unanswered.recv_timeout(SOON).unwrap();

    let error = client.kill(Uuid::nil()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout);
    for part in ["handmade", "`kill`", "10s"] {
        assert!(error.message.contains(part), "{part} in {error}");
    }
    assert_eq!(client.dropped().operations, 1);
    let fault = client.fault().unwrap().to_string();
    assert!(fault.contains("`kill` did not end"), "{fault}");
    let error = client.survey().await.unwrap_err();
    assert!(error.message.contains(&fault), "{error}");

    let (instance, late) = unanswered.recv_timeout(SOON).unwrap();
    let link = HostLink::of(instance as u64);
    link.complete(late, STATUS_OK, b"null");
    assert_eq!(client.dropped().answers, 1);
    assert!(!next.is_finished());
    link.complete(op, STATUS_OK, b"null");
    next.await.unwrap().unwrap();

    drop(client);
    link.complete(op, STATUS_OK, b"null");
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_caller_leaves_while_it_is_cancelled_is_cancelled_once() {
    let counting = PluginTable { cancel: Some(counts), ..table(answers_all_but_the_first) };
    let offer = Offer::new(entry(counting), Source::Linked).unwrap();
    let (client, _events) = offer.start(config(json!({}))).unwrap();
    let within_the_grace = deadline::KILL + Duration::from_millis(500);
    tokio::time::timeout(within_the_grace, client.kill(Uuid::nil())).await.unwrap_err();
    tokio::time::resume();
    // Orders are taken one after the other: this one comes after every cancellation.
    client.quit(Uuid::nil()).await.unwrap();
    assert_eq!(CANCELLED.load(Ordering::SeqCst), 1);
}

/// However soon the next verb comes, and also while the first still waits to be submitted.
#[tokio::test]
async fn a_call_that_was_dropped_is_cancelled_before_the_next_verb_is_submitted() {
    let noting = PluginTable { cancel: Some(notes_cancel), ..table(notes_and_answers_kill) };
    let offer = Offer::new(entry(noting), Source::Linked).unwrap();
    let (client, _events) = offer.start(config(json!({}))).unwrap();
    for _ in 0..100 {
        let mut quit = Box::pin(client.quit(Uuid::nil()));
        assert!(poll_fn(|cx| Poll::Ready(quit.as_mut().poll(cx))).await.is_pending());
        drop(quit);
        client.kill(Uuid::nil()).await.unwrap();
    }
    let told = TOLD.lock().unwrap();
    assert_eq!(told.len(), 300);
    for three in told.chunks(3) {
        let [(quit, given_up), (cancel, cancelled), (kill, _)] = three else { panic!() };
        assert_eq!([quit, cancel, kill], ["quit", "cancel", "kill"]);
        assert_eq!(given_up, cancelled);
    }
}

#[tokio::test]
async fn a_refused_operation_fails_at_once_with_the_plugins_status() {
    let (client, _events) = start(refuses);
    let error = client.quit(Uuid::nil()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Broken);
    assert!(error.message.contains("status 7"), "{error}");
    assert_eq!(client.dropped(), Dropped::default());
}

#[tokio::test]
async fn an_answer_that_does_not_parse_is_the_plugins_fault() {
    let (client, _events) = start(answers_nonsense);
    let error = client.survey().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Broken);
    assert!(error.message.contains("`survey`"), "{error}");
}

#[tokio::test]
async fn a_status_and_a_code_of_tomorrow_are_a_failure_with_its_message() {
    let (client, _events) = start(fails_in_words_of_tomorrow);
    let error = client.survey().await.unwrap_err();
    assert_eq!(error, BackendError::new(ErrorCode::Other, "it is so"));
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_blocks_in_submit_blocks_nobody_else() {
    let (client, _events) = start(blocks);
    let (first, second) = tokio::join!(client.survey(), client.probe());
    assert_eq!(first.unwrap_err().code, ErrorCode::Timeout);
    assert_eq!(second.unwrap_err().code, ErrorCode::Timeout);
    assert_eq!(client.dropped().operations, 2);
}

#[tokio::test]
async fn events_are_bounded_and_those_dropped_are_counted() {
    let (client, mut events) = start(answers_once);
    let link = HostLink::of(client.instance());
    let changed = Event::MachineChanged { id: Uuid::nil(), run_state: RunState::Paused };
    link.emit_event(b"not an event");
    assert_eq!(client.dropped().events, 1);
    let json = serde_json::to_vec(&changed).unwrap();
    for _ in 0..EVENT_QUEUE + 3 {
        link.emit_event(&json);
    }
    assert_eq!(client.dropped().events, 4);
    assert_eq!(events.recv().await.unwrap(), changed);
    link.emit_event(br#"{"event": "of-tomorrow", "x": 1}"#);
    assert_eq!(client.dropped().events, 4);
}
