//! A case, what may be done about it, and what a policy answers. The candidates are computed here,
//! so a policy chooses among them and cannot invent an action; an answer that chooses anything else
//! is refused here. Nothing is carried out.

use std::fmt;

use thiserror::Error;

use crate::coherence::{Incoherence, Kind, Severity, Wrong};
use crate::evidence::Fact;
use crate::ident::{Generation, IssueId, OperationId, Timestamp};
use crate::lifecycle::{DiskCommand, VmCommand};
use crate::operation::{Subject, Verb};
use crate::words::words;

/// Bytes of a policy's message that are kept.
pub const MESSAGE_LENGTH_MAX: usize = 2048;
/// Bytes of a reason code.
pub const REASON_CODE_LENGTH_MAX: usize = 64;
/// Facts in a decision.
pub const DECISION_FACTS_MAX: usize = 32;
/// Milliseconds: a policy cannot ask to be asked again without pause.
pub const RECHECK_AFTER_MS_MIN: u64 = 100;
/// Milliseconds: a policy cannot put a case off for longer than a day.
pub const RECHECK_AFTER_MS_MAX: u64 = 24 * 60 * 60 * 1000;

words!(
    /// What can be done about an incoherence. An open vocabulary for policies: more may come.
    CandidateKind {
        VmRestart = "vm.restart",
        VmMarkStopped = "vm.mark-stopped",
        VmMarkRunning = "vm.mark-running",
        VmStop = "vm.stop",
        ProcessKill = "process.kill",
        DiskMarkMissing = "disk.mark-missing",
        DiskMarkAvailable = "disk.mark-available",
        DiskDetach = "disk.detach",
        FileQuarantine = "file.quarantine",
    }
);

impl CandidateKind {
    /// Something that cannot be had back is lost by it.
    pub fn is_destructive(self) -> bool {
        match self {
            Self::ProcessKill => true,
            Self::VmRestart
            | Self::VmMarkStopped
            | Self::VmMarkRunning
            | Self::VmStop
            | Self::DiskMarkMissing
            | Self::DiskMarkAvailable
            | Self::DiskDetach
            | Self::FileQuarantine => false,
        }
    }

    /// The candidate that becomes an operation of this verb; none if no repair does.
    pub fn of(verb: Verb) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| RepairCommand::from(*kind).verb() == verb)
    }

    /// An ordinary command takes it back.
    pub fn is_reversible(self) -> bool {
        match self {
            Self::VmMarkStopped
            | Self::VmMarkRunning
            | Self::DiskMarkMissing
            | Self::DiskMarkAvailable
            | Self::DiskDetach
            | Self::FileQuarantine => true,
            Self::VmRestart | Self::VmStop | Self::ProcessKill => false,
        }
    }
}

/// The ordinary command a candidate stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairCommand {
    Vm(VmCommand),
    Disk(DiskCommand),
    /// For a subject without a record; the verb says it all.
    Stray(Verb),
}

impl RepairCommand {
    pub fn verb(self) -> Verb {
        match self {
            Self::Vm(command) => command.verb(),
            Self::Disk(command) => command.verb(),
            Self::Stray(verb) => verb,
        }
    }
}

impl From<CandidateKind> for RepairCommand {
    fn from(candidate: CandidateKind) -> Self {
        match candidate {
            CandidateKind::VmRestart => Self::Vm(VmCommand::Restart),
            CandidateKind::VmMarkStopped => Self::Vm(VmCommand::MarkStopped),
            CandidateKind::VmMarkRunning => Self::Vm(VmCommand::MarkRunning),
            CandidateKind::VmStop => Self::Vm(VmCommand::StopStray),
            CandidateKind::ProcessKill => Self::Stray(Verb::ProcessKill),
            CandidateKind::DiskMarkMissing => Self::Disk(DiskCommand::MarkMissing),
            CandidateKind::DiskMarkAvailable => Self::Disk(DiskCommand::MarkAvailable),
            CandidateKind::DiskDetach => Self::Disk(DiskCommand::Detach),
            CandidateKind::FileQuarantine => Self::Stray(Verb::FileQuarantine),
        }
    }
}

