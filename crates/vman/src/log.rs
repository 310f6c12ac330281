//! The daemon's log: lines on the console and in a file of bounded size. What is worth a line is
//! for the rest of the program to say. A log that cannot be written never stops the daemon.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::config::{Log, LogFormat, LogLevel};

mod format;
mod rolling;

use format::{JsonLines, TextLines};
use rolling::RollingFile;

/// All crates of vman begin so.
const OUR_TARGETS: &str = "vman";
/// What other crates have to say below this is noise.
const FOREIGN_LEVEL: LevelFilter = LevelFilter::WARN;

/// How the log was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Begun {
    /// The file that is written.
    pub(crate) file: Option<PathBuf>,
    /// Why there is no file although one is wanted.
    pub(crate) warning: Option<String>,
}

/// Begins the log of this process; once.
pub(crate) fn begin(log: &Log) -> Begun {
    let opened = log.file.as_deref().map(|file| open(file, log));
    let (rolling, warning) = match opened.transpose() {
        Ok(rolling) => (rolling, None),
        Err(warning) => (None, Some(warning)),
    };
    let file = rolling.as_ref().and(log.file.clone());
    let file_lines = rolling.map(|rolling| lines(log.format, FileLog::new(rolling)));
    let console = lines(log.format, || ConsoleLog);
    let all = tracing_subscriber::registry()
        .with(console.and_then(file_lines).with_filter(filter(log.level)));
    // Fails only where a log was begun before; that one goes on then.
    let _ = all.try_init();
    Begun { file, warning }
}

fn open(file: &Path, log: &Log) -> Result<RollingFile, String> {
    RollingFile::open(file, log.max_bytes, log.backup_count).map_err(|error| {
        format!(
            "the log goes to the console alone: cannot write {}: {error}; set [log] dir to a \
             folder that can be written, or [log] file to false",
            file.display()
        )
    })
}

fn filter(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(ours.min(FOREIGN_LEVEL)).with_target(OUR_TARGETS, ours)
}

fn lines<W>(format: LogFormat, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // What goes wrong with the log is not told on a console that may be gone.
    let layer = fmt::layer().with_ansi(false).log_internal_errors(false).with_writer(writer);
    match format {
        LogFormat::Text => layer.event_format(TextLines).boxed(),
        LogFormat::Json => {
            layer.fmt_fields(fmt::format::JsonFields::new()).event_format(JsonLines).boxed()
        }
    }
}

/// The console: standard error. Its failures are nobody's.
#[derive(Debug)]
struct ConsoleLog;

impl Write for ConsoleLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file, shared by all threads.
#[derive(Debug, Clone)]
struct FileLog(Arc<Mutex<RollingFile>>);

impl FileLog {
    fn new(rolling: RollingFile) -> Self {
        Self(Arc::new(Mutex::new(rolling)))
    }
}

impl<'w> MakeWriter<'w> for FileLog {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

impl Write for FileLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
