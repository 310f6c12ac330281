//! The suite itself: a backend that keeps its machines in files passes it, and the same backend
//! with one fault fails the case that is about it. Processes of the suite are tested with the
//! program that starts them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::json;
use uuid::Uuid;

use super::{Opening, Report, Subject, Verdict, all, check_here};
use crate::{
    Backend, BackendConfig, BackendContext, BackendError, Capabilities, Control, ErrorCode, Event,
    ImageFormat, ImageInfo, ImageRef, ImageSpec, Machine, MachineSighting, MachineSpec, Manifest,
    Probe, RunState, Survey,
};

/// Its one setting names what it does wrong.
#[derive(Debug)]
struct Sloppy {
    machines_dir: PathBuf,
    context: BackendContext,
    fault: String,
    /// By this instance.
    launched: Mutex<BTreeSet<Uuid>>,
}

crate::export_backend!(Sloppy);

fn failed(code: ErrorCode, what: impl std::fmt::Display) -> BackendError {
    BackendError::new(code, format!("sloppy: {what}"))
}

impl Sloppy {
    fn is(&self, fault: &str) -> bool {
        self.fault == fault
    }

    fn file(&self, id: Uuid) -> PathBuf {
        self.machines_dir.join(id.to_string()).join("state")
    }

    fn seen(&self, id: Uuid) -> Option<MachineSighting> {
        let run_state = match fs::read_to_string(self.file(id)).ok()?.as_str() {
            "paused" => RunState::Paused,
            "off" => RunState::GuestShutdown,
            _ => RunState::Running,
        };
        if self.is("forgets") && !self.launched.lock().unwrap().contains(&id) {
            return None;
        }
        let machine = Machine { id, process: None };
        let control = Control::Connected { run_state };
        Some(MachineSighting { machine, control, age_ms: 0, disks: None })
    }

    fn becomes(&self, id: Uuid, state: &str) -> Result<(), BackendError> {
        self.seen(id).ok_or_else(|| failed(ErrorCode::NotFound, format!("no machine {id}")))?;
        fs::write(self.file(id), state).map_err(|error| failed(ErrorCode::Failed, error))
    }
}

#[async_trait]
impl Backend for Sloppy {
    fn manifest() -> Manifest {
        Manifest {
            name: "sloppy".to_owned(),
            version: "0.0.0".to_owned(),
            description: "Keeps machines in files.".to_owned(),
            capabilities: Capabilities {
                power_button: true,
                pause: true,
                image_formats: vec![ImageFormat::Raw],
                ..Capabilities::default()
            },
            sdk: String::new(),
        }
    }

    fn create(config: BackendConfig, context: BackendContext) -> Result<Self, BackendError> {
        let fault = config.settings["fault"].as_str().unwrap_or_default().to_owned();
        let (machines_dir, launched) = (config.machines_dir, Mutex::default());
        Ok(Self { machines_dir, context, fault, launched })
    }

    async fn probe(&self) -> Result<Probe, BackendError> {
        let reason = if self.is("gives no reason") { "" } else { "files can be written" };
        Ok(Probe { usable: true, reason: reason.to_owned(), hypervisor: None, notes: vec![] })
    }

    async fn launch(&self, spec: MachineSpec) -> Result<Machine, BackendError> {
        let machine = Machine { id: spec.id, process: None };
        self.launched.lock().unwrap().insert(spec.id);
        if self.seen(spec.id).is_none() {
            let written = fs::write(self.file(spec.id), "running");
            written.map_err(|error| failed(ErrorCode::Invalid, error))?;
        }
        if self.is("tells of strangers") {
            let (id, reason) = (Uuid::new_v4(), "told to".to_owned());
            self.context.emit(Event::MachineEnded { id, reason });
        }
        Ok(machine)
    }

    async fn reattach(&self, machine: Machine) -> Result<MachineSighting, BackendError> {
        let gone = if self.is("says failed") { ErrorCode::Failed } else { ErrorCode::NotFound };
        self.seen(machine.id).ok_or_else(|| failed(gone, format!("no machine {}", machine.id)))
    }

    async fn power_button(&self, id: Uuid) -> Result<(), BackendError> {
        self.becomes(id, "off")
    }

    async fn pause(&self, id: Uuid) -> Result<(), BackendError> {
        self.becomes(id, "paused")
    }

    async fn resume(&self, id: Uuid) -> Result<(), BackendError> {
        self.becomes(id, "running")
    }

    async fn quit(&self, id: Uuid) -> Result<(), BackendError> {
        self.kill(id).await
    }

    async fn kill(&self, id: Uuid) -> Result<(), BackendError> {
        if !self.is("kills nothing") {
            // Already gone is a success.
            let _ = fs::remove_file(self.file(id));
        }
        Ok(())
    }