/// One repair the host allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its position in the case.
    pub id: u32,
    pub kind: CandidateKind,
}

/// What may be done about `wrong`. Empty: only people can help.
pub fn candidates(wrong: &Wrong) -> Vec<Candidate> {
    let kinds: &[CandidateKind] = match wrong {
        Wrong::VmProcessMissing { .. } => &[CandidateKind::VmRestart, CandidateKind::VmMarkStopped],
        Wrong::VmProcessUnexpected { .. } => &[CandidateKind::VmMarkRunning, CandidateKind::VmStop],
        Wrong::VmControlLost { .. } | Wrong::VmGuestPanicked { .. } => &[CandidateKind::VmRestart],
        Wrong::ProcessOrphan { .. } => &[CandidateKind::ProcessKill],
        Wrong::DiskFileMissing { .. } => &[CandidateKind::DiskMarkMissing],
        Wrong::DiskAttachmentMismatch { holder: Some(_), .. } => {
            &[CandidateKind::DiskDetach, CandidateKind::DiskMarkAvailable]
        }
        Wrong::DiskAttachmentMismatch { holder: None, .. } => &[CandidateKind::DiskMarkAvailable],
        Wrong::DiskUnplugUnanswered { .. } => &[CandidateKind::DiskDetach],
        Wrong::FileOrphan { .. } => &[CandidateKind::FileQuarantine],
        Wrong::DeviceOrphan { .. } => &[],
    };
    (0..).zip(kinds).map(|(id, kind)| Candidate { id, kind: *kind }).collect()
}

/// What is done about a kind when no policy's answer can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SafeDefault {
    /// The issue stays open, told in the log, and the host is left alone.
    LogOnly,
}

/// The safe default of every kind.
pub fn safe_default(kind: Kind) -> SafeDefault {
    match kind {
        Kind::VmProcessMissing
        | Kind::VmProcessUnexpected
        | Kind::VmControlLost
        | Kind::VmGuestPanicked
        | Kind::ProcessOrphan
        | Kind::DiskFileMissing
        | Kind::DiskAttachmentMismatch
        | Kind::DiskUnplugUnanswered
        | Kind::FileOrphan
        | Kind::DeviceOrphan => SafeDefault::LogOnly,
    }
}

/// An incoherence with its history: the issue of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    pub id: IssueId,
    pub fingerprint: String,
    pub kind: Kind,
    pub severity: Severity,
    pub subject: Subject,
    pub generation: Option<Generation>,
    pub message: String,
    pub facts: Vec<Fact>,
    pub candidates: Vec<Candidate>,
    pub state: IssueState,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// Looks or wakes that found it.
    pub occurrences: u32,
    /// Not judged again before; a policy asked for it.
    pub recheck_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssueState {
    Open,
    /// A repair is under way.
    Repairing(OperationId),
    Resolved {
        at: Timestamp,
        how: Resolution,
    },
}

words!(
    Resolution {
        /// A later look no longer found it.
        ByItself = "by-itself",
        /// A repair ended well, and a later look no longer found it.
        ByRepair = "by-repair",
        /// Not repaired: its VM is recorded failed instead, e.g. as its repair budget was spent.
        GivenUp = "given-up",
    }
);

impl IssueState {
    /// The stable word in the API and the store.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Repairing(_) => "repairing",
            Self::Resolved { .. } => "resolved",
        }
    }
}

impl Issue {
    /// A new issue from what was found.
    pub fn new(id: IssueId, found: &Incoherence) -> Self {
        Self {
            id,
            fingerprint: found.wrong.fingerprint(),
            kind: found.wrong.kind(),
            severity: found.wrong.severity(),
            subject: found.wrong.subject(),
            generation: found.wrong.generation(),
            message: found.wrong.message(),
            facts: found.wrong.facts(),
            candidates: candidates(&found.wrong),
            state: IssueState::Open,
            first_seen: found.seen_at,
            last_seen: found.seen_at,
            occurrences: 1,
            recheck_at: None,
        }
    }

