//! Chooses the backend: by name, by file, or the best usable one. Every known one is probed, so
//! that people can be told what this host can do and why.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::{StreamExt, stream};
use thiserror::Error;
use vman_plugin::host::{LoadError, Offer, Registry, Source};
use vman_plugin::{BackendConfig, BackendError, Probe};

use crate::instance::{self, Backend};
use crate::plugins::{Plugins, Stamp};
use crate::rescan::{Catalogue, version};

/// What `auto` prefers, best first.
const AUTO_ORDER: [&str; 3] = ["qemu-kvm", "qemu-tcg", "dry-run"];

/// Backends that are loaded and probed at the same time.
const PROBED_AT_ONCE: usize = 8;

/// What the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The first usable one of the built-in order.
    Auto,
    Named(String),
    /// A file, in the plugin folder unless absolute.
    File(PathBuf),
}

/// All that a backend is chosen by, and started with.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub choice: Choice,
    pub plugins: Plugins,
    /// Holds one directory for each machine.
    pub machines_dir: PathBuf,
    /// The `[backends.<name>]` table of each backend, as JSON.
    pub settings: BTreeMap<String, serde_json::Value>,
}

impl Wanted {
    fn config(&self, name: &str) -> BackendConfig {
        let settings = self.settings.get(name).cloned();
        let settings = settings.unwrap_or_else(|| serde_json::json!({}));
        BackendConfig { machines_dir: self.machines_dir.clone(), settings }
    }

    /// Not on a thread that others wait for.
    async fn open(&self, file: &Path) -> Result<Offer, LoadError> {
        let (plugins, path) = (self.plugins.clone(), file.to_owned());
        let opening = tokio::task::spawn_blocking(move || plugins.open(&path)).await;
        opening.unwrap_or_else(|error| {
            let reason = format!("opening it failed: {error}");
            Err(LoadError::Open { path: file.to_owned(), reason })
        })
    }
}

/// The chosen backend, started.
#[derive(Debug)]
pub struct Chosen {
    pub backend: Backend,
    /// Why this one, for people.
    pub reason: String,
    /// All known ones.
    pub reports: Vec<BackendReport>,
    pub(crate) stamps: BTreeMap<PathBuf, Stamp>,
}

impl Chosen {
    pub(crate) fn split(self, wanted: Wanted) -> (Backend, Catalogue) {
        (self.backend, Catalogue::new(wanted, self.reports, self.stamps))
    }
}

/// What is known of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendReport {
    /// Its name, or its file's where it could not be read.
    pub name: String,
    /// The plugin's own; `None` if it could not be read.
    pub version: Option<String>,
    /// `linked`, or the path of its file.
    pub source: String,
    /// `static`, `in-process` or `isolated`; `None` where it is not run.
    pub mode: Option<&'static str>,
    pub state: BackendState,
    /// None if it could not be found out.
    pub usable: Option<bool>,
    pub reason: String,
    pub selected: bool,
    /// What else is to be known of it on this host, and why it was chosen or not: a sentence each.
    pub notes: Vec<String>,
}

/// How far a backend has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendState {
    /// It is there, and cannot be used.
    Declared,
    /// It was loaded and tried.
    Loaded,
    /// It runs the machines.
    Started,
    /// Its instance is used no longer, and no other one has taken its place yet.
    Quarantined,
}

impl BackendState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Loaded => "loaded",
            Self::Started => "started",
            Self::Quarantined => "quarantined",
        }
    }
}

#[derive(Debug, Error)]
pub enum ChooseError {
    #[error("no backend is named {name}; known are: {known}")]
    Unknown { name: String, known: String },
    #[error("backend file {}: {error}", path.display())]
    File { path: PathBuf, error: LoadError },
    #[error("backend {name} cannot be started: {error}")]
    Start { name: String, error: BackendError },
    #[error("no backend is usable on this host: {0}")]
    NoneUsable(String),
}

/// Probes what there is and starts what was asked for.
pub async fn choose(wanted: &Wanted) -> Result<Chosen, ChooseError> {
    let (mut known, mut others) = all(wanted).await;
    let index = match &wanted.choice {
        Choice::Auto => best(&known)?,
        Choice::Named(name) => named(&known, name)?,
        Choice::File(file) => {
            let path = wanted.plugins.path(file);
            match known.iter().position(|known| known.source_is(&path)) {
                Some(index) => index,
                None => {
                    let stamp = Stamp::of(&path);
                    let refused = |error| ChooseError::File { path: path.clone(), error };
                    let offer = wanted.open(&path).await.map_err(refused)?;
                    others.stamps.insert(path, stamp);
                    known.push(Known::probe(offer, wanted).await);
                    known.len() - 1
                }
            }
        }
    };
    start(known, index, others, &wanted.choice)
}

