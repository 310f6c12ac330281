//! The conformance suite: what any backend must hold, in whatever way it is opened. A plugin's own
//! tests call [`check_here`]; `vman plugin check` runs each case in a process of its own, by
//! [`check`] and [`carry_out`]. It knows the contract, and nothing of how a backend keeps it.

mod bench;
mod case;
mod cases;
mod fault;
mod fuzz;
mod here;
mod leftovers;
mod process;
mod raw;
mod runner;
mod subject;
mod tail;
mod task;
#[cfg(test)]
mod tests;
mod verdict;

pub use bench::Bench;
pub use case::{Case, Need};
pub use cases::all;
pub use fuzz::ODD_REQUESTS;
pub use here::check_here;
pub use runner::{Program, check, name};
pub use subject::{Opening, Subject};
pub use task::carry_out;
pub use verdict::{Checked, Report, Verdict};
