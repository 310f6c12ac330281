//! The table of disks: its rows, and the SQL that reads and changes them.

use rusqlite::{Connection, Row, params};
use vman_core::disk::{Bus, Disk, DiskState, MountPoint};
use vman_core::ident::{DiskId, Generation, Timestamp, VmId};
use vman_core::ports::{Page, RecordError};
use vman_core::vm::FailureReason;

use crate::cells::{Cells, Fault, all, execute, first, integer, start_of_page};
use crate::vms;

/// Where a disk is to be from now on.
pub(crate) struct Holding {
    pub(crate) state: DiskState,
    pub(crate) vm: Option<VmId>,
    pub(crate) mount_point: Option<MountPoint>,
}

pub(crate) fn find(connection: &Connection, id: DiskId) -> Result<Option<Disk>, Fault> {
    first(connection, "SELECT * FROM disks WHERE id = ?1", [id.to_string()], read)
}

pub(crate) fn page(connection: &Connection, page: &Page<DiskId>) -> Result<Vec<Disk>, Fault> {
    let after = page.after.map(|id| id.to_string());
    let start = start_of_page(connection, "SELECT seq FROM disks WHERE id = ?1", after, 0, "disk")?;
    let sql = "SELECT * FROM disks WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    all(connection, sql, params![start, page.limit], read)
}

pub(crate) fn every(connection: &Connection) -> Result<Vec<Disk>, Fault> {
    all(connection, "SELECT * FROM disks ORDER BY seq", [], read)
}

pub(crate) fn of(connection: &Connection, vm: VmId) -> Result<Vec<Disk>, Fault> {
    let sql = "SELECT * FROM disks WHERE vm = ?1 ORDER BY seq";
    let mut held = all(connection, sql, [vm.to_string()], read)?;
    // The order of mount points is the domain's, not that of their text.
    held.sort_by(|one, other| one.mount_point.cmp(&other.mount_point));
    Ok(held)
}

fn read(row: &Row<'_>) -> Result<Disk, Fault> {
    let cells = Cells::new(row, "disks", "id")?;
    let reason: Option<String> = cells.get("state_reason")?;
    let wanted = cells.maybe_number("wanted_gib")?;
    Ok(Disk {
        id: DiskId(cells.uuid("id")?),
        size_gib: cells.number("size_gib")?,
        format: cells.parsed("format")?,
        bus: cells.word("bus", Bus::from_word)?,
        state: cells.word("state", |word| DiskState::from_word(word, reason.as_deref(), wanted))?,
        mount_point: cells.maybe_parsed("mount_point")?,
        vm: cells.maybe_parsed("vm")?.map(VmId),
        generation: Generation(cells.number("generation")?),
        created_at: cells.time("created_at")?,
        updated_at: cells.time("updated_at")?,
    })
}

pub(crate) fn add(connection: &Connection, disk: &Disk) -> Result<(), Fault> {
    if find(connection, disk.id)?.is_some() {
        return Err(RecordError::Exists(format!("disk {}", disk.id)).into());
    }
    check_place(connection, disk.id, disk.vm, disk.mount_point.as_ref())?;
    let sql = "INSERT INTO disks (id, size_gib, format, bus, state, state_reason, wanted_gib,
        mount_point, vm, generation, created_at, updated_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let values = params![
        disk.id.to_string(),
        integer(disk.size_gib),
        disk.format.word(),
        disk.bus.word(),
        disk.state.word(),
        reason(&disk.state),
        disk.state.wanted_gib().map(integer),
        disk.mount_point.as_ref().map(MountPoint::as_str),
        disk.vm.map(|vm| vm.to_string()),
        integer(disk.generation.0),
        integer(disk.created_at.0),
        integer(disk.updated_at.0),
    ];
    execute(connection, sql, values)?;
    Ok(())
}

fn reason(state: &DiskState) -> Option<&str> {
    state.reason().map(|FailureReason(text)| text.as_str())
}

pub(crate) fn remove(connection: &Connection, id: DiskId) -> Result<(), Fault> {
    match execute(connection, "DELETE FROM disks WHERE id = ?1", [id.to_string()])? {
        0 => Err(RecordError::NotFound(format!("disk {id}")).into()),
        _ => Ok(()),
    }
}

pub(crate) fn set_state(
    connection: &Connection,
    id: DiskId,
    expected: Generation,
    holding: &Holding,
    at: Timestamp,
) -> Result<(), Fault> {
    let record = find(connection, id)?;
    let record = record.ok_or_else(|| RecordError::NotFound(format!("disk {id}")))?;
    if record.generation != expected {
        return Err(RecordError::Stale(format!("disk {id}")).into());
    }
    check_place(connection, id, holding.vm, holding.mount_point.as_ref())?;
    let sql = "UPDATE disks SET state = ?2, state_reason = ?3, wanted_gib = ?4, vm = ?5,
        mount_point = ?6, generation = ?7, updated_at = ?8 WHERE id = ?1";
    let values = params![
        id.to_string(),
        holding.state.word(),
        reason(&holding.state),
        holding.state.wanted_gib().map(integer),
        holding.vm.map(|vm| vm.to_string()),
        holding.mount_point.as_ref().map(MountPoint::as_str),
        integer(expected.next().0),
        integer(at.0),
    ];
    execute(connection, sql, values)?;
    Ok(())
}

pub(crate) fn set_size(connection: &Connection, id: DiskId, size_gib: u64) -> Result<(), Fault> {
    let sql = "UPDATE disks SET size_gib = ?2 WHERE id = ?1";
    match execute(connection, sql, params![id.to_string(), integer(size_gib)])? {
        0 => Err(RecordError::NotFound(format!("disk {id}")).into()),
        _ => Ok(()),
    }
}

fn check_place(
    connection: &Connection,
    id: DiskId,
    vm: Option<VmId>,
    at: Option<&MountPoint>,
) -> Result<(), Fault> {
    let Some(vm) = vm else { return Ok(()) };
    vms::know(connection, vm)?;
    let Some(at) = at else { return Ok(()) };
    let clashes = |other: &Disk| other.mount_point.as_ref().is_some_and(|p| p.clashes_with(at));
    if of(connection, vm)?.iter().any(|other| other.id != id && clashes(other)) {
        let text = format!("a disk of VM {vm} at {}", at.as_str());
        return Err(RecordError::Exists(text).into());
    }
    Ok(())
}

/// Takes every disk from a VM that goes. What says more of a disk than where it is attached stays:
/// no lost image comes back by this.
pub(crate) fn let_go(connection: &Connection, vm: VmId, at: Timestamp) -> Result<(), Fault> {
    let sql = "UPDATE disks SET vm = NULL, generation = generation + 1, updated_at = ?2,
        wanted_gib = NULL,
        state = CASE WHEN state IN ('attaching', 'attached', 'detaching', 'resizing')
                     THEN 'available' ELSE state END
        WHERE vm = ?1";
    execute(connection, sql, params![vm.to_string(), integer(at.0)])?;
    Ok(())
}
