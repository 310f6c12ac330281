//! The chain of policies, in the order they were given: who is asked about a case, and when there
//! is an answer. What is done about the answers is [`vman_core::repair::rule`]'s business.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use vman_core::ports::Judge;
use vman_core::repair::{Context, Issue, Judgement, Mode, Verdict};

use crate::engine::Runtime;
use crate::failure;
use crate::load::{self, Policy};
use crate::problem::LoadError;
use crate::run::{Called, Case};
use crate::workers::Workers;

/// One policy as the operator of vman asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyBinding {
    /// Names it in judgements, logs and errors; no two are the same.
    pub name: String,
    /// The component's file.
    pub path: PathBuf,
    /// [`Mode::Off`]: neither read nor asked.
    pub mode: Mode,
    /// The policy's own configuration as JSON text, up to [`crate::limits::CONFIG_LENGTH_MAX`].
    pub config_json: String,
}

/// What is known of one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyReport {
    pub name: String,
    pub path: PathBuf,
    pub mode: Mode,
    /// What it says of itself; none while it is off.
    pub version: Option<String>,
    /// SHA-256 of the component, in hexadecimal; none while it is off.
    pub hash: Option<String>,
    /// The kinds of issue it is asked about; empty: all, or it is off.
    pub kinds: Vec<String>,
}

/// The policies that may be asked.
#[derive(Debug)]
pub struct Policies {
    // Dropped first: its threads use the rest.
    workers: Workers,
    runtime: Arc<Runtime>,
    policies: Vec<Arc<Policy>>,
    report: Vec<PolicyReport>,
}

impl Policies {
    /// Loads every policy that is not off; the order is the order in which they are asked. Blocks
    /// while they compile: milliseconds for a policy in Rust or C, seconds for one with a language
    /// runtime inside.
    ///
    /// # Errors
    /// The first policy that cannot be used, with what to do about it.
    pub fn load(bindings: Vec<PolicyBinding>) -> Result<Self, LoadError> {
        let runtime = Runtime::start().map_err(|error| LoadError::Runtime(format!("{error:#}")))?;
        let mut policies: Vec<Arc<Policy>> = Vec::new();
        let mut report: Vec<PolicyReport> = Vec::new();
        for binding in bindings {
            if report.iter().any(|earlier| earlier.name == binding.name) {
                return Err(LoadError::SameName(binding.name));
            }
            let policy = match binding.mode {
                Mode::Off => None,
                Mode::Enforce | Mode::Shadow => match load::load(&runtime, &binding) {
                    Ok(policy) => Some(Arc::new(policy)),
                    Err(problem) => {
                        let PolicyBinding { name: policy, path, .. } = binding;
                        return Err(LoadError::Policy { policy, path, problem });
                    }
                },
            };
            report.push(report_of(binding, policy.as_deref()));
            policies.extend(policy);
        }
        let workers = Workers::start().map_err(|error| LoadError::Runtime(error.to_string()))?;
        Ok(Self { workers, runtime: Arc::new(runtime), policies, report })
    }

    /// Every policy that was given, in the order they are asked.
    pub fn report(&self) -> Vec<PolicyReport> {
        self.report.clone()
    }

    async fn ask(&self, policy: &Arc<Policy>, case: &Arc<Case>) -> Judgement {
        let (asked, case) = (Arc::clone(policy), Arc::clone(case));
        let runtime = Arc::clone(&self.runtime);
        let decide = move || asked.program.decide(&runtime, &asked.name, &asked.config, &case);
        let called = self.workers.run(decide).await.unwrap_or_else(|| Called {
            answer: Err(failure::not_asked()),
            fuel: 0,
            duration: std::time::Duration::ZERO,
        });
        Judgement {
            policy: policy.name.clone(),
            policy_hash: policy.hash.clone(),
            mode: policy.mode,
            outcome: called.answer,
            fuel: called.fuel,
            duration_us: u64::try_from(called.duration.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

#[async_trait]
impl Judge for Policies {
    async fn judge(&self, issue: &Issue, context: &Context) -> Vec<Judgement> {
        let case = Arc::new(Case::new(issue, context));
        let mut judgements = Vec::new();
        let mut is_settled = false;
        for policy in self.policies.iter().filter(|policy| wants(policy, issue)) {
            let is_asked = match policy.mode {
                Mode::Enforce => !is_settled,
                Mode::Shadow => true,
                Mode::Off => false,
            };
            if is_asked {
                let judgement = self.ask(policy, &case).await;
                is_settled |= settles(&judgement);
                judgements.push(judgement);
            }
        }
        judgements
    }
}

/// A policy that names no kind wants all.
fn wants(policy: &Policy, issue: &Issue) -> bool {
    policy.kinds.is_empty() || policy.kinds.iter().any(|kind| kind == issue.kind.word())
}

/// A failure settles the case, too: it must not pass to a bolder policy behind.
fn settles(judgement: &Judgement) -> bool {
    let abstained = |decision: &vman_core::repair::Decision| decision.verdict == Verdict::Abstain;
    judgement.mode == Mode::Enforce && !judgement.outcome.as_ref().is_ok_and(abstained)
}

fn report_of(binding: PolicyBinding, policy: Option<&Policy>) -> PolicyReport {
    PolicyReport {
        name: binding.name,
        path: binding.path,
        mode: binding.mode,
        version: policy.map(|policy| policy.version.clone()),
        hash: policy.map(|policy| policy.hash.clone()),
        kinds: policy.map(|policy| policy.kinds.clone()).unwrap_or_default(),
    }
}
