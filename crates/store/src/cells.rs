//! Reading rows: the values of one row by column, and what is told when one of them is not what
//! only this crate can have written. Knows no table.

use std::str::FromStr;

use rusqlite::types::FromSql;
use rusqlite::{Connection, Params, Row};
use uuid::Uuid;
use vman_core::ident::Timestamp;
use vman_core::ports::RecordError;

/// Why a job failed: an answer to the one who asked, or SQLite's own trouble.
#[derive(Debug)]
pub(crate) enum Fault {
    Record(RecordError),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RecordError> for Fault {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

/// One row of `table`, named by its id in everything that is told about it.
pub(crate) struct Cells<'row> {
    row: &'row Row<'row>,
    table: &'static str,
    id: String,
}

impl<'row> Cells<'row> {
    pub(crate) fn new(
        row: &'row Row<'row>,
        table: &'static str,
        id_column: &'static str,
    ) -> Result<Self, Fault> {
        let mut cells = Self { row, table, id: "of unreadable id".to_owned() };
        cells.id = cells.get(id_column)?;
        Ok(cells)
    }

    pub(crate) fn broken(&self, column: &str, why: &str) -> Fault {
        Fault::Record(RecordError::Unavailable(format!(
            "table {}, row {}, column {column}: {why}; something else wrote it: restore the file \
             from a backup",
            self.table, self.id
        )))
    }

    /// `T` may be an [`Option`] where the column may be NULL.
    pub(crate) fn get<T: FromSql>(&self, column: &str) -> Result<T, Fault> {
        self.row.get(column).map_err(|error| self.broken(column, &error.to_string()))
    }

    pub(crate) fn number(&self, column: &str) -> Result<u64, Fault> {
        self.maybe_number(column)?.ok_or_else(|| self.broken(column, "it is NULL"))
    }

    pub(crate) fn maybe_number(&self, column: &str) -> Result<Option<u64>, Fault> {
        let number: Option<i64> = self.get(column)?;
        number
            .map(|number| u64::try_from(number).map_err(|_| self.broken(column, "it is negative")))
            .transpose()
    }

    pub(crate) fn small_number(&self, column: &str) -> Result<u32, Fault> {
        u32::try_from(self.number(column)?).map_err(|_| self.broken(column, "it is too large"))
    }

    pub(crate) fn time(&self, column: &str) -> Result<Timestamp, Fault> {
        self.number(column).map(Timestamp)
    }

    pub(crate) fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, Fault> {
        Ok(self.maybe_number(column)?.map(Timestamp))
    }

    /// A text that `read` understands.
    pub(crate) fn word<T>(
        &self,
        column: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        self.maybe_word(column, read)?.ok_or_else(|| self.broken(column, "it is NULL"))
    }

    pub(crate) fn maybe_word<T>(
        &self,
        column: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Fault> {
        let Some(text) = self.get::<Option<String>>(column)? else { return Ok(None) };
        let value = read(&text).ok_or_else(|| {
            self.broken(column, &format!("{:?} is none of its values", shorten(&text)))
        })?;
        Ok(Some(value))
    }

    pub(crate) fn parsed<T: FromStr>(&self, column: &str) -> Result<T, Fault> {
        self.word(column, |text| text.parse().ok())
    }

    pub(crate) fn maybe_parsed<T: FromStr>(&self, column: &str) -> Result<Option<T>, Fault> {
        self.maybe_word(column, |text| text.parse().ok())
    }

    pub(crate) fn uuid(&self, column: &str) -> Result<Uuid, Fault> {
        self.parsed(column)
    }
}

/// Characters of a broken value that are told.
const TOLD_LENGTH_MAX: usize = 80;

fn shorten(text: &str) -> String {
    text.chars().take(TOLD_LENGTH_MAX).collect()
}

/// SQLite's integers are signed: what is beyond them is kept as the largest.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Every row, read by `read`.
pub(crate) fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The first row, if there is one.
pub(crate) fn first<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}

/// Does `work` in one transaction that `begin` begins: all of it or, if it fails or panics,
/// nothing. As rusqlite's own, which has its statements parsed anew each time; a short transaction
/// takes hardly longer than that.
pub(crate) fn in_transaction<T>(
    connection: &Connection,
    begin: Begin,
    work: impl FnOnce(&Connection) -> Result<T, Fault>,
) -> Result<T, Fault> {
    execute(connection, begin.sql(), [])?;
    let open = Open(connection);
    let done = work(connection)?;
    execute(connection, "COMMIT", [])?;
    // Closed by now.
    drop(open);
    Ok(done)
}

/// How a transaction begins: <https://sqlite.org/lang_transaction.html>.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begin {
    /// To read one snapshot.
    Deferred,
    /// To write.
    Immediate,
}

impl Begin {
    fn sql(self) -> &'static str {
        match self {
            Self::Deferred => "BEGIN DEFERRED",
            Self::Immediate => "BEGIN IMMEDIATE",
        }
    }
}

/// A transaction that may be open yet; then it comes to nothing.
struct Open<'c>(&'c Connection);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // SQLite itself has closed it after some failures, of which the caller knows.
        if !self.0.is_autocommit()
            && let Err(error) = self.0.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction cannot be rolled back");
        }
    }
}

/// How many rows `sql` changed.
pub(crate) fn execute(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> Result<usize, Fault> {
    Ok(connection.prepare_cached(sql)?.execute(params)?)
}

/// The `seq` that a page begins after, by `sql` for the id `after`; `none` for the first page.
pub(crate) fn start_of_page(
    connection: &Connection,
    sql: &str,
    after: Option<String>,
    none: i64,
    noun: &str,
) -> Result<i64, Fault> {
    let Some(id) = after else { return Ok(none) };
    first(connection, sql, [&id], |row| Ok(row.get(0)?))?
        .ok_or_else(|| RecordError::NotFound(format!("{noun} {id}")).into())
}
