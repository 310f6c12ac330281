//! `vman plugin check`: which backend, which cases and how is read from the command line here, and
//! what came of them is told. What a backend must hold is in `vman_plugin::conformance`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use vman_plugin::Boot;
use vman_plugin::conformance::{self, Case, Checked, Opening, Program, Subject};
use vman_plugin::host::Registry;

use crate::cli::{Global, PLUGIN_HOST};
use crate::client::Output;
use crate::failure::Failure;
use crate::serve::ServeError;

/// The arguments that make this program one process of a check.
const ONE: [&str; 2] = ["plugin", "check-one"];
/// Cases at the same time, if it is not said.
const JOBS_DEFAULT: &str = "2";
/// The requests of this seed are made, if it is not said.
const SEED_DEFAULT: &str = "1";
/// Lines of what a plugin wrote that are shown of a case.
const LINES_SHOWN: usize = 10;
/// A name that differs more is another one; 1 is the same.
const SIMILAR: f64 = 0.5;

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// The name of a backend that is linked in, or a plugin's file
    #[arg(value_name = "NAME|FILE", required_unless_present = "list")]
    target: Option<String>,
    /// How it is opened; again for more [default: static for a name, all others for a file]
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Vec<ModeName>,
    /// Only the case of this name, or those whose names have this in them; again for more
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// List the cases and what each holds
    #[arg(long)]
    list: bool,
    /// Linux kernel that machines boot [default: an empty disk that the backend makes]
    #[arg(long, value_name = "FILE", conflicts_with = "firmware")]
    kernel: Option<PathBuf>,
    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    cmdline: Option<String>,
    /// Firmware image that machines boot
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// What runs in machines obeys the power button and gives back disks that it is asked for
    #[arg(long)]
    guest_obeys: bool,
    /// The backend's settings [default: `[backends.NAME]` of the configuration]
    #[arg(long, value_name = "JSON", value_parser = object)]
    settings: Option<Value>,
    /// What the odd requests are made from: the same seed, the same requests
    #[arg(long, value_name = "N", default_value = SEED_DEFAULT)]
    seed: u64,
    /// Only the odd requests of this seed, or the one of this number, which is shown
    #[arg(long, value_name = "SEED[:NUMBER]", conflicts_with_all = ["seed", "only"])]
    #[arg(value_parser = reproduction)]
    reproduce: Option<(u64, Option<u32>)>,
    /// Cases at the same time
    #[arg(long, value_name = "N", default_value = JOBS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// Print everything as JSON, as `--output json` does
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    /// Linked into this program
    Static,
    /// A file, loaded as a daemon does that trusts it
    InProcess,
    /// A file, loaded into a process of its own
    Isolated,
}

fn object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if value.is_object() { Ok(value) } else { Err("it must be a JSON object".to_owned()) }
}

fn reproduction(text: &str) -> Result<(u64, Option<u32>), String> {
    let (seed, number) = match text.split_once(':') {
        Some((seed, number)) => (seed, Some(number)),
        None => (text, None),
    };
    let number = number.map(str::parse).transpose();
    let read = seed.parse().ok().zip(number.ok());
    read.ok_or_else(|| "it is SEED or SEED:NUMBER, as a check has told it".to_owned())
}

/// # Errors
/// There is no such backend, file or case, or the backend does not pass.
pub(super) fn run<W: Write>(
    global: &Global,
    arguments: CheckArguments,
    out: &mut Output<W>,
) -> Result<(), Failure> {
    let as_json = arguments.json || out.is_json();
    if arguments.list {
        return Ok(list(as_json, out)?);
    }
    let cases = selected(&arguments)?;
    let target = arguments.target.clone().unwrap_or_default();
    let openings = openings(&target, &arguments.mode)?;
    let guest = guest(&arguments)?;
    let program = this(&ONE)?;
    let (seed, request) = arguments.reproduce.unwrap_or((arguments.seed, None));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    let mut all = Vec::new();
    for opening in openings {
        let checked = runtime.block_on(async {
            let settings = match &arguments.settings {
                Some(settings) => settings.clone(),
                None => configured(global, &opening, &program).await?,
            };
            let (guest, guest_obeys) = (guest.clone(), arguments.guest_obeys);
            let subject = Subject { opening, settings, guest, guest_obeys, seed, request };
            let checked = conformance::check(&subject, &cases, &program, arguments.jobs.into());
            Ok::<_, Failure>(checked.await?)
        });
        all.push(checked?);
    }
    tell(&target, seed, &all, as_json, out)
}

