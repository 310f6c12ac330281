//! Runs other programs, with errors that name the whole command line and show its output.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How many lines of a failed command's output an error shows.
const SHOWN_LINES: usize = 40;

/// Runs a command whose output the user sees.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().map_err(|error| absent(&line, error))?;
    if !status.success() {
        bail!("`{line}` failed ({status}); what it said is above");
    }
    Ok(())
}

/// Runs a command and gives its standard output.
pub(crate) fn captured(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| absent(&line, error))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}):\n{}", output.status, tail(&output));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` did not print UTF-8"))
}

/// Whether a program can be found, in `PATH` or where Debian keeps what only root uses.
pub(crate) fn has(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is, in `PATH` or where Debian keeps what only root uses.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder: PathBuf| folder.join(program)).find(|file| file.is_file())
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

fn absent(line: &str, error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!(
        "`{line}` could not be started; `cargo xtask setup` installs what is missing"
    ))
}

fn tail(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_what_it_said() {
        let error = captured(Command::new("sh").args(["-c", "echo oh dear >&2; exit 3"]))
            .expect_err("it exits with 3");
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("oh dear"), "{text}");
    }

    #[test]
    fn a_command_that_does_not_exist_points_to_the_setup() {
        let error = captured(&mut Command::new("vman-no-such-program")).expect_err("it is absent");
        assert!(format!("{error:#}").contains("cargo xtask setup"), "{error:#}");
    }
}
