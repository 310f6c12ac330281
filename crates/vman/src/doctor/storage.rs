//! The storage folder: whether a daemon could make or use it, what room it has, and whether
//! machines with users of their own could reach it. Nothing is made.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::process::geteuid;

use super::told::Finding;

const WHAT: &str = "storage";
/// Bytes: less is soon filled by the log and one disk.
const ROOM_MIN: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// The bit that lets everyone go through a folder.
const OTHERS_SEARCH: u32 = 0o001;

pub(super) fn look(storage: &Path) -> Vec<Finding> {
    let is_there = storage.is_dir();
    let Some(present) = storage.ancestors().find(|folder| folder.exists()) else {
        return vec![Finding::bad(WHAT, format!("{} leads nowhere", storage.display()))];
    };
    let mut findings = vec![usable(storage, present, is_there)];
    findings.push(room(present));
    if geteuid().is_root() {
        findings.extend(closed(present));
    }
    findings
}

fn usable(storage: &Path, present: &Path, is_there: bool) -> Finding {
    let shown = storage.display();
    if !present.is_dir() {
        let told = format!("{shown}: {} is no folder", present.display());
        return Finding::bad(WHAT, told).mend(format!("mv {0} {0}.old", present.display()));
    }
    match access(present, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if is_there => Finding::good(WHAT, format!("{shown}: can be used")),
        Ok(()) => Finding::good(WHAT, format!("{shown}: will be made at the first start")),
        Err(error) => {
            let told = format!("{shown}: cannot write {}: {error}", present.display());
            let uid = geteuid().as_raw();
            Finding::bad(WHAT, told).mend(format!(
                "install -d -o {uid} -m 711 {shown}, as root; or set `[storage] path`"
            ))
        }
    }
}

fn room(present: &Path) -> Finding {
    match statvfs(present) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let told = format!("{} MiB are free", free / MIB);
            if free < ROOM_MIN {
                let on = present.display();
                Finding::note(WHAT, told).mend(format!("free some: df {on}; du -xh {on} | sort -h"))
            } else {
                Finding::good(WHAT, told)
            }
        }
        Err(error) => Finding::note(WHAT, format!("its free space is not known: {error}")),
    }
}

/// The folders on the way, and those in it, that keep machines of other users out.
fn closed(present: &Path) -> Vec<Finding> {
    let within = ["disks", "machines", "boot"].map(|name| present.join(name));
    let on_the_way = present.ancestors().map(Path::to_owned);
    let is_closed = |folder: &std::path::PathBuf| {
        let metadata = folder.metadata();
        metadata.is_ok_and(|m| m.is_dir() && m.permissions().mode() & OTHERS_SEARCH == 0)
    };
    on_the_way
        .chain(within)
        .filter(is_closed)
        .map(|folder| {
            let owner = folder.metadata().map(|metadata| metadata.uid()).unwrap_or_default();
            let folder = folder.display();
            let told = format!(
                "{folder} is closed to all but user {owner}: machines with users of their own \
                 cannot reach their files"
            );
            Finding::note(WHAT, told).mend(format!("chmod o+x {folder}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_no_obstacle_and_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("a/b");
        let findings = look(&storage);
        assert!(findings.iter().all(|finding| !finding.is_bad()), "{findings:?}");
        assert!(findings[0].told().0.contains("will be made"), "{findings:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_its_place_is_told_with_a_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let findings = look(&file.join("storage"));
        assert!(findings[0].is_bad(), "{findings:?}");
        assert!(findings[0].told().1.is_some_and(|fix| fix.starts_with("mv ")), "{findings:?}");
    }

    #[test]
    fn a_folder_closed_to_others_is_told_with_the_command_that_opens_it() {
        let folder = tempfile::tempdir().unwrap();
        let closed_one = folder.path().join("closed");
        std::fs::create_dir(&closed_one).unwrap();
        std::fs::set_permissions(&closed_one, std::fs::Permissions::from_mode(0o700)).unwrap();
        let findings = closed(&closed_one);
        let fix = format!("chmod o+x {}", closed_one.display());
        assert!(findings.iter().any(|finding| finding.told().1 == Some(&fix)), "{findings:?}");
        std::fs::set_permissions(&closed_one, std::fs::Permissions::from_mode(0o711)).unwrap();
        assert!(closed(&closed_one).iter().all(|finding| finding.told().1 != Some(&fix)));
    }
}
