//! The programs and devices that machines need of the host. What KVM is worth was tried by the
//! backend's probe, and how machines are confined is told by it; neither is looked at here.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Access, access};
use tokio::process::Command;
use vman_operator::BackendReport;

use super::told::Finding;
use crate::config::Config;

pub(super) const KVM_BACKEND: &str = "qemu-kvm";
/// The backend whose machines are none.
pub(super) const SIMULATED: &str = "dry-run";
const QEMU_BACKENDS: [&str; 2] = [KVM_BACKEND, "qemu-tcg"];
const KVM: &str = "/dev/kvm";
/// For a program to tell its version; usually 30 ms.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// By udev's rules the device is of this group; where they did not run, it is root's alone.
const JOIN_KVM: &str = "chgrp kvm /dev/kvm && chmod g+rw /dev/kvm && usermod --append --groups kvm \
    \"$USER\", as root, and log in anew";
const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86 qemu-utils";

/// Each program that a backend names, or finds in `PATH`, with its version.
pub(super) async fn programs(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, setting) in [("qemu-system-x86_64", "binary"), ("qemu-img", "qemu_img")] {
        let set = |backend: &&str| {
            let path = config.backends.get(*backend)?.get(setting)?.as_str()?;
            Some(PathBuf::from(path))
        };
        let mut named: Vec<Option<PathBuf>> = QEMU_BACKENDS.iter().map(set).collect();
        named.dedup();
        for path in named {
            findings.push(program(name, path.as_deref()).await);
        }
    }
    findings
}

async fn program(name: &str, set: Option<&Path>) -> Finding {
    let path = match set {
        Some(path) => path.to_owned(),
        None => match in_path(name, std::env::var_os("PATH").unwrap_or_default().as_ref()) {
            Some(path) => path,
            None => return Finding::note(name, "is not in PATH").mend(INSTALL),
        },
    };
    match version(&path).await {
        Ok(version) => Finding::good(name, format!("{}: {version}", path.display())),
        Err(why) => Finding::note(name, format!("{}: {why}", path.display())).mend(INSTALL),
    }
}

fn in_path(name: &str, path: &OsStr) -> Option<PathBuf> {
    let candidates = std::env::split_paths(path).map(|folder| folder.join(name));
    candidates.into_iter().find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

/// The first line of what it says to `--version`.
async fn version(path: &Path) -> Result<String, String> {
    let asking =
        Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let answered = tokio::time::timeout(ANSWER_TIME_MAX, asking).await;
    let output = answered
        .map_err(|_| format!("does not answer within {ANSWER_TIME_MAX:?}"))?
        .map_err(|error| format!("cannot be run: {error}"))?;
    let told = String::from_utf8_lossy(&output.stdout);
    match told.lines().next() {
        Some(line) if output.status.success() => Ok(line.to_owned()),
        Some(_) | None => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("tells no version: {}", said.lines().next().unwrap_or_default()))
        }
    }
}

/// Whether KVM is there, and of what kind it is; `report` is of the backend that uses it.
pub(super) fn kvm(report: Option<&BackendReport>) -> Finding {
    match OpenOptions::new().read(true).write(true).open(KVM) {
        Ok(_) => match report {
            Some(BackendReport { usable: Some(true), reason, .. }) => {
                Finding::good(KVM, format!("hardware KVM: {reason}"))
            }
            Some(BackendReport { reason, .. }) => Finding::note(
                KVM,
                format!("opens, and is not used: {reason}; machines are emulated instead"),
            ),
            None => Finding::note(KVM, format!("opens; there is no backend {KVM_BACKEND}")),
        },
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::note(KVM, format!("cannot be opened by this user: {error}")).mend(JOIN_KVM)
        }
        Err(error) => {
            let told = format!("is not there ({error}): machines are emulated, many times slower");
            Finding::note(KVM, told).mend("modprobe kvm_intel || modprobe kvm_amd")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_program_is_told_with_its_version_or_with_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let well = script(folder.path(), "well", "echo 'QEMU version 9.1'; echo more");
        assert_eq!(version(&well).await, Ok("QEMU version 9.1".to_owned()));
        let broken = script(folder.path(), "broken", "echo 'libaio is missing' >&2; exit 127");
        assert!(version(&broken).await.unwrap_err().contains("libaio is missing"));
        let gone = program("qemu-img", Some(&folder.path().join("gone"))).await;
        assert!(gone.told().0.contains("No such file") && gone.told().1 == Some(INSTALL));
    }

    #[test]
    fn a_program_is_looked_for_where_the_shell_would() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = std::env::join_paths([first.path(), second.path()]).unwrap();
        assert_eq!(in_path("tool", &path), None);
        let there = script(second.path(), "tool", "true");
        std::fs::write(first.path().join("tool"), "no program").unwrap();
        assert_eq!(in_path("tool", &path), Some(there));
    }

    use vman_operator::BackendState;

    #[test]
    fn kvm_that_cannot_run_guests_is_told_with_the_reason_of_the_probe() {
        let report = BackendReport {
            name: KVM_BACKEND.to_owned(),
            version: None,
            mode: None,
            state: BackendState::Loaded,
            source: "linked".to_owned(),
            usable: Some(false),
            reason: "the test guest failed".to_owned(),
            selected: false,
            notes: vec![],
        };
        let finding = kvm(Some(&report));
        assert!(!finding.is_bad(), "machines are emulated then");
        let is_there = OpenOptions::new().read(true).write(true).open(KVM).is_ok();
        assert_eq!(finding.told().0.contains("the test guest failed"), is_there);
    }
}