/// Is one process of a check.
///
/// # Errors
/// Nobody told it what to do, or nobody is there to be told.
pub(crate) fn one() -> Result<(), Failure> {
    Ok(conformance::carry_out(io::stdin().lock(), io::stdout())?)
}

/// This very program, with other arguments.
fn this(arguments: &[&str]) -> io::Result<Program> {
    let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    Ok(Program { file: std::env::current_exe()?, arguments })
}

fn list<W: Write>(as_json: bool, out: &mut Output<W>) -> io::Result<()> {
    let cases = conformance::all();
    if as_json {
        let told = |case: &Case| json!({"case": case.name, "holds": case.holds});
        return out.json(&cases.iter().map(told).collect());
    }
    let row = |case: &Case| vec![case.name.to_owned(), case.holds.to_owned()];
    out.rows(&["CASE", "HOLDS"], cases.iter().map(row).collect())
}

/// The cases that are wanted, in their usual order.
fn selected(arguments: &CheckArguments) -> Result<Vec<Case>, Failure> {
    let all = conformance::all();
    if arguments.reproduce.is_some() {
        return Ok(all.into_iter().filter(|case| case.name == conformance::ODD_REQUESTS).collect());
    }
    if arguments.only.is_empty() {
        return Ok(all);
    }
    let mut wanted = Vec::new();
    for only in &arguments.only {
        let is_named = all.iter().any(|case| case.name == only);
        let of_it = |case: &&Case| {
            if is_named { case.name == only } else { case.name.contains(only.as_str()) }
        };
        let before = wanted.len();
        wanted.extend(all.iter().filter(of_it).map(|case| case.name));
        if wanted.len() == before {
            return Err(unknown("case", only, all.iter().map(|case| case.name)));
        }
    }
    Ok(all.into_iter().filter(|case| wanted.contains(&case.name)).collect())
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let rated = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let nearest = rated.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(alike, _)| *alike > SIMILAR);
    let nearest = nearest.map(|(_, known)| format!("; the nearest is `{known}`"));
    Failure::Usage(format!("no {what} is called `{name}`{}", nearest.unwrap_or_default()))
}

/// A name is of a backend that is linked in; all that looks like a path is a file.
fn openings(target: &str, modes: &[ModeName]) -> Result<Vec<Opening>, Failure> {
    let is_file = target.contains('/') || target.ends_with(".so");
    if !is_file {
        let linked = Registry::linked();
        let mut names = linked.iter().map(|offer| offer.manifest().name.as_str());
        if !names.any(|name| name == target) {
            let names = linked.iter().map(|offer| offer.manifest().name.as_str());
            return Err(unknown("backend that is linked in", target, names));
        }
        if modes.iter().any(|mode| *mode != ModeName::Static) {
            return Err(Failure::Usage(format!(
                "`{target}` is linked in: name a plugin's file to check it in another mode"
            )));
        }
        return Ok(vec![Opening::Static(target.to_owned())]);
    }
    let file = existing(Path::new(target))?;
    let usual = [ModeName::InProcess, ModeName::Isolated];
    let modes = if modes.is_empty() { &usual[..] } else { modes };
    modes
        .iter()
        .map(|mode| match mode {
            ModeName::InProcess => Ok(Opening::InProcess(file.clone())),
            ModeName::Isolated => {
                Ok(Opening::Isolated { file: file.clone(), helper: this(&[PLUGIN_HOST])? })
            }
            ModeName::Static => Err(Failure::Usage(format!(
                "{target} is a file: name a backend that is linked in to check it static"
            ))),
        })
        .collect()
}