/// Probes what there is, and uses none of it.
pub async fn examine(wanted: &Wanted) -> Vec<BackendReport> {
    let (known, others) = all(wanted).await;
    known.iter().map(Known::report).chain(others.refused).collect()
}

/// Side by side: one that hangs keeps none of the others waiting.
async fn all(wanted: &Wanted) -> (Vec<Known>, Others) {
    let linked = Registry::linked().into_iter().map(|offer| Known::probe(offer, wanted));
    let files = wanted.plugins.files().into_iter();
    let files = files.map(async |(path, stamp)| match stamp {
        Ok(stamp) => (Known::load(&path, wanted).await, Some((path, stamp))),
        Err(error) => (Err(refused(&path, &error)), None),
    });
    let linked = stream::iter(linked).buffered(PROBED_AT_ONCE).collect::<Vec<_>>();
    let files = stream::iter(files).buffered(PROBED_AT_ONCE).collect::<Vec<_>>();
    let (mut known, files) = tokio::join!(linked, files);
    let mut others = Others::default();
    for (loaded, stamp) in files {
        others.stamps.extend(stamp);
        match loaded {
            Ok(one) => known.push(one),
            Err(report) => others.refused.push(report),
        }
    }
    (known, others)
}

/// What there is besides the backends that were loaded.
#[derive(Default)]
struct Others {
    refused: Vec<BackendReport>,
    stamps: BTreeMap<PathBuf, Stamp>,
}

fn start(
    mut known: Vec<Known>,
    index: usize,
    others: Others,
    choice: &Choice,
) -> Result<Chosen, ChooseError> {
    let mut reports: Vec<BackendReport> = known.iter().map(Known::report).collect();
    reports[index].selected = true;
    reports[index].state = BackendState::Started;
    let chosen = reports[index].name.clone();
    for report in &mut reports {
        report.notes.push(why(choice, report, &chosen));
    }
    let passed_over: String = match choice {
        Choice::Auto => preferred(&chosen, &reports)
            .map(|report| format!("; {} is not usable: {}", report.name, report.reason))
            .collect(),
        Choice::Named(_) | Choice::File(_) => String::new(),
    };
    let reason = match choice {
        Choice::Auto => format!("the best usable one: {}{passed_over}", reports[index].reason),
        Choice::Named(_) | Choice::File(_) => format!("configured; {}", reports[index].reason),
    };
    reports.extend(others.refused);
    let chosen = known.swap_remove(index);
    let name = chosen.offer.manifest().name.clone();
    match chosen.started {
        Ok(backend) => Ok(Chosen { backend, reason, reports, stamps: others.stamps }),
        Err(error) => Err(ChooseError::Start { name, error }),
    }
}

/// Those that `auto` would rather have had than `chosen`.
fn preferred<'a>(
    chosen: &str,
    reports: &'a [BackendReport],
) -> impl Iterator<Item = &'a BackendReport> {
    let better = AUTO_ORDER.iter().take_while(move |name| **name != chosen);
    better.flat_map(|name| reports.iter().filter(move |report| report.name == **name))
}

/// A file that is not loaded.
fn refused(path: &Path, error: &LoadError) -> BackendReport {
    BackendReport {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        version: None,
        source: path.display().to_string(),
        mode: None,
        state: BackendState::Declared,
        usable: None,
        reason: format!("refused: {error}"),
        selected: false,
        notes: vec![],
    }
}

/// Why this one was chosen or not, for people.
pub(crate) fn why(choice: &Choice, report: &BackendReport, chosen: &str) -> String {
    let order = AUTO_ORDER.join(", ");
    let rank = |name: &str| AUTO_ORDER.iter().position(|known| *known == name);
    match choice {
        Choice::Named(_) | Choice::File(_) if report.selected => {
            "chosen: `[backend] use` names it".to_owned()
        }
        Choice::Named(_) | Choice::File(_) => format!("not chosen: `[backend] use` names {chosen}"),
        Choice::Auto if report.selected => {
            format!("chosen by `auto`: the first usable one of {order}")
        }
        Choice::Auto if report.usable != Some(true) => {
            "not chosen: `auto` takes only what is usable".to_owned()
        }
        Choice::Auto if rank(&report.name).is_some() && report.name != chosen => {
            format!("not chosen: `auto` prefers {chosen}")
        }
        Choice::Auto if report.name == chosen => {
            "not chosen: another one of the same name comes first".to_owned()
        }
        Choice::Auto => format!(
            "not chosen: `auto` tries only {order}; set `[backend] use = \"{}\"` to have it",
            report.name
        ),
    }
}

/// A backend, and how trying it went.
pub(crate) struct Known {
    pub(crate) offer: Offer,
    pub(crate) started: Result<Backend, BackendError>,
    probed: Result<Probe, BackendError>,
}

