//! `[policies]` and `[[policy]]`: which policies are asked, in which order. No component is opened
//! here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Policy;
use super::error::Origin;
use super::reader::Reader;
use super::surroundings::system_library;
use super::values::{PolicyMode, json};

/// The only policy of a chain that nobody configured: it changes nothing.
const DEFAULT_POLICY: &str = "log-only";
const DEFAULT_CONFIG: &str = "{}";
const CHAIN_MAX: usize = 64;

/// JSON text, or a table that becomes it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a table, or a string of JSON")]
enum PolicyConfig {
    Text(String),
    Table(toml::Table),
}

/// The folder where policies are found by name.
pub(super) fn folder(reader: &mut Reader<'_>) -> PathBuf {
    let default = reader.surroundings.shipped("policies");
    let default = default.unwrap_or_else(|| system_library("policies"));
    let mut section = reader.section("policies");
    let dir = section.key("dir").variable("VMAN_POLICY_DIR").path(Some(default.clone()));
    section.end();
    dir.unwrap_or(default)
}

/// The policies of the file, or the default one if its file is there.
pub(super) fn chain(
    reader: &mut Reader<'_>,
    folder: &Path,
    warnings: &mut Vec<String>,
) -> Vec<Policy> {
    let tables = reader.tables("policy");
    if tables.is_empty() {
        let chain = default_chain(folder, warnings);
        for Policy { name, path, .. } in &chain {
            reader.settle("policy[0].name".to_owned(), name, Origin::Default);
            reader.settle("policy[0].path".to_owned(), path, Origin::Default);
        }
        return chain;
    }
    if tables.len() > CHAIN_MAX {
        let (origin, _) = &tables[CHAIN_MAX];
        reader.wrong(origin.clone(), format!("{CHAIN_MAX} policies are the most"));
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    let mut chain = Vec::new();
    for (position, (origin, table)) in tables.into_iter().enumerate() {
        let prefix = format!("policy[{position}].");
        let mut section = reader.element(table, "[[policy]]".to_owned(), prefix.clone());
        let name = section.key("name").optional(is_name);
        let path = section.key("path").path(None);
        let mode = section.key("mode").or(PolicyMode::Enforce);
        let no_config = PolicyConfig::Table(toml::Table::new());
        let config = section.key("config").checked_or(|c| text(c).map(drop), no_config);
        section.end();
        let Some(name) = name else {
            reader.wrong(origin, "[[policy]] must have a name that is valid".to_owned());
            continue;
        };
        if !names.insert(name.clone()) {
            reader.blame(&format!("{prefix}name"), format!("there is another policy {name:?}"));
        }
        let key = if path.is_some() { "path" } else { "name" };
        let path = path.unwrap_or_else(|| folder.join(file_name(&name)));
        if mode != PolicyMode::Off && !path.is_file() {
            let message = format!(
                "{} is not there: build or install the policy, or set its path",
                path.display()
            );
            reader.blame(&format!("{prefix}{key}"), message);
        }
        let config = text(&config).unwrap_or_else(|_| DEFAULT_CONFIG.to_owned());
        chain.push(Policy { name, path, mode, config });
    }
    chain
}

fn default_chain(folder: &Path, warnings: &mut Vec<String>) -> Vec<Policy> {
    let path = folder.join(file_name(DEFAULT_POLICY));
    if !path.is_file() {
        warnings.push(format!(
            "no policy is asked: none is configured, and {} is not there; every issue gets the \
             safe default of its kind",
            path.display()
        ));
        return Vec::new();
    }
    let config = DEFAULT_CONFIG.to_owned();
    vec![Policy { name: DEFAULT_POLICY.to_owned(), path, mode: PolicyMode::Enforce, config }]
}

fn file_name(policy: &str) -> String {
    format!("{}.wasm", policy.replace('-', "_"))
}

fn is_name(name: &String) -> Result<(), String> {
    let checked: Result<vman_core::ident::Name, _> = name.parse();
    checked.map(drop).map_err(|invalid| format!("{name:?}: {invalid}"))
}

fn text(config: &PolicyConfig) -> Result<String, String> {
    match config {
        PolicyConfig::Text(text) => serde_json::from_str(text)
            .map(|_: serde_json::Value| text.clone())
            .map_err(|error| format!("is not JSON: {error}")),
        PolicyConfig::Table(table) => {
            json(toml::Value::Table(table.clone())).map(|j| j.to_string())
        }
    }
}
