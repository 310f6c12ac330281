//! The system packages that building, the demo and the tests need: finds out what is missing, says
//! so, and installs it with apt where there is one and the user agrees. Nothing else is changed on
//! the machine.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{policies, run};

/// One thing that has to be there.
struct Need {
    what: &'static str,
    packages: &'static [&'static str],
    present: fn() -> bool,
}

const NEEDS: &[Need] = &[
    Need {
        what: "a C compiler, assembler and linker",
        packages: &["gcc", "libc6-dev", "binutils"],
        present: || ["cc", "as", "ld"].iter().all(|tool| run::has(tool)),
    },
    Need {
        what: "the QEMU emulator and its image tool",
        packages: QEMU,
        present: || ["qemu-system-x86_64", "qemu-img"].iter().all(|tool| run::has(tool)),
    },
    Need {
        what: "the user space and module tools of the Linux guest",
        packages: &["busybox-static", "kmod"],
        present: || run::has("depmod") && installed("busybox-static"),
    },
    Need {
        what: "a Rust compiler for WebAssembly",
        packages: WASM,
        present: || policies::toolchain().is_ok(),
    },
];

/// The tool's package must be of the emulator's version: apt would otherwise remove the one to
/// install the other.
const QEMU: &[&str] = &["qemu-system-x86", "qemu-utils"];
const WASM: &[&str] = &["rustc-web", "rust-web-src"];
/// How rustup gets the WebAssembly target, where no package has it.
const RUSTUP: [&str; 3] = ["target", "add", "wasm32-unknown-unknown"];

/// Installs what is missing; asks first unless `yes`.
///
/// # Errors
/// Names what is missing where it cannot or may not be installed.
pub(crate) fn ensure(yes: bool) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        println!("set-up: everything needed is installed");
        return Ok(());
    }
    println!("set-up: this machine lacks");
    for need in &missing {
        println!("  {} ({})", need.what, need.packages.join(", "));
    }
    if !run::has("apt-get") {
        bail!(
            "there is no apt-get here: install the above by this system's means (for the last, \
             `rustup {}` does it too), then run this again",
            RUSTUP.join(" ")
        );
    }
    agree(yes)?;
    install(&missing)?;
    let still: Vec<&str> = self::missing().iter().map(|need| need.what).collect();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join("; "));
    }
    Ok(())
}

/// Whether apt knows a package that can be installed now.
pub(crate) fn candidate(package: &str) -> Option<String> {
    let policy = run::captured(Command::new("apt-cache").args(["policy", package])).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Fetches apt's lists anew.
pub(crate) fn update() -> Result<()> {
    println!("set-up: apt-get update");
    run::shown(as_root("apt-get")?.args(["update", "-qq"]))
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !(need.present)()).collect()
}

fn agree(yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        bail!("nobody is there to ask whether to install it; say `--yes` to have it installed");
    }
    print!("Install it now? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("not installed");
    }
    Ok(())
}

fn install(missing: &[&Need]) -> Result<()> {
    update()?;
    let mut packages = Vec::new();
    let mut by_rustup = false;
    for need in missing {
        if need.packages == QEMU {
            packages.extend(qemu_of_one_version());
        } else if need.packages == WASM && candidate(WASM[0]).is_none() {
            by_rustup = true;
        } else {
            packages.extend(need.packages.iter().map(|&package| package.to_owned()));
        }
    }
    if !packages.is_empty() {
        println!("set-up: apt-get install {}", packages.join(" "));
        let mut apt = as_root("apt-get")?;
        apt.args(["install", "-y", "-qq", "--no-install-recommends", "--allow-downgrades"]);
        apt.args(["-o", "DPkg::Lock::Timeout=120"]).args(&packages);
        run::shown(&mut apt)?;
    }
    if by_rustup { add_target("rustup") } else { Ok(()) }
}

/// Where no package compiles to WebAssembly, as on Ubuntu.
fn add_target(rustup: &str) -> Result<()> {
    if !run::has(rustup) {
        bail!(
            "apt knows no {}, and there is no {rustup}: install Rust from https://rustup.rs, then \
             run this again",
            WASM[0]
        );
    }
    println!("set-up: {rustup} {}", RUSTUP.join(" "));
    run::shown(Command::new(rustup).args(RUSTUP))
}

fn qemu_of_one_version() -> Vec<String> {
    let Some(version) = candidate(QEMU[0]) else {
        return QEMU.iter().map(|&package| package.to_owned()).collect();
    };
    QEMU.iter().map(|package| format!("{package}={version}")).collect()
}

fn installed(package: &str) -> bool {
    run::captured(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// A command with the rights to install packages.
fn as_root(program: &str) -> Result<Command> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else if run::has("sudo") {
        let mut sudo = Command::new("sudo");
        sudo.args(["--preserve-env=DEBIAN_FRONTEND", program]);
        sudo
    } else {
        bail!("{program} needs root and there is no sudo: run `cargo xtask setup --yes` as root");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_package_and_without_rustup_it_is_told_where_to_get_it() {
        let error = add_target("vman-no-such-rustup").expect_err("it is absent");
        assert!(error.to_string().contains("https://rustup.rs"), "{error}");
    }
}
