//! The values of single keys, as they are written in the file and in the environment. Which key
//! has which, and its default, is not known here.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who may use the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AuthMode {
    /// Whoever knows the token.
    Token,
    /// Whoever reaches it.
    None,
}

/// Which backend runs the machines.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
pub(crate) enum BackendChoice {
    /// The best that works here.
    Auto,
    /// The backend of this name.
    Name(String),
    /// The plugin file of this name in the plugins' folder.
    File(String),
}

impl From<String> for BackendChoice {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            file if file.ends_with(".so") => Self::File(text),
            _ => Self::Name(text),
        }
    }
}

impl From<BackendChoice> for String {
    fn from(choice: BackendChoice) -> Self {
        match choice {
            BackendChoice::Auto => "auto".to_owned(),
            BackendChoice::Name(text) | BackendChoice::File(text) => text,
        }
    }
}

/// What is done with a policy's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PolicyMode {
    /// They are followed.
    Enforce,
    /// They are recorded beside the others and not followed.
    Shadow,
    /// It is not asked.
    Off,
}

/// How machines reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NetworkMode {
    /// The best that works here.
    Auto,
    /// Machines are joined to a bridge of the host.
    Bridge,
    /// The backend itself routes.
    User,
    /// Machines have no card.
    None,
}

/// The least important lines that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl TryFrom<String> for LogLevel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let all = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];
        let lower = text.to_ascii_lowercase();
        let word = if lower == "warning" { "warn" } else { &lower };
        all.into_iter().find(|level| level.word() == word).ok_or_else(|| {
            format!("{text:?} is no log level: use off, error, warn, info, debug or trace")
        })
    }
}

impl From<LogLevel> for String {
    fn from(level: LogLevel) -> Self {
        level.word().to_owned()
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// `timestamp | level | service.module | message`
    Text,
    /// One JSON object a line.
    Json,
}

/// `true`, `false` or a file name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected true, false or a file name")]
pub(crate) enum LogFile {
    Wanted(bool),
    Name(String),
}

/// A length of time, written with its unit: `500ms`, `5s`, `10m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Period(pub(crate) Duration);

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            format!(
                "{text:?} is no length of time ({error}): write e.g. \"500ms\", \"5s\", \"10m\""
            )
        })
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The JSON of a TOML value; points in time become strings.
///
/// # Errors
/// JSON has no infinity and no NaN.
pub(crate) fn json(value: toml::Value) -> Result<serde_json::Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .ok_or_else(|| format!("{number} cannot be written in JSON"))?
            .into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => {
            values.into_iter().map(json).collect::<Result<Vec<_>, _>>()?.into()
        }
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| Ok((key, json(value)?)))
            .collect::<Result<serde_json::Map<_, _>, String>>()?
            .into(),
    })
}
