//! Short ways to make a [`Decision`]. No policy is in here: nothing chooses.

use crate::alloc::string::String;
use crate::alloc::vec;
use crate::alloc::vec::Vec;

use crate::{Candidate, Decision, Issue, Verdict};

impl Decision {
    /// Carry out one candidate.
    pub fn repair(candidate: &Candidate, reason_code: &str, message: impl Into<String>) -> Self {
        let mut decision = Self::plain(Verdict::Repair, reason_code, message);
        decision.chosen = vec![candidate.id];
        decision
    }

    /// Do nothing now and ask again after `recheck_after_ms` milliseconds.
    pub fn hold(recheck_after_ms: u64, reason_code: &str, message: impl Into<String>) -> Self {
        let mut decision = Self::plain(Verdict::Hold, reason_code, message);
        decision.recheck_after_ms = Some(recheck_after_ms);
        decision
    }

    /// Leave it as it is.
    pub fn ignore(reason_code: &str, message: impl Into<String>) -> Self {
        Self::plain(Verdict::Ignore, reason_code, message)
    }

    /// Leave it to a person.
    pub fn escalate(reason_code: &str, message: impl Into<String>) -> Self {
        Self::plain(Verdict::Escalate, reason_code, message)
    }

    /// No opinion: the next policy is asked.
    pub fn abstain(reason_code: &str, message: impl Into<String>) -> Self {
        Self::plain(Verdict::Abstain, reason_code, message)
    }

    fn plain(verdict: Verdict, reason_code: &str, message: impl Into<String>) -> Self {
        Self {
            verdict,
            chosen: Vec::new(),
            recheck_after_ms: None,
            reason_code: reason_code.into(),
            message: message.into(),
            facts: Vec::new(),
        }
    }
}

impl Issue {
    /// The first candidate of this kind, if the host allows one here.
    pub fn candidate(&self, kind: &str) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.kind == kind)
    }
}
