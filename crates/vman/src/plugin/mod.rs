//! The commands for plugin authors. None of them needs a daemon, and none runs a machine for users.

mod new;

use std::io::Write;

use crate::cli::PluginCommand;
use crate::client::Output;
use crate::failure::Failure;

pub(crate) fn run<W: Write>(command: PluginCommand, out: &mut Output<W>) -> Result<(), Failure> {
    match command {
        PluginCommand::New(new) => new::run(&new, out),
    }
}
