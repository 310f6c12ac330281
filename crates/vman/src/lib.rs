//! The program: `vman serve`, and the client commands. What each does is in its own module. It is a
//! library so that a test build can be made of the very same parts; nothing else uses it.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing::{Level, error, info, warn};

use crate::cli::{Cli, Command, ConfigCommand, Global, PLUGIN_HOST, PluginCommand};
use crate::client::{Connection, Output};
use crate::config::{Loaded, Surroundings};
use crate::failure::Failure;

mod cli;
mod client;
mod config;
mod doctor;
mod failure;
mod log;
mod plugin;
#[cfg(feature = "crash-points")]
mod points;
mod serve;

/// Does what the command line says.
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    match run(&global, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            failure.exit_code()
        }
    }
}

fn run(global: &Global, command: Command) -> Result<(), Failure> {
    // A plugin writes to the standard output from any thread: it must not be locked then.
    if let Command::Plugin(PluginCommand::CheckOne) = command {
        return plugin::check_one();
    }
    let out = &mut Output::new(global.output, io::stdout().lock());
    let connect = || Connection::find(global);
    match command {
        Command::Serve => serve(global),
        Command::Doctor => doctor::run(load(global)?.config, out),
        Command::Config(command) => configuration(global, &command, out),
        Command::Template(command) => client::template(command, &connect()?, out),
        Command::Vm(command) => client::vm(command, &connect()?, out),
        Command::Disk(command) => client::disk(command, &connect()?, out),
        Command::Issue(command) => client::issue(command, &connect()?, out),
        Command::Operation(command) => client::operation(command, &connect()?, out),
        Command::Network(cli::NetworkCommand::Show) => client::network(&connect()?, out),
        Command::Backend(cli::BackendCommand::List) => client::backends(&connect()?, out),
        Command::Plugin(command) => plugin::run(global, command, out),
        Command::Policy(cli::PolicyCommand::List) => client::policies(&connect()?, out),
        Command::Health => client::health(&connect()?, out),
        Command::PluginHost { file, sha256 } => {
            let served = vman_plugin::host::serve_plugin(&file, sha256.as_ref());
            served
                .map_err(|why| Failure::Failed(format!("{PLUGIN_HOST} {}: {why}", file.display())))
        }
    }
}

fn load(global: &Global) -> Result<Loaded, Failure> {
    Ok(config::load(&global.into(), &Surroundings::of_process())?)
}

fn configuration<W: Write>(
    global: &Global,
    command: &ConfigCommand,
    out: &mut Output<W>,
) -> Result<(), Failure> {
    let loaded = load(global)?;
    match command {
        ConfigCommand::Check => config::show::check(&loaded, out)?,
        ConfigCommand::Show if out.is_json() => out.json(&config::show::as_json(&loaded))?,
        ConfigCommand::Show => config::show::table(&loaded, out)?,
    }
    Ok(())
}

fn serve(global: &Global) -> Result<(), Failure> {
    let config = load(global)?.config;
    let begun = log::begin(&config.log);
    for warning in begun.warning.iter().chain(&config.warnings) {
        warn!("{warning}");
    }
    match &config.file {
        Some(file) => info!(file = %file.display(), "read the configuration"),
        None => info!("no configuration file: environment and defaults"),
    }
    if let Some(file) = &begun.file {
        info!(file = %file.display(), "logging");
    }
    Ok(serve::run(config)?)
}

fn report(failure: &Failure) {
    let is_logged = match failure {
        Failure::Serve(why) => {
            error!("{why}");
            tracing::enabled!(Level::ERROR)
        }
        Failure::Config(_)
        | Failure::Usage(_)
        | Failure::Unreachable { .. }
        | Failure::Refused { .. }
        | Failure::Operation(_)
        | Failure::Failed(_)
        | Failure::Output(_) => false,
    };
    if !is_logged {
        // A console that is gone can be told nothing.
        let _ = writeln!(io::stderr(), "vman: {failure}");
    }
}
