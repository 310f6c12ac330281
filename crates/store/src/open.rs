//! Opening the file: who may read it, whether it is ours and whole, and its schema. Migrations only
//! ever go forward.

use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rusqlite_migration::{M, Migrations};
use thiserror::Error;

/// How long a connection waits for another process that has the file locked, e.g. a backup.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept by each connection: more than this crate has.
const STATEMENTS_KEPT: usize = 128;
/// Only the user that runs vman: the records name every machine and what a policy said.
const FILE_MODE: u32 = 0o600;
/// What group and others may do.
const OTHERS: u32 = 0o077;

/// One string for each version of the schema. What is released is never changed, only added to.
const SCHEMA: &[M<'static>] =
    &[M::up(include_str!("schema.sql")), M::up(include_str!("schema_2.sql")).foreign_key_check()];

/// Why the records could not be opened, and what to do.
#[derive(Debug, Error)]
pub enum StoreError {
    #[error(
        "cannot open the records {}: {source}; let the user that runs vman write to that folder, \
         or name another folder in [storage] path", path.display()
    )]
    Inaccessible { path: PathBuf, source: io::Error },
    #[error(
        "the records {} are of a newer vman (schema {found}, and this one knows up to {known}); \
         run that vman, or name another folder in [storage] path", path.display()
    )]
    Newer { path: PathBuf, found: i64, known: usize },
    #[error(
        "the records {} are damaged: {reason}; restore the file from a backup, or move it away to \
         begin without records", path.display()
    )]
    Corrupt { path: PathBuf, reason: String },
    #[error(
        "{} is a database of another program; move it away, or name another folder in \
         [storage] path", path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "another program has the records {} locked; end it (`fuser {}` names it) and start again",
        path.display(), path.display()
    )]
    Locked { path: PathBuf },
    #[error("no space is left for the records {}; free some on its file system", path.display())]
    Full { path: PathBuf },
    #[error("cannot prepare the records {}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
}

impl StoreError {
    pub(crate) fn sql(path: &Path, error: &rusqlite::Error) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::Corrupt { path, reason }
            }
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::Inaccessible { path, source: io::Error::other(reason) }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked { path },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            // Hundreds of codes: the text says which.
            Some(_) | None => Self::Unusable { path, reason },
        }
    }
}

/// The only connection that writes records. Makes the file where there is none, and its schema new.
pub(crate) fn writer(path: &Path) -> Result<Connection, StoreError> {
    make_private(path)
        .map_err(|source| StoreError::Inaccessible { path: path.to_owned(), source })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = |error| StoreError::sql(path, &error);
    let mut connection = connect(path, flags).map_err(sql)?;
    refuse_others(path, &connection)?;
    let _mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sql)?;
    // Until here nobody else has what is written to the device.
    connection.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
    migrate(path, &mut connection)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(sql)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(sql)?;
    Ok(connection)
}

/// The only connection that folds the journal into the file. The file must have been opened by
/// [`writer`].
pub(crate) fn folder(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sql = |error| StoreError::sql(path, &error);
    let connection = connect(path, flags).map_err(sql)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(sql)?;
    Ok(connection)
}

/// SQLite gives its journal files the mode of this one, and others may pass through the folder: so
/// a file that was put there with another mode is closed to them.
fn make_private(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(FILE_MODE)
        .open(path)?;
    if file.metadata()?.permissions().mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(())
}

/// A connection that cannot write. The file must have been opened by [`writer`].
pub(crate) fn reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    connect(path, flags).map_err(|error| StoreError::sql(path, &error))
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.pragma_update(None, "foreign_keys", true)?;
    // A crafted file must not make SQLite call functions with side effects.
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Refuses a damaged file, a newer one, and one that vman did not make.
fn refuse_others(path: &Path, connection: &Connection) -> Result<(), StoreError> {
    let sql = |error| StoreError::sql(path, &error);
    let path = || path.to_owned();
    let checked: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(sql)?;
    if checked != "ok" {
        return Err(StoreError::Corrupt { path: path(), reason: checked });
    }
    let found: i64 =
        connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)?;
    if usize::try_from(found).is_ok_and(|found| found > SCHEMA.len()) {
        return Err(StoreError::Newer { path: path(), found, known: SCHEMA.len() });
    }
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sql)?;
    if found < 0 || (found == 0 && tables > 0) {
        return Err(StoreError::Foreign { path: path() });
    }
    Ok(())
}

