//! What a demo leaves behind: processes and files that belong to its folder or to its machine, as
//! the host shows them, whatever the daemon believes.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What a daemon keeps in its storage while it owns no machine and no disk.
const KEPT: &[&str] =
    &["token", "run/address", "run/lock", "vman.db", "vman.db-wal", "vman.db-shm"];
/// Folders whose files are the daemon's own: what the user gave it to boot, and its log.
const KEPT_BELOW: &[&str] = &["boot/", "logs/"];
/// How long an ended process may stay in the list: until its parent has read how it ended.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process that names the demo's folder or its machine in its command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) command: String,
}

/// Waits until no process but `spared` names one of `marks` in its command line.
pub(super) fn no_process(marks: &[String], spared: &[i32]) -> Result<()> {
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let mut left = processes(marks)?;
        left.retain(|process| !spared.contains(&process.pid));
        let Some(first) = left.first() else { return Ok(()) };
        if Instant::now() > until {
            bail!("process {} is left: {}", first.pid, first.command);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Checks that the storage holds only what a daemon without machines and disks keeps, and gives the
/// names of the files that it does.
pub(super) fn no_file(storage: &Path) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    for path in files(storage)? {
        let name = path.strip_prefix(storage).unwrap_or(&path).to_string_lossy().into_owned();
        let socket = fs::symlink_metadata(&path).is_ok_and(|data| data.file_type().is_socket());
        let own = KEPT.contains(&name.as_str())
            || KEPT_BELOW.iter().any(|folder| name.starts_with(folder));
        if socket || !own {
            let what = if socket { "socket" } else { "file" };
            bail!("the {what} {} is left", path.display());
        }
        kept.push(name);
    }
    kept.sort();
    Ok(kept)
}

/// Ends every process that names `mark` in its command line: only for a demo that failed and whose
/// daemon is gone, since machines outlive their daemon.
pub(super) fn end_processes(mark: &str) -> Result<usize> {
    let marks = [mark.to_owned()];
    let left = processes(&marks)?;
    for process in &left {
        let pid = Pid::from_raw(process.pid).context("a process has the id 0")?;
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // The handle is of whatever has the id now: look again before the signal.
        if command(process.pid).is_some_and(|line| line.contains(mark)) {
            pidfd_send_signal(handle.as_fd(), Signal::KILL)?;
        }
    }
    Ok(left.len())
}

fn processes(marks: &[String]) -> Result<Vec<Process>> {
    let own = i32::try_from(std::process::id()).context("our process id is out of range")?;
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let others = pids.filter(|pid| *pid != own);
    let named = others.filter_map(|pid| Some(Process { pid, command: command(pid)? }));
    Ok(named.filter(|process| marks.iter().any(|mark| process.command.contains(mark))).collect())
}

/// The command line, words parted by blanks; none if the process has ended, even if its parent has
/// not looked yet.
fn command(pid: i32) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let line = words.join(" ").trim_end().to_owned();
    (!line.is_empty()).then_some(line)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Removed since its parent was read: nothing is left of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("in {}", folder.display())),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_process_is_found_by_a_word_of_its_command_line_and_is_gone_once_ended() {
        let mark = format!("vman-leftover-{}", std::process::id());
        let script = ["-c", "echo ready; read -r line", mark.as_str()];
        let mut child = std::process::Command::new("sh")
            .args(script)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sh starts");
        // Until it speaks it may be half way through exec, with no command line yet.
        let mut ready = [0; 6];
        child.stdout.take().expect("piped").read_exact(&mut ready).expect("it speaks");
        let marks = [mark.clone()];
        let pid = i32::try_from(child.id()).expect("a pid");
        let seen = processes(&marks).expect("/proc is read");
        assert!(seen.iter().any(|process| process.pid == pid), "{seen:?}");
        assert_eq!(end_processes(&mark).expect("it may be ended"), 1);
        child.wait().expect("it ended");
        no_process(&marks, &[]).expect("none is left");
    }

    #[test]
    fn the_daemons_own_files_may_stay_and_a_machines_socket_may_not() {
        let storage = tempfile::tempdir().expect("a folder");
        let path = storage.path();
        fs::create_dir_all(path.join("machines/m1")).expect("a folder");
        fs::create_dir_all(path.join("boot")).expect("a folder");
        for name in ["vman.db", "boot/vmlinuz"] {
            fs::write(path.join(name), "x").expect("a file");
        }
        assert_eq!(no_file(path).expect("only its own"), ["boot/vmlinuz", "vman.db"]);
        let socket = path.join("machines/m1/qmp.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let error = no_file(path).expect_err("a socket is left");
        assert!(format!("{error}").contains("the socket"), "{error}");
    }
}
