//! Durations by name, and their medians side by side. How they came about is not known here.

use std::fmt;
use std::time::Duration;

/// The measured rounds of one step.
#[derive(Debug, Default)]
pub(super) struct Rounds(Vec<Duration>);

impl Rounds {
    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// The value that `percent` of the rounds do not exceed (nearest rank); zero without a round.
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// One step, done by hand (where it can be) and by vman.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) raw: Option<Rounds>,
    pub(super) vman: Rounds,
}

/// The steps of a benchmark.
#[derive(Debug)]
pub(super) struct Figures(pub(super) Vec<Step>);

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28}{:>10}{:>10}{:>10}{:>8}", "median, ms", "raw", "vman", "p99", "ratio")?;
        for Step { name, raw, vman } in &self.0 {
            let ours = milliseconds(vman.percentile(50));
            let p99 = milliseconds(vman.percentile(99));
            match raw.as_ref().map(|raw| milliseconds(raw.percentile(50))) {
                Some(raw) => {
                    let ratio = ours / raw;
                    writeln!(f, "{name:<28}{raw:>10.2}{ours:>10.2}{p99:>10.2}{ratio:>8.2}")?;
                }
                None => writeln!(f, "{name:<28}{:>10}{ours:>10.2}{p99:>10.2}{:>8}", "-", "-")?,
            }
        }
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
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
}
