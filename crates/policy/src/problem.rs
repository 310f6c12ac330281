//! Why a policy cannot be used: what is wrong, with which file, and what to do about it.

use std::path::PathBuf;

use thiserror::Error;
use vman_core::repair::JudgeFailure;

use crate::limits::{COMPONENT_SIZE_MAX, CONFIG_LENGTH_MAX};

/// Why the policies could not be loaded. The text is for people, and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    #[error("the runtime for policies cannot start: {0}")]
    Runtime(String),
    #[error("two policies are named {0}: give every [[policy]] a name of its own")]
    SameName(String),
    #[error("policy {policy} cannot be loaded from {}: {problem}", .path.display())]
    Policy { policy: String, path: PathBuf, problem: Problem },
}

/// What is wrong with one policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    #[error("{0}; check the path in its [[policy]]")]
    Unreadable(String),
    #[error(
        "it is larger than {} MiB, the most that is taken; strip its debug information and names",
        COMPONENT_SIZE_MAX >> 20
    )]
    TooLarge,
    #[error("it is not WebAssembly; give the .wasm file of a component")]
    NotWebAssembly,
    #[error(
        "it is a core module, and a policy is a component; make one of it with \
         `wasm-tools component new`, or build it as `cargo xtask policies` builds the shipped ones"
    )]
    CoreModule,
    #[error("it does not compile: {0}; build it anew")]
    DoesNotCompile(String),
    #[error(
        "it imports {}, and vman offers a policy vman:policy/log@1 alone{}",
        .names.join(", "),
        fix_of_imports(.names)
    )]
    Imports { names: Vec<String> },
    #[error(
        "it was made for {0}, and this vman knows version 1; build it against \
         vman:policy@1.0.0, or use a vman that knows its version"
    )]
    UnknownMajor(String),
    #[error(
        "it does not export {}; build it against the world policy-v1 of vman:policy@1.0.0",
        .0.join(", ")
    )]
    MissingExports(Vec<String>),
    #[error(
        "it does not fit vman:policy@1.0.0: {0}; build it against that package unchanged, and \
         within the limits of memory and tables"
    )]
    DoesNotFit(String),
    #[error(
        "it needs {}, which this version of vman does not grant; use a policy without that need",
        .0.join(", ")
    )]
    Needs(Vec<String>),
    #[error("its {asked} failed: {failure}; this is a fault of the policy")]
    Failed { asked: &'static str, failure: JudgeFailure },
    #[error(
        "its configuration is longer than {} KiB, the most that is taken; shorten it",
        CONFIG_LENGTH_MAX >> 10
    )]
    ConfigTooLong,
    #[error("its configuration is refused: {}", join(.0))]
    Config(Vec<ConfigProblem>),
}

/// One thing wrong with a configuration, in the policy's own words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}{message}", prefix(.path))]
pub struct ConfigProblem {
    /// The key, dotted where nested; empty for the configuration as a whole.
    pub path: String,
    pub message: String,
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

fn join(problems: &[ConfigProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn fix_of_imports(names: &[String]) -> String {
    let mut fixes = String::new();
    if names.iter().any(|name| name.starts_with("wasi:")) {
        fixes.push_str(
            "; build it without WASI: for Rust, the target wasm32-unknown-unknown and no file, \
             clock, randomness, environment or print",
        );
    }
    if names.iter().any(|name| name.starts_with("vman:policy/inventory")) {
        fixes.push_str(
            "; vman:policy/inventory cannot be granted in this version, so judge by the facts of \
             the issue",
        );
    }
    if fixes.is_empty() {
        fixes.push_str("; remove the import");
    }
    fixes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(names: &[&str]) -> String {
        Problem::Imports { names: names.iter().map(ToString::to_string).collect() }.to_string()
    }

    #[test]
    fn an_import_that_is_not_offered_is_named_with_its_fix() {
        let text = imports(&["wasi:cli/environment@0.2.6", "vman:policy/inventory@1.0.0"]);
        assert!(text.contains("wasi:cli/environment@0.2.6, vman:policy/inventory@1.0.0"), "{text}");
        assert!(text.contains("wasm32-unknown-unknown"), "{text}");
        assert!(text.contains("cannot be granted"), "{text}");
        let text = imports(&["acme:phone/home"]);
        assert!(text.ends_with("remove the import"), "{text}");
    }

    #[test]
    fn every_problem_of_a_configuration_is_listed() {
        let problem = |path: &str, message: &str| ConfigProblem {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        let text =
            Problem::Config(vec![problem("retry", "unknown"), problem("", "too odd")]).to_string();
        assert_eq!(text, "its configuration is refused: retry: unknown; too odd");
    }
}
