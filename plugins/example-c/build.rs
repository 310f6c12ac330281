//! Builds the C files for a program that links them: under another name for their entry, and with
//! no other name seen, since two backends may have functions of one name. The file that vman loads
//! is built by the command in the README, and not here.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const FILES: [&str; 5] = ["backend.c", "images.c", "json.c", "machines.c", "process.c"];
const ENTRY: &str = "example_c_entry";

fn main() {
    println!("cargo::rerun-if-changed=../vman_backend.h");
    for header in ["json.h", "process.h", "verbs.h"] {
        println!("cargo::rerun-if-changed={header}");
    }
    let mut build = cc::Build::new();
    build.files(FILES).include("..").std("c11").define("vman_plugin_entry", ENTRY);
    build.warnings(true).extra_warnings(true).warnings_into_errors(true).flag("-pthread");
    let objects = build.compile_intermediates();

    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let whole = folder.join("example_c.o");
    let mut link = build.get_compiler().to_command();
    run(link.args(["-r", "-nostdlib", "-o"]).arg(&whole).args(objects));
    run(Command::new("objcopy").arg(format!("--keep-global-symbol={ENTRY}")).arg(&whole));
    cc::Build::new().object(&whole).compile("example_c");
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
