//! `vman disk …`

use std::io::Write;

use serde_json::Value;
use uuid::Uuid;
use vman_api_types::{AttachDisk, Disk, NewDisk, ResizeDisk};

use super::connection::{Answer, Connection, parsed};
use super::output::{Output, or_none};
use super::{follow, references, vms};
use crate::cli::{DiskCommand, Wait};
use crate::failure::Failure;

pub(crate) fn run<W: Write>(
    command: DiskCommand,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    match command {
        DiskCommand::Create { size, format, bus, mount_point } => {
            let what = "create a disk";
            let disk = NewDisk { size, mount_point, format, bus };
            show(what, connection.post(what, "/disks", &disk)?.body, output)
        }
        DiskCommand::List => {
            let what = "list the disks";
            list(what, connection.list(what, "/disks")?, output)
        }
        DiskCommand::Show { id } => {
            let id = find(connection, &id)?;
            let what = format!("show disk {id}");
            show(&what, connection.get(&what, &format!("/disks/{id}"))?.body, output)
        }
        DiskCommand::Attach { disk, vm, mount_point, wait } => {
            let (id, vm_id) = (find(connection, &disk)?, vms::find(connection, &vm)?);
            let what = format!("attach disk {id} to vm {vm_id}");
            let body = AttachDisk { vm_id, mount_point };
            let answer = connection.post(&what, &format!("/disks/{id}/attach"), &body)?;
            end(&what, id, &answer, wait, connection, output)
        }
        DiskCommand::Detach { disk, wait } => {
            let id = find(connection, &disk)?;
            let what = format!("detach disk {id}");
            let answer = connection.act(&what, &format!("/disks/{id}/detach"))?;
            end(&what, id, &answer, wait, connection, output)
        }
        DiskCommand::Resize { disk, size, wait } => {
            let id = find(connection, &disk)?;
            let what = format!("resize disk {id}");
            let body = ResizeDisk { size };
            let answer = connection.post(&what, &format!("/disks/{id}/resize"), &body)?;
            end(&what, id, &answer, wait, connection, output)
        }
        DiskCommand::Delete { id } => {
            let id = find(connection, &id)?;
            let answer =
                connection.delete(&format!("delete disk {id}"), &format!("/disks/{id}"))?;
            follow::deletion(connection, &answer)?;
            Ok(output.line(&format!("disk {id} is deleted"))?)
        }
    }
}

fn find(connection: &Connection, given: &str) -> Result<Uuid, Failure> {
    references::id(connection, "disk", "/disks", given)
}

fn end<W: Write>(
    what: &str,
    id: Uuid,
    answer: &Answer,
    wait: Wait,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let Some(at_most) = wait.at_most() else { return show(what, answer.body.clone(), output) };
    follow::success(connection, answer, at_most)?;
    show(what, connection.get(what, &format!("/disks/{id}"))?.body, output)
}

fn list<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let disks: Vec<Disk> = parsed(what, body)?;
    let row = |disk: Disk| {
        vec![
            disk.id.to_string(),
            disk.size.to_string(),
            disk.format,
            disk.bus,
            disk.state,
            or_none(disk.vm_id.as_ref()),
            disk.mount_point.unwrap_or_default(),
        ]
    };
    let titles = ["ID", "SIZE/GIB", "FORMAT", "BUS", "STATE", "VM", "MOUNT POINT"];
    Ok(output.rows(&titles, disks.into_iter().map(row).collect())?)
}

fn show<W: Write>(what: &str, body: Value, output: &mut Output<W>) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(&body)?);
    }
    let disk: Disk = parsed(what, body)?;
    Ok(output.fields(vec![
        ("id", disk.id.to_string()),
        ("size", format!("{} GiB", disk.size)),
        ("format", disk.format),
        ("bus", disk.bus),
        ("state", disk.state),
        ("reason", disk.state_reason.unwrap_or_default()),
        ("vm", or_none(disk.vm_id.as_ref())),
        ("mount point", disk.mount_point.unwrap_or_default()),
        ("device", disk.device_path),
        ("serial", disk.serial),
        ("created", disk.created_at),
        ("updated", disk.updated_at),
    ])?)
}
