//! The chain of policies, from the configuration to loaded components.

use std::sync::Arc;

use tracing::{info, warn};
use vman_core::repair::Mode;
use vman_policy::{LoadError, Policies, PolicyBinding};

use crate::config::{Policy, PolicyMode};

/// The chain, and what the API tells of it. Blocks: every component is compiled.
pub(super) fn load(
    chain: &[Policy],
) -> Result<(Arc<Policies>, Vec<vman_api_types::Policy>), LoadError> {
    let bindings = chain.iter().map(|policy| PolicyBinding {
        name: policy.name.clone(),
        path: policy.path.clone(),
        mode: mode(policy.mode),
        config_json: policy.config.clone(),
    });
    let policies = Policies::load(bindings.collect())?;
    let reports: Vec<vman_api_types::Policy> = policies
        .report()
        .into_iter()
        .map(|report| vman_api_types::Policy {
            name: report.name,
            mode: report.mode.word().to_owned(),
            source: report.path.display().to_string(),
            hash: report.hash,
            kinds: report.kinds,
        })
        .collect();
    if reports.is_empty() {
        warn!("no policy is loaded: issues are named, and nothing is done about them");
    }
    for policy in &reports {
        info!(name = policy.name, mode = policy.mode, hash = policy.hash.as_deref(), "policy");
    }
    Ok((Arc::new(policies), reports))
}

fn mode(mode: PolicyMode) -> Mode {
    match mode {
        PolicyMode::Enforce => Mode::Enforce,
        PolicyMode::Shadow => Mode::Shadow,
        PolicyMode::Off => Mode::Off,
    }
}
