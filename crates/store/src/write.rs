//! One commit: its changes in order, in one transaction. Each change is found in the table it
//! belongs to.

use rusqlite::Connection;
use vman_core::ports::Change;

use crate::cells::{Begin, Fault, in_transaction};
use crate::disks::Holding;
use crate::prune::{COMMITS_BETWEEN, KEPT, prune};
use crate::{disks, issues, operations, requests, templates, vms};

/// Applies all of `changes` or none; `number` counts the commits of this store from 0.
pub(crate) fn commit(
    connection: &Connection,
    changes: &[Change],
    number: u64,
) -> Result<(), Fault> {
    in_transaction(connection, Begin::Immediate, |transaction| {
        for change in changes {
            apply(transaction, change)?;
        }
        if !is_short(number) {
            prune(transaction, KEPT)?;
        }
        Ok(())
    })
}

/// Whether the commit of this number only changes a few rows, and prunes nothing.
pub(crate) fn is_short(number: u64) -> bool {
    !number.is_multiple_of(COMMITS_BETWEEN)
}

fn apply(to: &Connection, change: &Change) -> Result<(), Fault> {
    match change {
        Change::AddTemplate(template) => templates::add(to, template),
        Change::RemoveTemplate(name) => templates::remove(to, name),
        Change::AddVm(vm) => vms::add(to, vm),
        Change::RemoveVm(vm, at) => vms::remove(to, *vm, *at),
        Change::VmState { vm, expected, state, at } => {
            vms::set_state(to, *vm, *expected, state, *at)
        }
        Change::VmMachine { vm, machine } => vms::set_machine(to, *vm, machine.as_ref()),
        Change::VmAutostart { vm, autostart, at } => vms::set_autostart(to, *vm, *autostart, *at),
        Change::ExpectVm { vm, expected } => vms::expect(to, *vm, *expected),
        Change::AddDisk(disk) => disks::add(to, disk),
        Change::RemoveDisk(disk) => disks::remove(to, *disk),
        Change::DiskState { disk, expected, state, vm, mount_point, at } => {
            let holding =
                Holding { state: state.clone(), vm: *vm, mount_point: mount_point.clone() };
            disks::set_state(to, *disk, *expected, &holding, *at)
        }
        Change::DiskSize { disk, size_gib } => disks::set_size(to, *disk, *size_gib),
        Change::AddOperation(operation) => operations::add(to, operation),
        Change::RequestCancel(operation) => operations::request_cancel(to, *operation),
        Change::OperationState { operation, state, at } => {
            operations::set_state(to, *operation, state, *at)
        }
        Change::OperationStep { operation, index, step } => {
            operations::set_step(to, *operation, *index, step)
        }
        Change::PutIssue(issue) => issues::put(to, issue),
        Change::AddJudgement(judgement) => issues::add_judgement(to, judgement),
        Change::KeepRequest(request) => requests::keep(to, request),
        Change::HostBoot(boot) => requests::set_host_boot(to, *boot),
    }
}

#[cfg(test)]
mod tests {
    use vman_core::ports::RecordError;
    use vman_core::testing::samples::{attached, disk_id, name, template, vm, vm_id};
    use vman_core::vm::VmState;

    use super::*;
    use crate::open;