/// The whole path, for processes that work elsewhere.
fn existing(file: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(file)
        .and_then(|file| file.metadata().map(|_| file))
        .map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
}

fn guest(arguments: &CheckArguments) -> Result<Option<Boot>, Failure> {
    let CheckArguments { kernel, initrd, cmdline, firmware, .. } = arguments;
    if let Some(kernel) = kernel {
        let initrd = initrd.as_deref().map(existing).transpose()?;
        let cmdline = cmdline.clone().unwrap_or_default();
        return Ok(Some(Boot::Kernel { kernel: existing(kernel)?, initrd, cmdline }));
    }
    let firmware = firmware.as_deref().map(existing).transpose()?;
    Ok(firmware.map(|firmware| Boot::Firmware { firmware }))
}

/// What the configuration says of this backend; a file's name is asked of it.
async fn configured(
    global: &Global,
    opening: &Opening,
    program: &Program,
) -> Result<Value, Failure> {
    let backends = crate::load(global)?.config.backends;
    let name = match opening {
        Opening::Static(name) => Some(name.clone()),
        Opening::InProcess(_) | Opening::Isolated { .. } if backends.is_empty() => None,
        Opening::InProcess(_) | Opening::Isolated { .. } => {
            conformance::name(opening, program).await?
        }
    };
    let settings = name.and_then(|name| backends.get(&name).cloned());
    Ok(settings.unwrap_or_else(|| json!({})))
}

fn tell<W: Write>(
    target: &str,
    seed: u64,
    all: &[Checked],
    as_json: bool,
    out: &mut Output<W>,
) -> Result<(), Failure> {
    let reports = || all.iter().flat_map(|checked| &checked.reports);
    let failed = reports().filter(|report| report.verdict.is_bad()).count();
    let skipped = reports().filter(|report| report.verdict.is_skipped()).count();
    let passed = reports().count() - failed - skipped;
    if as_json {
        out.json(&json!({
            "target": target, "seed": seed, "checks": all,
            "passed": passed, "skipped": skipped, "failed": failed,
        }))?;
    } else {
        for checked in all {
            table(checked, out)?;
        }
        out.line(&format!("{passed} passed, {skipped} skipped, {failed} failed"))?;
    }
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::Failed(format!("{target} does not hold the contract: {failed} cases failed")))
}

fn table<W: Write>(checked: &Checked, out: &mut Output<W>) -> io::Result<()> {
    let mode = checked.mode.word();
    match &checked.manifest {
        Some(manifest) => {
            let (name, version) = (&manifest.name, &manifest.version);
            out.line(&format!("{name} {version}, {mode}: {}", manifest.description))?;
        }
        None => out.line(&format!("{mode}: it is not a backend that can be used"))?,
    }
    if let Some(why) = &checked.unable {
        out.line(&format!("no machine can be run here, so most is skipped: {why}"))?;
    }
    let row = |report: &conformance::Report| {
        let took = report.took.to_string();
        let verdict = report.verdict.word().to_owned();
        vec![report.case.to_owned(), verdict, took, report.verdict.to_string()]
    };
    let rows = checked.reports.iter().map(row).collect();
    out.rows(&["CASE", "VERDICT", "MS", "WHY"], rows)?;
    for report in &checked.reports {
        for note in &report.notes {
            out.line(&format!("{}: {note}", report.case))?;
        }
        let written: Vec<&str> = report.stderr.lines().collect();
        for line in &written[written.len().saturating_sub(LINES_SHOWN)..] {
            out.line(&format!("{} wrote: {line}", report.case))?;
        }
    }
    out.line("")
}
