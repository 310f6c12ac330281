//! Looks up single keys of one table: in the environment first, then in the file. Which keys there
//! are is not known here.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::error::Origin;
use super::reader::{Reader, unknown_key};

/// How an environment variable says yes and no.
const YES: [&str; 4] = ["1", "true", "yes", "on"];
const NO: [&str; 4] = ["0", "false", "no", "off"];

/// One table of the file while its keys are asked for.
#[derive(Debug)]
pub(super) struct Section<'r, 'a> {
    reader: &'r mut Reader<'a>,
    table: DeTable<'a>,
    label: String,
    prefix: String,
    known: Vec<&'static str>,
}

/// One key while it is looked up; an empty text counts as not set.
#[derive(Debug)]
pub(super) struct Key<'s, 'r, 'a> {
    section: &'s mut Section<'r, 'a>,
    name: &'static str,
    variable: Option<&'static str>,
}

impl<'r, 'a> Section<'r, 'a> {
    /// `label` names the table in problems, `prefix` begins its dotted keys.
    pub(super) fn new(
        reader: &'r mut Reader<'a>,
        table: DeTable<'a>,
        label: String,
        prefix: String,
    ) -> Self {
        Self { reader, table, label, prefix, known: Vec::new() }
    }

    /// Asks for one key.
    pub(super) fn key(&mut self, name: &'static str) -> Key<'_, 'r, 'a> {
        self.known.push(name);
        Key { section: self, name, variable: None }
    }

    /// Says so of keys that nobody asked for.
    pub(super) fn end(self) {
        for (key, _) in &self.table {
            let message = unknown_key(key.get_ref(), &self.label, &self.known);
            self.reader.wrong_at(key.span().start, message);
        }
    }
}

impl Key<'_, '_, '_> {
    /// The environment variable that overrides the file.
    pub(super) fn variable(self, name: &'static str) -> Self {
        Self { variable: Some(name), ..self }
    }

    /// The value, or `default` where none was given or it is wrong.
    pub(super) fn or<T: DeserializeOwned + Serialize>(self, default: T) -> T {
        self.checked_or(|_| Ok(()), default)
    }

    /// Like [`Key::or`]; `check` may refuse a value that was given.
    pub(super) fn checked_or<T: DeserializeOwned + Serialize>(
        mut self,
        check: impl FnOnce(&T) -> Result<(), String>,
        default: T,
    ) -> T {
        let (value, origin) = self.find(check).unwrap_or((default, Origin::Default));
        self.settle(&value, origin);
        value
    }

    /// The value if one was given.
    pub(super) fn optional<T: DeserializeOwned + Serialize>(
        mut self,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Option<T> {
        if let Some((value, origin)) = self.find(check) {
            self.settle(&value, origin);
            return Some(value);
        }
        self.settle(&"", Origin::Default);
        None
    }

    /// A path. One in the file is relative to the file's folder, one in the environment to the
    /// working directory; without either it is `default`.
    pub(super) fn path(mut self, default: Option<PathBuf>) -> Option<PathBuf> {
        let Some((given, origin)) = self.find(|_: &PathBuf| Ok(())) else {
            let shown = default.clone().unwrap_or_default();
            self.settle(&shown.display().to_string(), Origin::Default);
            return default;
        };
        let base = match &origin {
            Origin::File(place) => place.file.parent().unwrap_or(Path::new("")),
            Origin::Default | Origin::Environment(_) | Origin::CommandLine(_) => Path::new(""),
        };
        let path = std::path::absolute(base.join(&given)).unwrap_or(given);
        self.settle(&path.display().to_string(), origin);
        Some(path)
    }

    fn settle<T: Serialize>(self, value: &T, origin: Origin) {
        let key = format!("{}{}", self.section.prefix, self.name);
        self.section.reader.settle(key, value, origin);
    }

    fn find<T: DeserializeOwned>(
        &mut self,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Option<(T, Origin)> {
        let given = self.section.table.remove(self.name).filter(|given| !is_empty(given));
        let (parsed, origin) = match self.in_environment() {
            Some((variable, text)) => {
                (text.and_then(|text| from_text(&text)), Origin::Environment(variable))
            }
            None => {
                let given = given?;
                let origin = self.section.reader.place(given.span().start);
                let parsed = T::deserialize(ValueDeserializer::from(given));
                (parsed.map_err(|error| error.message().replace('\n', ", ")), origin)
            }
        };
        match parsed.and_then(|value| check(&value).map(|()| value)) {
            Ok(value) => Some((value, origin)),
            Err(message) => {
                let message = format!("{} {}: {message}", self.section.label, self.name);
                self.section.reader.wrong(origin, message);
                None
            }
        }
    }

    fn in_environment(&self) -> Option<(&'static str, Result<String, String>)> {
        let variable = self.variable?;
        let value = self.section.reader.surroundings.variable(variable)?.clone();
        Some((variable, value.into_string().map_err(|_| "is not UTF-8".to_owned())))
    }
}

fn is_empty(value: &Spanned<DeValue<'_>>) -> bool {
    value.get_ref().as_str() == Some("")
}

/// The value a text stands for, whatever its type in TOML is.
pub(super) fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let lower = text.to_ascii_lowercase();
    let yes = YES.contains(&lower.as_str()).then_some(true);
    let truth = yes.or(NO.contains(&lower.as_str()).then_some(false));
    let number = text.parse::<i64>().ok();
    let typed = truth.map(toml::Value::Boolean).into_iter();
    let typed = typed.chain(number.map(toml::Value::Integer));
    let mut refusal = None;
    for value in typed.chain([toml::Value::String(text.to_owned())]) {
        match T::deserialize(value) {
            Ok(value) => return Ok(value),
            Err(error) => refusal = refusal.or(Some((number.is_some(), error))),
        }
    }
    let (_, error) = refusal.expect("a text is always tried");
    Err(error.message().replace('\n', ", "))
}
