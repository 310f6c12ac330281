//! The chores of this repository as commands: set-up, building, the demo and the tests. Not part of
//! what is shipped: everything here can be done by hand with cargo and apt.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod bench;
mod broken;
mod demo;
mod guests;
mod packages;
mod plugins;
mod policies;
mod run;
mod test;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::tree::{Profile, Tree};

/// Sets up, builds, shows and tests vman.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Installs the system packages that are missing.
    Setup(Consent),
    /// Builds the policies into <target>/policies.
    Policies,
    /// Builds the guests that the demo and the tests run into <target>/guests.
    Guests,
    /// Runs, in a guest, the tests that need a kernel that can do more than the host's may.
    GuestTests(Consent),
    /// Builds the backends as files into <target>/plugins, and those that only tests load.
    Plugins,
    /// Builds the vman program in release profile, and the policies.
    Build,
    /// Boots, kills, repairs, stops and deletes a real machine, and tells how it went.
    Demo(Consent),
    /// Measures vman beside what it is made of.
    #[command(subcommand)]
    Bench(Bench),
    /// Runs all tests.
    Test {
        #[command(flatten)]
        consent: Consent,
        /// Arguments for `cargo nextest run`, or for `cargo test` where nextest is absent.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Start, ends, disks and sudden death of a machine, beside the same QEMU driven by hand.
    Lifecycle {
        #[command(flatten)]
        consent: Consent,
        /// How often each step is measured.
        #[arg(long, default_value_t = bench::ROUNDS)]
        rounds: u32,
    },
    /// A call of a plugin: static, in-process and isolated.
    Plugin {
        /// How many are measured.
        #[arg(long, default_value_t = bench::CALLS)]
        calls: u32,
    },
    /// Many simulated machines: started, listed, some crashed at once, and repaired.
    Scale {
        /// How many there are.
        #[arg(long, default_value_t = bench::MACHINES)]
        machines: usize,
        /// How many of them crash at once.
        #[arg(long, default_value_t = bench::CRASHED)]
        crashed: usize,
    },
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Consent {
    /// Installs missing system packages without asking.
    #[arg(long)]
    yes: bool,
}

fn main() -> ExitCode {
    match carry_out(Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(chore: Chore) -> anyhow::Result<()> {
    let tree = Tree::find()?;
    match chore {
        Chore::Setup(consent) => packages::ensure(consent.yes),
        Chore::Policies => policies::build(&tree).map(drop),
        Chore::Guests => guests::build(&tree).map(drop),
        Chore::GuestTests(consent) => {
            packages::ensure(consent.yes)?;
            guests::test(&tree, &guests::build(&tree)?)
        }
        Chore::Plugins => {
            broken::build(&tree)?;
            plugins::build(&tree).map(drop)
        }
        Chore::Build => {
            policies::build(&tree)?;
            let program = tree.build_vman(Profile::Release)?;
            println!("built {}", program.display());
            Ok(())
        }
        Chore::Demo(consent) => demo::show(&tree, consent.yes),
        Chore::Bench(Bench::Lifecycle { consent, rounds }) => {
            bench::lifecycle(&tree, rounds, consent.yes)
        }
        Chore::Bench(Bench::Plugin { calls }) => bench::plugin(&tree, calls),
        Chore::Bench(Bench::Scale { machines, crashed }) => bench::scale(&tree, machines, crashed),
        Chore::Test { consent, arguments } => test::run(&tree, consent.yes, &arguments),
    }
}
