//! Tables that grow: plugins built for the first form of the contract under a host of a later form,
//! and plugins of a later form under this host. What messages become is tested in `older`.

use std::fs::File;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{SOON, build_c, config};
use crate::abi::{ABI_MINOR, Functions, HostTable, RawInstance, check, entry_of};
use crate::host::shared::Shared;
use crate::host::slots::Answer;
use crate::host::{Registry, open_file};
use crate::wire::STATUS_OK;

/// Where the frozen header is, and where today's.
const FROZEN: &str = "src/host/tests/frozen";
const TODAY: &str = "../../plugins";

/// What the tables have in common.
const PLUGIN: &str = r#"
#include <stddef.h>
static const struct vman_host *host;
static uint64_t number;
static void *create(const struct vman_host *table, uint64_t instance, struct vman_buf config,
                    struct vman_buf *error) {
    (void)config; (void)error;
    if (table->size < VMAN_HOST_TABLE_1_0_SIZE) return NULL;
    host = table; number = instance;
    return &number;
}
static void cancel(void *instance, uint64_t op) { (void)instance; (void)op; }
static void destroy(void *instance) { (void)instance; }
static int32_t answer(uint64_t op) {
    struct vman_buf null = {(const uint8_t *)"null", 4};
    host->complete(number, op, VMAN_STATUS_OK, null);
    return 0;
}
#define MANIFEST "{\"name\": \"made\", \"version\": \"1.0.0\", \"description\": \"\"," \
    " \"capabilities\": {}}"
#define HEAD(type, minor) .magic = VMAN_MAGIC, .size = sizeof(type), \
    .abi_major = VMAN_ABI_MAJOR, .abi_minor = minor, \
    .manifest = {(const uint8_t *)MANIFEST, sizeof(MANIFEST) - 1}, \
    .create = create, .submit = submit, .cancel = cancel, .destroy = destroy
"#;

/// Written for 1.0, of which it knows no more than the frozen header says.
const FIRST: &str = r#"
static int32_t submit(void *instance, uint64_t op, struct vman_buf request) {
    (void)instance; (void)request;
    return answer(op);
}
static const struct vman_plugin table = { HEAD(struct vman_plugin, 0) };
const struct vman_plugin *vman_plugin_entry(void) { return &table; }
"#;

/// Written for 1.7, in which both tables are longer. It uses what the host has of that.
const LATER: &str = r#"
struct later_host { struct vman_host first; void (*later)(uint64_t instance); };
struct later_plugin { struct vman_plugin first; void (*later)(void *); uint64_t more[4]; };
static int32_t submit(void *instance, uint64_t op, struct vman_buf request) {
    (void)instance; (void)request;
    if (host->size >= offsetof(struct later_host, later) + sizeof(void (*)(uint64_t)))
        ((const struct later_host *)host)->later(number);
    return answer(op);
}
static void later(void *instance) { (void)instance; }
static const struct later_plugin table = {
    .first = { HEAD(struct later_plugin, 7) }, .later = later, .more = {1, 2, 3, 4},
};
const struct vman_plugin *vman_plugin_entry(void) { return &table.first; }
"#;

fn source(header: &str, rest: &str) -> String {
    format!("#include \"{header}\"\n{PLUGIN}{rest}")
}

/// The table of a host of 1.7.
#[repr(C)]
struct LaterHost {
    first: HostTable,
    later: extern "C" fn(u64),
}

static LATER_CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn later(_instance: u64) {
    LATER_CALLS.fetch_add(1, Ordering::SeqCst);
}

fn later_host() -> &'static HostTable {
    let first = HostTable::of_later(size_of::<LaterHost>() as u32, 7);
    &Box::leak(Box::new(LaterHost { first, later })).first
}

/// Has an instance made by a host of 1.7 and asks it for a verb.
async fn asked_by_a_later_host(functions: Functions, request: &Value) -> Answer {
    let (shared, _events) = Shared::register("made");
    let config = serde_json::to_vec(&config(json!({}))).unwrap();
    let instance =
        RawInstance::create_with(later_host(), functions, shared.number(), &config).unwrap();
    let (op, answer) = shared.slots.begin().unwrap();
    instance.submit(op, request.to_string().as_bytes()).unwrap();
    tokio::time::timeout(SOON, answer).await.unwrap().unwrap()
}

