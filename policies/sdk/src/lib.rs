//! What a repair policy in Rust is written against: the types of `wit/policy.wit`, one trait, one
//! export macro, a reader for the configuration, and log lines. It also gives the component its
//! allocator and its panic handler. Not for the host's side of the contract.
//!
//! A policy is a `cdylib` that implements [`Policy`] and calls [`export_policy!`] once. The first
//! line of its `lib.rs` is `#![cfg_attr(target_family = "wasm", no_std)]`, so that its logic can be
//! tested natively.
#![cfg_attr(target_family = "wasm", no_std)]

pub extern crate alloc;

mod answer;
pub mod config;
mod export;
pub mod log;
#[cfg(target_family = "wasm")]
mod runtime;

pub use config::Reader;
pub use export::{Policy, decide, validate};

pub use bindings::exports::vman::policy::policy::{
    ConfigProblem, Context, Decision, Guest, Issue, PolicyInfo,
};
pub use bindings::vman::policy::types::{
    Attempt, Candidate, Fact, Severity, Subject, Value, Verdict,
};

/// The code generated from `wit/policy.wit`.
#[allow(
    missing_debug_implementations,
    unsafe_code,
    unreachable_pub,
    reason = "generated: calls across the component boundary are raw"
)]
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "policy-v1",
        pub_export_macro: true,
        default_bindings_module: "vman_policy_sdk::bindings",
    });
}
