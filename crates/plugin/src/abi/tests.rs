//! Holds `plugins/vman_backend.h` against this side, by what a C compiler makes of it: sizes,
//! places, types, constants and words. What the header says in prose is for reviews.

use std::any::type_name;
use std::fmt::{Display, Write};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use uuid::Uuid;

use super::*;
use crate::wire::{STATUS_FAILED, STATUS_OK, op};
use crate::{Event, LogLevel, RunState};

/// A C expression, how `printf` shows it, and what this side has for it.
struct Line {
    format: &'static str,
    expression: String,
    ours: String,
}

fn number(expression: impl Display, ours: impl Display) -> Line {
    let expression = format!("(unsigned long long)({expression})");
    Line { format: "%llu", expression, ours: ours.to_string() }
}

fn word(name: &str, ours: &str) -> Line {
    Line { format: "%s", expression: name.to_owned(), ours: ours.to_owned() }
}

/// The size of a struct, and where its fields begin.
macro_rules! layout {
    ($ours:ident is $theirs:literal: $($field:ident),+ $(,)?) => {{
        // Names every field: one that is added here does not compile until it stands below, too.
        #[allow(unused_variables, reason = "only their names count")]
        let all = |$ours { $($field),+ }: $ours| ();
        let _ = all;
        let mut lines = vec![number(concat!("sizeof(", $theirs, ")"), size_of::<$ours>())];
        $(
            let place = concat!("offsetof(", $theirs, ", ", stringify!($field), ")");
            lines.push(number(place, offset_of!($ours, $field)));
        )+
        lines
    }};
}

#[test]
fn the_header_lays_out_each_struct_as_this_side_does() {
    let mut lines = layout!(VmanBuf is "struct vman_buf": ptr, len);
    lines.extend(layout!(
        PluginTable is "struct vman_plugin":
        magic, size, abi_major, abi_minor, manifest, create, submit, cancel, destroy, get_extension,
    ));
    lines.extend(layout!(
        HostTable is "struct vman_host":
        size, abi_minor, complete, emit_event, log, get_extension,
    ));
    assert_same(&lines);
}

#[test]
fn the_header_has_the_constants_of_this_side() {
    assert_same(&[
        number("VMAN_MAGIC", MAGIC),
        number("VMAN_ABI_MAJOR", ABI_MAJOR),
        number("VMAN_ABI_MINOR", ABI_MINOR),
        number("VMAN_PLUGIN_TABLE_1_0_SIZE", PLUGIN_TABLE_1_0_SIZE),
        number("VMAN_HOST_TABLE_1_0_SIZE", HOST_TABLE_1_0_SIZE),
        number("VMAN_MAX_MESSAGE_BYTES", MAX_MESSAGE_BYTES),
        number("VMAN_STATUS_OK", STATUS_OK),
        number("VMAN_STATUS_FAILED", STATUS_FAILED),
        number("VMAN_LOG_ERROR", LogLevel::Error.number()),
        number("VMAN_LOG_WARN", LogLevel::Warn.number()),
        number("VMAN_LOG_INFO", LogLevel::Info.number()),
        number("VMAN_LOG_DEBUG", LogLevel::Debug.number()),
    ]);
}