    async fn create_image(&self, spec: ImageSpec) -> Result<(), BackendError> {
        let ImageSpec { path, format, virtual_size } = spec;
        assert!(virtual_size != 0 || !self.is("panics"), "told to panic");
        let odd = virtual_size == 0 || !virtual_size.is_multiple_of(512);
        if odd || format != ImageFormat::Raw || !path.is_absolute() {
            return Err(failed(ErrorCode::Invalid, "no image can be so"));
        }
        if path.symlink_metadata().is_ok() && !self.is("overwrites") {
            let same = length(&path)? == virtual_size;
            return if same { Ok(()) } else { Err(failed(ErrorCode::Conflict, "it is there")) };
        }
        let made = fs::File::create(path).and_then(|file| file.set_len(virtual_size));
        made.map_err(|error| failed(ErrorCode::Failed, error))
    }

    async fn inspect_image(&self, image: ImageRef) -> Result<ImageInfo, BackendError> {
        let virtual_size = length(&image.path)?;
        Ok(ImageInfo { format: image.format, virtual_size, actual_size: 0 })
    }

    async fn delete_image(&self, image: ImageRef) -> Result<(), BackendError> {
        match fs::remove_file(image.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed(ErrorCode::Failed, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn survey(&self) -> Result<Survey, BackendError> {
        let entries = match fs::read_dir(&self.machines_dir) {
            Err(_) if self.is("guesses") => return Ok(Survey::default()),
            entries => entries.map_err(|error| failed(ErrorCode::Failed, error))?,
        };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(Survey { machines: ids.filter_map(|id| self.seen(id)).collect(), ended: vec![] })
    }
}

fn length(path: &Path) -> Result<u64, BackendError> {
    match path.symlink_metadata() {
        Ok(data) if data.is_file() => Ok(data.len()),
        Ok(_) => Err(failed(ErrorCode::Conflict, "it is no file")),
        Err(error) => Err(failed(ErrorCode::NotFound, error)),
    }
}

async fn checked(fault: &str, names: &[&str]) -> Vec<Report> {
    let cases: Vec<_> =
        all().into_iter().filter(|case| names.is_empty() || names.contains(&case.name)).collect();
    assert!(!cases.is_empty(), "{names:?}");
    let subject = Subject {
        opening: Opening::Static("sloppy".to_owned()),
        settings: json!({"fault": fault}),
        guest: None,
        guest_obeys: true,
        seed: 3,
        request: None,
    };
    check_here(&subject, &cases).await.unwrap()
}

#[tokio::test]
async fn a_backend_without_a_fault_passes_and_what_it_lacks_is_skipped() {
    let reports = checked("", &[]).await;
    let bad: Vec<&Report> = reports.iter().filter(|report| report.verdict.is_bad()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let verdict = |name| &reports.iter().find(|report| report.case == name).unwrap().verdict;
    assert_eq!(verdict("a-guest-pauses-and-goes-on"), &Verdict::Passed);
    let why = "it has no hot plug".to_owned();
    assert_eq!(verdict("a-disk-comes-and-goes"), &Verdict::Skipped { why });
}

#[tokio::test]
async fn each_fault_is_found_by_the_case_that_is_about_it() {
    for (fault, case, words) in [
        ("kills nothing", "kill-ends-and-again-succeeds", "still tells"),
        ("forgets", "a-machine-outlives-its-instance", "does not list the machine"),
        ("guesses", "a-folder-that-is-away-is-no-empty-survey", "no machine lives"),
        ("overwrites", "an-image-is-never-overwritten", "must fail as `conflict`"),
        ("says failed", "a-machine-that-is-gone-is-not-found", "must fail as `not-found`"),
        ("panics", "what-can-be-no-image-is-refused", "`panicked`"),
        ("panics", "odd-requests-harm-nobody", "told to panic"),
        ("tells of strangers", "events-come-in-order-and-of-known-machines", "never was"),
        ("gives no reason", "probe-gives-its-reason", "gives no reason"),
    ] {
        let reports = checked(fault, &[case]).await;
        let [Report { verdict: Verdict::Failed { why }, .. }] = &reports[..] else {
            panic!("{fault}: {reports:#?}");
        };
        assert!(why.contains(words), "{fault}: {why}");
    }
}

#[test]
fn what_a_case_left_is_a_fault_where_nothing_else_is() {
    let left = Some("it left a machine".to_owned());
    let why = "it left a machine".to_owned();
    assert_eq!(Verdict::Passed.with_leftovers(left.clone()), Verdict::Failed { why });
    let crashed = Verdict::Crashed { how: "by a signal".to_owned() };
    assert_eq!(crashed.clone().with_leftovers(left), crashed);
    assert_eq!(Verdict::Passed.with_leftovers(None), Verdict::Passed);
}
