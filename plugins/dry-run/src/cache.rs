//! What was read of the machines' files, so that a file which has not changed since is not read
//! again, and which machine has which image. The files stay what is true: each is looked at before
//! what was read of it is used. What they mean is `content`'s to say.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use crate::content::Content;
use crate::disks::Disk;

/// There while the machine runs.
pub(crate) const MACHINE_FILE: &str = "machine.json";
/// There once the power button was pressed and heard: when the guest is off, in milliseconds of the
/// machine's clock. Apart from the machine's file, which a pressed button thus never brings back.
pub(crate) const SHUTDOWN_FILE: &str = "machine.shutdown";
/// A file is written to twice within one tick of the kernel's clock and then looks the same: what
/// was read so soon after a change is read again. Far longer than a tick.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// How old the list of who has which image may be where somebody else could have changed it.
const FRESH_FOR: Duration = Duration::from_secs(1);
/// Directories looked at in one survey.
const MAX_MACHINES: usize = 100_000;
/// Bytes; more than the file of a machine with every disk and fault there can be.
const MAX_FILE: u64 = 1 << 20;

/// What is known of the machines below one folder.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    machines: HashMap<Uuid, Entry>,
    /// Which machines' files name an image.
    users: HashMap<PathBuf, Vec<Uuid>>,
    /// When all of them were last looked at.
    whole: Option<Instant>,
}

/// The files of one machine, as last read.
#[derive(Debug, Default)]
struct Entry {
    machine: Option<Machine>,
    off_at: Option<Seen<Option<u64>>>,
}

/// A machine that has a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'c> {
    /// Why not, if it does not parse.
    pub(crate) content: Result<&'c Content, &'c str>,
    /// When its guest is off by itself.
    pub(crate) off_at: Option<u64>,
}

impl Cache {
    /// `None` if there is no machine.
    pub(crate) fn look(&mut self, machines_dir: &Path, id: Uuid) -> io::Result<Option<Found<'_>>> {
        let directory = machines_dir.join(id.to_string());
        let path = directory.join(MACHINE_FILE);
        let entry = self.machines.entry(id).or_default();
        let before = look(&mut entry.machine, &path, |json| {
            serde_json::from_slice(json)
                .map_err(|why| format!("{} does not parse: {why}", path.display()))
        })?;
        if let Some(before) = before {
            unlist(&mut self.users, id, before.as_ref());
            for image in images(entry.machine.as_ref()) {
                self.users.entry(image.to_owned()).or_default().push(id);
            }
        }
        if entry.machine.is_none() {
            self.machines.remove(&id);
            return Ok(None);
        }
        let Some(entry) = self.machines.get_mut(&id) else { return Ok(None) };
        look(&mut entry.off_at, &directory.join(SHUTDOWN_FILE), |text| {
            std::str::from_utf8(text).ok()?.trim().parse().ok()
        })?;
        let off_at = entry.off_at.as_ref().and_then(|seen| seen.value);
        let machine = entry.machine.as_ref();
        Ok(machine.map(|seen| Found { content: seen.value.as_ref().map_err(|why| &**why), off_at }))
    }

    /// The machines whose files name the image, as far as is known for [`FRESH_FOR`].
    pub(crate) fn users(&mut self, machines_dir: &Path, image: &Path) -> io::Result<Vec<Uuid>> {
        if self.whole.is_none_or(|whole| whole.elapsed() > FRESH_FOR) {
            for id in ids(machines_dir)? {
                self.look(machines_dir, id)?;
            }
            self.is_whole();
        }
        Ok(self.users.get(image).cloned().unwrap_or_default())
    }

    /// Every machine was just looked at.
    pub(crate) fn is_whole(&mut self) {
        self.whole = Some(Instant::now());
    }
}

type Machine = Seen<Result<Content, String>>;

fn unlist(users: &mut HashMap<PathBuf, Vec<Uuid>>, id: Uuid, before: Option<&Machine>) {
    for image in images(before) {
        let Some(having) = users.get_mut(image) else { continue };
        having.retain(|user| *user != id);
        if having.is_empty() {
            users.remove(image);
        }
    }
}

/// Of which machines there are directories, in their order.
pub(crate) fn ids(machines_dir: &Path) -> io::Result<Vec<Uuid>> {
    let mut found = Vec::new();
    for (count, entry) in fs::read_dir(machines_dir)?.enumerate() {
        if count == MAX_MACHINES {
            let why = format!("it holds more than {MAX_MACHINES} directories");
            return Err(io::Error::other(why));
        }
        // Other names are not machines'.
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Uuid>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn images(machine: Option<&Machine>) -> impl Iterator<Item = &Path> {
    let content = machine.and_then(|seen| seen.value.as_ref().ok());
    content.into_iter().flat_map(|content| content.disks.iter().flatten()).map(Disk::path)
}

/// What was read of a file, and by what a change of it is known.
#[derive(Debug)]
struct Seen<T> {
    stamp: Stamp,
    /// The file had not changed for some time when it was read.
    settled: bool,
    value: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Brings `seen` up to date; what it was before, if it was not. No file leaves nothing.
fn look<T>(
    seen: &mut Option<Seen<T>>,
    path: &Path,
    parse: impl FnOnce(&[u8]) -> T,
) -> io::Result<Option<Option<Seen<T>>>> {
    let Some(stamp) = there(fs::metadata(path))?.as_ref().map(Stamp::of) else {
        return Ok(seen.take().map(Some));
    };
    if seen.as_ref().is_some_and(|seen| seen.settled && seen.stamp == stamp) {
        return Ok(None);
    }
    let Some(file) = there(File::open(path))? else { return Ok(seen.take().map(Some)) };
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    let settled = age.is_some_and(|age| age > SETTLED_AFTER);
    let read = Seen { stamp: Stamp::of(&metadata), settled, value: parse(&bytes) };
    Ok(Some(seen.replace(read)))
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(seen: &mut Option<Seen<String>>, path: &Path) -> bool {
        look(seen, path, |bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap().is_some()
    }

    #[test]
    fn a_file_is_read_again_only_when_it_may_have_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut seen = None;
        assert!(!read(&mut seen, &path));
        fs::write(&path, "1").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        let age = || File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        age();
        assert!(read(&mut seen, &path));
        assert!(!read(&mut seen, &path), "it has not changed");
        // In place, of the same size, and with the time set back.
        fs::write(&path, "2").unwrap();
        age();
        assert!(read(&mut seen, &path));
        assert_eq!(seen.as_ref().unwrap().value, "2");
        fs::write(&path, "3").unwrap();
        assert!(read(&mut seen, &path));
        assert!(read(&mut seen, &path), "it may have changed within the same tick");
        fs::remove_file(&path).unwrap();
        assert!(read(&mut seen, &path));
        assert!(seen.is_none());
        assert!(!read(&mut seen, &path));
    }
}
