//! The table of VMs, with their machines and leases: its rows, and the SQL that reads and changes
//! them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use rusqlite::{Connection, Row, params};
use vman_core::ident::{Generation, Timestamp, VmId};
use vman_core::network::{Lease, Mac};
use vman_core::ports::{Page, RecordError};
use vman_core::vm::{FailureReason, Machine, Process, Vm, VmState};

use crate::cells::{Cells, Fault, all, execute, first, integer, start_of_page};
use crate::{disks, templates};

pub(crate) fn find(connection: &Connection, id: VmId) -> Result<Option<Vm>, Fault> {
    first(connection, "SELECT * FROM vms WHERE id = ?1", [id.to_string()], read)
}

pub(crate) fn page(
    connection: &Connection,
    state: Option<&str>,
    page: &Page<VmId>,
) -> Result<Vec<Vm>, Fault> {
    let after = page.after.map(|id| id.to_string());
    let start = start_of_page(connection, "SELECT seq FROM vms WHERE id = ?1", after, 0, "VM")?;
    let sql = "SELECT * FROM vms WHERE seq > ?1 AND (?2 IS NULL OR state = ?2)
        ORDER BY seq LIMIT ?3";
    all(connection, sql, params![start, state, page.limit], read)
}

pub(crate) fn every(connection: &Connection) -> Result<Vec<Vm>, Fault> {
    all(connection, "SELECT * FROM vms ORDER BY seq", [], read)
}

pub(crate) fn leases(connection: &Connection) -> Result<BTreeSet<Ipv4Addr>, Fault> {
    let sql = "SELECT id, address FROM vms";
    let addresses = all(connection, sql, [], |row| {
        Cells::new(row, "vms", "id")?.parsed::<Ipv4Addr>("address")
    })?;
    Ok(addresses.into_iter().collect())
}

fn read(row: &Row<'_>) -> Result<Vm, Fault> {
    let cells = Cells::new(row, "vms", "id")?;
    let id = VmId(cells.uuid("id")?);
    let reason: Option<String> = cells.get("state_reason")?;
    Ok(Vm {
        id,
        name: cells.maybe_parsed("name")?,
        template: cells.parsed("template")?,
        state: cells.word("state", |word| VmState::from_word(word, reason.as_deref()))?,
        autostart: cells.get("autostart")?,
        generation: Generation(cells.number("generation")?),
        machine: read_machine(&cells)?,
        lease: Lease { address: cells.parsed("address")?, mac: Mac::of(id) },
        created_at: cells.time("created_at")?,
        updated_at: cells.time("updated_at")?,
    })
}

fn read_machine(cells: &Cells<'_>) -> Result<Option<Machine>, Fault> {
    let Some(backend) = cells.get("backend")? else { return Ok(None) };
    let process = match cells.maybe_number("pid")? {
        None => None,
        Some(_) => Some(Process {
            pid: cells.small_number("pid")?,
            start_time: cells.number("start_time")?,
            boot_id: cells.uuid("boot_id")?,
        }),
    };
    Ok(Some(Machine { backend, process }))
}

/// `NotFound` if it is not recorded.
pub(crate) fn know(connection: &Connection, id: VmId) -> Result<Generation, Fault> {
    let sql = "SELECT id, generation FROM vms WHERE id = ?1";
    first(connection, sql, [id.to_string()], |row| {
        Cells::new(row, "vms", "id")?.number("generation").map(Generation)
    })?
    .ok_or_else(|| RecordError::NotFound(format!("VM {id}")).into())
}

/// `Stale` unless it has this generation.
pub(crate) fn expect(connection: &Connection, id: VmId, expected: Generation) -> Result<(), Fault> {
    if know(connection, id)? == expected {
        Ok(())
    } else {
        Err(RecordError::Stale(format!("VM {id}")).into())
    }
}

pub(crate) fn add(connection: &Connection, vm: &Vm) -> Result<(), Fault> {
    refuse(connection, vm)?;
    let sql = "INSERT INTO vms
        (id, name, template, state, state_reason, autostart, generation, address, created_at,
        updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        vm.id.to_string(),
        vm.name.as_ref().map(|name| name.as_str()),
        vm.template.as_str(),
        vm.state.word(),
        reason(&vm.state),
        vm.autostart,
        integer(vm.generation.0),
        vm.lease.address.to_string(),
        integer(vm.created_at.0),
        integer(vm.updated_at.0),
    ];
    execute(connection, sql, values)?;
    set_machine(connection, vm.id, vm.machine.as_ref())
}

fn refuse(connection: &Connection, vm: &Vm) -> Result<(), Fault> {
    let error = |error: RecordError| Err(error.into());
    if templates::find(connection, &vm.template)?.is_none() {
        return error(RecordError::NotFound(format!("template {}", vm.template)));
    }
    if find(connection, vm.id)?.is_some() {
        return error(RecordError::Exists(format!("VM {}", vm.id)));
    }
    let owner = "SELECT id FROM vms WHERE address = ?1";
    let address = vm.lease.address;
    let owner: Option<String> =
        first(connection, owner, [address.to_string()], |row| Ok(row.get(0)?))?;
    if let Some(owner) = owner {
        return error(RecordError::Exists(format!("a VM with the address {address} ({owner})")));
    }
    // It is derived from the id, so it has no column.
    if vm.lease.mac != Mac::of(vm.id) {
        let text = format!("VM {} has a MAC that is not its own: {}", vm.id, vm.lease.mac);
        return error(RecordError::Unavailable(text));
    }
    Ok(())
}

fn reason(state: &VmState) -> Option<&str> {
    state.reason().map(|FailureReason(text)| text.as_str())
}

pub(crate) fn remove(connection: &Connection, id: VmId, at: Timestamp) -> Result<(), Fault> {
    know(connection, id)?;
    disks::let_go(connection, id, at)?;
    execute(connection, "DELETE FROM vms WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

pub(crate) fn set_state(
    connection: &Connection,
    id: VmId,
    expected: Generation,
    state: &VmState,
    at: Timestamp,
) -> Result<(), Fault> {
    expect(connection, id, expected)?;
    let sql = "UPDATE vms SET state = ?2, state_reason = ?3, generation = ?4, updated_at = ?5
        WHERE id = ?1";
    let generation = integer(expected.next().0);
    let values = params![id.to_string(), state.word(), reason(state), generation, integer(at.0)];
    execute(connection, sql, values)?;
    Ok(())
}

pub(crate) fn set_autostart(
    connection: &Connection,
    id: VmId,
    autostart: bool,
    at: Timestamp,
) -> Result<(), Fault> {
    know(connection, id)?;
    let sql = "UPDATE vms SET autostart = ?2, updated_at = ?3 WHERE id = ?1";
    execute(connection, sql, params![id.to_string(), autostart, integer(at.0)])?;
    Ok(())
}

pub(crate) fn set_machine(
    connection: &Connection,
    id: VmId,
    machine: Option<&Machine>,
) -> Result<(), Fault> {
    know(connection, id)?;
    let process = machine.and_then(|machine| machine.process);
    let sql = "UPDATE vms SET backend = ?2, pid = ?3, start_time = ?4, boot_id = ?5 WHERE id = ?1";
    let values = params![
        id.to_string(),
        machine.map(|machine| machine.backend.as_str()),
        process.map(|process| process.pid),
        process.map(|process| integer(process.start_time)),
        process.map(|process| process.boot_id.to_string()),
    ];
    execute(connection, sql, values)?;
    Ok(())
}
