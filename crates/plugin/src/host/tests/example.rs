//! The example in C, `plugins/example-c`: built as its README says, loaded as any file, and driven
//! through every verb it has. Its machines are processes, and only those started here are ended.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::SOON;
use crate::abi::{Functions, RawInstance, check, entry_of};
use crate::host::link::error_from;
use crate::host::shared::Shared;
use crate::host::{Client, Dropped, Offer, Source, open_file};
use crate::wire::{STATUS_FAILED, STATUS_OK};
use crate::{
    BackendConfig, Boot, Control, ErrorCode, Event, ImageFormat, ImageGrowth, ImageInfo, ImageRef,
    ImageSpec, Machine, MachineSighting, MachineSpec, Nic, ProcessIdentity, RunState,
};

/// What the first word of a machine's command line begins with.
const TAG: &str = "vman-example-c:";
/// How often what is idempotent is repeated.
const REPEATS: usize = 10;

/// Built and opened once; an open library needs its file no longer.
fn loaded() -> &'static (Offer, Functions) {
    static LOADED: OnceLock<(Offer, Functions)> = OnceLock::new();
    LOADED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = build(folder.path());
        let (functions, _) =
            check(entry_of(&file, std::fs::File::open(&file).unwrap()).unwrap()).unwrap();
        (open_file(&file).unwrap(), functions)
    })
}

fn offer() -> Offer {
    loaded().0.clone()
}

/// Copies the sources, so that nothing is built among them.
fn build(into: &Path) -> PathBuf {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    let folder = into.join("example-c");
    fs::create_dir(&folder).unwrap();
    fs::copy(plugins.join("vman_backend.h"), into.join("vman_backend.h")).unwrap();
    for entry in fs::read_dir(plugins.join("example-c")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let command = readme.lines().find(|line| line.starts_with("cc ")).unwrap();
    let strict = command.replacen("cc ", "cc -Werror ", 1);
    let built = Command::new("sh").args(["-c", &strict]).current_dir(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{strict}: {said}; a C compiler called cc is needed");
    // Trusted whatever this user's umask.
    let file = folder.join("example-c.so");
    for path in [&file, &folder] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    file
}

/// A folder of machines. Those that still run when it is dropped are ended.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn config(&self, settings: Value) -> BackendConfig {
        BackendConfig { machines_dir: self.path().to_owned(), settings }
    }

    fn start(&self) -> (Client, mpsc::Receiver<Event>) {
        offer().start(self.config(json!({}))).unwrap()
    }

    /// A machine with its directory, not launched yet.
    fn spec(&self) -> MachineSpec {
        let id = Uuid::new_v4();
        let directory = self.path().join(id.to_string());
        fs::create_dir(&directory).unwrap();
        let (boot, nic) = (Boot::RootDisk, Nic::None);
        MachineSpec { id, directory, cpu_count: 1, ram_mib: 64, boot, disks: vec![], nic }
    }

    async fn launched(&self, client: &Client) -> Machine {
        client.launch(self.spec()).await.unwrap()
    }

    fn image(&self) -> PathBuf {
        self.path().join("disk \"ä\".raw")
    }

    /// As its process has it.
    fn tag(&self, id: Uuid) -> String {
        format!("{TAG}{}/{id}", self.path().canonicalize().unwrap().display())
    }

    fn is_ours(&self, pid: i32) -> bool {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ours = format!("{TAG}{}/", self.path().canonicalize().unwrap().display());
        words.starts_with(ours.as_bytes())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.filter(|pid| self.is_ours(*pid)) else { continue };
            let held = Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
            if let Some(Ok(held)) = held
                && self.is_ours(pid)
            {
                // It may have ended at this very moment.
                let _ = pidfd_send_signal(&held, Signal::KILL);
            }
        }
    }
}

fn process(machine: &Machine) -> &ProcessIdentity {
    machine.process.as_ref().unwrap()
}

/// Of a machine started here and not ended yet.
fn signal(machine: &Machine, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(process(machine).pid).unwrap()).unwrap();
    let held = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    assert_eq!(stat(process(machine).pid)[19], process(machine).start_time.to_string());
    pidfd_send_signal(&held, signal).unwrap();
}

/// The fields from the third on, proc(5).
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = &stat[stat.rfind(") ").unwrap() + 2..];
    fields.split_whitespace().map(str::to_owned).collect()
}

fn lives(machine: Machine, run_state: RunState) -> MachineSighting {
    MachineSighting { machine, control: Control::Connected { run_state }, age_ms: 0, disks: None }
}