#[test]
fn the_header_has_the_words_of_this_side() {
    let mut lines = vec![
        word("VMAN_OP_PROBE", op::PROBE),
        word("VMAN_OP_LAUNCH", op::LAUNCH),
        word("VMAN_OP_REATTACH", op::REATTACH),
        word("VMAN_OP_POWER_BUTTON", op::POWER_BUTTON),
        word("VMAN_OP_QUIT", op::QUIT),
        word("VMAN_OP_KILL", op::KILL),
        word("VMAN_OP_CREATE_IMAGE", op::CREATE_IMAGE),
        word("VMAN_OP_INSPECT_IMAGE", op::INSPECT_IMAGE),
        word("VMAN_OP_DELETE_IMAGE", op::DELETE_IMAGE),
        word("VMAN_OP_SURVEY", op::SURVEY),
        word("VMAN_OP_SIGHT", op::SIGHT),
        word("VMAN_OP_PAUSE", op::PAUSE),
        word("VMAN_OP_RESUME", op::RESUME),
        word("VMAN_OP_RESET", op::RESET),
        word("VMAN_OP_ATTACH_DISK", op::ATTACH_DISK),
        word("VMAN_OP_DETACH_DISK", op::DETACH_DISK),
        word("VMAN_OP_RESIZE_DISK", op::RESIZE_DISK),
        word("VMAN_OP_RESIZE_IMAGE", op::RESIZE_IMAGE),
    ];
    // What of the header is not held above is known at a glance: as many names as there are.
    let wire = include_str!("../wire.rs");
    assert_eq!(lines.len(), wire.matches("    pub(crate) const ").count());
    for code in ERROR_CODES.into_iter().filter(|code| is_known(*code)) {
        let ours = serde_json::to_value(code).unwrap();
        let ours = ours.as_str().unwrap();
        let name = ours.to_uppercase().replace('-', "_");
        lines.push(word(&format!("VMAN_ERROR_{name}"), ours));
    }
    let (id, reason) = (Uuid::nil(), String::new());
    for event in [
        Event::MachineChanged { id, run_state: RunState::Running },
        Event::MachineEnded { id, reason },
        Event::DiskDetached { id, disk: id },
    ] {
        let json = serde_json::to_value(&event).unwrap();
        let ours = json["event"].as_str().unwrap();
        let name = ours.to_uppercase().replace('-', "_");
        lines.push(word(&format!("VMAN_EVENT_{name}"), ours));
    }
    let defined = ["OP", "ERROR", "EVENT"].map(|kind| format!("#define VMAN_{kind}_"));
    let header = std::fs::read_to_string(header()).unwrap();
    let count = defined.iter().map(|define| header.matches(define).count());
    assert_eq!(count.sum::<usize>(), lines.len(), "the header has words of its own");
    assert_same(&lines);
}

/// All there are; `is_known` does not compile with one more.
const ERROR_CODES: [ErrorCode; 11] = [
    ErrorCode::Invalid,
    ErrorCode::NotFound,
    ErrorCode::Conflict,
    ErrorCode::Unsupported,
    ErrorCode::Timeout,
    ErrorCode::Refused,
    ErrorCode::Failed,
    ErrorCode::Panicked,
    ErrorCode::Broken,
    ErrorCode::Crashed,
    ErrorCode::Other,
];

fn is_known(code: ErrorCode) -> bool {
    match code {
        ErrorCode::Invalid
        | ErrorCode::NotFound
        | ErrorCode::Conflict
        | ErrorCode::Unsupported
        | ErrorCode::Timeout
        | ErrorCode::Refused
        | ErrorCode::Failed
        | ErrorCode::Panicked
        | ErrorCode::Broken
        | ErrorCode::Crashed
        | ErrorCode::Other => true,
    }
}

#[test]
fn the_headers_functions_have_the_types_of_this_side() {
    let plugin = |field| format!("((struct vman_plugin *)0)->{field}");
    let host = |field| format!("((struct vman_host *)0)->{field}");
    let mut all = vec![
        (plugin("create"), type_of(|table: &PluginTable| &table.create)),
        (plugin("submit"), type_of(|table: &PluginTable| &table.submit)),
        (plugin("cancel"), type_of(|table: &PluginTable| &table.cancel)),
        (plugin("destroy"), type_of(|table: &PluginTable| &table.destroy)),
        (plugin("get_extension"), type_of(|table: &PluginTable| &table.get_extension)),
        (host("complete"), type_of(|table: &HostTable| &table.complete)),
        (host("emit_event"), type_of(|table: &HostTable| &table.emit_event)),
        (host("log"), type_of(|table: &HostTable| &table.log)),
        (host("get_extension"), type_of(|table: &HostTable| &table.get_extension)),
    ];
    for (what, theirs) in [
        ("&vman_plugin_entry", "const struct vman_plugin *(*)(void)"),
        ("((struct vman_plugin *)0)->manifest", "struct vman_buf"),
        ("((struct vman_buf *)0)->ptr", "const uint8_t *"),
        ("((struct vman_buf *)0)->len", "size_t"),
    ] {
        all.push((what.to_owned(), theirs.to_owned()));
    }
    let is = |(what, ours)| number(format!("_Generic(({what}), {ours}: 1, default: 0)"), 1);
    assert_same(&all.into_iter().map(is).collect::<Vec<_>>());
}