impl Known {
    /// The plugin of a file, or what to tell of it.
    pub(crate) async fn load(file: &Path, wanted: &Wanted) -> Result<Self, BackendReport> {
        match wanted.open(file).await {
            Ok(offer) => Ok(Self::probe(offer, wanted).await),
            Err(error) => Err(refused(file, &error)),
        }
    }

    async fn probe(offer: Offer, wanted: &Wanted) -> Self {
        let config = wanted.config(&offer.manifest().name);
        let started = instance::start(offer.clone(), config).await;
        let probed = match &started {
            Ok(backend) => backend.client.probe().await,
            Err(error) => Err(error.clone()),
        };
        Self { offer, started, probed }
    }

    fn source_is(&self, path: &Path) -> bool {
        match self.offer.source() {
            Source::Linked => false,
            Source::File(file) => file == path,
        }
    }

    pub(crate) fn report(&self) -> BackendReport {
        let (usable, reason, notes) = match &self.probed {
            Ok(probe) => (Some(probe.usable), probe.reason.clone(), probe.notes.clone()),
            Err(error) => (None, error.to_string(), vec![]),
        };
        let state = match usable {
            Some(_) => BackendState::Loaded,
            None => BackendState::Declared,
        };
        let source = match self.offer.source() {
            Source::Linked => "linked".to_owned(),
            Source::File(path) => path.display().to_string(),
        };
        let manifest = self.offer.manifest();
        BackendReport {
            name: manifest.name.clone(),
            version: Some(manifest.version.clone()),
            source,
            mode: Some(self.offer.mode().word()),
            state,
            usable,
            reason,
            selected: false,
            notes,
        }
    }
}

/// A linked one beats a file of the same name: it cannot be swapped behind our back. Of two files
/// the newer version is taken, and of two of one version the first.
fn named(known: &[Known], name: &str) -> Result<usize, ChooseError> {
    let of_name = known.iter().enumerate().filter(|(_, one)| one.offer.manifest().name == name);
    let best = of_name.min_by_key(|(_, one)| match one.offer.source() {
        Source::Linked => (0, Reverse(None)),
        Source::File(_) => (1, Reverse(version(&one.offer))),
    });
    best.map(|(index, _)| index).ok_or_else(|| {
        let mut names: Vec<&str> =
            known.iter().map(|known| known.offer.manifest().name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        ChooseError::Unknown { name: name.to_owned(), known: names.join(", ") }
    })
}

fn best(known: &[Known]) -> Result<usize, ChooseError> {
    let usable = |name: &&str| {
        known.iter().position(|known| {
            let is_usable = known.probed.as_ref().is_ok_and(|probe| probe.usable);
            known.offer.manifest().name == **name && is_usable
        })
    };
    AUTO_ORDER.iter().find_map(usable).ok_or_else(|| {
        let reasons: Vec<String> = known
            .iter()
            .map(|known| format!("{}: {}", known.offer.manifest().name, known.report().reason))
            .collect();
        ChooseError::NoneUsable(reasons.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, usable: Option<bool>, selected: bool) -> BackendReport {
        BackendReport {
            name: name.to_owned(),
            version: None,
            source: "linked".to_owned(),
            mode: None,
            state: BackendState::Loaded,
            usable,
            reason: format!("{name} was tried"),
            selected,
            notes: vec![],
        }
    }

    #[test]
    fn auto_tells_of_each_why_it_was_chosen_or_not() {
        let reports = [
            report("dry-run", Some(true), false),
            report("qemu-kvm", Some(false), false),
            report("qemu-tcg", Some(true), true),
            report("qemu-tcg", Some(true), false),
            report("xen", Some(true), false),
            report("broken", None, false),
        ];
        let told: Vec<_> =
            reports.iter().map(|report| why(&Choice::Auto, report, "qemu-tcg")).collect();
        assert_eq!(
            told,
            [
                "not chosen: `auto` prefers qemu-tcg",
                "not chosen: `auto` takes only what is usable",
                "chosen by `auto`: the first usable one of qemu-kvm, qemu-tcg, dry-run",
                "not chosen: another one of the same name comes first",
                "not chosen: `auto` tries only qemu-kvm, qemu-tcg, dry-run; set `[backend] use = \
                 \"xen\"` to have it",
                "not chosen: `auto` takes only what is usable",
            ]
        );
        let passed_over: Vec<_> =
            preferred("qemu-tcg", &reports).map(|report| report.name.as_str()).collect();
        assert_eq!(passed_over, ["qemu-kvm"]);
    }

    #[test]
    fn one_that_is_named_is_chosen_for_that() {
        let choice = Choice::Named("qemu-kvm".to_owned());
        let named = report("qemu-kvm", Some(false), true);
        assert_eq!(why(&choice, &named, "qemu-kvm"), "chosen: `[backend] use` names it");
        let other = report("qemu-tcg", Some(true), false);
        let told = why(&choice, &other, "qemu-kvm");
        assert_eq!(told, "not chosen: `[backend] use` names qemu-kvm");
    }
}
