//! Files and folders that hold no plugin. One that does is opened by the tests of `dry-run`.

use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};

use crate::host::registry::MAX_PLUGIN_FILES;
use crate::host::{LoadError, Pin, Terms, open, open_file, plugin_files_in};

#[test]
fn the_plugins_of_a_folder_are_found_in_order_and_a_file_that_is_none_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.so", "a.so", "c.txt"] {
        std::fs::write(folder.path().join(name), "no library").unwrap();
    }
    let found = plugin_files_in(folder.path());
    let names: Vec<_> = found.iter().map(|(path, _)| path.file_name().unwrap()).collect();
    assert_eq!(names, ["a.so", "b.so"]);
    for (path, fits) in found {
        fits.unwrap();
        let error = open_file(&path).unwrap_err();
        assert!(matches!(error, LoadError::Open { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(!error.to_string().contains("/proc/"), "{error}");
    }
}

#[test]
fn a_folder_that_is_not_there_and_one_too_full_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let missing = plugin_files_in(&folder.path().join("missing"));
    assert!(matches!(missing[..], [(_, Err(LoadError::Folder { .. }))]));
    for number in 0..=MAX_PLUGIN_FILES {
        std::fs::write(folder.path().join(format!("{number:03}.so")), "").unwrap();
    }
    let found = plugin_files_in(folder.path());
    let left_out = |file: &&(_, Result<(), _>)| matches!(file.1, Err(LoadError::TooMany { .. }));
    assert_eq!(found.iter().filter(left_out).count(), 1);
    assert!(left_out(&found.last().unwrap()));
}

#[test]
fn a_file_that_is_pinned_is_loaded_only_with_that_very_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.so");
    std::fs::write(&path, "abc").unwrap();
    // FIPS 180-4, the example of one block.
    let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let terms = |pin: &str| Terms { helper: None, pin: Some(pin.parse().unwrap()) };
    let matching = open(&path, &terms(of_abc)).unwrap_err();
    assert!(matches!(matching, LoadError::Open { .. }), "{matching}");
    let other = of_abc.replace('b', "c");
    let error = open(&path, &terms(&other)).unwrap_err().to_string();
    for part in ["x.so", of_abc, &other] {
        assert!(error.contains(part), "{part} in {error}");
    }
    for wrong in ["", "ba78", &of_abc.replace('b', "x"), &of_abc.replace("ba", "+1")] {
        assert!(wrong.parse::<Pin>().unwrap_err().contains("64 digits"), "{wrong}");
    }
}

#[test]
fn what_lies_beside_a_plugin_can_refuse_it_before_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.so");
    std::fs::write(&path, "no library").unwrap();
    for (sidecar, part) in [
        ("{", "x.json"),
        (r#"{"name": "x", "version": "1.0.0"}"#, "abi_major"),
        (r#"{"name": "x", "version": "1.0.0", "abi_major": 2}"#, "ABI version 2"),
    ] {
        std::fs::write(folder.path().join("x.json"), sidecar).unwrap();
        let error = open_file(&path).unwrap_err();
        assert!(matches!(error, LoadError::Sidecar { .. }), "{error}");
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
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
    let pipe = folder.path().join("pipe.so");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = open_file(&pipe).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
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
