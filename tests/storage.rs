//! Who reaches what is kept: a storage folder is passed through by machines with users of their
//! own, so each file in it keeps others out by itself.
#![cfg(test)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use vman_tests::{Daemon, Setup};
use walkdir::WalkDir;

/// Read and write, of group and others.
const OTHERS: u32 = 0o066;

/// What others could list, read or change below `storage`, which the harness has made; what is
/// booted is nobody's secret.
fn open_to_others(storage: &Path) -> Vec<String> {
    let boot = storage.join("boot");
    let all =
        WalkDir::new(storage).min_depth(1).into_iter().filter_entry(|entry| entry.path() != boot);
    let mut open = Vec::new();
    for entry in all {
        // A machine's own files come and go.
        let Ok(metadata) = entry.as_ref().map_err(drop).and_then(|it| it.metadata().map_err(drop))
        else {
            continue;
        };
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & OTHERS != 0 && !metadata.is_symlink() {
            let path = entry.map(|entry| entry.path().display().to_string());
            open.push(format!("{} {mode:04o}", path.unwrap_or_default()));
        }
    }
    open
}

/// A VM that runs, with a disk.
fn run(daemon: &Daemon) -> String {
    daemon.tiny_template();
    let (vm, disk) = (daemon.new_vm("tiny"), daemon.new_disk());
    daemon.operate(&format!("/disks/{disk}/attach"), &json!({"vm_id": vm}));
    daemon.act(&vm, "start");
    vm
}

#[test]
fn nothing_that_is_kept_is_open_to_others_while_it_runs_and_after() {
    for backend in ["dry-run", "qemu-tcg"] {
        let mut daemon = Setup::backend(backend).boot_file("tiny.rom").start();
        let vm = run(&daemon);
        assert_eq!(open_to_others(&daemon.storage()), [""; 0], "{backend}, while it runs");
        daemon.kill9();
        assert_eq!(open_to_others(&daemon.storage()), [""; 0], "{backend}, after a kill");
        daemon.restart();
        daemon.act(&vm, "stop");
        daemon.terminate();
        assert_eq!(open_to_others(&daemon.storage()), [""; 0], "{backend}, after its end");
    }
}