    /// The same problem, found once more.
    pub fn recur(&mut self, found: &Incoherence) {
        self.generation = found.wrong.generation();
        self.message = found.wrong.message();
        self.facts = found.wrong.facts();
        self.candidates = candidates(&found.wrong);
        self.last_seen = found.seen_at;
        self.occurrences = self.occurrences.saturating_add(1);
    }
}

/// What a policy is told beside the issue: the only time and randomness it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub now: Timestamp,
    pub seed: u64,
    pub backend: String,
    /// Recent tries on this fingerprint, oldest first.
    pub attempts: Vec<Attempt>,
    pub facts: Vec<Fact>,
}

/// One earlier repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub candidate: String,
    pub at: Timestamp,
    pub succeeded: bool,
    pub message: String,
}

impl Attempt {
    /// From an ended operation that was a repair; `error` if it failed.
    pub fn new(verb: Verb, at: Timestamp, error: Option<String>) -> Self {
        let candidate = CandidateKind::of(verb).map_or(verb.word(), CandidateKind::word);
        let candidate = candidate.to_owned();
        Self { candidate, at, succeeded: error.is_none(), message: error.unwrap_or_default() }
    }
}

words!(
    /// Frozen: policies know exactly these.
    Verdict {
        Repair = "repair",
        /// Not now; ask again.
        Hold = "hold",
        /// Leave it as it is.
        Ignore = "ignore",
        /// People must see it.
        Escalate = "escalate",
        /// Not mine: ask the next policy.
        Abstain = "abstain",
    }
);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// Candidate ids, in order.
    pub chosen: Vec<u32>,
    pub recheck_after_ms: Option<u64>,
    /// Stable, for metrics.
    pub reason_code: String,
    /// For people.
    pub message: String,
    /// For the audit.
    pub facts: Vec<Fact>,
}

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidDecision {
    #[error("it chose candidate {0}, which the case does not have")]
    UnknownCandidate(u32),
    #[error("it chose candidate {0} twice")]
    ChosenTwice(u32),
    #[error("its verdict is repair, and it chose no candidate")]
    NothingChosen,
    #[error("its verdict is {0}, and it chose a candidate")]
    ChosenWithoutRepair(&'static str),
    #[error("its {what} is {length} long, and the limit is {max}")]
    TooLong { what: &'static str, length: usize, max: usize },
}

impl Decision {
    /// Holds a policy's answer against the case it was given.
    pub fn check(&self, issue: &Issue) -> Result<(), InvalidDecision> {
        for (position, id) in self.chosen.iter().enumerate() {
            if !issue.candidates.iter().any(|candidate| candidate.id == *id) {
                return Err(InvalidDecision::UnknownCandidate(*id));
            }
            if self.chosen[..position].contains(id) {
                return Err(InvalidDecision::ChosenTwice(*id));
            }
        }
        match (self.verdict, self.chosen.is_empty()) {
            (Verdict::Repair, true) => return Err(InvalidDecision::NothingChosen),
            (Verdict::Repair, false) => {}
            (Verdict::Hold | Verdict::Ignore | Verdict::Escalate | Verdict::Abstain, true) => {}
            (Verdict::Hold | Verdict::Ignore | Verdict::Escalate | Verdict::Abstain, false) => {
                return Err(InvalidDecision::ChosenWithoutRepair(self.verdict.word()));
            }
        }
        within("message", self.message.len(), MESSAGE_LENGTH_MAX)?;
        within("reason-code", self.reason_code.len(), REASON_CODE_LENGTH_MAX)?;
        within("list of facts", self.facts.len(), DECISION_FACTS_MAX)
    }
}

fn within(what: &'static str, length: usize, max: usize) -> Result<(), InvalidDecision> {
    if length > max { Err(InvalidDecision::TooLong { what, length, max }) } else { Ok(()) }
}

words!(
    /// Whether a policy's answers are acted on.
    Mode {
        Enforce = "enforce",
        /// Judged and recorded, never acted on.
        Shadow = "shadow",
        Off = "off",
    }
);

/// One policy's answer to one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub policy: String,
    /// SHA-256 of the component, in hexadecimal.
    pub policy_hash: String,
    pub mode: Mode,
    pub outcome: Result<Decision, JudgeFailure>,
    /// Units of fuel the guest used.
    pub fuel: u64,
    pub duration_us: u64,
}

/// Why a policy gave no usable answer. The text is one line for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind}: {message}", kind = .kind.word())]
pub struct JudgeFailure {
    pub kind: JudgeFailureKind,
    pub message: String,
    /// Where the guest was; for the audit alone.
    pub trace: Option<String>,
}

words!(
    JudgeFailureKind {
        /// The guest's code gave up: a panic, a bad access.
        Trap = "trap",
        /// It used up its fuel.
        Fuel = "fuel",
        /// It ran for too long.
        Deadline = "deadline",
        /// It asked for more memory than it may have.
        Memory = "memory",
        /// More data crossed the border than may.
        Oversized = "oversized",
        /// It answered with something it may not choose.
        Invalid = "invalid",
        /// It answered with an error of its own.
        Declined = "declined",
        /// It could not be instantiated.
        Load = "load",
    }
);

/// What is to be done about an issue, after every policy has been asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// Carry out these candidates, in order.
    Repair { policy: String, chosen: Vec<CandidateKind> },
    /// Leave it; ask again after so many milliseconds, if given.
    Leave { recheck_after_ms: Option<u64>, why: Leave },
}

