//! From a file to a policy that may be asked: read, compiled, held against the contract by name,
//! and asked what it is and whether its configuration is right. It judges nothing yet.

use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};
use vman_core::repair::{JudgeFailureKind, Mode};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::{self, ComponentItem};

use crate::PolicyBinding;
use crate::bindings::vman::policy::types::PolicyInfo;
use crate::engine::Runtime;
use crate::limits::{COMPONENT_SIZE_MAX, CONFIG_LENGTH_MAX, FAILURE_LENGTH_MAX};
use crate::problem::{ConfigProblem, Problem};
use crate::run::{Called, Program};
use crate::text::one_line;

/// The package of the contract, as a prefix of its interfaces.
const PACKAGE: &str = "vman:policy/";
/// The one major version of the contract that is known.
const MAJOR: &str = "1";
/// The interfaces that the host offers; `types` has no functions.
const OFFERED: &[&str] = &["log", "types"];
/// The interface that a policy exports, and its functions.
const EXPORTED: &str = "policy";
const FUNCTIONS: &[&str] = &["describe", "validate-config", "decide"];

/// What every WebAssembly file begins with: the magic, then version and layer
/// (component-model design/mvp/Binary.md).
const MAGIC: &[u8] = b"\0asm";
const CORE_MODULE: &[u8] = &[0x01, 0x00, 0x00, 0x00];

/// Bytes of a version or a kind that a policy says of itself.
const WORD_LENGTH_MAX: usize = 128;

/// A policy that may be asked.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) mode: Mode,
    pub(crate) config: String,
    pub(crate) version: String,
    /// SHA-256 of the file, in hexadecimal.
    pub(crate) hash: String,
    /// Empty: every kind.
    pub(crate) kinds: Vec<String>,
    pub(crate) program: Program,
}

/// Reads, compiles and checks one policy. Blocks while it compiles.
pub(crate) fn load(runtime: &Runtime, binding: &PolicyBinding) -> Result<Policy, Problem> {
    let bytes = read(&binding.path)?;
    let program = compile(&runtime.engine, &bytes)?;
    let name = &binding.name;
    let info = asked("describe", program.describe(runtime, name))?;
    if !info.needs.is_empty() {
        return Err(Problem::Needs(words(&info.needs)));
    }
    check_config(runtime, &program, binding)?;
    Ok(policy(binding, info, hex(&Sha256::digest(&bytes)), program))
}

fn policy(binding: &PolicyBinding, info: PolicyInfo, hash: String, program: Program) -> Policy {
    Policy {
        name: binding.name.clone(),
        mode: binding.mode,
        config: binding.config_json.clone(),
        version: one_line(&info.version, WORD_LENGTH_MAX),
        hash,
        kinds: words(&info.issue_kinds),
        program,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: io::Error| Problem::Unreadable(error.to_string());
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Problem::Unreadable("it is not a file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(COMPONENT_SIZE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > COMPONENT_SIZE_MAX {
        return Err(Problem::TooLarge);
    }
    Ok(bytes)
}

fn compile(engine: &Engine, bytes: &[u8]) -> Result<Program, Problem> {
    match bytes.strip_prefix(MAGIC) {
        None => return Err(Problem::NotWebAssembly),
        Some(rest) if rest.starts_with(CORE_MODULE) => return Err(Problem::CoreModule),
        Some(_) => {}
    }
    let text = |error: wasmtime::Error| one_line(&format!("{error:#}"), FAILURE_LENGTH_MAX);
    let component = Component::from_binary(engine, bytes)
        .map_err(|error| Problem::DoesNotCompile(text(error)))?;
    let shape = component.component_type();
    check_imports(shape.imports(engine).map(|(name, _)| name))?;
    check_exports(engine, &shape)?;
    Program::link(engine, &component).map_err(|error| Problem::DoesNotFit(text(error)))
}

/// The version behind `vman:policy/<interface>@` in `name`; empty without one, none if `name` is
/// another interface.
fn version<'a>(name: &'a str, interface: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(PACKAGE)?.strip_prefix(interface)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('@') }
}

fn is_known(version: &str) -> bool {
    version.split('.').next() == Some(MAJOR)
}

