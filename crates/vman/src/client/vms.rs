//! `vman vm …`

use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;
use vman_api_types::{NewVm, Vm, VmPatch};

use super::connection::{Connection, parsed};
use super::output::{Output, or_none};
use super::{actions, follow, references};
use crate::cli::{Action, Stop, VmCommand};
use crate::failure::Failure;

/// How long all VMs are waited for: longer than the longest grace that a guest can be given.
const STOP_WAIT: Duration = Duration::from_secs(3600 + 60);

pub(crate) fn run<W: Write>(
    command: VmCommand,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    match command {
        VmCommand::Create { template, name, autostart } => {
            let what = format!("create a vm from template {template}");
            let autostart = autostart.then_some(true);
            let vm = NewVm { vm_template: template, name, autostart };
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
        VmCommand::Stop(Stop { all: true, wait, .. }) => {
            let what = "list the vms";
            let vms: Vec<Vm> = parsed(what, connection.list(what, "/vms")?)?;
            // What is being deleted is on its way already.
            let to_end = vms.iter().filter(|vm| !["stopped", "deleting"].contains(&&*vm.state));
            let newest_first: Vec<Uuid> = to_end.rev().map(|vm| vm.id).collect();
            let wait = wait.at_most().unwrap_or(STOP_WAIT);
            actions::on_each("stop", newest_first, Some(wait), connection, output)
        }
        VmCommand::Stop(Stop { all: false, ids, wait }) => {
            act("stop", &Action { ids, wait }, connection, output)
        }
        VmCommand::Restart(action) => act("restart", &action, connection, output),
        VmCommand::Pause(action) => act("pause", &action, connection, output),
        VmCommand::Resume(action) => act("resume", &action, connection, output),
        VmCommand::Reset(action) => act("reset", &action, connection, output),
        VmCommand::Kill(action) => act("kill", &action, connection, output),
        VmCommand::Set { id, autostart } => {
            let id = find(connection, &id)?;
            let what = format!("change vm {id}");
            let patch = VmPatch { autostart: Some(autostart) };
            show(&what, connection.patch(&what, &format!("/vms/{id}"), &patch)?.body, output)
        }
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
    let ids: Vec<Uuid> =
        action.ids.iter().map(|id| find(connection, id)).collect::<Result<_, _>>()?;
    let at_most = action.wait.at_most();
    match ids.as_slice() {
        [id] => {
            let what = format!("{verb} vm {id}");
            show(&what, actions::on_one(verb, *id, at_most, connection)?, output)
        }
        [] | [_, ..] => actions::on_each(verb, ids, at_most, connection, output),
    }
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
        ("autostart", if vm.autostart { "yes" } else { "no" }.to_owned()),
        ("address", vm.local_ip),
        ("mac", vm.mac),
        ("backend", vm.backend.unwrap_or_default()),
        ("pid", or_none(vm.process.map(|process| process.pid).as_ref())),
        ("disks", disks.join(", ")),
        ("created", vm.created_at),
        ("updated", vm.updated_at),
    ])?)
}
