//! `vman health`, `vman network show`, `vman backend list` and `vman policy list`: how the daemon
//! is set up.

use std::io::Write;

use vman_api_types::{Backend, Health, NetworkConfig, Policy};

use super::connection::{Connection, parsed};
use super::output::{Output, or_none};
use crate::failure::Failure;

pub(crate) fn health<W: Write>(
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let what = "ask for the daemon's health";
    let body = connection.get(what, "/health")?.body;
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let health: Health = parsed(what, body)?;
    Ok(output.fields(vec![("status", health.status), ("version", health.version)])?)
}

pub(crate) fn network<W: Write>(
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let what = "show the network";
    let body = connection.get(what, "/network/config")?.body;
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let network: NetworkConfig = parsed(what, body)?;
    Ok(output.fields(vec![
        ("mode", network.mode),
        ("reason", network.reason),
        ("subnet", network.subnet),
        ("gateway", network.gateway),
        ("dns", network.dns.unwrap_or_default()),
        ("bridge", network.bridge.unwrap_or_default()),
        ("vlan", or_none(network.vlan_id.as_ref())),
        ("uplink", network.uplink.unwrap_or_default()),
    ])?)
}

pub(crate) fn backends<W: Write>(
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let what = "list the backends";
    let body = connection.get(what, "/backends")?.body;
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    table(parsed(what, body)?, output)
}

/// Each backend, and below what is to be known of it.
pub(crate) fn table<W: Write>(
    backends: Vec<Backend>,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let notes: Vec<(String, Vec<String>)> =
        backends.iter().map(|backend| (backend.name.clone(), backend.notes.clone())).collect();
    let row = |backend: Backend| {
        vec![
            if backend.selected { "*" } else { "" }.to_owned(),
            backend.name,
            backend.version.unwrap_or_default(),
            backend.mode.unwrap_or_default(),
            backend.state,
            if backend.usable { "yes" } else { "no" }.to_owned(),
            backend.reason,
            backend.source,
        ]
    };
    let titles = ["", "NAME", "VERSION", "MODE", "STATE", "USABLE", "REASON", "SOURCE"];
    output.rows(&titles, backends.into_iter().map(row).collect())?;
    for (name, notes) in notes.iter().filter(|(_, notes)| !notes.is_empty()) {
        output.heading(name)?;
        for note in notes {
            output.line(note)?;
        }
    }
    Ok(())
}

pub(crate) fn policies<W: Write>(
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let what = "list the policies";
    let body = connection.get(what, "/policies")?.body;
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let row = |policy: Policy| {
        let kinds =
            if policy.kinds.is_empty() { "all".to_owned() } else { policy.kinds.join(", ") };
        vec![policy.name, policy.mode, kinds, policy.hash.unwrap_or_default(), policy.source]
    };
    let policies: Vec<Policy> = parsed(what, body)?;
    let titles = ["NAME", "MODE", "KINDS", "HASH", "SOURCE"];
    Ok(output.rows(&titles, policies.into_iter().map(row).collect())?)
}
