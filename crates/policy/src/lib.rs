//! Judgement: one case in, one verdict out, in a WASM component.
//!
//! [`Policies`] loads components for the world in `policies/wit`, and asks them through
//! [`vman_core::ports::Judge`]. A component sees the case by value and answers by value: it has no
//! file, network, clock or randomness, and every call runs in an instance of its own that ends with
//! it, within the bounds of [`limits`]. The same case has the same answer and uses the same fuel.
//! What a policy does wrong is a typed failure of that one judgement and touches nothing else.
//!
//! Which repairs a case allows, and what is done about a judgement, is not known here.

mod bindings;
mod chain;
mod convert;
mod engine;
mod failure;
mod guest;
pub mod limits;
mod load;
mod problem;
mod run;
mod text;
mod ticker;
mod workers;

pub use chain::{Policies, PolicyBinding, PolicyReport};
pub use problem::{ConfigProblem, LoadError, Problem};
