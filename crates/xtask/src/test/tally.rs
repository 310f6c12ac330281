//! What tests wrote down about machines that they started on real QEMU, and about what could not
//! run on this host. A line is `<backend> <test>` or `skipped <test and reason>`; those that begin
//! with `crash` or `conformance` are other tables'.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the lines of other tables begin with.
const OTHERS: [&str; 2] = ["crash ", CONFORMANCE];
const CONFORMANCE: &str = "conformance ";

/// The lines of the conformance table, as they were written down.
pub(super) fn conformance(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix(CONFORMANCE));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Machines by backend.
    machines: BTreeMap<String, usize>,
    tests: BTreeSet<String>,
    skipped: BTreeSet<String>,
}

impl Tally {
    /// Counts the lines.
    pub(super) fn parse(text: &str) -> Self {
        let mut tally = Self::default();
        let is_other = |line: &&str| OTHERS.iter().any(|other| line.starts_with(other));
        let lines = text.lines().filter(|line| !is_other(line));
        for (backend, test) in lines.filter_map(|line| line.trim().split_once(' ')) {
            if backend == "skipped" {
                tally.skipped.insert(test.to_owned());
            } else {
                *tally.machines.entry(backend.to_owned()).or_default() += 1;
                tally.tests.insert(test.to_owned());
            }
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machines: usize = self.machines.values().sum();
        let backends = self.machines.iter().map(|(name, count)| format!("{name} {count}"));
        let backends: Vec<String> = backends.collect();
        let (tests, skipped) = (self.tests.len(), self.skipped.len());
        write!(f, "real QEMU: {machines} machines in {tests} tests")?;
        if !backends.is_empty() {
            write!(f, " ({})", backends.join(", "))?;
        }
        write!(f, "; could not run here: {skipped}")?;
        for test in &self.skipped {
            write!(f, "\n  {test}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_counted_by_backend_and_tests_once() {
        let tally = Tally::parse(
            "tcg a\ntcg a\nkvm b\nskipped c: no tap here\ncrash d e 1\n\
                                 conformance x 1\n",
        );
        let text = "real QEMU: 3 machines in 2 tests (kvm 1, tcg 2); could not run here: 1\n  \
                    c: no tap here";
        assert_eq!(tally.to_string(), text);
    }

    #[test]
    fn the_conformance_table_is_told_as_it_was_written() {
        let text = "tcg a\nconformance passed  static\nconformance x  1 + 0\n";
        assert_eq!(conformance(text), "passed  static\nx  1 + 0\n");
    }

    #[test]
    fn no_machine_at_all_is_said_as_such() {
        let text = "real QEMU: 0 machines in 0 tests; could not run here: 0";
        assert_eq!(Tally::parse("\n").to_string(), text);
    }
}
