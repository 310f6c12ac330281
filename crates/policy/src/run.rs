//! One question to one component: a fresh store and instance, every limit set before the first
//! instruction of the guest, and a typed answer. The calling thread is used and blocked, for the
//! deadline at the longest.

use std::fmt;
use std::time::{Duration, Instant};

use vman_core::repair::{Decision, Issue, JudgeFailure};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};

use crate::bindings::exports::vman::policy::policy::Guest as Exports;
use crate::bindings::vman::policy::types as wit;
use crate::bindings::{PolicyV1, PolicyV1Pre};
use crate::convert;
use crate::engine::Runtime;
use crate::failure::{self, Stage};
use crate::guest::Guest;
use crate::limits::{COPIED_BYTES_MAX, DEADLINE, FUEL_MAX, TICK};

/// Ticks until a call's deadline; one more, since the present tick is partly over.
const DEADLINE_TICKS: u64 = (DEADLINE.as_millis() / TICK.as_millis()) as u64 + 1;

/// A compiled component with its imports resolved.
pub(crate) struct Program {
    pre: PolicyV1Pre<Guest>,
}

/// What came of one call.
#[derive(Debug)]
pub(crate) struct Called<T> {
    pub(crate) answer: Result<T, JudgeFailure>,
    /// Units of fuel used, the instantiation included.
    pub(crate) fuel: u64,
    pub(crate) duration: Duration,
}

impl Program {
    /// Fails if the component does not fit the contract; the error says where.
    pub(crate) fn link(engine: &Engine, component: &Component) -> wasmtime::Result<Self> {
        let mut linker = Linker::<Guest>::new(engine);
        PolicyV1::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)?;
        let pre = PolicyV1Pre::new(linker.instantiate_pre(component)?)?;
        Ok(Self { pre })
    }

    /// `name` is what the guest's log lines are told under, here and below.
    pub(crate) fn describe(&self, runtime: &Runtime, name: &str) -> Called<wit::PolicyInfo> {
        self.call(runtime, name, |policy, store| policy.call_describe(store))
    }

    /// Empty: the configuration is fine.
    pub(crate) fn validate_config(
        &self,
        runtime: &Runtime,
        name: &str,
        config: &str,
    ) -> Called<Vec<wit::ConfigProblem>> {
        self.call(runtime, name, |policy, store| policy.call_validate_config(store, config))
    }

    /// An answer that is `Ok` has been held against the case.
    pub(crate) fn decide(
        &self,
        runtime: &Runtime,
        name: &str,
        config: &str,
        case: &Case,
    ) -> Called<Decision> {
        let called = self.call(runtime, name, |policy, store| {
            policy.call_decide(store, config, &case.told, &case.context)
        });
        let answer = called.answer.and_then(|answer| {
            let decision = answer.map_err(|message| failure::declined(&message))?;
            let decision = convert::decision(decision);
            decision.check(&case.issue).map_err(|reason| failure::invalid(&reason))?;
            Ok(decision)
        });
        Called { answer, fuel: called.fuel, duration: called.duration }
    }

    fn call<T>(
        &self,
        runtime: &Runtime,
        name: &str,
        ask: impl FnOnce(&Exports, &mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> Called<T> {
        let started = Instant::now();
        let running = runtime.ticker.run();
        let mut store = bounded_store(&runtime.engine, FUEL_MAX);
        let answer = self
            .pre
            .instantiate(&mut store)
            .map_err(|error| (Stage::Instantiating, error))
            .and_then(|policy| {
                ask(policy.vman_policy_policy(), &mut store).map_err(|error| (Stage::Called, error))
            });
        drop(running);
        let duration = started.elapsed();
        let fuel = FUEL_MAX - store.get_fuel().expect("the engine counts fuel");
        store.data().tell_log(name);
        let was_refused_memory = store.data().was_refused_memory;
        let answer =
            answer.map_err(|(stage, error)| failure::of_call(&error, stage, was_refused_memory));
        Called { answer, fuel, duration }
    }
}

/// A store with every limit set; the deadline begins here.
fn bounded_store(engine: &Engine, fuel: u64) -> Store<Guest> {
    let mut store = Store::new(engine, Guest::default());
    store.limiter(|guest| guest);
    store.set_fuel(fuel).expect("the engine counts fuel");
    store.set_epoch_deadline(DEADLINE_TICKS);
    store.set_hostcall_fuel(COPIED_BYTES_MAX);
    store
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

/// An issue with its context, made ready to be handed to any number of policies.
#[derive(Debug)]
pub(crate) struct Case {
    issue: Issue,
    told: wit::Issue,
    context: wit::Context,
}

impl Case {
    pub(crate) fn new(issue: &Issue, context: &vman_core::repair::Context) -> Self {
        Self {
            issue: issue.clone(),
            told: convert::issue(issue),
            context: convert::context(context),
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
