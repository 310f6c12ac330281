//! The plugins' folder while the daemon runs: files that came, went or were replaced. A new version
//! of the plugin in use takes over from the one that runs, which ends when it has ended what it is
//! at. No machine is touched by that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use semver::Version;
use tracing::{info, warn};
use vman_plugin::host::Offer;

use crate::Operator;
use crate::backends::{BackendReport, BackendState, Choice, Known, Wanted, why};
use crate::plugins::Stamp;

/// How often the folder is looked at.
const RESCAN_INTERVAL: Duration = Duration::from_secs(2);

/// All backends there are, as they were when they were last looked at.
#[derive(Debug)]
pub(crate) struct Catalogue {
    pub(crate) wanted: Wanted,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    reports: Vec<BackendReport>,
    stamps: BTreeMap<PathBuf, Stamp>,
}

impl Catalogue {
    pub(crate) fn new(
        wanted: Wanted,
        reports: Vec<BackendReport>,
        stamps: BTreeMap<PathBuf, Stamp>,
    ) -> Self {
        Self { wanted, seen: Mutex::new(Seen { reports, stamps }) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files that are new or another than before, and forgets those that are gone: but for the
    /// one in use, which goes on without its file.
    fn changes(&self) -> Vec<PathBuf> {
        let files = self.wanted.plugins.files().into_iter();
        let now: BTreeMap<PathBuf, Stamp> =
            files.filter_map(|(path, stamp)| Some((path, stamp.ok()?))).collect();
        let mut seen = self.seen();
        let gone = |path: &PathBuf| !now.contains_key(path);
        for path in seen.stamps.keys().filter(|path| gone(path)).cloned().collect::<Vec<_>>() {
            info!(file = %path.display(), "a plugin's file is gone");
            let source = path.display().to_string();
            seen.reports.retain(|report| report.selected || report.source != source);
        }
        let changed = |(path, stamp): &(&PathBuf, &Stamp)| seen.stamps.get(*path) != Some(*stamp);
        let changes = now.iter().filter(changed).map(|(path, _)| path.clone()).collect();
        seen.stamps = now;
        changes
    }

    fn put(&self, report: BackendReport) {
        let mut seen = self.seen();
        if report.selected {
            seen.reports.iter_mut().for_each(|one| one.selected = false);
        }
        match seen.reports.iter_mut().find(|one| one.source == report.source) {
            // The instance of the version before goes on.
            Some(before) if before.selected && !report.selected => {
                let why =
                    format!("its file was replaced by one that is not used: {}", report.reason);
                before.notes.push(why);
            }
            Some(before) => *before = report,
            None => seen.reports.push(report),
        }
    }
}

impl Operator {
    /// All backends, and what has become of each.
    pub fn backends(&self) -> Vec<BackendReport> {
        let mut reports = self.catalogue.seen().reports.clone();
        for report in reports.iter_mut().filter(|report| report.selected) {
            if let Some(fault) = self.instance.fault() {
                report.state = BackendState::Quarantined;
                report.reason = fault;
            }
        }
        reports
    }

    /// Looks at the plugins' folder every two seconds, without end.
    pub async fn watch_plugins(&self) {
        loop {
            tokio::time::sleep(RESCAN_INTERVAL).await;
            self.rescan().await;
        }
    }

    /// Looks at the plugins' folder once.
    pub async fn rescan(&self) {
        // A folder on a device that hangs is waited for here alone.
        for file in tokio::task::block_in_place(|| self.catalogue.changes()) {
            self.load_anew(&file).await;
        }
    }

    async fn load_anew(&self, file: &Path) {
        let wanted = &self.catalogue.wanted;
        let known = match Known::load(file, wanted).await {
            Ok(known) => known,
            Err(report) => {
                warn!("{}", report.reason);
                return self.catalogue.put(report);
            }
        };
        let mut report = known.report();
        info!(file = %file.display(), version = report.version, "loaded: {}", report.reason);
        if self.takes_over(&known.offer) && report.usable == Some(true) {
            match known.started {
                Ok(backend) => {
                    self.instance.replace(backend, |events| self.watch.listen(events)).await;
                    report.selected = true;
                    report.state = BackendState::Started;
                }
                Err(error) => report.reason = error.to_string(),
            }
        }
        report.notes.push(why(&wanted.choice, &report, self.backend()));
        self.catalogue.put(report);
    }

    /// Is it a new version of the plugin in use?
    fn takes_over(&self, offer: &Offer) -> bool {
        let current = self.instance.offer();
        if current.manifest().name != offer.manifest().name {
            return false;
        }
        if current.source() == offer.source() {
            return true;
        }
        match self.catalogue.wanted.choice {
            Choice::Auto | Choice::Named(_) => {
                is_file(&current) && version(offer) > version(&current)
            }
            // Another file than that was not asked for.
            Choice::File(_) => false,
        }
    }
}

/// What is linked in cannot be swapped behind anybody's back.
fn is_file(offer: &Offer) -> bool {
    match offer.source() {
        vman_plugin::host::Source::Linked => false,
        vman_plugin::host::Source::File(_) => true,
    }
}

/// As semver orders them; one that is no version comes before all others.
pub(crate) fn version(offer: &Offer) -> Option<Version> {
    Version::parse(&offer.manifest().version).ok()
}