async fn gone(client: &Client, id: Uuid) {
    let gone = async {
        while client.sight(id).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.unwrap();
}

#[test]
fn the_example_is_built_by_its_readmes_command_and_offers_what_it_has() {
    let offer = offer();
    assert_eq!(offer.abi(), (1, 0));
    assert!(matches!(offer.source(), Source::File(path) if path.ends_with("example-c.so")));
    let manifest = offer.manifest();
    assert_eq!(manifest.name, "example-c");
    let can = &manifest.capabilities;
    assert!(can.processes && can.power_button && can.resize && !can.pause && !can.reset);
    assert_eq!(can.image_formats, [ImageFormat::Raw]);
    assert!(can.hot_plug.is_empty());
}

#[tokio::test]
async fn a_machine_is_a_process_that_is_seen_and_ended_and_each_verb_can_be_repeated() {
    let host = Host::new();
    let (client, mut events) = host.start();
    assert!(client.probe().await.unwrap().usable);
    let spec = host.spec();
    let id = spec.id;
    assert_eq!(client.sight(id).await.unwrap(), None);
    let machine = client.launch(spec.clone()).await.unwrap();
    assert_eq!(machine.id, id);
    let seen = lives(machine.clone(), RunState::Running);
    for _ in 0..REPEATS {
        assert_eq!(client.launch(spec.clone()).await.unwrap(), machine);
        assert_eq!(client.sight(id).await.unwrap().as_ref(), Some(&seen));
        assert_eq!(client.survey().await.unwrap().machines, std::slice::from_ref(&seen));
        assert_eq!(client.reattach(machine.clone()).await.unwrap(), seen);
    }
    for _ in 0..REPEATS {
        client.kill(id).await.unwrap();
    }
    assert_eq!(client.sight(id).await.unwrap(), None);
    assert_eq!(client.survey().await.unwrap().machines, []);
    let event = tokio::time::timeout(SOON, events.recv()).await.unwrap().unwrap();
    let reason = "it was asked to end".to_owned();
    assert_eq!(event, Event::MachineEnded { id, reason });
    assert_eq!(client.reattach(machine).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(client.power_button(id).await.unwrap_err().code, ErrorCode::NotFound);
    client.quit(id).await.unwrap();
    assert_eq!(client.dropped(), Dropped::default());
}

#[tokio::test]
async fn a_guest_hears_its_power_button_and_quit_ends_another() {
    let host = Host::new();
    let (client, _events) = host.start();
    let (pressed, other) = (host.launched(&client).await, host.launched(&client).await);
    client.power_button(pressed.id).await.unwrap();
    gone(&client, pressed.id).await;
    assert_eq!(
        client.sight(other.id).await.unwrap(),
        Some(lives(other.clone(), RunState::Running))
    );
    client.quit(other.id).await.unwrap();
    assert_eq!(client.sight(other.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_machine_outlives_its_instance_and_a_second_one_finds_it_again_and_ends_it() {
    let host = Host::new();
    let (first, mut events) = host.start();
    let machine = host.launched(&first).await;
    drop(first);
    let ended = async { while events.recv().await.is_some() {} };
    tokio::time::timeout(SOON, ended).await.unwrap();

    let (second, _events) = host.start();
    let (third, _more) = host.start();
    let seen = lives(machine.clone(), RunState::Running);
    assert_eq!(second.survey().await.unwrap().machines, std::slice::from_ref(&seen));
    assert_eq!(second.reattach(machine.clone()).await.unwrap(), seen);
    assert_eq!(third.sight(machine.id).await.unwrap(), Some(seen));
    second.kill(machine.id).await.unwrap();
    assert_eq!(third.sight(machine.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_machine_has_nothing_of_the_daemons_and_is_nobodys_child_here() {
    let host = Host::new();
    let (client, _events) = host.start();
    let machine = host.launched(&client).await;
    let pid = process(&machine).pid;
    let stat = stat(pid);
    assert_ne!(stat[1], std::process::id().to_string(), "its parent");
    assert_eq!(stat[3], pid.to_string(), "a session of its own");
    let of = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(of("environ"), b"");
    assert_eq!(of("cmdline"), format!("{}\0infinity\0", host.tag(machine.id)).into_bytes());
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert!(directory.ends_with(machine.id.to_string()), "{}", directory.display());
    // At first it opens its libraries, one after the other.
    let open = || -> Vec<PathBuf> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let mut open: Vec<_> = entries.filter_map(|one| fs::read_link(one.path()).ok()).collect();
        open.dedup();
        open
    };
    let begun = Instant::now();
    while open() != [PathBuf::from("/dev/null")] {
        assert!(begun.elapsed() < SOON, "{:?}", open());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.kill(machine.id).await.unwrap();
}

#[tokio::test]
async fn a_process_that_is_not_the_machine_is_neither_seen_nor_signalled() {
    let host = Host::new();
    let (client, _events) = host.start();
    let machine = host.launched(&client).await;
    let id = machine.id;
    let longer = format!("{}0", host.tag(Uuid::nil()));
    let elsewhere = format!("{TAG}/nowhere/{id}");
    let mut strangers = [longer, elsewhere].map(|word| {
        let mut sleep = Command::new("/bin/sleep");
        sleep.arg0(word).arg("60").stdin(Stdio::null()).spawn().unwrap()
    });
    let seen = lives(machine.clone(), RunState::Running);
    assert_eq!(client.survey().await.unwrap().machines, [seen]);

    let own = process(&machine).clone();
    let pid = strangers[0].id();
    for identity in [
        ProcessIdentity { pid, ..own.clone() },
        ProcessIdentity { start_time: own.start_time + 1, ..own.clone() },
        ProcessIdentity { boot_id: Uuid::nil(), ..own.clone() },
        ProcessIdentity { pid: u32::MAX, ..own },
    ] {
        let other = Machine { id, process: Some(identity) };
        let error = client.reattach(other).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound, "{error}");
    }
    client.kill(id).await.unwrap();
    client.kill(Uuid::nil()).await.unwrap();
    for stranger in &mut strangers {
        assert!(stranger.try_wait().unwrap().is_none(), "it was ended");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

/// A stopped process hears SIGTERM only when it goes on.
#[tokio::test]
async fn a_quit_that_nobody_waits_for_ends_before_the_kill_that_follows() {
    let host = Host::new();
    let (client, _events) = host.start();
    let machine = host.launched(&client).await;
    signal(&machine, Signal::STOP);
    let paused = async {
        while client.sight(machine.id).await.unwrap()
            != Some(lives(machine.clone(), RunState::Paused))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, paused).await.unwrap();
    let impatient = client.with_deadline(Duration::from_millis(50));
    let error = impatient.quit(machine.id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Timeout, "{error}");
    let given_up = tokio::time::timeout(Duration::from_millis(50), client.quit(machine.id));
    given_up.await.unwrap_err();
    client.kill(machine.id).await.unwrap();
    assert_eq!(client.sight(machine.id).await.unwrap(), None);
    assert_eq!(client.dropped().operations, 0, "nothing hangs");
}

#[tokio::test]
async fn many_machines_are_started_seen_and_ended_at_the_same_time() {
    let host = Host::new();
    let (client, _events) = host.start();
    let specs: Vec<MachineSpec> = (0..32).map(|_| host.spec()).collect();
    let launches = specs.iter().map(|spec| client.launch(spec.clone()));
    let machines = futures_util::future::try_join_all(launches).await.unwrap();
    let mut seen = client.survey().await.unwrap().machines;
    let mut all: Vec<MachineSighting> =
        machines.into_iter().map(|machine| lives(machine, RunState::Running)).collect();
    seen.sort_by_key(|sighting| sighting.machine.id);
    all.sort_by_key(|sighting| sighting.machine.id);
    assert_eq!(seen, all);
    let kills = specs.iter().map(|spec| client.kill(spec.id));
    futures_util::future::try_join_all(kills).await.unwrap();
    assert_eq!(client.survey().await.unwrap().machines, []);
    assert_eq!(client.dropped(), Dropped::default());
}

#[tokio::test]
async fn a_launch_that_fails_says_why_and_leaves_nothing_running() {
    let host = Host::new();
    let missing = host.path().join("missing");
    let settings = json!({"program": missing});
    let (client, _events) = offer().start(host.config(settings)).unwrap();
    let probe = client.probe().await.unwrap();
    assert!(!probe.usable && probe.reason.contains("missing"), "{probe:?}");
    let error = client.launch(host.spec()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("No such file"), "{error}");

    // `true` ends before it can be taken for a machine, or right after.
    let (client, _events) = offer().start(host.config(json!({"program": "/bin/true"}))).unwrap();
    let spec = host.spec();
    if let Err(error) = client.launch(spec.clone()).await {
        assert_eq!(error.code, ErrorCode::Failed, "{error}");
    }
    gone(&client, spec.id).await;

    let (client, _events) = host.start();
    let elsewhere = MachineSpec { directory: host.path().to_owned(), ..host.spec() };
    assert_eq!(client.launch(elsewhere).await.unwrap_err().code, ErrorCode::Invalid);
    let homeless = host.spec();
    fs::remove_dir(&homeless.directory).unwrap();
    assert_eq!(client.launch(homeless).await.unwrap_err().code, ErrorCode::Failed);
    assert_eq!(client.survey().await.unwrap().machines, []);
}

#[tokio::test]
async fn a_folder_that_cannot_be_looked_at_is_an_error_and_no_empty_list() {
    let machines_dir = PathBuf::from("/nonexistent");
    let config = BackendConfig { machines_dir, settings: json!({}) };
    let (client, _events) = offer().start(config).unwrap();
    let error = client.survey().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("/nonexistent"), "{error}");
}

#[test]
fn settings_that_it_does_not_have_are_refused_by_name() {
    let host = Host::new();
    for settings in [json!({"program": 3}), json!({"program": "sleep"}), json!({"colour": 1})] {
        let error = offer().start(host.config(settings)).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        assert!(error.message.contains("program"), "{error}");
    }
}

#[tokio::test]
async fn an_image_is_a_file_that_is_made_read_grown_and_removed_and_each_can_be_repeated() {
    let host = Host::new();
    let (client, _events) = host.start();
    let (path, format) = (host.image(), ImageFormat::Raw);
    let spec = |virtual_size| ImageSpec { path: path.clone(), format, virtual_size };
    let growth = |virtual_size| ImageGrowth { path: path.clone(), format, virtual_size };
    let image = ImageRef { path: path.clone(), format };
    let not_there = client.inspect_image(image.clone()).await.unwrap_err();
    assert_eq!(not_there.code, ErrorCode::NotFound);
    let not_there = client.resize_image(growth(1024)).await.unwrap_err();
    assert_eq!(not_there.code, ErrorCode::NotFound);
    // What a daemon that was killed meanwhile leaves behind.
    let beside = host.path().join("disk \"ä\".raw.new");
    fs::write(&beside, "half").unwrap();
    for _ in 0..REPEATS {
        client.create_image(spec(1 << 20)).await.unwrap();
    }
    assert!(!beside.exists());
    let info = client.inspect_image(image.clone()).await.unwrap();
    assert_eq!(info, ImageInfo { virtual_size: 1 << 20, ..info.clone() });
    assert!(info.format == format && info.actual_size < 1 << 20, "{info:?}");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"kept", 0).unwrap();
    let error = client.create_image(spec(1 << 21)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(error.message.contains("1048576") && error.message.contains("ä"), "{error}");
    for _ in 0..REPEATS {
        client.resize_image(growth(1 << 21)).await.unwrap();
    }
    assert_eq!(client.inspect_image(image.clone()).await.unwrap().virtual_size, 1 << 21);
    assert!(fs::read(&path).unwrap().starts_with(b"kept"));
    let smaller = client.resize_image(growth(1 << 20)).await.unwrap_err();
    assert_eq!(smaller.code, ErrorCode::Invalid);
    for _ in 0..REPEATS {
        client.delete_image(image.clone()).await.unwrap();
    }
    assert!(!path.exists());
    for odd in [0, 511, u64::MAX] {
        assert_eq!(client.create_image(spec(odd)).await.unwrap_err().code, ErrorCode::Invalid);
    }
    let qcow2 = ImageSpec { format: ImageFormat::Qcow2, ..spec(512) };
    assert_eq!(client.create_image(qcow2).await.unwrap_err().code, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_link_or_a_folder_in_the_place_of_an_image_is_no_image() {
    let host = Host::new();
    let (client, _events) = host.start();
    let (path, format) = (host.image(), ImageFormat::Raw);
    let image = ImageRef { path: path.clone(), format };
    let target = host.path().join("target");
    fs::write(&target, "kept").unwrap();
    std::os::unix::fs::symlink(&target, &path).unwrap();
    client.inspect_image(image.clone()).await.unwrap_err();
    let spec = ImageSpec { path: path.clone(), format, virtual_size: 512 };
    client.create_image(spec.clone()).await.unwrap_err();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(client.inspect_image(image).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(client.create_image(spec).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(fs::read(&target).unwrap(), b"kept");
}

/// An instance that is told whatever bytes a test likes.
struct Raw {
    shared: Arc<Shared>,
    instance: RawInstance,
    host: Host,
    _events: mpsc::Receiver<Event>,
}

impl Raw {
    fn new() -> Self {
        let host = Host::new();
        let functions = loaded().1;
        let (shared, events) = Shared::register("example-c");
        let config = serde_json::to_vec(&host.config(json!({}))).unwrap();
        let instance = RawInstance::create(functions, shared.number(), &config).unwrap();
        Self { shared, instance, host, _events: events }
    }

    /// Its status, and its JSON.
    async fn ask(&self, request: &[u8]) -> (i32, Vec<u8>) {
        let (op, answer) = self.shared.slots.begin().unwrap();
        self.instance.submit(op, request).unwrap();
        let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
        (answer.status, answer.json.unwrap())
    }

    async fn refused(&self, request: impl AsRef<[u8]>) -> ErrorCode {
        let request = request.as_ref();
        let (status, json) = self.ask(request).await;
        let said = String::from_utf8_lossy(&json).into_owned();
        assert_eq!(status, STATUS_FAILED, "{}: {said}", String::from_utf8_lossy(request));
        let error = error_from(&json);
        assert!(!error.message.is_empty(), "{said}");
        error.code
    }
}

#[tokio::test]
async fn an_operation_of_tomorrow_and_one_it_does_not_have_are_unsupported() {
    let raw = Raw::new();
    for op in ["no-such-operation", "pause", "attach-disk", "", "Kill", "kill ", "\\u006bill2"] {
        let request = format!(r#"{{"op": "{op}", "params": {{"id": 3, "more": [{{}}]}}}}"#);
        assert_eq!(raw.refused(request).await, ErrorCode::Unsupported, "{op}");
    }
    let host = Host::new();
    let (client, _events) = host.start();
    assert_eq!(client.pause(Uuid::nil()).await.unwrap_err().code, ErrorCode::Unsupported);
}

#[tokio::test]
async fn a_request_that_does_not_parse_is_invalid_and_harms_nobody() {
    let raw = Raw::new();
    let deep = format!(r#"{{"op": "survey", "params": {}"#, "[".repeat(100_000));
    for request in [
        "",
        " ",
        "{",
        "}",
        "{}",
        "[]",
        "null",
        "3",
        "nul",
        "\"op",
        r#"{"op"}"#,
        r#"{"op":}"#,
        r#"{"op": 3}"#,
        r#"{"op": "survey",}"#,
        r#"{"op": "survey"} x"#,
        r#"{"op": "sur\vey"}"#,
        r#"{"op": "\ud800"}"#,
        r#"{"op": "\u00"}"#,
        r#"{"op": "survey", "n": 01}"#,
        r#"{"op": "survey", "n": -}"#,
        r#"{"op": "survey", "n": 1e}"#,
        r#"{"op": "a\u0000b"}"#,
        "{\"op\": \"a\nb\"}",
        "{op: 1}",
        r#"{"op": "kill"}"#,
        r#"{"op": "kill", "params": []}"#,
        r#"{"op": "kill", "params": {"id": "../x"}}"#,
        r#"{"op": "kill", "params": {"id": "00000000-0000-0000-0000-00000000000A"}}"#,
        r#"{"op": "reattach", "params": {"id": "00000000-0000-0000-0000-000000000000"}}"#,
        r#"{"op": "create-image", "params": {"path": "x", "format": "raw"}}"#,
        r#"{"op": "create-image", "params": {"path": "/x", "virtual_size": 512}}"#,
        r#"{"op": "create-image", "params": {"path": "/x", "format": "raw", "virtual_size": -1}}"#,
        &deep,
    ] {
        assert_eq!(raw.refused(request).await, ErrorCode::Invalid, "{request:.99}");
    }
    for request in
        [&b"{\"op\": \"\xff\"}"[..], b"{\"op\": \"\xc3\"}", b"\0", b"{\"op\": \"\xed\xa0\x80\"}"]
    {
        assert_eq!(raw.refused(request).await, ErrorCode::Invalid, "{request:?}");
    }
    let survey = r#" { "more" : [1, {"op": "x"}, -0.5e+3, true, null] , "op" : "\u0073urvey" } "#;
    assert_eq!(raw.ask(survey.as_bytes()).await, (STATUS_OK, b"{\"machines\": []}".to_vec()));
    let image = raw.host.path().join("ä😀");
    let params = format!(
        r#"{{"path": "{}\u002f\u00e4\ud83d\ude00", "format": "raw", "virtual_size": 512}}"#,
        raw.host.path().display()
    );
    let create = format!(r#"{{"op": "create-image", "params": {params}}}"#);
    assert_eq!(raw.ask(create.as_bytes()).await, (STATUS_OK, b"null".to_vec()));
    assert_eq!(fs::metadata(image).unwrap().len(), 512);
    let answered = raw.shared.dropped_answers.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(answered, 0, "each was answered once");
}
