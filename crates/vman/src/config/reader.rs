//! Reads settings one by one from a parsed file and the environment, and keeps where each came
//! from, what is wrong with it, and which keys were never asked for. Which keys there are is not
//! known here.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::{ConfigError, Origin, Place, Problem};
use super::section::Section;
use super::surroundings::Surroundings;

/// Edits between an unknown key and the known one that it may have been meant to be.
const TYPING_ERRORS_MAX: usize = 3;

/// One setting, as it was settled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    /// Dotted, e.g. `server.listen`.
    pub(crate) key: String,
    pub(crate) value: toml::Value,
    pub(crate) origin: Origin,
}

/// The configuration while it is being read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) surroundings: &'a Surroundings,
    file: &'a Path,
    text: &'a str,
    root: DeTable<'a>,
    sections: Vec<&'static str>,
    pub(super) settings: Vec<Setting>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// `text` is the content of `file`.
    ///
    /// # Errors
    /// It is not TOML.
    pub(super) fn new(
        surroundings: &'a Surroundings,
        file: &'a Path,
        text: &'a str,
    ) -> Result<Self, ConfigError> {
        let mut reader = Self {
            surroundings,
            file,
            text,
            root: DeTable::new(),
            sections: Vec::new(),
            settings: Vec::new(),
            problems: Vec::new(),
        };
        match DeTable::parse(text) {
            Ok(root) => {
                reader.root = root.into_inner();
                Ok(reader)
            }
            Err(error) => {
                let origin = reader.place(error.span().map_or(0, |span| span.start));
                let message = error.message().replace('\n', ", ");
                Err(ConfigError::Wrong(vec![Problem { origin, message }]))
            }
        }
    }

    pub(super) fn place(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Origin::File(Place {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        })
    }

    /// The table `[name]`; an empty one if it is not there.
    pub(super) fn section<'r>(&'r mut self, name: &'static str) -> Section<'r, 'a> {
        self.sections.push(name);
        let entry = self.root.remove_entry(name);
        let table = entry.map(|(_, value)| self.table(value, &format!("[{name}]")));
        let table = table.unwrap_or_default();
        Section::new(self, table, format!("[{name}]"), format!("{name}."))
    }

    fn table(&mut self, value: Spanned<DeValue<'a>>, label: &str) -> DeTable<'a> {
        let offset = value.span().start;
        match value.into_inner() {
            DeValue::Table(table) => table,
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_) => {
                self.wrong_at(offset, format!("must be a table: write {label} above its keys"));
                DeTable::new()
            }
        }
    }

    /// The tables `[[name]]`, each with the place where it begins.
    pub(super) fn tables(&mut self, name: &'static str) -> Vec<(Origin, DeTable<'a>)> {
        self.sections.push(name);
        let Some((_, value)) = self.root.remove_entry(name) else { return Vec::new() };
        let offset = value.span().start;
        let DeValue::Array(elements) = value.into_inner() else {
            self.wrong_at(offset, format!("must be a list: write [[{name}]] above each"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in elements {
            let origin = self.place(element.span().start);
            tables.push((origin, self.table(element, &format!("[[{name}]]"))));
        }
        tables
    }

    /// The free tables `[name.…]`.
    pub(super) fn free_tables(&mut self, name: &'static str) -> Vec<(String, Origin, toml::Value)> {
        self.sections.push(name);
        let Some((_, value)) = self.root.remove_entry(name) else { return Vec::new() };
        let tables = self.table(value, &format!("[{name}.…]"));
        let mut free = Vec::new();
        for (key, value) in tables {
            let origin = self.place(key.span().start);
            let name = key.into_inner().into_owned();
            match toml::Table::deserialize(ValueDeserializer::from(value)) {
                Ok(table) => free.push((name, origin, toml::Value::Table(table))),
                Err(error) => self.wrong(origin, format!("{name}: {}", error.message())),
            }
        }
        free
    }

    /// `table` as the element of a list; settings and problems are told under `prefix` and `label`.
    pub(super) fn element<'r>(
        &'r mut self,
        table: DeTable<'a>,
        label: String,
        prefix: String,
    ) -> Section<'r, 'a> {
        Section::new(self, table, label, prefix)
    }

    pub(super) fn wrong(&mut self, origin: Origin, message: String) {
        self.problems.push(Problem { origin, message });
    }

    pub(super) fn wrong_at(&mut self, offset: usize, message: String) {
        let origin = self.place(offset);
        self.wrong(origin, message);
    }

    /// Keeps what a setting came to.
    pub(super) fn settle<T: Serialize>(&mut self, key: String, value: &T, origin: Origin) {
        let value = toml::Value::try_from(value).expect("settings are plain TOML values");
        self.settings.push(Setting { key, value, origin });
    }

    /// Replaces what a settled key came to.
    pub(super) fn override_with<T: Serialize>(&mut self, key: &str, value: &T, origin: Origin) {
        self.settings.retain(|setting| setting.key != key);
        self.settle(key.to_owned(), value, origin);
    }

    /// A problem with the setting of this dotted key, told where its value came from.
    pub(super) fn blame(&mut self, key: &str, message: String) {
        let setting = self.settings.iter().find(|setting| setting.key == key);
        let origin = setting.map_or(Origin::Default, |setting| setting.origin.clone());
        self.wrong(origin, format!("{key}: {message}"));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Everything that was wrong, in the order of the file.
    pub(super) fn end(mut self) -> Result<Vec<Setting>, ConfigError> {
        let unknown: Vec<(usize, String)> = self
            .root
            .iter()
            .map(|(key, _)| (key.span().start, key.get_ref().to_string()))
            .collect();
        for (offset, key) in unknown {
            let message = unknown_key(&key, "the configuration", &self.sections);
            self.wrong_at(offset, message);
        }
        if self.problems.is_empty() {
            return Ok(self.settings);
        }
        self.problems.sort_by_key(|problem| match &problem.origin {
            Origin::File(place) => (0, place.line, place.column),
            Origin::Default | Origin::Environment(_) | Origin::CommandLine(_) => (1, 0, 0),
        });
        Err(ConfigError::Wrong(self.problems))
    }
}

pub(super) fn unknown_key(key: &str, label: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(near) => format!("unknown key `{key}` in {label}; did you mean `{near}`?"),
        None => format!("unknown key `{key}` in {label}; known are: {}", known.join(", ")),
    }
}

fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(&key.to_lowercase(), candidate);
    let (steps, near) = known.iter().map(|known| (distance(known), *known)).min()?;
    (steps <= TYPING_ERRORS_MAX && steps < near.len()).then_some(near)
}
