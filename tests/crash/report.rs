//! What the trials of a verb came to: one row of the table.
#![allow(clippy::print_stdout, reason = "the table is what the tests are to show")]

use std::fmt;

use vman_tests::tally;

const COLUMNS: [&str; 11] = [
    "verb",
    "backend",
    "points",
    "killed ok",
    "failed ok",
    "failed, then killed ok",
    "twice ok",
    "lost",
    "leaked",
    "killed by recovery",
    "untrue",
];

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

impl Broken {
    /// Of no end that was right; the mildest verdict holds.
    pub(crate) fn all(all: Vec<Self>) -> Self {
        let stories: Vec<String> = all.iter().map(ToString::to_string).collect();
        let story = stories.join("\nor: ");
        let is = |wanted: fn(&Self) -> bool| !all.is_empty() && all.iter().all(wanted);
        if is(|one| matches!(one, Self::Lost(_))) {
            Self::Lost(story)
        } else if is(|one| matches!(one, Self::Killed(_))) {
            Self::Killed(story)
        } else {
            Self::Untrue(story)
        }
    }

    pub(crate) fn with(self, log: &str) -> Self {
        let with_log = |story: String| format!("{story}\n{log}");
        match self {
            Self::Lost(story) => Self::Lost(with_log(story)),
            Self::Leaked(story) => Self::Leaked(with_log(story)),
            Self::Killed(story) => Self::Killed(with_log(story)),
            Self::Untrue(story) => Self::Untrue(with_log(story)),
        }
    }
}

impl From<String> for Broken {
    fn from(story: String) -> Self {
        Self::Untrue(story)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Lost(story) | Self::Leaked(story) | Self::Killed(story) | Self::Untrue(story)) =
            self;
        f.write_str(story)
    }
}

/// What a trial does at a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trial {
    Kill(usize),
    Fail(usize),
    /// Fails there, and is killed later.
    FailThenKill {
        index: usize,
        kill: String,
        /// The failure was recorded by then.
        recorded: bool,
    },
    /// Everything is done twice.
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
            of(|trial| matches!(trial, Trial::FailThenKill { .. })),
            of(|trial| matches!(trial, Trial::Twice)),
            broken(|broken| matches!(broken, Broken::Lost(_))),
            broken(|broken| matches!(broken, Broken::Leaked(_))),
            broken(|broken| matches!(broken, Broken::Killed(_))),
            broken(|broken| matches!(broken, Broken::Untrue(_))),
        ];
        println!("{}", COLUMNS.join(" | "));
        println!("{}", row.join(" | "));
        tally::crashes(&row);
        let stories: Vec<String> = self.verdicts.iter().filter_map(|one| self.story(one)).collect();
        assert!(stories.is_empty(), "{} broken:\n{}", stories.len(), stories.join("\n\n"));
    }

    fn story(&self, (trial, verdict): &(Trial, Result<(), Broken>)) -> Option<String> {
        let broken = verdict.as_ref().err()?;
        let how = match broken {
            Broken::Lost(_) => "lost",
            Broken::Leaked(_) => "leaked",
            Broken::Killed(_) => "killed by recovery",
            Broken::Untrue(_) => "untrue",
        };
        let what = match trial {
            Trial::Kill(index) => format!("killed {}", self.points[*index]),
            Trial::Fail(index) => format!("failing {}", self.points[*index]),
            Trial::FailThenKill { index, kill, .. } => {
                format!("failing {}, then killed {kill}", self.points[*index])
            }
            Trial::Twice => "every effect twice".to_owned(),
        };
        Some(format!("{}, {what}: {how}: {broken}", self.verb))
    }
}
