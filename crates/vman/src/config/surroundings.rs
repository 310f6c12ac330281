//! What the process finds around itself: its environment, its user, its own file; and the folders
//! that follow from them. Nothing is created here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Read when no file is named, if it is there.
pub(crate) const SYSTEM_FILE: &str = "/etc/vman/vman.toml";
/// Where a package puts policies and plugins.
const SYSTEM_LIBRARY: &str = "/usr/lib/vman";
/// The storage folder of a daemon of root (hier(7)).
const SYSTEM_STORAGE: &str = "/var/lib/vman";

/// Everything outside the configuration file that a configuration depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) variables: BTreeMap<String, OsString>,
    pub(crate) is_root: bool,
    /// The folder of the program's file.
    pub(crate) program_folder: Option<PathBuf>,
    /// Read when no file is named, if it is there.
    pub(crate) system_file: PathBuf,
    /// The storage folder that the command line names.
    pub(crate) storage_option: Option<PathBuf>,
}

impl Surroundings {
    pub(crate) fn of_process() -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        let program = std::env::current_exe().ok();
        Self {
            variables: std::env::vars_os().filter_map(named).collect(),
            is_root: rustix::process::geteuid().is_root(),
            program_folder: program.and_then(|file| file.parent().map(Path::to_owned)),
            system_file: SYSTEM_FILE.into(),
            storage_option: None,
        }
    }

    /// A variable that is set; an empty one counts as unset.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }

    /// Where records and images are kept if nothing else is said; none if the user has no home.
    pub(crate) fn default_storage(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some(SYSTEM_STORAGE.into());
        }
        // Relative paths are to be ignored (XDG Base Directory Specification 0.8, "Basics").
        let absolute = |name| self.variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
        data.map(|folder| folder.join("vman"))
    }

    /// The first folder of this name that exists beside the program, one above, or in the system's
    /// library.
    pub(crate) fn shipped(&self, name: &str) -> Option<PathBuf> {
        let beside = self.program_folder.iter().map(|folder| folder.join(name));
        let above = self.program_folder.iter().filter_map(|folder| folder.parent());
        let candidates =
            beside.chain(above.map(|folder| folder.join(name))).chain([system_library(name)]);
        candidates.into_iter().find(|folder| folder.is_dir())
    }
}

/// The folder of this name in the system's library, whether it exists or not.
pub(crate) fn system_library(name: &str) -> PathBuf {
    Path::new(SYSTEM_LIBRARY).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(variables: &[(&str, &str)]) -> Surroundings {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), OsString::from(value));
        Surroundings { variables: variables.iter().map(owned).collect(), ..Default::default() }
    }

    #[test]
    fn storage_is_in_the_users_data_folder_and_roots_in_var_lib() {
        let both = user(&[("XDG_DATA_HOME", "/data"), ("HOME", "/home/u")]);
        assert_eq!(both.default_storage(), Some("/data/vman".into()));
        let home = user(&[("XDG_DATA_HOME", ""), ("HOME", "/home/u")]);
        assert_eq!(home.default_storage(), Some("/home/u/.local/share/vman".into()));
        let root = Surroundings { is_root: true, ..both };
        assert_eq!(root.default_storage(), Some("/var/lib/vman".into()));
    }

    #[test]
    fn a_relative_data_folder_is_ignored_and_without_a_home_there_is_none() {
        let relative = user(&[("XDG_DATA_HOME", "data"), ("HOME", "/home/u")]);
        assert_eq!(relative.default_storage(), Some("/home/u/.local/share/vman".into()));
        assert_eq!(user(&[]).default_storage(), None);
    }

    #[test]
    fn shipped_folders_are_looked_for_beside_the_program_first() {
        let folder = tempfile::tempdir().unwrap();
        let program_folder = folder.path().join("bin");
        let surroundings =
            Surroundings { program_folder: Some(program_folder.clone()), ..user(&[]) };
        std::fs::create_dir_all(folder.path().join("policies")).unwrap();
        assert_eq!(surroundings.shipped("policies"), Some(folder.path().join("policies")));
        std::fs::create_dir_all(program_folder.join("policies")).unwrap();
        assert_eq!(surroundings.shipped("policies"), Some(program_folder.join("policies")));
    }
}
