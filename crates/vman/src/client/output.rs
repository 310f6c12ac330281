//! Prints answers: as tables for people or as JSON for programs. What an answer means is not known
//! here.

use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use crate::cli::Format;

/// Cells between columns.
const GAP: u16 = 2;

/// Where results go.
#[derive(Debug)]
pub(crate) struct Output<W> {
    format: Format,
    out: W,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(format: Format, out: W) -> Self {
        Self { format, out }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub(crate) fn json(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{value:#}")
    }

    /// A line for people; programs do not get it.
    pub(crate) fn line(&mut self, text: &str) -> io::Result<()> {
        if self.is_json() {
            return Ok(());
        }
        writeln!(self.out, "{}", visible(text))
    }

    pub(crate) fn heading(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "\n{}", visible(text))
    }

    /// Rows of cells beneath their titles.
    pub(crate) fn rows(&mut self, titles: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        let mut table = plain();
        table.set_header(titles.to_vec());
        for row in rows {
            table.add_row(row.iter().map(|cell| visible(cell)));
        }
        self.table(table)
    }

    /// One object, a line for each field that has a value.
    pub(crate) fn fields(&mut self, fields: Vec<(&str, String)>) -> io::Result<()> {
        let mut table = plain();
        for (name, value) in fields {
            if !value.is_empty() {
                table.add_row([name.to_owned(), visible(&value)]);
            }
        }
        self.table(table)
    }

    fn table(&mut self, mut table: Table) -> io::Result<()> {
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

/// Names and messages may come from guests: they cannot control the terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// An optional value; nothing if there is none.
pub(crate) fn or_none<T: ToString>(value: Option<&T>) -> String {
    value.map(T::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(print: impl FnOnce(&mut Output<&mut Vec<u8>>) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        print(&mut Output::new(Format::Table, &mut bytes)).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn rows_stand_in_columns_without_frames() {
        let rows =
            vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "2".to_owned()]];
        let text = printed(|output| output.rows(&["NAME", "N"], rows));
        assert_eq!(text, "NAME  N\na     1\nlong  2\n");
    }

    #[test]
    fn a_field_without_a_value_has_no_line() {
        let text = printed(|output| {
            output.fields(vec![("id", "7".to_owned()), ("reason", String::new())])
        });
        assert_eq!(text, "id  7\n");
    }

    #[test]
    fn what_is_printed_cannot_control_the_terminal() {
        let text = printed(|output| output.rows(&["X"], vec![vec!["a\u{1b}[2Jb\r\n".to_owned()]]));
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
        assert_eq!(text.lines().count(), 2);
    }
}