    fn database() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database = open::writer(&folder.path().join("vman.db")).expect("opens");
        let changes = vec![
            Change::AddTemplate(template("small")),
            Change::AddVm(vm(1, VmState::Stopped)),
            Change::AddVm(vm(2, VmState::Stopped)),
            Change::AddDisk(attached(1, 1, "/dev/sdb")),
            Change::AddDisk(attached(2, 2, "/dev/sdb")),
        ];
        commit(&database, &changes, 0).expect("committed");
        (folder, database)
    }

    /// The rules hold in the file itself, whoever writes to it.
    #[test]
    fn the_schema_refuses_what_breaks_a_promise() {
        let (_folder, database) = database();
        for sql in [
            "UPDATE vms SET address = '10.0.0.1'",
            "UPDATE disks SET vm = (SELECT id FROM vms LIMIT 1), mount_point = '/dev/vdb'",
            "UPDATE disks SET vm = 'nobody'",
            "DELETE FROM vms",
            "DELETE FROM templates",
            "UPDATE vms SET template = 'nowhere'",
            "UPDATE vms SET state = 'confused'",
            "UPDATE vms SET state = 'failed'",
            "UPDATE disks SET mount_point = '/etc/passwd'",
            "UPDATE vms SET generation = 'many'",
            "INSERT INTO operation_steps VALUES ('x', 0, 'launch', NULL, 'done', 1, 2, NULL)",
        ] {
            let refused = database.execute(sql, []).map_err(|error| error.sqlite_error_code());
            let expected = Some(rusqlite::ErrorCode::ConstraintViolation);
            assert_eq!(refused, Err(expected), "{sql}");
        }
    }

    #[test]
    fn a_value_that_vman_cannot_have_written_is_named_with_its_place() {
        let (_folder, database) = database();
        let told = |fault: Fault| {
            let Fault::Record(RecordError::Unavailable(text)) = fault else {
                panic!("{fault:?}");
            };
            text
        };
        database.execute("UPDATE vms SET address = '10.0.0.1.5' WHERE seq = 1", []).unwrap();
        let text = told(vms::find(&database, vm_id(1)).unwrap_err());
        let place = format!("table vms, row {}, column address", vm_id(1));
        assert!(text.contains(&place) && text.contains("10.0.0.1.5"), "{text}");

        database.execute("UPDATE disks SET size_gib = 5, generation = 0 - 5", []).unwrap_err();
        database.execute("UPDATE disks SET created_at = -5", []).unwrap();
        let text = told(disks::find(&database, disk_id(2)).unwrap_err());
        let place = format!("table disks, row {}, column created_at", disk_id(2));
        assert!(text.contains(&place) && text.contains("negative"), "{text}");

        database
            .execute(
                "UPDATE templates SET boot = 'kernel', kernel = '../x', cmdline = '',
                root_disk_gib = NULL",
                [],
            )
            .unwrap();
        let text = told(templates::find(&database, &name("small")).unwrap_err());
        assert!(text.contains("column kernel") && text.contains("../x"), "{text}");
    }

    #[test]
    fn what_panics_half_way_leaves_nothing_and_what_comes_next_is_written() {
        let (_folder, database) = database();
        let panicking = std::panic::AssertUnwindSafe(|| {
            in_transaction(&database, Begin::Immediate, |transaction| {
                apply(transaction, &Change::AddVm(vm(3, VmState::Stopped)))?;
                panic!("half way");
                #[expect(unreachable_code, reason = "the closure has a type")]
                Ok(())
            })
        });
        std::panic::catch_unwind(panicking).expect_err("it panicked");
        assert_eq!(vms::every(&database).expect("readable").len(), 2);
        commit(&database, &[Change::AddVm(vm(4, VmState::Stopped))], 1).expect("committed");
        assert_eq!(vms::every(&database).expect("readable").len(), 3);
    }

    #[test]
    fn a_full_file_system_is_told_and_changes_nothing() {
        let (_folder, database) = database();
        let pages: i64 =
            database.query_row("PRAGMA page_count", [], |row| row.get(0)).expect("readable");
        let limit: i64 = database
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get(0))
            .expect("limited");
        assert_eq!(limit, pages);
        let many: Vec<_> =
            (3..=250).map(|number| Change::AddVm(vm(number, VmState::Stopped))).collect();
        let Err(Fault::Sql(error)) = commit(&database, &many, 1) else {
            panic!("there is no room for so many");
        };
        assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        assert_eq!(vms::every(&database).expect("readable").len(), 2);
    }
}
