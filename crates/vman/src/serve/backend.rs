//! The backend: names the crates that are linked in, and has one chosen.

use tracing::info;
use vman_operator::{BackendReport, Choice, ChooseError, Chosen, Storage};
// A crate that is linked and never named registers nothing: these lines are the registration.
use vman_plugin_dry_run as _;
use vman_plugin_qemu_kvm as _;
use vman_plugin_qemu_tcg as _;

use crate::config::{BackendChoice, Config};

pub(super) async fn choose(config: &Config, storage: &Storage) -> Result<Chosen, ChooseError> {
    let choice = match &config.backend.choice {
        BackendChoice::Auto => Choice::Auto,
        BackendChoice::Name(name) => Choice::Named(name.clone()),
        BackendChoice::File(file) => Choice::File(file.into()),
    };
    let settings =
        |name: &str| config.backends.get(name).cloned().unwrap_or_else(|| serde_json::json!({}));
    let chosen =
        vman_operator::choose(&choice, config.plugins.as_deref(), &storage.machines(), settings)
            .await?;
    for report in &chosen.reports {
        let BackendReport { name, source, usable, reason, selected } = report;
        info!(name, source, ?usable, selected, "backend: {reason}");
    }
    info!(backend = chosen.client.manifest().name, "chosen: {}", chosen.reason);
    Ok(chosen)
}

pub(super) fn reports(reports: Vec<BackendReport>) -> Vec<vman_api_types::Backend> {
    let report = |report: BackendReport| vman_api_types::Backend {
        name: report.name,
        source: report.source,
        state: state(report.usable, report.selected).to_owned(),
        usable: report.usable.unwrap_or(false),
        reason: report.reason,
        selected: report.selected,
    };
    reports.into_iter().map(report).collect()
}

fn state(usable: Option<bool>, selected: bool) -> &'static str {
    match (usable, selected) {
        (_, true) => "started",
        (Some(_), false) => "loaded",
        // It was named, and could not be tried.
        (None, false) => "declared",
    }
}

#[cfg(test)]
mod tests {
    use vman_plugin::host::Registry;

    #[test]
    fn exactly_the_backends_that_ship_are_linked_in() {
        let mut names: Vec<String> =
            Registry::linked().iter().map(|offer| offer.manifest().name.clone()).collect();
        names.sort_unstable();
        assert_eq!(names, ["dry-run", "qemu-kvm", "qemu-tcg"]);
    }
}
