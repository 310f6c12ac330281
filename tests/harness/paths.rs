//! Where the built things are that the tests run. `cargo xtask test` builds them and says where;
//! without its variables they are looked for where it puts them.

use std::env;
use std::path::PathBuf;

use crate::source::root;

/// The vman program.
pub fn program() -> PathBuf {
    built("VMAN_BIN", "debug/vman")
}

/// The program with points at which it is killed or something fails.
pub fn program_with_points() -> PathBuf {
    let beside = program().with_file_name("vman-crash-points");
    let build = "cargo build -p vman --features crash-points --bin vman-crash-points";
    assert!(beside.exists(), "{} is not there: run `{build}`", beside.display());
    beside
}

/// The folder of plugins built as files.
pub fn plugins() -> PathBuf {
    built("VMAN_PLUGIN_DIR", "plugins")
}

/// The folder of policies built as components.
pub(crate) fn policies() -> PathBuf {
    built("VMAN_POLICY_DIR", "policies")
}

/// A file of the guests: `tiny.rom`, `tiny.elf`, `vmlinuz` or `initrd.gz`.
pub fn guest(name: &str) -> PathBuf {
    let path = built("VMAN_GUEST_DIR", "guests").join(name);
    assert!(path.exists(), "{} is not there: run `cargo xtask test`", path.display());
    path
}

fn built(variable: &str, below_target: &str) -> PathBuf {
    let default = || root().join("target").join(below_target);
    let path = env::var_os(variable).map_or_else(default, PathBuf::from);
    let shown = path.display();
    assert!(path.exists(), "{shown} is not there: run `cargo xtask test`, or set {variable}");
    path
}
