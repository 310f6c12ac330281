//! The tiny guest, assembled by its own script in a fraction of a second. It is not Linux.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::run;
use crate::tree::Tree;

/// Assembles `tiny.rom`, `tiny.elf` and `tiny.img` into `folder`.
pub(super) fn build(tree: &Tree, folder: &Path) -> Result<()> {
    let script = tree.root.join("tests/guests/tiny/build.sh");
    run::captured(Command::new("sh").arg(script).arg(folder)).map(drop)
}
