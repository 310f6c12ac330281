//! How long each step took, by hand and by vman, side by side. How it came about is not known here.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// The measured rounds of one step.
#[derive(Debug, Default)]
pub(super) struct Rounds(Vec<Duration>);

impl Rounds {
    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Does it and adds how long it took.
    fn measure<T>(&mut self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let made = step()?;
        self.add(begun.elapsed());
        Ok(made)
    }

    /// The value that `percent` of the rounds do not exceed (nearest rank); zero without a round.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn milliseconds(&self, percent: usize) -> f64 {
        self.percentile(percent).as_secs_f64() * 1000.0
    }
}

/// One step, done by hand (where it can be) and by vman.
#[derive(Debug)]
pub(super) struct Step {
    name: &'static str,
    raw: Option<Rounds>,
    vman: Option<Rounds>,
}

impl Step {
    /// One that is measured in both ways.
    pub(super) fn beside_raw(name: &'static str) -> Self {
        Self { name, raw: Some(Rounds::default()), vman: Some(Rounds::default()) }
    }

    /// One that there is only with vman.
    pub(super) fn of_vman(name: &'static str, rounds: Rounds) -> Self {
        Self { name, raw: None, vman: Some(rounds) }
    }

    /// One that is only done by hand.
    pub(super) fn by_hand(name: &'static str) -> Self {
        Self { name, raw: Some(Rounds::default()), vman: None }
    }

    /// Does it by hand.
    pub(super) fn raw<T>(&mut self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let doing = || format!("by hand: {}", self.name);
        self.raw.get_or_insert_default().measure(step).with_context(doing)
    }

    /// Has vman do it.
    pub(super) fn vman<T>(&mut self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        let doing = || format!("by vman: {}", self.name);
        self.vman.get_or_insert_default().measure(step).with_context(doing)
    }
}

/// The steps of a benchmark, in milliseconds: the medians, what one round in a hundred exceeds, and
/// how many times as long the median takes with vman.
#[derive(Debug)]
pub(super) struct Figures(pub(super) Vec<Step>);

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<33}{:>18}{:>18}{:>8}", "", "by hand, ms", "vman, ms", "")?;
        write!(f, "{:<33}", "")?;
        for _ in 0..2 {
            write!(f, "{:>9}{:>9}", "median", "p99")?;
        }
        writeln!(f, "{:>8}", "ratio")?;
        for Step { name, raw, vman } in &self.0 {
            write!(f, "{name:<33}")?;
            for rounds in [raw, vman] {
                match rounds {
                    Some(rounds) => columns(f, rounds)?,
                    None => write!(f, "{:>9}{:>9}", "-", "-")?,
                }
            }
            match (raw, vman) {
                (Some(raw), Some(vman)) => {
                    writeln!(f, "{:>8.2}", vman.milliseconds(50) / raw.milliseconds(50))?;
                }
                (_, None) | (None, _) => writeln!(f, "{:>8}", "-")?,
            }
        }
        Ok(())
    }
}

fn columns(f: &mut fmt::Formatter<'_>, rounds: &Rounds) -> fmt::Result {
    write!(f, "{:>9.2}{:>9.2}", rounds.milliseconds(50), rounds.milliseconds(99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_rounds_that_were_measured() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.percentile(50), Duration::ZERO);
        for ms in [5, 1, 3, 2, 4] {
            rounds.add(Duration::from_millis(ms));
        }
        assert_eq!(rounds.percentile(50), Duration::from_millis(3));
        assert_eq!(rounds.percentile(99), Duration::from_millis(5));
        assert_eq!(rounds.percentile(1), Duration::from_millis(1));
    }

    #[test]
    fn a_ratio_is_of_the_medians() {
        let mut step = Step::beside_raw("step");
        for (raw, vman) in [(1, 3), (2, 5), (30, 400)] {
            step.raw.get_or_insert_default().add(Duration::from_millis(raw));
            step.vman.get_or_insert_default().add(Duration::from_millis(vman));
        }
        let text = Figures(vec![step]).to_string();
        let words: Vec<&str> = text.lines().last().expect("a line").split_whitespace().collect();
        assert_eq!(words, ["step", "2.00", "30.00", "5.00", "400.00", "2.50"]);
    }
}
