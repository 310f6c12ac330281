//! `vman vm …`

use std::io::Write;

use serde_json::Value;
use uuid::Uuid;
use vman_api_types::{NewVm, Vm};

use super::connection::{Connection, parsed};
use super::output::{Output, or_none};
use super::{follow, references};
use crate::cli::{Action, VmCommand};
use crate::failure::Failure;

pub(crate) fn run<W: Write>(
    command: VmCommand,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    match command {
        VmCommand::Create { template, name } => {
            let what = format!("create a vm from template {template}");
            let vm = NewVm { vm_template: template, name };
            show(&what, connection.post(&what, "/vms", &vm)?.body, output)
        }
        VmCommand::List { state } => {
            let what = "list the vms";
            list(what, connection.list(what, &in_state("/vms", state.as_deref())?)?, output)
        }
        VmCommand::Show { id } => {
            let id = find(connection, &id)?;
            let what = format!("show vm {id}");
            show(&what, connection.get(&what, &format!("/vms/{id}"))?.body, output)
        }
        VmCommand::Start(action) => act("start", &action, connection, output),
        VmCommand::Stop(action) => act("stop", &action, connection, output),
        VmCommand::Restart(action) => act("restart", &action, connection, output),
        VmCommand::Delete { id } => {
            let id = find(connection, &id)?;
            let answer = connection.delete(&format!("delete vm {id}"), &format!("/vms/{id}"))?;
            follow::deletion(connection, &answer)?;
            Ok(output.line(&format!("vm {id} is deleted"))?)
        }
    }
}

/// The id of the VM that was meant.
pub(super) fn find(connection: &Connection, given: &str) -> Result<Uuid, Failure> {
    references::id(connection, "vm", "/vms", given)
}

/// `path` with a filter for a state.
pub(super) fn in_state(path: &str, state: Option<&str>) -> Result<String, Failure> {
    match state {
        None => Ok(path.to_owned()),
        Some(word) if !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()) => {
            Ok(format!("{path}?state={word}"))
        }
        Some(other) => Err(Failure::Usage(format!("--state {other:?}: a state is one word"))),
    }
}

fn act<W: Write>(
    verb: &str,
    action: &Action,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let id = find(connection, &action.id)?;
    let what = format!("{verb} vm {id}");
    let answer = connection.act(&what, &format!("/vms/{id}/actions/{verb}"))?;
    let Some(at_most) = action.wait.at_most() else { return show(&what, answer.body, output) };
    follow::success(connection, &answer, at_most)?;
    show(&what, connection.get(&what, &format!("/vms/{id}"))?.body, output)
}

fn list<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let vms: Vec<Vm> = parsed(what, body)?;
    let row = |vm: Vm| {
        vec![
            vm.id.to_string(),
            vm.name.unwrap_or_default(),
            vm.vm_template,
            vm.state,
            vm.local_ip,
            or_none(vm.process.map(|process| process.pid).as_ref()),
            vm.disks.len().to_string(),
        ]
    };
    let titles = ["ID", "NAME", "TEMPLATE", "STATE", "ADDRESS", "PID", "DISKS"];
    Ok(output.rows(&titles, vms.into_iter().map(row).collect())?)
}

fn show<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let vm: Vm = parsed(what, body)?;
    let disks: Vec<String> = vm.disks.iter().map(Uuid::to_string).collect();
    Ok(output.fields(vec![
        ("id", vm.id.to_string()),
        ("name", vm.name.unwrap_or_default()),
        ("template", vm.vm_template),
        ("state", vm.state),
        ("reason", vm.state_reason.unwrap_or_default()),
        ("address", vm.local_ip),
        ("mac", vm.mac),
        ("backend", vm.backend.unwrap_or_default()),
        ("pid", or_none(vm.process.map(|process| process.pid).as_ref())),
        ("disks", disks.join(", ")),
        ("created", vm.created_at),
        ("updated", vm.updated_at),
    ])?)
}
