//! Tests that need what a host may lack, run in a guest that has it: the very program that the
//! workspace's build made of a package's unit tests, with its libraries, in an initial RAM file
//! system of its own. On the host the same tests say that they did not run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::archive::Archive;
use super::linux::{self, Kernel};
use crate::run;
use crate::tree::Tree;

/// Some of a package's unit tests.
struct Suite {
    package: &'static str,
    /// The module that they are in: a filter of libtest.
    tests: &'static str,
    /// The kernel modules that they need.
    modules: &'static [&'static str],
}

const SUITES: &[Suite] = &[
    // Controllers of cgroup v2.
    Suite { package: "vman-plugin-qemu", tests: "limits_tests::", modules: &[] },
];

const INIT: &str = include_str!("../../../../tests/guests/suite/init");
/// What the guest says last, and then the exit status of the tests.
const ENDED: &str = "GUEST-TESTS-ENDED ";
/// How the tally's line of a test that could not run begins.
const NOT_RUN: &str = "skipped ";
/// What libtest says where its filter leaves nothing.
const NONE: &str = "running 0 tests";
/// For a boot and the tests, in seconds: some ten times what they take on two slow cores.
const WITHIN: &str = "120";
/// No acceleration: what a host's KVM can run differs. More processors than a test can be limited
/// to, and more memory than all need.
const MACHINE: &str = "qemu-system-x86_64 -nodefaults -no-user-config -machine q35,accel=tcg \
    -smp 4 -m 512 -display none -serial stdio -no-reboot -append";
/// The processes that are ended for want of memory are no news on the console.
const KERNEL_LINE: &str = "console=ttyS0 loglevel=3 panic=-1";

/// Runs all of them; `guests` is the folder of the built guests.
///
/// # Errors
/// A test that failed or did not run, or a guest that did not tell how they ended.
pub(crate) fn test(tree: &Tree, guests: &Path) -> Result<()> {
    SUITES.iter().try_for_each(|suite| suite.run(tree, guests))
}

impl Suite {
    fn run(&self, tree: &Tree, guests: &Path) -> Result<()> {
        let Self { package, tests, .. } = self;
        println!("guests: running {tests} of {package} inside");
        let folder =
            tempfile::Builder::new().prefix("vman-suite-").tempdir().context("a folder")?;
        let initrd = folder.path().join("initrd.gz");
        self.pack(&linux::kernel(tree)?, &self.program(tree)?, &initrd)?;
        let mut qemu = Command::new("timeout");
        qemu.arg(WITHIN).args(MACHINE.split_whitespace()).arg(KERNEL_LINE);
        qemu.arg("-kernel").arg(guests.join("vmlinuz")).arg("-initrd").arg(&initrd);
        let console = run::captured(&mut qemu)?;
        println!("{}", console.trim());
        judge(&console).with_context(|| format!("{tests} of {package} in a guest"))
    }

    /// The program of the package's unit tests. The whole workspace is named, as where all tests
    /// are built: so it is the same.
    fn program(&self, tree: &Tree) -> Result<PathBuf> {
        let build = || {
            let mut cargo = tree.cargo("build");
            cargo.args(["--workspace", "--tests"]);
            cargo
        };
        // First for people to see, then for what came out of it.
        run::shown(&mut build())?;
        let messages = run::captured(build().arg("--message-format=json"))?;
        let name = self.package.replace('-', "_");
        let program = messages.lines().find_map(|line| test_program(line, &name));
        program.with_context(|| format!("cargo built no unit tests of {}", self.package))
    }

    fn pack(&self, kernel: &Kernel, program: &Path, out: &Path) -> Result<()> {
        let mut archive = Archive::create(out)?;
        linux::base(&mut archive, kernel, self.modules)?;
        archive.program("init", INIT.as_bytes())?;
        archive.program("filter", format!("{}\n", self.tests).as_bytes())?;
        archive.program("tests", &read(program)?)?;
        let libraries = libraries(&run::captured(Command::new("ldd").arg(program))?);
        let mut there: BTreeSet<&Path> = linux::FOLDERS.iter().map(Path::new).collect();
        for library in &libraries {
            let inside = library.strip_prefix("/").context("ldd names no absolute path")?;
            let above: Vec<&Path> = inside.ancestors().skip(1).collect();
            for folder in above.iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
                if there.insert(folder) {
                    archive.folder(&folder.to_string_lossy())?;
                }
            }
            archive.program(&inside.to_string_lossy(), &read(library)?)?;
        }
        archive.finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The executable that a message of cargo's tells of, if it is the unit tests of the library.
fn test_program(message: &str, library: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let of_library = message["target"]["name"] == library && message["profile"]["test"] == true;
    let kinds = message["target"]["kind"].as_array()?;
    let is_library = kinds.iter().any(|kind| kind == "lib");
    (of_library && is_library).then(|| message["executable"].as_str().map(Into::into))?
}

/// The files that ldd(1) names: the libraries, and the interpreter that loads them.
fn libraries(text: &str) -> Vec<PathBuf> {
    let words = text.lines().filter_map(|line| {
        let place = line.split_once("=>").map_or(line, |(_, place)| place);
        place.split_whitespace().next()
    });
    words.filter(|word| word.starts_with('/')).map(Into::into).collect()
}

/// Whether the console tells that tests ran, all of them, and that none failed.
fn judge(console: &str) -> Result<()> {
    let Some(status) = console.lines().find_map(|line| line.strip_prefix(ENDED)) else {
        bail!("the guest did not come to the tests' end; its console is above");
    };
    ensure!(status.trim() == "0", "tests failed (exit status {}); see above", status.trim());
    let not_run = console.lines().filter(|line| line.starts_with(NOT_RUN)).count();
    ensure!(not_run == 0, "{not_run} did not run in there either; see above");
    ensure!(!console.contains(NONE), "there are none");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_that_all_ran_and_passed_are_good() {
        let good = "running 1 test\r\ntest a ... ok\r\nGUEST-TESTS-ENDED 0\r\n";
        judge(good).expect("all of it is well");
        for bad in [
            good.replace("ENDED 0", "ENDED 101"),
            good.replace("GUEST-TESTS-ENDED 0", ""),
            good.replace("1 test", "0 tests"),
            good.replace("... ok", "... ok\r\nskipped a: why"),
        ] {
            assert!(judge(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_program_is_that_of_the_unit_tests_of_the_library() {
        let message = |kind: &str, test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "executable": "/t/a",
                "target": {"name": "a_b", "kind": [kind]}, "profile": {"test": test},
            })
        };
        let found = |message: Value| test_program(&message.to_string(), "a_b");
        assert_eq!(found(message("lib", true)), Some("/t/a".into()));
        assert_eq!(found(message("lib", false)), None);
        assert_eq!(found(message("test", true)), None);
        assert_eq!(test_program(&message("lib", true).to_string(), "b"), None);
    }

    #[test]
    fn libraries_and_their_interpreter_are_found_and_not_the_kernels_own() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let files = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(text), files.map(PathBuf::from));
        assert_eq!(libraries("\tstatically linked\n"), [] as [PathBuf; 0]);
    }
}
