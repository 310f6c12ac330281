//! Files and folders that hold no plugin. One that does is opened by the tests of `dry-run`.

use std::path::Path;

use crate::host::registry::MAX_PLUGIN_FILES;
use crate::host::{LoadError, open_file, scan};

#[test]
fn a_folder_is_scanned_in_order_and_each_file_told_of() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.so", "a.so", "c.txt"] {
        std::fs::write(folder.path().join(name), "no library").unwrap();
    }
    let found = scan(folder.path());
    let names: Vec<_> = found.iter().map(|(path, _)| path.file_name().unwrap()).collect();
    assert_eq!(names, ["a.so", "b.so"]);
    for (path, offer) in found {
        let error = offer.unwrap_err();
        assert!(matches!(error, LoadError::Open { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_folder_that_is_not_there_and_one_too_full_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let missing = scan(&folder.path().join("missing"));
    assert!(matches!(missing[..], [(_, Err(LoadError::Folder { .. }))]));
    for number in 0..=MAX_PLUGIN_FILES {
        std::fs::write(folder.path().join(format!("{number:03}.so")), "").unwrap();
    }
    let found = scan(folder.path());
    let left_out =
        |(_, offer): &&(_, Result<_, _>)| matches!(offer, Err(LoadError::TooMany { .. }));
    assert_eq!(found.iter().filter(left_out).count(), 1);
    assert!(left_out(&found.last().unwrap()));
}

#[test]
fn a_file_others_can_write_is_not_even_opened() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.so");
    std::fs::write(&path, "no library").unwrap();
    let file_mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(&path, file_mode).unwrap();
    let error = open_file(&path).unwrap_err();
    assert!(matches!(error, LoadError::Untrusted { .. }), "{error}");
    let error = open_file(folder.path()).unwrap_err();
    assert!(matches!(error, LoadError::Untrusted { .. }), "{error}");
    let error = open_file(&folder.path().join("y.so")).unwrap_err();
    assert!(matches!(error, LoadError::Unreadable { .. }), "{error}");
}

#[test]
fn a_library_that_is_no_plugin_is_refused_as_that() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("libc.so"))
        .unwrap();
    let error = open_file(Path::new(libc)).unwrap_err();
    assert!(matches!(error, LoadError::NoEntry { .. }), "{error}");
    assert!(error.to_string().contains("vman_plugin_entry"), "{error}");
}
