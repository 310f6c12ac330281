//! The tables of kept requests and of the host: rows, and the SQL that reads and changes them.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;
use vman_core::ident::{IdempotencyKey, OperationId};
use vman_core::operation::Subject;
use vman_core::ports::{KeptRequest, LetIn, RecordError};

use crate::cells::{Cells, Fault, execute, first, integer};

pub(crate) fn find(
    connection: &Connection,
    key: &IdempotencyKey,
) -> Result<Option<KeptRequest>, Fault> {
    first(connection, "SELECT * FROM requests WHERE key = ?1", [key.as_str()], read)
}

fn read(row: &Row<'_>) -> Result<KeptRequest, Fault> {
    let cells = Cells::new(row, "requests", "key")?;
    let let_in = match cells.maybe_parsed("template")? {
        Some(template) => LetIn::Template(template),
        None => {
            let id: String = cells.get("subject_id")?;
            let subject = cells.word("subject_kind", |kind| Subject::from_words(kind, &id))?;
            LetIn::Subject(subject, cells.maybe_parsed("operation")?.map(OperationId))
        }
    };
    Ok(KeptRequest {
        key: cells.parsed("key")?,
        fingerprint: cells.get("fingerprint")?,
        let_in,
        at: cells.time("at")?,
    })
}

pub(crate) fn keep(connection: &Connection, request: &KeptRequest) -> Result<(), Fault> {
    if find(connection, &request.key)?.is_some() {
        return Err(RecordError::Exists(format!("a request {}", request.key)).into());
    }
    let (template, subject, operation) = match &request.let_in {
        LetIn::Template(name) => (Some(name.as_str()), None, None),
        LetIn::Subject(subject, operation) => (None, Some(subject), *operation),
    };
    let sql = "INSERT INTO requests
        (key, fingerprint, template, subject_kind, subject_id, operation, at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = params![
        request.key.as_str(),
        request.fingerprint,
        template,
        subject.map(Subject::kind),
        subject.map(Subject::id),
        operation.map(|id| id.to_string()),
        integer(request.at.0),
    ];
    execute(connection, sql, values)?;
    Ok(())
}

pub(crate) fn host_boot(connection: &Connection) -> Result<Option<Uuid>, Fault> {
    first(connection, "SELECT boot_id FROM host", [], |row| {
        Cells::new(row, "host", "boot_id")?.uuid("boot_id")
    })
}

pub(crate) fn set_host_boot(connection: &Connection, boot: Uuid) -> Result<(), Fault> {
    let sql = "INSERT INTO host (one, boot_id) VALUES (1, ?1)
        ON CONFLICT (one) DO UPDATE SET boot_id = excluded.boot_id";
    execute(connection, sql, [boot.to_string()])?;
    Ok(())
}
