//! The command line: what can be typed, and what it means. Nothing is done here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vman_plugin::host::Pin;

use crate::config;
use crate::plugin::CheckArguments;

const ID: &str = "The id, or its first characters, 4 at least";
const VM: &str = "The name, the id, or the id's first characters, 4 at least";
const TEMPLATE: &str = "The template's name";

/// The command that runs a plugin's file for a daemon.
pub(crate) const PLUGIN_HOST: &str = "plugin-host";

/// Calls that `plugin bench` measures if it is not said, and at the most.
const CALLS: u32 = 10_000;
const CALLS_MAX: i64 = 10_000_000;

/// Seconds that `--wait` waits if it does not say.
const WAIT_DEFAULT: &str = "60";
/// Seconds that it may say at the most: a day.
const WAIT_MAX: i64 = 86_400;

/// Manages virtual machines.
#[derive(Debug, Parser)]
#[command(name = "vman", version, arg_required_else_help = true, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// The daemon's address, e.g. http://127.0.0.1:8000 [default: the local daemon's]
    #[arg(long, global = true, env = "VMAN_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// The file that holds the API's token [default: VMAN_TOKEN, or the local daemon's]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The configuration file [default: /etc/vman/vman.toml if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The storage folder of the local daemon [default: the configuration's]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) storage: Option<PathBuf>,
}

