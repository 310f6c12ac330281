//! How a line is written: as `timestamp | level | service.module | message key=value …`, or as one
//! JSON object with the same parts. Where lines go is not known here.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Bytes of one field's value that are written.
const VALUE_LENGTH_MAX: usize = 8 * 1024;
/// The field that is the message itself.
const MESSAGE: &str = "message";

/// Lines for people.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextLines;

/// Lines for programs.
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = event.metadata().level();
        let source = source(event.metadata().target());
        let fields = Fields::of(event);
        write!(out, "{} | {level:<5} | {source} | ", now())?;
        write_escaped(&mut out, &fields.message)?;
        for (key, value) in &fields.others {
            write!(out, " {key}=")?;
            match value.as_str() {
                Some(text) if !needs_quotes(text) => out.write_str(text)?,
                // JSON leaves DEL and the C1 controls as they are.
                Some(_) | None => write_escaped(&mut out, &value.to_string())?,
            }
        }
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
                out.write_char(' ')?;
                write_escaped(&mut out, fields)?;
            }
        }
        writeln!(out)
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            let parsed = fields.and_then(|fields| serde_json::from_str::<Map<_, _>>(fields).ok());
            for (key, value) in parsed.into_iter().flatten() {
                line.entry(key).or_insert(value);
            }
        }
        let fields = Fields::of(event);
        line.extend(fields.others.into_iter().map(|(key, value)| (key.to_owned(), value)));
        line.insert("timestamp".to_owned(), now().into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("source".to_owned(), source(event.metadata().target()).into());
        line.insert(MESSAGE.to_owned(), fields.message.into());
        writeln!(out, "{}", Value::Object(line))
    }
}

/// UTC, with milliseconds.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

/// `service.module`, from the target that tracing knows a line by.
pub(super) fn source(target: &str) -> String {
    target.strip_prefix("vman_").unwrap_or(target).replace("::", ".")
}

/// What an event says.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn text(&mut self, field: &Field, mut text: String) {
        if text.len() > VALUE_LENGTH_MAX {
            text.truncate(text.floor_char_boundary(VALUE_LENGTH_MAX));
            text.push('…');
        }
        if field.name() == MESSAGE {
            self.message = text;
        } else {
            self.others.push((field.name(), text.into()));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }
}

fn needs_quotes(text: &str) -> bool {
    text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"')
}

/// Nothing that is logged can begin a line of its own or control a terminal.
fn write_escaped(out: &mut Writer<'_>, text: &str) -> fmt::Result {
    for character in text.chars() {
        if character.is_control() {
            write!(out, "{}", character.escape_default())?;
        } else {
            out.write_char(character)?;
        }
    }
    Ok(())
}
