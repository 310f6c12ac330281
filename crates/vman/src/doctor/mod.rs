//! `vman doctor`: what this host can do, and how to mend what it cannot. It looks, as the daemon
//! would, and changes nothing; no daemon need run.

mod host;
mod storage;
mod told;

use std::io::Write;

use serde_json::json;
use vman_network::Networker;
use vman_operator::{BackendReport, ChooseError, Chosen};

use crate::client::Output;
use crate::config::{BackendChoice, Config};
use crate::failure::Failure;
use crate::serve::{self, ServeError, backend};
use told::Finding;

/// The source of a backend that comes from no file.
const LINKED: &str = "linked";

/// What a daemon would run machines with, or why none would start.
type Choice = Result<Chosen, ChooseError>;

/// # Errors
/// VMs cannot run here.
pub(crate) fn run<W: Write>(config: Config, output: &mut Output<W>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    let examined = runtime.block_on(examine(&config));
    // A backend that hangs was given up, and is not waited for here either.
    runtime.shutdown_background();
    if output.is_json() {
        let verdict = examined.verdict.as_ref();
        output.json(&json!({
            "can_run_vms": verdict.is_ok(),
            "reason": verdict.unwrap_or_else(|why| why),
            "backends": examined.backends,
            "findings": examined.findings,
        }))?;
    } else {
        told::print(&examined.findings, output)?;
        if let Ok(how) = &examined.verdict {
            output.heading(how)?;
        }
    }
    examined.verdict.map(drop).map_err(Failure::Failed)
}

/// All that was seen.
struct Examined {
    findings: Vec<Finding>,
    backends: Vec<vman_api_types::Backend>,
    /// With what VMs run here, or why they cannot.
    verdict: Result<String, String>,
}

async fn examine(config: &Config) -> Examined {
    let machines = config.storage.join("machines");
    let wanted = backend::wanted(config, &machines);
    let chosen = vman_operator::choose(&wanted).await;
    let reports = match &chosen {
        Ok(chosen) => chosen.reports.clone(),
        // What it could be told to use instead.
        Err(_) => vman_operator::examine(&wanted).await,
    };
    let mut findings = configuration(config);
    findings.extend(chosen_backend(config, &chosen));
    findings.extend(reports.iter().map(one_backend));
    findings.extend(host::programs(config).await);
    findings.push(host::kvm(reports.iter().find(|report| report.name == host::KVM_BACKEND)));
    findings.extend(storage::look(&config.storage));
    findings.push(network(config));
    let verdict = verdict(&chosen, &findings);
    Examined { findings, backends: backend::reports(reports), verdict }
}

fn configuration(config: &Config) -> Vec<Finding> {
    let read = match &config.file {
        Some(file) => format!("read from {}", file.display()),
        None => "no file: environment and defaults".to_owned(),
    };
    let warnings = config.warnings.iter().map(|warning| Finding::note("configuration", warning));
    std::iter::once(Finding::good("configuration", read)).chain(warnings).collect()
}

fn chosen_backend(config: &Config, chosen: &Choice) -> Vec<Finding> {
    let chosen = match chosen {
        Ok(chosen) => chosen,
        Err(error) => {
            return vec![Finding::bad("backend", error.to_string()).mend("vman config show")];
        }
    };
    let told = format!("{}: {}", chosen.backend.name(), chosen.reason);
    if !backend::is_doubtful(config, chosen) {
        return vec![Finding::good("backend", told)];
    }
    vec![match config.backend.choice {
        // Nothing but the simulation works; what is missing is told with each backend.
        BackendChoice::Auto => Finding::bad("backend", told),
        BackendChoice::Name(_) | BackendChoice::File(_) => {
            Finding::bad("backend", told).mend("set `[backend] use = \"auto\"`")
        }
    }]
}

fn one_backend(report: &BackendReport) -> Finding {
    let BackendReport { name, source, usable, reason, selected, notes, .. } = report;
    let reason = if source == LINKED { reason.clone() } else { format!("{source}: {reason}") };
    let finding = match usable {
        Some(true) => Finding::good(name, reason),
        Some(false) | None if *selected => Finding::bad(name, reason),
        Some(false) | None => Finding::note(name, reason),
    };
    finding.with(notes)
}

