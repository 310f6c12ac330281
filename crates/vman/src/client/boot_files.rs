//! Puts kernels, initial RAM disks and firmware where the local daemon finds them: under their own
//! names in `<storage>/boot/`. Whether a file can be booted is not looked at.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use vman_core::ident::FileName;

use super::connection::Connection;
use crate::failure::Failure;

/// Bytes compared at once.
const BLOCK: usize = 64 * 1024;

/// The name under which the daemon finds the file that was given: the name of one it has already,
/// or a path, which is copied.
pub(super) fn provide(connection: &Connection, given: &Path) -> Result<String, Failure> {
    let name = given.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name: FileName = name.parse().map_err(|invalid| {
        Failure::Usage(format!("{}: the file's name {invalid}; copy it", given.display()))
    })?;
    let is_plain_name = given.as_os_str() == name.as_str();
    match connection.storage() {
        Some(storage) if !is_plain_name || given.is_file() => {
            copy(given, &storage.join("boot"), &name).map_err(Failure::Failed)?;
        }
        // The daemon refuses a template that names a file it does not have.
        Some(_) | None if is_plain_name => {}
        Some(_) | None => {
            return Err(Failure::Usage(format!(
                "{} cannot be copied to a daemon that --url names: put it into the boot folder of \
                 its storage, and give its name alone",
                given.display()
            )));
        }
    }
    Ok(name.to_string())
}

fn copy(from: &Path, folder: &Path, name: &FileName) -> Result<(), String> {
    let to = folder.join(name.as_str());
    let failed =
        |error: io::Error| format!("cannot copy {} to {}: {error}", from.display(), to.display());
    fs::create_dir_all(folder).map_err(failed)?;
    // Hidden: the name of a boot file cannot begin with a dot.
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let copied = fs::copy(from, &beside).and_then(|_| put_in_place(&beside, &to));
    let removed = fs::remove_file(&beside);
    if copied.map_err(failed)? {
        return removed.map_err(failed);
    }
    Err(format!(
        "{} is another file than {}, and templates may use it: give yours another name",
        to.display(),
        from.display()
    ))
}

/// False if another file is there.
fn put_in_place(beside: &Path, to: &Path) -> io::Result<bool> {
    match fs::hard_link(beside, to) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => same_content(beside, to),
        linked => linked.map(|()| true),
    }
}

fn same_content(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let mut left = one.metadata()?.len();
    if left != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        one.read_exact(&mut a[..size])?;
        other.read_exact(&mut b[..size])?;
        if a[..size] != b[..size] {
            return Ok(false);
        }
        left -= size as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> FileName {
        "vmlinuz".parse().unwrap()
    }

    #[test]
    fn a_file_is_copied_once_and_again_without_harm() {
        let folder = tempfile::tempdir().unwrap();
        let (from, boot) = (folder.path().join("k"), folder.path().join("s/boot"));
        fs::write(&from, vec![7; BLOCK + 1]).unwrap();
        for _ in 0..2 {
            assert_eq!(copy(&from, &boot, &name()), Ok(()));
            assert_eq!(fs::read(boot.join("vmlinuz")).unwrap(), vec![7; BLOCK + 1]);
            assert_eq!(fs::read_dir(&boot).unwrap().count(), 1);
        }
    }

    #[test]
    fn another_file_of_the_same_name_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (from, boot) = (folder.path().join("k"), folder.path().join("boot"));
        fs::create_dir_all(&boot).unwrap();
        fs::write(boot.join("vmlinuz"), "theirs").unwrap();
        fs::write(&from, "mine !").unwrap();
        let refusal = copy(&from, &boot, &name()).unwrap_err();
        assert!(refusal.contains("another name"), "{refusal}");
        assert_eq!(fs::read_to_string(boot.join("vmlinuz")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&boot).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let refusal = copy(&missing, folder.path(), &name()).unwrap_err();
        assert!(refusal.contains("missing to ") && refusal.contains("No such file"), "{refusal}");
    }
}