fn kill() -> Value {
    json!({"op": "kill", "params": {"id": Uuid::nil()}})
}

#[tokio::test]
async fn a_plugin_of_the_first_form_works_under_this_host_and_under_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = build_c(folder.path(), &source("vman_backend_1_0.h", FIRST), FROZEN);
    let offer = open_file(&file).unwrap();
    assert_eq!(offer.abi(), (1, 0));
    let (client, _events) = offer.start(config(json!({}))).unwrap();
    client.kill(Uuid::nil()).await.unwrap();

    let (functions, _) = check(entry_of(&file, File::open(&file).unwrap()).unwrap()).unwrap();
    let answer = asked_by_a_later_host(functions, &kill()).await;
    assert_eq!((answer.status, answer.json.as_deref()), (STATUS_OK, Some(&b"null"[..])));
    assert_eq!(LATER_CALLS.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_plugin_of_a_later_form_does_without_what_this_host_lacks_and_uses_what_a_later_one_has()
{
    let folder = tempfile::tempdir().unwrap();
    let file = build_c(folder.path(), &source("vman_backend.h", LATER), TODAY);
    let offer = open_file(&file).unwrap();
    assert_eq!(offer.abi(), (1, ABI_MINOR), "the smaller minor counts");
    let (client, _events) = offer.start(config(json!({}))).unwrap();
    client.kill(Uuid::nil()).await.unwrap();
    assert_eq!(LATER_CALLS.load(Ordering::SeqCst), 0);

    let (functions, _) = check(entry_of(&file, File::open(&file).unwrap()).unwrap()).unwrap();
    assert_eq!(asked_by_a_later_host(functions, &kill()).await.status, STATUS_OK);
    assert_eq!(LATER_CALLS.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_plugin_in_rust_works_under_a_later_host() {
    let odd = Registry::linked().into_iter().find(|offer| offer.manifest().name == "odd").unwrap();
    let request = json!({"op": "survey", "params": {}});
    let answer = asked_by_a_later_host(odd.functions(), &request).await;
    assert_eq!(answer.status, STATUS_OK);
    let survey: Value = serde_json::from_slice(&answer.json.unwrap()).unwrap();
    assert_eq!(survey["machines"], json!([]));
}

/// What was in the first form has the same size, place, value and word today.
#[test]
fn nothing_of_the_first_form_has_changed_in_todays_header() {
    let read = |path: &str| {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
    };
    let frozen = read(&format!("{FROZEN}/vman_backend_1_0.h")).unwrap();
    let today = read(&format!("{TODAY}/vman_backend.h")).unwrap();
    let defined = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("#define VMAN_"));
        lines.map(str::to_owned).collect()
    };
    let (first, now) = (defined(&frozen), defined(&today));
    assert!(first.len() > 40);
    for define in first.iter().filter(|define| !define.contains("VMAN_ABI_MINOR")) {
        assert!(now.contains(define), "{define} is another today, or gone");
    }
    let fields = |text: &str, name: &str| -> Vec<String> {
        let (_, body) = text.split_once(&format!("struct {name} {{")).unwrap();
        let (body, _) = body.split_once("\n};").unwrap();
        let code: String = body.lines().filter(|line| !line.trim().starts_with("/*")).collect();
        let code =
            code.split("*/").map(|part| part.split("/*").next().unwrap()).collect::<String>();
        let code = code.split(';').map(|field| field.split_whitespace().collect::<Vec<_>>());
        code.map(|field| field.join(" ")).filter(|field| field.ends_with(')')).collect()
    };
    for table in ["vman_host", "vman_plugin"] {
        let (first, now) = (fields(&frozen, table), fields(&today, table));
        assert!(first.len() >= 4, "{first:?}");
        assert_eq!(now[..first.len()], first, "fields are only appended");
    }
}
