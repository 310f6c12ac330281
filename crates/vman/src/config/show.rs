//! `vman config check` and `vman config show`. Nothing is settled here.

use std::io::{self, Write};

use serde_json::json;

use super::{Loaded, Origin};
use crate::client::Output;

/// Says that the configuration can be used, and what should be known about it.
pub(crate) fn check<W: Write>(loaded: &Loaded, out: &mut Output<W>) -> io::Result<()> {
    for warning in &loaded.config.warnings {
        out.line(&format!("warning: {warning}"))?;
    }
    match &loaded.config.file {
        Some(file) => out.line(&format!("{}: the configuration is valid", file.display())),
        None => out.line("no configuration file: environment and defaults are valid"),
    }
}

/// Every value with where it came from: as TOML, but for the policies, whose keys are numbered.
pub(crate) fn table<W: Write>(loaded: &Loaded, out: &mut Output<W>) -> io::Result<()> {
    let lines: Vec<(String, &Origin)> = loaded
        .settings
        .iter()
        .map(|setting| (format!("{} = {}", setting.key, setting.value), &setting.origin))
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    for (line, origin) in lines {
        out.line(&format!("{line:width$}  # {origin}"))?;
    }
    Ok(())
}

/// Every value with where it came from, as JSON.
pub(crate) fn as_json(loaded: &Loaded) -> serde_json::Value {
    loaded
        .settings
        .iter()
        .map(|setting| {
            json!({
                "key": setting.key,
                "value": setting.value,
                "source": setting.origin.to_string(),
            })
        })
        .collect()
}