impl From<&Global> for config::Options {
    fn from(global: &Global) -> Self {
        Self { file: global.config.clone(), storage: global.storage.clone() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: what the daemon answered
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon
    Serve,
    /// Say what this host can do, and how to mend what it cannot; needs no daemon
    Doctor,
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Sizes and boot recipes of VMs
    #[command(subcommand)]
    Template(TemplateCommand),
    /// Virtual machines
    #[command(subcommand)]
    Vm(VmCommand),
    /// Disks of VMs
    #[command(subcommand)]
    Disk(DiskCommand),
    /// What disagrees between the records and the host, and what was done about it
    #[command(subcommand)]
    Issue(IssueCommand),
    /// Accepted commands and their progress
    #[command(subcommand)]
    Operation(OperationCommand),
    /// How machines reach the network
    #[command(subcommand)]
    Network(NetworkCommand),
    /// What runs the machines
    #[command(subcommand)]
    Backend(BackendCommand),
    /// What judges issues
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Writing backends
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Whether the daemon answers
    Health,
    /// Run a plugin's file for the daemon that started this
    #[command(name = PLUGIN_HOST, hide = true)]
    PluginHost {
        /// The plugin's file
        file: PathBuf,
        /// The hash that it must have
        #[arg(long)]
        sha256: Option<Pin>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with the configuration
    Check,
    /// Show every value and where it came from
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TemplateCommand {
    /// Make a template
    Create(TemplateCreate),
    /// List all templates
    List,
    /// Show one template
    Show {
        #[arg(help = TEMPLATE)]
        name: String,
    },
    /// Delete a template that no VM uses
    Delete {
        #[arg(help = TEMPLATE)]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TemplateCreate {
    /// Unique: letters, digits, '.', '_' and '-'
    pub(crate) name: String,
    /// Virtual CPUs
    #[arg(long, value_name = "N")]
    pub(crate) cpus: u32,
    /// Memory in MiB
    #[arg(long, value_name = "MIB")]
    pub(crate) ram: u64,
    /// Linux kernel to start; a file, copied to the storage folder, or the name of one there
    #[arg(long, value_name = "PATH", conflicts_with = "firmware")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM disk, given like the kernel
    #[arg(long, value_name = "PATH", requires = "kernel", conflicts_with = "firmware")]
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel", conflicts_with = "firmware")]
    pub(crate) cmdline: Option<String>,
    /// Firmware image to start, given like a kernel
    #[arg(long, value_name = "PATH")]
    pub(crate) firmware: Option<PathBuf>,
    /// Size of the disk that VMs without one boot from, in GiB [default: 10]
    #[arg(long, value_name = "GIB", conflicts_with_all = ["kernel", "firmware"])]
    pub(crate) root_disk_size: Option<u64>,
}

/// Where an id is asked for, the beginning of one does too, and a VM's name.
#[derive(Debug, Subcommand)]
pub(crate) enum VmCommand {
    /// Make a VM from a template
    Create {
        #[arg(help = TEMPLATE)]
        template: String,
        /// A label for people
        #[arg(long)]
        name: Option<String>,
        /// Start it by itself when the host was booted anew while it ran
        #[arg(long)]
        autostart: bool,
    },
    /// List all VMs
    List {
        /// Only those in this state
        #[arg(long)]
        state: Option<String>,
    },
    /// Show one VM
    Show {
        #[arg(help = VM)]
        id: String,
    },
    /// Start VMs
    Start(Action),
    /// Stop VMs by their power button; one that does not obey in time is ended
    Stop(Stop),
    /// Stop VMs and start them again
    Restart(Action),
    /// Halt VMs' processors; they keep their memory
    Pause(Action),
    /// Let paused VMs go on
    Resume(Action),
    /// Reset VMs as the reset button does; the guests are not asked
    Reset(Action),
    /// End VMs at once; the guests are not asked
    Kill(Action),
    /// Change what a VM is to do
    Set {
        #[arg(help = VM)]
        id: String,
        /// Whether it starts by itself when the host was booted anew while it ran
        #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
        autostart: bool,
    },
    /// Delete a VM; it is stopped first and its disks are detached
    Delete {
        #[arg(help = VM)]
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Action {
    #[arg(help = VM, value_name = "ID", required = true)]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[arg(help = VM, value_name = "ID", required_unless_present = "all")]
    pub(crate) ids: Vec<String>,
    /// Every VM that is not stopped, newest first, and wait for each to end
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Wait {
    /// Wait for the end, this long at the most
    #[arg(
        long = "wait",
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = WAIT_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=WAIT_MAX)
    )]
    seconds: Option<u32>,
}

impl Wait {
    pub(crate) fn at_most(self) -> Option<Duration> {
        self.seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Make an empty disk
    Create {
        /// In GiB
        #[arg(long, value_name = "GIB")]
        size: u64,
        /// qcow2 or raw, as the backend makes them [default: qcow2 where it makes that]
        #[arg(long)]
        format: Option<String>,
        /// What it is attached to: virtio-scsi or virtio-blk [default: virtio-scsi]
        #[arg(long)]
        bus: Option<String>,
        /// Where it is wanted in a guest, e.g. /dev/sdb
        #[arg(long, value_name = "DEVICE")]
        mount_point: Option<String>,
    },
    /// List all disks
    List,
    /// Show one disk
    Show {
        #[arg(help = ID)]
        id: String,
    },
    /// Give a disk to a VM, also while it runs
    Attach {
        #[arg(help = ID)]
        disk: String,
        #[arg(help = VM)]
        vm: String,
        /// Where it is wanted in the guest, e.g. /dev/sdb
        #[arg(long, value_name = "DEVICE")]
        mount_point: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a disk from its VM, also while it runs
    Detach {
        #[arg(help = ID)]
        disk: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make a disk larger, also while its VM runs
    Resize {
        #[arg(help = ID)]
        disk: String,
        /// In GiB, more than it has
        #[arg(value_name = "GIB")]
        size: u64,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete a disk that no VM has
    Delete {
        #[arg(help = ID)]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum IssueCommand {
    /// List all issues
    List {
        /// Only those in this state: open, repairing or resolved
        #[arg(long)]
        state: Option<String>,
    },
    /// Tell the whole story of one issue
    Show {
        #[arg(help = ID)]
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List all operations
    List,
    /// Show one operation and its steps
    Show {
        #[arg(help = ID)]
        id: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Have an operation broken off: a start, a restart, a stop, a deletion, a disk being made
    Cancel {
        #[arg(help = ID)]
        id: String,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Show how machines reach the network
    Show,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackendCommand {
    /// List all backends, and why each can be used or not
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// List the policies in the order they are asked
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// List all backends, how far each has come and why; where no daemon runs, as one would
    List,
    /// Write a plugin that builds and keeps the contract as it is, to begin from
    New(PluginNew),
    /// See whether a backend holds the contract, each case in a process of its own
    Check(Box<CheckArguments>),
    /// Measure what a call of a backend costs beyond what the backend does
    Bench(PluginBench),
    /// One process of a check, told on its standard input what to do
    #[command(hide = true)]
    CheckOne,
}

#[derive(Debug, Args)]
pub(crate) struct PluginBench {
    /// The name of a backend that is linked in, or a plugin's file
    #[arg(value_name = "NAME|FILE")]
    pub(crate) target: String,
    /// Calls that are measured, one after the other
    #[arg(
        long,
        default_value_t = CALLS,
        value_parser = clap::value_parser!(u32).range(1..=CALLS_MAX)
    )]
    pub(crate) rounds: u32,
}

#[derive(Debug, Args)]
pub(crate) struct PluginNew {
    /// The backend's: 1 to 64 of a-z, 0-9 and '-'
    pub(crate) name: String,
    /// What it is written in
    #[arg(long, value_enum)]
    pub(crate) lang: PluginLanguage,
    /// The folder to write it to, missing or empty [default: its name]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PluginLanguage {
    /// A crate, with the SDK beside it
    Rust,
    /// C11, a header and a Makefile
    C,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_of_every_command_is_explained() {
        let mut waiting = vec![Cli::command()];
        while let Some(command) = waiting.pop() {
            for argument in command.get_arguments() {
                let (command, argument_id) = (command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{command}: {argument_id}");
            }
            waiting.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn global_options_are_taken_before_and_after_a_command() {
        for line in ["vman -o json --storage /s vm list", "vman vm list -o json --storage /s"] {
            let global = parse(line).unwrap().global;
            assert_eq!(global.output, Format::Json);
            assert_eq!(global.storage, Some("/s".into()));
        }
    }

    #[test]
    fn waiting_has_a_usual_length_and_can_be_given_another() {
        let wait = |line: &str| {
            let Command::Vm(VmCommand::Start(action)) = parse(line).unwrap().command else {
                panic!("{line} starts no VM");
            };
            action.wait.at_most()
        };
        assert_eq!(wait("vman vm start x"), None);
        assert_eq!(wait("vman vm start x --wait"), Some(Duration::from_secs(60)));
        assert_eq!(wait("vman vm start x --wait 5"), Some(Duration::from_secs(5)));
        assert_eq!(wait("vman vm start --wait=5 x"), Some(Duration::from_secs(5)));
        let refused = parse("vman vm start x --wait 0").map(|_| ());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn vms_are_stopped_by_their_names_or_all_together() {
        let stop = |line: &str| match parse(line).map(|cli| cli.command) {
            Ok(Command::Vm(VmCommand::Stop(stop))) => Ok((stop.ids.len(), stop.all)),
            Ok(_) => panic!("{line} stops no VM"),
            Err(error) => Err(error.kind()),
        };
        assert_eq!(stop("vman vm stop a b --wait 5"), Ok((2, false)));
        assert_eq!(stop("vman vm stop --all"), Ok((0, true)));
        assert_eq!(stop("vman vm stop"), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(stop("vman vm stop --all a"), Err(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn a_template_starts_from_a_kernel_or_a_firmware_and_not_from_both() {
        let base = "vman template create t --cpus 1 --ram 64";
        let with = |more: &str| parse(&format!("{base} {more}")).map(|_| ());
        with("--kernel k --initrd i --cmdline c").unwrap();
        with("--firmware f").unwrap();
        let refusal = |more| with(more).unwrap_err().kind();
        assert_eq!(refusal("--kernel k --firmware f"), ErrorKind::ArgumentConflict);
        assert_eq!(refusal("--initrd i"), ErrorKind::MissingRequiredArgument);
        assert_eq!(refusal("--firmware f --cmdline c"), ErrorKind::ArgumentConflict);
        with("--root-disk-size 20").unwrap();
        assert_eq!(refusal("--kernel k --root-disk-size 20"), ErrorKind::ArgumentConflict);
    }
}