fn check_imports<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Problem> {
    let mut refused = Vec::new();
    for name in names {
        match OFFERED.iter().find_map(|interface| version(name, interface)) {
            Some(version) if is_known(version) => {}
            Some(_) => return Err(Problem::UnknownMajor(name.to_owned())),
            None => refused.push(name.to_owned()),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Problem::Imports { names: refused }) }
}

fn check_exports(engine: &Engine, shape: &types::Component) -> Result<(), Problem> {
    let mut unknown = None;
    for (name, export) in shape.exports(engine) {
        match (version(name, EXPORTED), &export.ty) {
            (Some(version), ComponentItem::ComponentInstance(policy)) if is_known(version) => {
                let missing: Vec<String> = FUNCTIONS
                    .iter()
                    .filter(|function| policy.get_export(engine, function).is_none())
                    .map(|function| format!("{name}#{function}"))
                    .collect();
                return if missing.is_empty() {
                    Ok(())
                } else {
                    Err(Problem::MissingExports(missing))
                };
            }
            (Some(_), _) => unknown = Some(name.to_owned()),
            (None, _) => {}
        }
    }
    Err(match unknown {
        Some(name) => Problem::UnknownMajor(name),
        None => Problem::MissingExports(vec![format!("{PACKAGE}{EXPORTED}@{MAJOR}.0.0")]),
    })
}

/// The types of what a component exports are held against the contract when it is instantiated.
fn asked<T>(asked: &'static str, called: Called<T>) -> Result<T, Problem> {
    called.answer.map_err(|failure| match failure.kind {
        JudgeFailureKind::Load => Problem::DoesNotFit(failure.message),
        JudgeFailureKind::Trap
        | JudgeFailureKind::Fuel
        | JudgeFailureKind::Deadline
        | JudgeFailureKind::Memory
        | JudgeFailureKind::Oversized
        | JudgeFailureKind::Invalid
        | JudgeFailureKind::Declined => Problem::Failed { asked, failure },
    })
}

fn check_config(
    runtime: &Runtime,
    program: &Program,
    binding: &PolicyBinding,
) -> Result<(), Problem> {
    if binding.config_json.len() > CONFIG_LENGTH_MAX {
        return Err(Problem::ConfigTooLong);
    }
    let called = program.validate_config(runtime, &binding.name, &binding.config_json);
    let problems = asked("validate-config", called)?;
    if problems.is_empty() {
        return Ok(());
    }
    let problem = |path: &str, message: &str| ConfigProblem {
        path: one_line(path, WORD_LENGTH_MAX),
        message: one_line(message, FAILURE_LENGTH_MAX),
    };
    let problems = problems.iter().map(|found| problem(&found.path, &found.message));
    Err(Problem::Config(problems.collect()))
}

fn words(words: &[String]) -> Vec<String> {
    words.iter().map(|word| one_line(word, WORD_LENGTH_MAX)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_known_major_version_of_an_interface_is_its_own() {
        assert_eq!(version("vman:policy/log@1.2.3", "log"), Some("1.2.3"));
        assert_eq!(version("vman:policy/logs@1.0.0", "log"), None);
        assert_eq!(version("acme:policy/log@1.0.0", "log"), None);
        assert!(is_known("1.0.0") && is_known("1.7.0"));
        assert!(!is_known("2.0.0") && !is_known("10.0.0") && !is_known(""));
    }

    #[test]
    fn imports_are_refused_by_name_all_at_once() {
        let fine = ["vman:policy/types@1.0.0", "vman:policy/log@1.0.0"];
        assert_eq!(check_imports(fine.into_iter()), Ok(()));
        let names = ["vman:policy/log@1.0.0", "wasi:io/poll@0.2.6", "vman:policy/inventory@1.0.0"];
        let refused = vec![names[1].to_owned(), names[2].to_owned()];
        let refused = Err(Problem::Imports { names: refused });
        assert_eq!(check_imports(names.into_iter()), refused);
        let newer = "vman:policy/log@2.0.0";
        let unknown = Err(Problem::UnknownMajor(newer.to_owned()));
        assert_eq!(check_imports([newer].into_iter()), unknown);
    }

    #[test]
    fn a_hash_is_written_as_people_compare_it() {
        // The empty message, FIPS 180-4 example values.
        assert!(hex(&Sha256::digest(b"")).starts_with("e3b0c44298fc1c149afbf4c8996fb924"));
    }
}
