//! Tests of the log as a whole, each with a log of its own.

use serde_json::Value;

use super::*;

/// What `body` logs.
fn logged(format: LogFormat, level: LogLevel, body: impl FnOnce()) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vman.log");
    let rolling = RollingFile::open(&path, 1024 * 1024, 0).unwrap();
    let layer = lines(format, FileLog::new(rolling)).with_filter(filter(level));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), body);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_line_has_its_time_level_source_message_and_fields() {
    let text = logged(LogFormat::Text, LogLevel::Info, || {
        tracing::warn!(target: "vman_engine::driver", pid = 7, why = "no reason", "guest ended");
    });
    let parts: Vec<&str> = text.trim_end().split(" | ").collect();
    assert!(parts[0].parse::<jiff::Timestamp>().is_ok() && parts[0].len() == 24, "{text}");
    assert_eq!(parts[1..], ["WARN ", "engine.driver", "guest ended pid=7 why=\"no reason\""]);
}

#[test]
fn a_line_carries_the_fields_of_the_spans_it_is_in() {
    let body = || {
        let request = tracing::info_span!(target: "vman_api::log", "request", request_id = "r1");
        request.in_scope(|| {
            let operation = tracing::info_span!(target: "vman_engine", "op", operation_id = "o2");
            operation.in_scope(|| tracing::info!(target: "vman_engine", "done"));
        });
    };
    let text = logged(LogFormat::Text, LogLevel::Info, body);
    assert!(text.contains("request_id=\"r1\"") && text.contains("operation_id=\"o2\""), "{text}");
    let json: Value = serde_json::from_str(&logged(LogFormat::Json, LogLevel::Info, body)).unwrap();
    assert_eq!((&json["request_id"], &json["operation_id"]), (&"r1".into(), &"o2".into()));
}

#[test]
fn a_json_line_has_the_same_parts() {
    let text = logged(LogFormat::Json, LogLevel::Info, || {
        tracing::error!(target: "vman::serve", pid = 7, "line one\nline \"two\"");
    });
    assert_eq!(text.lines().count(), 1);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["level"], "ERROR");
    assert_eq!(json["source"], "vman.serve");
    assert_eq!(json["message"], "line one\nline \"two\"");
    assert_eq!(json["pid"], 7);
    assert_eq!(json["timestamp"].as_str().unwrap().len(), "2026-11-22T19:24:00.123Z".len());
}

#[test]
fn what_is_logged_can_neither_begin_a_line_nor_control_a_terminal() {
    let text = logged(LogFormat::Text, LogLevel::Info, || {
        let name = "x\n2026 | INFO | api | forged\u{1b}[2J\u{9b}2J\u{7f}";
        let span = tracing::info_span!(target: "vman", "s", name = %name);
        span.in_scope(|| tracing::info!(target: "vman_api", who = name, "named {name}"));
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(!text.trim_end().contains(char::is_control), "{text:?}");
}

#[test]
fn what_foreign_crates_say_is_logged_only_if_it_matters() {
    let body = || {
        tracing::info!(target: "wasmtime::runtime", "noise");
        tracing::warn!(target: "qapi::stream", "trouble");
        tracing::debug!(target: "vman_operator", "detail");
        tracing::trace!(target: "vman_operator", "very much detail");
    };
    let text = logged(LogFormat::Text, LogLevel::Debug, body);
    let sources: Vec<&str> = text.lines().filter_map(|line| line.split(" | ").nth(2)).collect();
    assert_eq!(sources, ["qapi.stream", "operator"]);
    assert_eq!(logged(LogFormat::Text, LogLevel::Error, body), "");
}

#[test]
fn a_file_that_cannot_be_written_is_a_warning_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let obstacle = folder.path().join("file");
    std::fs::write(&obstacle, "").unwrap();
    let log = Log {
        level: LogLevel::Off,
        file: Some(obstacle.join("vman.log")),
        max_bytes: 65_536,
        backup_count: 1,
        format: LogFormat::Text,
    };
    let begun = begin(&log);
    assert_eq!(begun.file, None);
    let warning = begun.warning.unwrap();
    assert!(warning.contains("file/vman.log") && warning.contains("[log] dir"), "{warning}");
}