fn network(config: &Config) -> Finding {
    match Networker::settle(serve::networker_config(config)) {
        Ok(networker) => {
            let network = networker.network();
            let told = format!("mode {}: {}", network.mode.word(), network.reason);
            Finding::good("network", told)
        }
        Err(error) => Finding::bad("network", error.to_string()),
    }
}

fn verdict(chosen: &Choice, findings: &[Finding]) -> Result<String, String> {
    let bad: Vec<&str> = findings.iter().filter(|f| f.is_bad()).map(Finding::about).collect();
    match chosen {
        Ok(chosen) if bad.is_empty() && chosen.backend.name() == host::SIMULATED => {
            Ok("VMs are simulated here, as is configured".to_owned())
        }
        Ok(chosen) if bad.is_empty() => {
            Ok(format!("VMs can run here, by {}", chosen.backend.name()))
        }
        Ok(_) | Err(_) => Err(format!("VMs cannot run here: see {}", bad.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cli::Format;
    use crate::config::{self, Options, Surroundings};

    /// What is told of a host with this configuration, and whether VMs can run on it.
    fn told(sections: &str) -> (Value, Result<(), Failure>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vman.toml");
        let text = format!("[storage]\npath = \"storage\"\n[plugins]\ndir = \"none\"\n{sections}");
        std::fs::write(&file, text).unwrap();
        let options = Options { file: Some(file), storage: None };
        let config = config::load(&options, &Surroundings::default()).unwrap().config;
        let mut printed = Vec::new();
        let ended = run(config, &mut Output::new(Format::Json, &mut printed));
        assert!(!folder.path().join("storage").exists(), "nothing is made");
        (serde_json::from_slice(&printed).unwrap(), ended)
    }

    fn finding<'a>(told: &'a Value, about: &str) -> &'a Value {
        let all = told["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["about"] == about).expect("it was looked at")
    }

    #[test]
    fn what_is_configured_and_works_is_enough() {
        let (told, ended) = told("[backend]\nuse = \"dry-run\"\n");
        ended.unwrap();
        assert_eq!(told["can_run_vms"], true, "{told}");
        for about in ["backend", "dry-run", "storage", "network"] {
            assert_eq!(finding(&told, about)["state"], "good", "{told}");
        }
        let selected: Vec<&Value> = told["backends"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|backend| backend["selected"] == true)
            .collect();
        assert_eq!(selected.len(), 1, "{told}");
        assert_eq!(selected[0]["name"], "dry-run");
    }

    #[test]
    fn a_host_on_which_machines_are_only_simulated_cannot_run_vms() {
        let missing = "binary = \"/not/there\"";
        let (told, ended) =
            told(&format!("[backends.qemu-kvm]\n{missing}\n[backends.qemu-tcg]\n{missing}\n"));
        assert!(ended.unwrap_err().to_string().contains("see backend"));
        assert_eq!(finding(&told, "backend")["state"], "bad", "{told}");
        let qemu = finding(&told, "qemu-system-x86_64");
        assert!(qemu["fix"].as_str().is_some_and(|fix| fix.starts_with("apt-get")), "{qemu}");
        let tcg = finding(&told, "qemu-tcg");
        assert!(tcg["told"].as_str().is_some_and(|why| why.contains("/not/there")), "{tcg}");
    }

    #[test]
    fn a_backend_that_does_not_exist_is_told_beside_those_that_do() {
        let (told, ended) = told("[backend]\nuse = \"qemu-txg\"\n");
        ended.unwrap_err();
        let backend = finding(&told, "backend");
        assert_eq!(backend["state"], "bad");
        assert!(backend["told"].as_str().unwrap().contains("qemu-txg"), "{backend}");
        finding(&told, "qemu-tcg");
        let backends = told["backends"].as_array().unwrap();
        assert!(backends.iter().all(|backend| backend["selected"] == false), "{told}");
    }
}
