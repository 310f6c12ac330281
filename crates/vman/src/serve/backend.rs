//! The backend: names the crates that are linked in, and has one chosen.

use std::path::Path;

use tracing::{info, warn};
use vman_core::disk::ImageFormat;
use vman_operator::{Backend, BackendReport, Choice, Chosen, Plugins, Wanted};
use vman_plugin::host::Helper;
// A crate that is linked and never named registers nothing: these lines are the registration.
use vman_plugin_dry_run as _;
#[cfg(feature = "crash-points")]
use vman_plugin_example_c as _;
use vman_plugin_qemu_kvm as _;
use vman_plugin_qemu_tcg as _;

use crate::cli;
use crate::config::{BackendChoice, Config};

/// The program that plugin files are run by, but for those that run in this one: this very program,
/// also where its file was replaced meanwhile.
const HELPER: &str = "/proc/self/exe";

/// What the configuration asks for.
pub(crate) fn wanted(config: &Config, machines_dir: &Path) -> Wanted {
    let choice = match &config.backend.choice {
        BackendChoice::Auto => Choice::Auto,
        BackendChoice::Name(name) => Choice::Named(name.clone()),
        BackendChoice::File(file) => Choice::File(file.into()),
    };
    let plugins = Plugins {
        dir: config.plugins.dir.clone(),
        helper: Some(helper()),
        in_process: config.plugins.in_process.clone(),
        pins: config.plugins.pins.clone(),
    };
    let settings = config.backends.clone();
    Wanted { choice, plugins, machines_dir: machines_dir.to_owned(), settings }
}

/// How this program is told to run a plugin's file.
pub(crate) fn helper() -> Helper {
    Helper { program: HELPER.into(), arguments: vec![cli::PLUGIN_HOST.into()] }
}

/// Tells the log what there is, which was chosen and why, and what is to be known of that one.
pub(super) fn tell(config: &Config, chosen: &Chosen) {
    for report in &chosen.reports {
        let BackendReport { name, version, source, mode, state, usable, reason, .. } = report;
        let (state, usable) = (state.word(), usable.unwrap_or(false));
        info!(name, version, source, mode, state, usable, "backend: {reason}");
    }
    for name in without_backend(config.backends.keys(), &chosen.reports) {
        warn!("[backends.{name}] is not used: there is no backend of this name");
    }
    let name = chosen.backend.name();
    if is_doubtful(config, chosen) {
        warn!(backend = name, "chosen: {}", chosen.reason);
    } else {
        info!(backend = name, "chosen: {}", chosen.reason);
    }
    for note in chosen.reports.iter().filter(|report| report.selected).flat_map(|one| &one.notes) {
        info!(backend = name, "{note}");
    }
}

/// Configured and not usable, or, with nothing configured, no machine but a simulated one.
pub(crate) fn is_doubtful(config: &Config, chosen: &Chosen) -> bool {
    let is_usable = |report: &BackendReport| !report.selected || report.usable == Some(true);
    !chosen.reports.iter().all(is_usable)
        || (config.backend.choice == BackendChoice::Auto && chosen.backend.name() == "dry-run")
}

/// What it makes images of, in the words of the records.
pub(super) fn image_formats(backend: &Backend) -> Vec<ImageFormat> {
    let formats = &backend.manifest().capabilities.image_formats;
    let format = |format: &vman_plugin::ImageFormat| match format {
        vman_plugin::ImageFormat::Qcow2 => ImageFormat::Qcow2,
        vman_plugin::ImageFormat::Raw => ImageFormat::Raw,
    };
    formats.iter().map(format).collect()
}

pub(crate) fn reports(reports: Vec<BackendReport>) -> Vec<vman_api_types::Backend> {
    let report = |report: BackendReport| vman_api_types::Backend {
        name: report.name,
        version: report.version,
        source: report.source,
        mode: report.mode.map(str::to_owned),
        state: report.state.word().to_owned(),
        usable: report.usable.unwrap_or(false),
        reason: report.reason,
        notes: report.notes,
        selected: report.selected,
    };
    reports.into_iter().map(report).collect()
}

/// Backends come from files, too, so only now is it known which names there are.
fn without_backend<'a>(
    configured: impl Iterator<Item = &'a String>,
    reports: &[BackendReport],
) -> Vec<&'a String> {
    configured.filter(|name| reports.iter().all(|report| report.name != **name)).collect()
}

#[cfg(test)]
mod tests {
    use vman_operator::BackendState;

    use super::*;

    #[test]
    fn settings_of_a_backend_that_is_not_there_are_found() {
        let report = BackendReport {
            name: "qemu-tcg".to_owned(),
            version: None,
            source: "linked".to_owned(),
            mode: None,
            state: BackendState::Started,
            usable: Some(true),
            reason: String::new(),
            selected: true,
            notes: vec![],
        };
        let configured = ["qemu-tcg".to_owned(), "qmeu-kvm".to_owned()];
        assert_eq!(without_backend(configured.iter(), &[report]), ["qmeu-kvm"]);
    }

    use vman_plugin::host::Registry;

    #[test]
    fn exactly_the_backends_that_ship_are_linked_in() {
        let mut names: Vec<String> =
            Registry::linked().iter().map(|offer| offer.manifest().name.clone()).collect();
        names.sort_unstable();
        #[cfg(not(feature = "crash-points"))]
        assert_eq!(names, ["dry-run", "qemu-kvm", "qemu-tcg"]);
        // The tests' program has one more, which is not written in Rust.
        #[cfg(feature = "crash-points")]
        assert_eq!(names, ["dry-run", "example-c", "qemu-kvm", "qemu-tcg"]);
    }
}
