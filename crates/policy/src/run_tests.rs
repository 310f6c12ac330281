//! One call, closer than [`crate::Policies`] shows it: the memory it runs in, the limit that ends
//! it.

use std::path::{Path, PathBuf};

use uuid::Uuid;
use vman_core::coherence::{Incoherence, Wrong};
use vman_core::ident::{Generation, IssueId, Timestamp, VmId};
use vman_core::repair::{Context, JudgeFailureKind, Mode};

use super::*;
use crate::PolicyBinding;
use crate::engine::Allocation;
use crate::load::{Policy, load};

fn policy(runtime: &Runtime, file: &str, config: &str) -> Policy {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/policies");
    let folder = std::env::var_os("VMAN_POLICY_DIR").map_or_else(built, PathBuf::from);
    let path = folder.join(format!("{file}.wasm"));
    assert!(path.is_file(), "{} is not there: run `cargo xtask policies`", path.display());
    let (name, config_json) = (file.to_owned(), config.to_owned());
    load(runtime, &PolicyBinding { name, path, mode: Mode::Enforce, config_json }).unwrap()
}

fn case() -> Case {
    let wrong = Wrong::VmProcessMissing {
        vm: VmId(Uuid::from_u128(1)),
        generation: Generation(2),
        machine: None,
        ended: None,
    };
    let found = Incoherence { wrong, seen_at: Timestamp(10) };
    let context = Context {
        now: Timestamp(20),
        seed: 1,
        backend: "dry-run".to_owned(),
        attempts: Vec::new(),
        facts: Vec::new(),
    };
    Case::new(&Issue::new(IssueId(Uuid::from_u128(5)), &found), &context)
}

fn decide(runtime: &Runtime, policy: &Policy) -> Called<Decision> {
    policy.program.decide(runtime, &policy.name, &policy.config, &case())
}

#[test]
fn without_a_pool_the_answer_and_the_fuel_are_the_same() {
    let pooled = Runtime::start_with(Allocation::Pooled).unwrap();
    let mapped = Runtime::start_with(Allocation::OnDemand).unwrap();
    let [one, other] = [&pooled, &mapped].map(|runtime| {
        let called = decide(runtime, &policy(runtime, "restart_crashed", "{}"));
        (called.answer.unwrap(), called.fuel)
    });
    assert_eq!(one, other);
}

#[test]
fn hoarding_is_told_as_memory_though_the_guest_only_traps() {
    for allocation in [Allocation::Pooled, Allocation::OnDemand] {
        let runtime = Runtime::start_with(allocation).unwrap();
        let failure = fail_with_fuel_to_spare(&runtime, "allocate");
        assert_eq!(failure.kind, JudgeFailureKind::Memory, "{failure:?}");
        assert!(failure.message.contains("16 MiB"), "{}", failure.message);
    }
}

#[test]
fn a_call_with_fuel_to_spare_is_ended_by_the_clock() {
    let runtime = Runtime::start().unwrap();
    let started = Instant::now();
    let failure = fail_with_fuel_to_spare(&runtime, "loop");
    let took = started.elapsed();
    assert!(took >= DEADLINE && took < 40 * DEADLINE, "{took:?}");
    assert_eq!(failure.kind, JudgeFailureKind::Deadline, "{failure:?}");
}

/// In an ordinary call the fuel may run out before another limit is reached; not here.
fn fail_with_fuel_to_spare(runtime: &Runtime, way: &str) -> JudgeFailure {
    let policy = policy(runtime, "misbehaving", &format!(r#"{{"do": "{way}"}}"#));
    let case = case();
    let running = runtime.ticker.run();
    let mut store = bounded_store(&runtime.engine, u64::MAX);
    let instance = policy.program.pre.instantiate(&mut store).unwrap();
    let answer = instance.vman_policy_policy().call_decide(
        &mut store,
        &policy.config,
        &case.told,
        &case.context,
    );
    drop(running);
    let was_refused_memory = store.data().was_refused_memory;
    failure::of_call(&answer.unwrap_err(), Stage::Called, was_refused_memory)
}