/// Why an issue is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    Held,
    Ignored,
    Escalated {
        message: String,
    },
    /// No enforced policy had an answer: [`safe_default`].
    NobodyAnswered,
    /// A policy failed: [`safe_default`].
    PolicyFailed {
        policy: String,
        failure: JudgeFailure,
    },
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held => f.write_str("held"),
            Self::Ignored => f.write_str("ignored"),
            Self::Escalated { message } => write!(f, "escalated: {message}"),
            Self::NobodyAnswered => f.write_str("no policy answered: the safe default applies"),
            Self::PolicyFailed { policy, failure } => {
                write!(f, "policy {policy} failed ({failure}): the safe default applies")
            }
        }
    }
}

/// Settles a chain: the first enforced answer that is not `abstain`. A failure counts as an answer,
/// so that a broken policy cannot hand its cases to a bolder one behind it.
pub fn rule(issue: &Issue, judgements: &[Judgement]) -> Ruling {
    for judgement in judgements.iter().filter(|judgement| judgement.mode == Mode::Enforce) {
        let decision = match &judgement.outcome {
            Ok(decision) => decision,
            Err(failure) => {
                let policy = judgement.policy.clone();
                let why = Leave::PolicyFailed { policy, failure: failure.clone() };
                return Ruling::Leave { recheck_after_ms: None, why };
            }
        };
        let recheck = decision
            .recheck_after_ms
            .map(|after| after.clamp(RECHECK_AFTER_MS_MIN, RECHECK_AFTER_MS_MAX));
        let leave = |why| Ruling::Leave { recheck_after_ms: recheck, why };
        return match decision.verdict {
            Verdict::Abstain => continue,
            Verdict::Repair => Ruling::Repair {
                policy: judgement.policy.clone(),
                chosen: chosen_kinds(issue, decision),
            },
            Verdict::Hold => leave(Leave::Held),
            Verdict::Ignore => leave(Leave::Ignored),
            Verdict::Escalate => leave(Leave::Escalated { message: decision.message.clone() }),
        };
    }
    Ruling::Leave { recheck_after_ms: None, why: Leave::NobodyAnswered }
}

fn chosen_kinds(issue: &Issue, decision: &Decision) -> Vec<CandidateKind> {
    let kind_of = |id: &u32| issue.candidates.iter().find(|candidate| candidate.id == *id);
    decision.chosen.iter().filter_map(kind_of).map(|candidate| candidate.kind).collect()
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
