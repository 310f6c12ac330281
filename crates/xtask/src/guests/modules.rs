//! Which kernel modules a guest loads and in which order, from an unpacked kernel package. Loads
//! nothing itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// One module, ready to be loaded.
#[derive(Debug)]
pub(super) struct Module {
    /// Its file name, uncompressed: `virtio_blk.ko`.
    pub(super) file: String,
    pub(super) content: Vec<u8>,
}

/// Reads the wanted modules out of the unpacked `kernel`, each after those that it depends on.
/// Those that the kernel has built in are left out.
pub(super) fn collect(kernel: &Path, version: &str, wanted: &[&str]) -> Result<Vec<Module>> {
    let depmod = run::find("depmod").context("there is no depmod; run `cargo xtask setup`")?;
    run::captured(Command::new(depmod).arg("-b").arg(kernel).arg(version))?;
    let folder = kernel.join("lib/modules").join(version);
    let needs = Needs::parse(&read(&folder.join("modules.dep"))?);
    let built_in = read(&folder.join("modules.builtin"))?;
    let built_in: Vec<String> = built_in.lines().map(module_name).collect();
    let mut order = Vec::new();
    for &name in wanted {
        if built_in.iter().any(|one| one == name) {
            continue;
        }
        let Some(files) = needs.0.get(name) else {
            bail!("the kernel {version} has no module {name}");
        };
        for file in files {
            if !order.contains(file) {
                order.push(file.clone());
            }
        }
    }
    order.iter().map(|file| load(&folder.join(file))).collect()
}

/// For each module the files to load, in order, itself last.
struct Needs(BTreeMap<String, Vec<String>>);

impl Needs {
    /// A line of `modules.dep` names a module's file and all it needs, the deepest last: modprobe
    /// loads them from the right to the left (modules.dep(5)).
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let needs = lines.map(|(file, needed)| {
            let mut files: Vec<String> = needed.split_whitespace().rev().map(Into::into).collect();
            files.push(file.to_owned());
            (module_name(file), files)
        });
        Self(needs.collect())
    }
}

/// `kernel/drivers/block/virtio_blk.ko.xz` is the module `virtio_blk`; `-` and `_` are the same.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

fn load(path: &Path) -> Result<Module> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let content = match ending {
        "xz" | "zst" => unpacked(if ending == "xz" { "xz" } else { "zstd" }, path)?,
        _ => fs::read(path).with_context(|| format!("reading {}", path.display()))?,
    };
    let plain = if ending == "ko" { path.to_path_buf() } else { path.with_extension("") };
    let file = plain.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Module { file, content })
}

fn unpacked(tool: &str, path: &Path) -> Result<Vec<u8>> {
    let output = Command::new(tool).arg("-dc").arg(path).output();
    let output = output.with_context(|| format!("running {tool} on {}", path.display()))?;
    if !output.status.success() {
        bail!("{tool} cannot unpack {}: {}", path.display(), output.status);
    }
    Ok(output.stdout)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_loaded_after_what_it_needs() {
        let text = "kernel/net/virtio-net.ko.xz: kernel/net/net_failover.ko \
                    kernel/net/failover.ko\n\
                    kernel/net/failover.ko:\n";
        let needs = Needs::parse(text);
        let files = ["kernel/net/failover.ko", "kernel/net/net_failover.ko"];
        assert_eq!(needs.0["virtio_net"][..2], files);
        assert_eq!(needs.0["virtio_net"][2], "kernel/net/virtio-net.ko.xz");
        assert_eq!(needs.0["failover"], ["kernel/net/failover.ko"]);
    }
}
