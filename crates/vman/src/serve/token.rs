//! `<storage>/token`: the bearer token of the API, made at the first start. Checking one that a
//! client sends is the API's.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::ServeError;

/// 256 bits, more than can be guessed.
const TOKEN_BYTES: usize = 32;
/// Bytes of the file that are read.
const FILE_SIZE_MAX: u64 = 4096;
/// Nobody but the owner may read or write it.
const MODE: u32 = 0o600;

/// Reads the token, or makes one if there is none. A file that others can read is refused: what it
/// holds is no secret any more.
pub(super) fn read_or_make(storage: &Path) -> Result<String, ServeError> {
    let path = storage.join("token");
    let failed = |source| ServeError::Token { path: path.clone(), source };
    match read(&path) {
        Ok(token) => Ok(token),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = new_token()?;
            write(storage, &path, &token).map_err(failed)?;
            tracing::info!(file = %path.display(), "made a new API token");
            Ok(token)
        }
        Err(error) => Err(failed(error)),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = std::fs::File::open(path)?;
    let mode = file.metadata()?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "its mode is {mode:03o}, so that others can use it, and it must be 600"
        )));
    }
    let mut text = String::new();
    file.take(FILE_SIZE_MAX).read_to_string(&mut text)?;
    match text.trim() {
        "" => Err(io::Error::other("it is empty")),
        token => Ok(token.to_owned()),
    }
}

fn new_token() -> Result<String, ServeError> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(ServeError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Written beside and renamed, so that a daemon killed here leaves no empty token.
fn write(storage: &Path, path: &Path, token: &str) -> io::Result<()> {
    let beside = storage.join(".token");
    let _ = std::fs::remove_file(&beside);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(MODE).open(&beside)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_token_is_made_once_and_only_its_owner_can_read_it() {
        let storage = tempfile::tempdir().expect("temporary folder");
        let first = read_or_make(storage.path()).expect("made");
        assert_eq!(first.len(), 2 * TOKEN_BYTES);
        assert_eq!(read_or_make(storage.path()).expect("read"), first);
        let mode = storage.path().join("token").metadata().expect("metadata").mode();
        assert_eq!(mode & 0o777, MODE);
    }

    #[test]
    fn a_token_that_others_can_read_or_that_is_empty_is_refused() {
        let storage = tempfile::tempdir().expect("temporary folder");
        let path = storage.path().join("token");
        for (content, mode) in [("secret", 0o644), ("", 0o600)] {
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            let error = read_or_make(storage.path()).expect_err("refused");
            assert!(matches!(error, ServeError::Token { .. }), "{error}");
        }
    }
}