/// The type of a field that is a function, in C's words.
fn type_of<T, F>(_: fn(&T) -> &F) -> String {
    let name = type_name::<F>();
    let function = name
        .strip_prefix("core::option::Option<")
        .map_or(name, |inner| inner.strip_suffix('>').expect("what opens is closed"));
    let parts = function.split_once("extern \"C\" fn(").and_then(|(_, rest)| rest.split_once(')'));
    let (arguments, result) = parts.unwrap_or_else(|| panic!("{name} is no function"));
    let arguments: Vec<_> = arguments.split(", ").map(in_c).collect();
    let result = result.strip_prefix(" -> ").map_or("void", in_c);
    format!("{result} (*)({})", arguments.join(", "))
}

fn in_c(rust: &str) -> &'static str {
    match rust {
        "i32" => "int32_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "*const i8" | "*const u8" => "const char *",
        "*mut core::ffi::c_void" => "void *",
        "*const core::ffi::c_void" => "const void *",
        "vman_plugin::abi::VmanBuf" => "struct vman_buf",
        "*mut vman_plugin::abi::VmanBuf" => "struct vman_buf *",
        "*const vman_plugin::abi::HostTable" => "const struct vman_host *",
        other => panic!("what is {other} in C?"),
    }
}

#[test]
fn the_header_compiles_alone_and_without_a_warning() {
    for standard in ["c99", "c11", "c17"] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("alone.c");
        std::fs::write(&source, "#include \"vman_backend.h\"\nint used;\n").unwrap();
        let object = folder.path().join("alone.o");
        compile(&source, &object, &["-c", &format!("-std={standard}")]);
    }
}

/// Has C print its side of every line.
fn assert_same(lines: &[Line]) {
    let mut program = String::from(
        "#include \"vman_backend.h\"\n#include <stdio.h>\n#include <string.h>\n\
         int main(void) {\n",
    );
    for Line { format, expression, .. } in lines {
        writeln!(program, "    printf(\"{format}\\n\", {expression});").unwrap();
    }
    program.push_str("    return 0;\n}\n");
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("header.c");
    std::fs::write(&source, program).unwrap();
    let binary = folder.path().join("header");
    compile(&source, &binary, &["-std=c11", "-O1"]);
    let printed = run(&mut Command::new(&binary));
    let printed = String::from_utf8(printed.stdout).unwrap();
    let theirs: Vec<&str> = printed.lines().collect();
    assert_eq!(theirs.len(), lines.len());
    for (line, theirs) in lines.iter().zip(theirs) {
        assert_eq!(theirs, line.ours, "{} in the header", line.expression);
    }
}

fn compile(source: &Path, into: &Path, options: &[&str]) {
    let folder = header();
    let mut command = Command::new("cc");
    command.args(options).args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]);
    run(command.arg(folder.parent().unwrap()).arg("-o").arg(into).arg(source));
}

/// Nothing is skipped where there is no compiler: the header would then be held by nobody.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|why| {
        panic!("{command:?}: {why}; a C compiler is needed, as a package often called gcc")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn header() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/vman_backend.h")
}