fn migrate(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let enforce = |connection: &Connection, enforced: bool| {
        let set = connection.pragma_update(None, "foreign_keys", enforced);
        set.map_err(|error| StoreError::sql(path, &error))
    };
    // A table that is made anew would take with it what refers to it.
    enforce(connection, false)?;
    Migrations::from_slice(SCHEMA).to_latest(connection).map_err(|error| {
        if let rusqlite_migration::Error::RusqliteError { err, .. } = &error {
            return StoreError::sql(path, err);
        }
        StoreError::Unusable { path: path.to_owned(), reason: error.to_string() }
    })?;
    enforce(connection, true)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use vman_core::disk::Bus;
    use vman_core::ident::{DiskId, VmId};
    use vman_core::template::Boot;

    use super::*;

    #[test]
    fn records_that_another_program_has_locked_say_so() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("vman.db");
        drop(writer(&path).expect("opens"));
        let other = Connection::open(&path).expect("opens");
        other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").expect("locked");
        let refused = writer(&path).expect_err("somebody has it");
        assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
        assert!(refused.to_string().contains("fuser"), "{refused}");
    }

    #[test]
    fn records_of_the_first_version_are_still_there_in_the_newest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("vman.db");
        let mut old = Connection::open(&path).expect("opens");
        Migrations::from_slice(&SCHEMA[..1]).to_latest(&mut old).expect("the first version");
        let (vm, disk, operation) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        old.execute_batch(&format!(
            "INSERT INTO templates VALUES ('small', 1, 64, 'root-disk', NULL, NULL, NULL, NULL, 5);
            INSERT INTO vms (id, template, state, generation, address, created_at, updated_at)
                VALUES ('{vm}', 'small', 'stopped', 1, '10.0.0.2', 5, 5);
            INSERT INTO disks (id, size_gib, format, state, mount_point, vm, generation,
                created_at, updated_at)
                VALUES ('{disk}', 3, 'raw', 'attached', '/dev/sdb', '{vm}', 2, 5, 6);
            INSERT INTO operations (id, subject_kind, subject_id, verb, reason, state, created_at)
                VALUES ('{operation}', 'vm', '{vm}', 'vm.start', 'user', 'running', 5);
            INSERT INTO operation_steps (operation, position, effect, undo, state)
                VALUES ('{operation}', 0, 'launch', 'end', 'running');"
        ))
        .expect("written as the first version wrote");
        drop(old);

        let new = writer(&path).expect("opens");
        let disk = crate::disks::find(&new, DiskId(disk)).expect("readable").expect("there");
        assert_eq!((disk.size_gib, disk.bus, disk.vm), (3, Bus::VirtioBlk, Some(VmId(vm))));
        let vm = crate::vms::find(&new, VmId(vm)).expect("readable").expect("there");
        assert!(!vm.autostart);
        let template = crate::templates::find(&new, &vm.template).expect("readable");
        let boot = template.map(|template| template.boot);
        assert_eq!(boot, Some(Boot::RootDisk { size_gib: 10 }));
        let unended = crate::operations::unended(&new, None).expect("readable");
        assert_eq!(unended.len(), 1);
        assert_eq!((unended[0].steps.len(), unended[0].turn_of), (1, None));
        new.execute("UPDATE disks SET vm = 'nobody'", []).expect_err("references are held again");
    }

    #[test]
    fn the_schema_is_sound_from_the_first_version_to_the_last() {
        Migrations::from_slice(SCHEMA).validate().expect("every migration can be applied");
    }
}
