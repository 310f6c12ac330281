//! Chooses the backend: by name, by file, or the best usable one. Every known one is probed, so
//! that people can be told what this host can do and why.

use std::path::{Path, PathBuf};

use thiserror::Error;
use vman_plugin::host::{LoadError, Offer, Registry, Source, open_file, scan};
use vman_plugin::{BackendConfig, BackendError, Probe};

use crate::instance::{self, Backend};

/// What `auto` prefers, best first.
const AUTO_ORDER: [&str; 3] = ["qemu-kvm", "qemu-tcg", "dry-run"];

/// What the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The first usable one of the built-in order.
    Auto,
    Named(String),
    /// A file, in the plugin folder unless absolute.
    File(PathBuf),
}

/// The chosen backend, started.
#[derive(Debug)]
pub struct Chosen {
    pub backend: Backend,
    /// Why this one, for people.
    pub reason: String,
    /// All known ones.
    pub reports: Vec<BackendReport>,
}

/// What is known of one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendReport {
    /// Its name, or its file's where it could not be read.
    pub name: String,
    /// `linked`, or the path of its file.
    pub source: String,
    /// None if it could not be found out.
    pub usable: Option<bool>,
    pub reason: String,
    pub selected: bool,
    /// What else is to be known of it on this host, and why it was chosen or not: a sentence each.
    pub notes: Vec<String>,
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

/// Probes what there is and starts what was asked for. `settings` gives the `[backends.<name>]`
/// table of a backend as JSON.
pub async fn choose(
    choice: &Choice,
    plugins: Option<&Path>,
    machines_dir: &Path,
    settings: impl Fn(&str) -> serde_json::Value,
) -> Result<Chosen, ChooseError> {
    let mut known = Vec::new();
    let mut refused = Vec::new();
    for offer in Registry::linked() {
        known.push(Known::probe(offer, machines_dir, &settings).await);
    }
    for (path, loaded) in plugins.map(scan).unwrap_or_default() {
        match loaded {
            Ok(offer) => known.push(Known::probe(offer, machines_dir, &settings).await),
            Err(error) => refused.push((path, error)),
        }
    }
    let index = match choice {
        Choice::Auto => best(&known)?,
        Choice::Named(name) => named(&known, name)?,
        Choice::File(file) => {
            let path = plugins.unwrap_or(Path::new("")).join(file);
            match known.iter().position(|known| known.source_is(&path)) {
                Some(index) => index,
                None => {
                    let offer =
                        open_file(&path).map_err(|error| ChooseError::File { path, error })?;
                    known.push(Known::probe(offer, machines_dir, &settings).await);
                    known.len() - 1
                }
            }
        }
    };
    start(known, index, refused, choice)
}

fn start(
    mut known: Vec<Known>,
    index: usize,
    refused: Vec<(PathBuf, LoadError)>,
    choice: &Choice,
) -> Result<Chosen, ChooseError> {
    let mut reports: Vec<BackendReport> = known.iter().map(Known::report).collect();
    reports[index].selected = true;
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
    reports.extend(refused.into_iter().map(|(path, error)| BackendReport {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        source: path.display().to_string(),
        usable: None,
        reason: format!("refused: {error}"),
        selected: false,
        notes: vec![],
    }));
    let chosen = known.swap_remove(index);
    let name = chosen.offer.manifest().name.clone();
    match chosen.started {
        Ok(backend) => Ok(Chosen { backend, reason, reports }),
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

/// Why this one was chosen or not, for people.
fn why(choice: &Choice, report: &BackendReport, chosen: &str) -> String {
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
struct Known {
    offer: Offer,
    started: Result<Backend, BackendError>,
    probed: Result<Probe, BackendError>,
}

impl Known {
    async fn probe(
        offer: Offer,
        machines_dir: &Path,
        settings: &impl Fn(&str) -> serde_json::Value,
    ) -> Self {
        let settings = settings(&offer.manifest().name);
        let config = BackendConfig { machines_dir: machines_dir.to_owned(), settings };
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

    fn report(&self) -> BackendReport {
        let (usable, reason, notes) = match &self.probed {
            Ok(probe) => (Some(probe.usable), probe.reason.clone(), probe.notes.clone()),
            Err(error) => (None, error.to_string(), vec![]),
        };
        let source = match self.offer.source() {
            Source::Linked => "linked".to_owned(),
            Source::File(path) => path.display().to_string(),
        };
        let name = self.offer.manifest().name.clone();
        BackendReport { name, source, usable, reason, selected: false, notes }
    }
}

/// A linked one beats a file of the same name: it cannot be swapped behind our back.
fn named(known: &[Known], name: &str) -> Result<usize, ChooseError> {
    let position = known.iter().position(|known| known.offer.manifest().name == name);
    position.ok_or_else(|| {
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
            source: "linked".to_owned(),
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
