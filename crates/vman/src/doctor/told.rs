//! What was found, and how it is told. What is looked at is not known here.

use std::io::{self, Write};

use serde::Serialize;

use crate::client::Output;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    about: String,
    state: State,
    told: String,
    /// What is to be known beside it.
    notes: Vec<String>,
    /// A command, or what to write into the configuration.
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Good,
    /// VMs run without it.
    Note,
    /// VMs do not run like this.
    Bad,
}

impl Finding {
    pub(super) fn good(about: &str, told: impl Into<String>) -> Self {
        Self::new(about, State::Good, told.into())
    }

    pub(super) fn note(about: &str, told: impl Into<String>) -> Self {
        Self::new(about, State::Note, told.into())
    }

    pub(super) fn bad(about: &str, told: impl Into<String>) -> Self {
        Self::new(about, State::Bad, told.into())
    }

    fn new(about: &str, state: State, told: String) -> Self {
        Self { about: about.to_owned(), state, told, notes: vec![], fix: None }
    }

    pub(super) fn mend(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    pub(super) fn with(self, notes: &[String]) -> Self {
        Self { notes: notes.to_vec(), ..self }
    }

    pub(super) fn about(&self) -> &str {
        &self.about
    }

    pub(super) fn is_bad(&self) -> bool {
        self.state == State::Bad
    }

    #[cfg(test)]
    pub(super) fn told(&self) -> (&str, Option<&str>) {
        (&self.told, self.fix.as_deref())
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Bad => "BAD",
        }
    }
}

/// A line for each, and below it what else is to be known and how it is mended.
pub(super) fn print<W: Write>(findings: &[Finding], output: &mut Output<W>) -> io::Result<()> {
    let mut rows = Vec::new();
    for Finding { about, state, told, notes, fix } in findings {
        rows.push(vec![state.word().to_owned(), about.clone(), told.clone()]);
        let notes = notes.iter().map(|note| format!("  {note}"));
        let fix = fix.iter().map(|fix| format!("  to mend it: {fix}"));
        rows.extend(notes.chain(fix).map(|line| vec![String::new(), String::new(), line]));
    }
    output.rows(&["", "WHAT", "FOUND"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    #[test]
    fn each_finding_is_a_line_with_its_notes_and_its_fix_below() {
        let findings = [
            Finding::good("a", "is well").with(&["and more".to_owned()]),
            Finding::bad("b", "is not").mend("do it"),
        ];
        let mut printed = Vec::new();
        print(&findings, &mut Output::new(Format::Table, &mut printed)).unwrap();
        let printed = String::from_utf8(printed).unwrap();
        let lines: Vec<Vec<&str>> =
            printed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["ok", "a", "is", "well"]);
        assert_eq!(lines[2], ["and", "more"]);
        assert_eq!(lines[3], ["BAD", "b", "is", "not"]);
        assert_eq!(lines[4], ["to", "mend", "it:", "do", "it"]);
    }
}
