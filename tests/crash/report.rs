//! What the trials of a verb came to: one row of the table.
#![allow(clippy::print_stdout, reason = "the table is what the tests are to show")]

use std::fmt;

use vman_tests::tally;

/// How a promise was broken, and the story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Something recorded is gone that nobody deleted.
    Lost(String),
    /// Something is left that nobody owns.
    Leaked(String),
    /// A machine was ended that was to go on.
    Killed(String),
    /// Anything else is not as it was told or wished.
    Untrue(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(story) => write!(f, "LOST: {story}"),
            Self::Leaked(story) => write!(f, "LEAKED: {story}"),
            Self::Killed(story) => write!(f, "KILLED BY RECOVERY: {story}"),
            Self::Untrue(story) => write!(f, "UNTRUE: {story}"),
        }
    }
}

/// What a trial does at a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trial {
    Kill(usize),
    Fail(usize),
    Twice,
}

/// The verdicts on one verb.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) verb: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) points: Vec<String>,
    pub(crate) verdicts: Vec<(Trial, Result<(), Broken>)>,
}

impl Report {
    /// Prints the row, tells it to the runner, and fails if a promise was broken.
    pub(crate) fn settle(&self) {
        let of = |wanted: fn(&Trial) -> bool| {
            let all = self.verdicts.iter().filter(|(trial, _)| wanted(trial));
            let (kept, all) =
                (all.clone().filter(|(_, verdict)| verdict.is_ok()).count(), all.count());
            format!("{kept}/{all}")
        };
        let broken = |wanted: fn(&Broken) -> bool| {
            let all = self.verdicts.iter().filter_map(|(_, verdict)| verdict.as_ref().err());
            all.filter(|broken| wanted(broken)).count().to_string()
        };
        let row = [
            self.verb.replace('_', "-"),
            self.backend.replace('_', "-"),
            self.points.len().to_string(),
            of(|trial| matches!(trial, Trial::Kill(_))),
            of(|trial| matches!(trial, Trial::Fail(_))),
            of(|trial| matches!(trial, Trial::Twice)),
            broken(|broken| matches!(broken, Broken::Lost(_))),
            broken(|broken| matches!(broken, Broken::Leaked(_))),
            broken(|broken| matches!(broken, Broken::Killed(_))),
            broken(|broken| matches!(broken, Broken::Untrue(_))),
        ];
        println!(
            "verb | backend | points | killed ok | failed ok | twice ok | lost | leaked | killed by recovery | untrue"
        );
        println!("{}", row.join(" | "));
        tally::crashes(&row);
        let stories: Vec<String> = self.verdicts.iter().filter_map(|one| self.story(one)).collect();
        assert!(stories.is_empty(), "{} broken:\n{}", stories.len(), stories.join("\n\n"));
    }

    fn story(&self, (trial, verdict): &(Trial, Result<(), Broken>)) -> Option<String> {
        let broken = verdict.as_ref().err()?;
        let what = match trial {
            Trial::Kill(index) => format!("killed {}", self.points[*index]),
            Trial::Fail(index) => format!("failing {}", self.points[*index]),
            Trial::Twice => "every effect twice".to_owned(),
        };
        Some(format!("{}, {what}: {broken}", self.verb))
    }
}
