//! The commands for plugin authors and for who installs plugins. None of them needs a daemon, and
//! none runs a machine for users.

mod bench;
mod check;
mod list;
mod new;

use std::io::Write;

use crate::cli::{Global, PluginCommand};
use crate::client::Output;
use crate::failure::Failure;

pub(crate) use check::{CheckArguments, one as check_one};

/// # Errors
/// What was asked for cannot be done, or a backend does not hold the contract.
pub(crate) fn run<W: Write>(
    global: &Global,
    command: PluginCommand,
    out: &mut Output<W>,
) -> Result<(), Failure> {
    match command {
        PluginCommand::List => list::run(global, out),
        PluginCommand::Bench(arguments) => bench::run(global, &arguments, out),
        PluginCommand::New(new) => new::run(&new, out),
        PluginCommand::Check(arguments) => check::run(global, *arguments, out),
        PluginCommand::CheckOne => check_one(),
    }
}
