//! The user a machine runs as: a number of its own, kept as the owner of its directory, so that it
//! stays the same over restarts of the daemon and of the machine. How a process becomes that user
//! is `spawn`'s; whether it may is `confine`'s.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::libc::{O_DIRECTORY, O_NOFOLLOW};
use rustix::process::{getegid, geteuid};
use uuid::Uuid;

use crate::files::{For, open_regular, open_single, remove};

/// The first number of the range that machines' users are taken from; its users and groups must
/// have no names. Above what distributions and directories give out: subordinate ids (to 600100000,
/// login.defs(5)), containers of systemd-nspawn (to 1879048191, systemd's UIDS-GIDS), mapped
/// identities of SSSD and FreeIPA (to 2000200000); below systemd's foreign ids (from 2147352576).
pub(crate) const UID_BASE: u32 = 2_100_000_000;

/// How many numbers the range has. Many more than machines, so that the number of one that was
/// deleted is not soon another's.
pub(crate) const UIDS: u32 = 1_000_000;

const _: () = assert!(UID_BASE > 2_000_200_000 && UID_BASE + UIDS < 2_147_352_576);

/// Users below this are the system's and people's: nobody and systemd's dynamic ones included.
pub(crate) const LEAST_UID_BASE: u32 = 65_536;

/// A user and group that files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// A machine's user has a group of the same number.
    pub(crate) fn machine(uid: u32) -> Self {
        Self { uid, gid: uid }
    }

    pub(crate) fn daemon() -> Self {
        Self { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }

    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { uid: metadata.uid(), gid: metadata.gid() })
    }

    /// The owner of a machine's directory, unless that is no directory.
    pub(crate) fn of(directory: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(directory).ok().filter(fs::Metadata::is_dir)?;
        Some(Self { uid: metadata.uid(), gid: metadata.gid() })
    }
}

/// The number for the machine `id`, of the range from `base` on: the one its directory has, or one
/// that no directory beside it has. Where to look first follows from the id, so that a number is
/// not given again just because it is the lowest. Two machines must not be chosen for at once.
pub(crate) fn choose(machines_dir: &Path, id: Uuid, base: u32) -> io::Result<u32> {
    let range = base..base.saturating_add(UIDS);
    let present = Owner::of(&machines_dir.join(id.to_string()));
    if let Some(owner) = present.filter(|owner| range.contains(&owner.uid)) {
        return Ok(owner.uid);
    }
    let mut taken = HashSet::new();
    for entry in fs::read_dir(machines_dir)? {
        // One that has gone since takes no number.
        taken.extend(entry?.metadata().ok().map(|metadata| metadata.uid()));
    }
    let first = u32::try_from(id.as_u128() % u128::from(UIDS)).expect("less than UIDS");
    (first..UIDS)
        .chain(0..first)
        .map(|number| base + number)
        .find(|uid| !taken.contains(uid))
        .ok_or_else(|| io::Error::other("every user of the range has a machine"))
}

/// Makes the directory the owner's alone, with the files in it; what is neither file nor folder in
/// it, such as a stale socket or a planted link, is removed. Done already, this does nothing.
/// No machine may live in it.
pub(crate) fn settle(directory: &Path, owner: Owner) -> io::Result<()> {
    let folder =
        OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_DIRECTORY).open(directory)?;
    if folder.metadata()?.uid() != owner.uid {
        for entry in fs::read_dir(directory)? {
            settle_entry(&entry?, owner)?;
        }
    }
    // Last: the directory's owner says that all this has been done.
    give(&folder, owner, 0o700)
}

fn settle_entry(entry: &fs::DirEntry, owner: Owner) -> io::Result<()> {
    let kind = entry.file_type()?;
    if kind.is_dir() {
        return Ok(());
    }
    match open_single(&entry.path(), For::Reading) {
        Ok(file) => give(&file, owner, 0o600),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => remove(&entry.path()),
        Err(error) => Err(error),
    }
}

pub(crate) fn of_image(image: &Path) -> io::Result<Owner> {
    Owner::of_file(&open_regular(image, For::Reading)?)
}

/// Makes an image readable and writable for its machine's user and for nobody else.
pub(crate) fn hand_over(image: &Path, owner: Owner) -> io::Result<()> {
    give(&open_regular(image, For::Reading)?, owner, 0o600)
}

fn give(file: &File, owner: Owner, mode: u32) -> io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o7777 != mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    if (metadata.uid(), metadata.gid()) != (owner.uid, owner.gid) {
        fchown(file, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder with a directory for each of these, all of the test's own user.
    fn machines(ids: &[Uuid]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for id in ids {
            fs::create_dir(folder.path().join(id.to_string())).unwrap();
        }
        folder
    }

    fn own_uid() -> u32 {
        Owner::daemon().uid
    }

    #[test]
    fn a_machine_gets_the_number_its_id_leads_to_or_the_next_free_one() {
        let folder = machines(&[Uuid::from_u128(1)]);
        let id = Uuid::from_u128(u128::from(UIDS) * 7 + 5);
        assert_eq!(choose(folder.path(), id, UID_BASE).unwrap(), UID_BASE + 5);
        // The other machine's directory has the very number this one would get.
        let id = Uuid::from_u128(u128::from(UIDS) * 7);
        assert_eq!(choose(folder.path(), id, own_uid()).unwrap(), own_uid() + 1);
    }

    #[test]
    fn a_machine_keeps_the_number_its_directory_has() {
        let id = Uuid::from_u128(9);
        let folder = machines(&[id]);
        assert_eq!(choose(folder.path(), id, own_uid()).unwrap(), own_uid());
    }

    #[test]
    fn the_search_wraps_round_and_never_leaves_the_range() {
        let id = Uuid::from_u128(u128::from(UIDS) - 1);
        let folder = machines(&[]);
        assert_eq!(choose(folder.path(), id, UID_BASE).unwrap(), UID_BASE + UIDS - 1);
    }

    /// Chowning needs root; where the tests have it not, the owner is the test's own and the rest
    /// is shown.
    #[test]
    fn settling_gives_files_away_and_removes_what_was_planted() {
        let folder = tempfile::tempdir().unwrap();
        let (machine, victim) = (folder.path().join("machine"), folder.path().join("victim"));
        fs::create_dir(&machine).unwrap();
        fs::write(&victim, "x").unwrap();
        let before = fs::metadata(&victim).unwrap();
        fs::write(machine.join("console.log"), "x").unwrap();
        std::os::unix::fs::symlink(&victim, machine.join("link")).unwrap();
        fs::hard_link(&victim, machine.join("hard")).unwrap();
        let root = own_uid() == 0;
        let owner = if root { Owner::machine(UID_BASE) } else { Owner::daemon() };
        settle(&machine, owner).unwrap();
        let after = fs::metadata(&victim).unwrap();
        assert_eq!((after.uid(), after.mode()), (before.uid(), before.mode()));
        assert_eq!(fs::metadata(&machine).unwrap().mode() & 0o777, 0o700);
        if root {
            let left = fs::read_dir(&machine).unwrap().map(|entry| entry.unwrap().path());
            assert_eq!(left.collect::<Vec<PathBuf>>(), [machine.join("console.log")]);
            assert_eq!(Owner::of(&machine), Some(owner));
            assert_eq!(fs::metadata(machine.join("console.log")).unwrap().uid(), owner.uid);
        }
    }
}
