//! What the phases of a benchmark take of a process: time, processor and memory, as proc(5) tells
//! them.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::figures::Rounds;

/// Clock ticks per second in what proc(5) tells: USER_HZ, the same on every machine we build for.
const TICKS: u64 = 100;

/// The phases so far, of one process.
#[derive(Debug)]
pub(super) struct Phases {
    pid: i32,
    phases: Vec<Phase>,
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Phase {
    name: &'static str,
    took: Duration,
    /// Of the processor, and the most memory there was until its end. None of what is no phase.
    usage: Option<(Duration, u64)>,
}

impl Phase {
    /// The median.
    pub(super) fn of_times(name: &'static str, times: &[Duration]) -> Self {
        let mut rounds = Rounds::default();
        times.iter().for_each(|took| rounds.add(*took));
        Self { name, took: rounds.percentile(50), usage: None }
    }
}

impl Phases {
    pub(super) fn of(pid: i32) -> Self {
        Self { pid, phases: Vec::new() }
    }

    /// Does it and adds what it took.
    pub(super) fn measure<T>(
        &mut self,
        name: &'static str,
        phase: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let (cpu, begun) = (self.cpu()?, Instant::now());
        let made = phase().with_context(|| name.to_owned())?;
        let took = begun.elapsed();
        let usage = Some((self.cpu()?.saturating_sub(cpu), self.most_memory()?));
        self.tell(Phase { name, took, usage });
        Ok(made)
    }

    pub(super) fn tell(&mut self, phase: Phase) {
        println!("{phase}");
        self.phases.push(phase);
    }

    /// User and system time, of all its threads.
    fn cpu(&self) -> Result<Duration> {
        let stat = self.read("stat")?;
        // After the name, which may hold anything; utime is the 14th field, stime the 15th.
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        let ticks: u64 = fields.split(' ').skip(11).take(2).flat_map(str::parse::<u64>).sum();
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }

    /// VmHWM, in bytes.
    fn most_memory(&self) -> Result<u64> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kib.context("the process tells no VmHWM")? * 1024)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.pid);
        fs::read_to_string(&path).with_context(|| format!("reading {path}"))
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<34}{:>12}{:>12}{:>12}", "phase", "seconds", "CPU s", "peak MiB")?;
        self.phases.iter().try_for_each(|phase| writeln!(f, "{phase}"))
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<34}{:>12.3}", self.name, self.took.as_secs_f64())?;
        match self.usage {
            Some((cpu, bytes)) => write!(f, "{:>12.2}{:>12}", cpu.as_secs_f64(), bytes >> 20),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_phase_takes_of_this_very_process_is_told() {
        let pid = i32::try_from(std::process::id()).expect("process ids are small");
        let mut phases = Phases::of(pid);
        let until = Instant::now() + Duration::from_millis(100);
        let busy = || {
            while Instant::now() < until {}
            Ok(())
        };
        phases.measure("busy", busy).expect("nothing fails");
        let (cpu, memory) = phases.phases[0].usage.expect("it is measured");
        assert!(cpu > Duration::ZERO && memory > 1 << 20, "{cpu:?} {memory}");
        let text = phases.to_string();
        let line: Vec<&str> = text.lines().last().expect("a line").split_whitespace().collect();
        assert_eq!((line.len(), line[0]), (4, "busy"));
    }
}
