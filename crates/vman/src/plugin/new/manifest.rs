//! The `Cargo.toml` of a new plugin and of the SDK beside it: those of the example and of
//! `vman-plugin`, with all written out that they have from the workspace. So both ask for the very
//! libraries this vman was built with.

use std::fmt::Write;

use toml::{Table, Value};

const WORKSPACE: &str = include_str!("../../../../../Cargo.toml");
const EXAMPLE: &str = include_str!("../../../../../plugins/example-rust/Cargo.toml");
const SDK: &str = include_str!("../../../../../crates/plugin/Cargo.toml");

/// What stands in the SDK's sources for hosts, and in its macro for plugins.
const FEATURES_OF_OTHERS: &str =
    "unexpected_cfgs = { level = \"warn\", check-cfg = ['cfg(feature, values(any()))'] }";

/// The name of the plugin's package: what is a plugin is known by it.
pub(super) fn package(name: &str) -> String {
    format!("vman-plugin-{name}")
}

/// The plugin's, with the SDK in the folder `sdk` beside it.
pub(super) fn plugin(name: &str, sdk: &str) -> String {
    let example = read(EXAMPLE);
    let mut text = format!("[package]\nname = \"{}\"\nversion = \"0.1.0\"\n", package(name));
    language(&mut text);
    text.push_str("publish = false\n\n[lib]\n# The rlib is for tests.\n");
    line(&mut text, "crate-type", &example["lib"]["crate-type"]);
    text.push_str("\n[features]\n# Adds the one symbol that vman looks for.\n");
    text.push_str("default = [\"export\"]\nexport = []\n");
    dependencies(&mut text, &example, "dependencies", sdk);
    dependencies(&mut text, &example, "dev-dependencies", sdk);
    // A workspace of its own, also where it lies in the folder of another one.
    writeln!(text, "\n[workspace]\nexclude = [\"{sdk}\"]").expect("a string takes everything");
    text
}

/// The SDK's.
pub(super) fn sdk() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("[package]\nname = \"vman-plugin\"\nversion = \"{version}\"\n");
    language(&mut text);
    text.push_str("publish = false\n");
    dependencies(&mut text, &read(SDK), "dependencies", "");
    writeln!(text, "\n[lints.rust]\n{FEATURES_OF_OTHERS}").expect("a string takes everything");
    text
}

fn language(text: &mut String) {
    let workspace = read(WORKSPACE);
    for key in ["edition", "rust-version"] {
        line(text, key, &workspace["workspace"]["package"][key]);
    }
}

/// A table of dependencies; without those that are optional, and so for hosts.
fn dependencies(text: &mut String, package: &Table, kind: &str, sdk: &str) {
    let workspace = read(WORKSPACE);
    let shared = workspace["workspace"]["dependencies"].as_table().expect("a table of ours");
    writeln!(text, "\n[{kind}]").expect("a string takes everything");
    for (name, wanted) in package[kind].as_table().expect("a table of ours") {
        if wanted.get("optional").is_some() {
            continue;
        }
        if name == "vman-plugin" {
            writeln!(text, "{name} = {{ path = \"{sdk}\" }}").expect("a string takes everything");
        } else {
            line(text, name, &resolved(&shared[name], wanted));
        }
    }
}

/// What the workspace says of a dependency, with the features that the package adds.
fn resolved(shared: &Value, wanted: &Value) -> Value {
    let none = Vec::new();
    let features = |of: &Value| {
        let listed = of.get("features").and_then(Value::as_array);
        listed.unwrap_or(&none).clone()
    };
    let all = [features(shared), features(wanted)].concat();
    let version = || Table::from_iter([("version".to_owned(), shared.clone())]);
    let mut table = shared.as_table().cloned().unwrap_or_else(version);
    if all.is_empty() && table.len() == 1 {
        return table["version"].clone();
    }
    if !all.is_empty() {
        table.insert("features".to_owned(), Value::Array(all));
    }
    Value::Table(table)
}

fn line(text: &mut String, key: &str, value: &Value) {
    writeln!(text, "{key} = {value}").expect("a string takes everything");
}

fn read(text: &str) -> Table {
    text.parse().expect("cargo has read it, too")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_manifest_has_nothing_from_a_workspace_and_the_versions_of_ours() {
        for (text, package) in [(plugin("mine", "sdk"), EXAMPLE), (sdk(), SDK)] {
            assert!(!text.contains("workspace = true"), "{text}");
            let made = read(&text);
            let ours = read(WORKSPACE);
            for (name, wanted) in made["dependencies"].as_table().unwrap() {
                if name == "vman-plugin" {
                    assert_eq!(wanted["path"].as_str(), Some("sdk"));
                    continue;
                }
                let shared = &ours["workspace"]["dependencies"][name];
                let version = |of: &Value| of.get("version").unwrap_or(of).clone();
                assert_eq!(version(wanted), version(shared), "{name}");
            }
            let count = |table: &Table| table["dependencies"].as_table().unwrap().len();
            let optional = package.matches("optional = true").count();
            assert_eq!(count(&made), count(&read(package)) - optional);
        }
        assert_eq!(
            read(&plugin("a-b", "sdk"))["package"]["name"].as_str(),
            Some("vman-plugin-a-b")
        );
    }
}
