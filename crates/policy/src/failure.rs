//! From what the runtime says of a call that did not end well to a typed failure with one line for
//! people. The symbolised trace goes beside the line, for the audit.

use vman_core::repair::{InvalidDecision, JudgeFailure, JudgeFailureKind};
use wasmtime::{Error, Trap};

use crate::limits::{
    COPIED_BYTES_MAX, DEADLINE, FAILURE_LENGTH_MAX, FUEL_MAX, GUEST_STACK_SIZE, MEMORY_MAX,
    TRACE_LENGTH_MAX,
};
use crate::text::{cut, one_line, thousands};

/// The runtime has no type for this error, only these words.
const COPIED_TOO_MUCH: &str = "fuel allocated for hostcalls has been exhausted";

/// How far a call had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Instantiating,
    Called,
}

/// The failure that `error` stands for.
pub(crate) fn of_call(error: &Error, stage: Stage, was_refused_memory: bool) -> JudgeFailure {
    let (kind, message) = classify(error, stage, was_refused_memory);
    let trace = Some(cut(format!("{error:?}"), TRACE_LENGTH_MAX));
    JudgeFailure { kind, message: one_line(&message, FAILURE_LENGTH_MAX), trace }
}

fn classify(error: &Error, stage: Stage, was_refused_memory: bool) -> (JudgeFailureKind, String) {
    let trap = error.downcast_ref::<Trap>().copied();
    if trap == Some(Trap::OutOfFuel) {
        let fuel = thousands(FUEL_MAX);
        return (
            JudgeFailureKind::Fuel,
            format!("it used up its {fuel} units of fuel (an endless loop?)"),
        );
    }
    if trap == Some(Trap::Interrupt) {
        let deadline = DEADLINE.as_millis();
        return (
            JudgeFailureKind::Deadline,
            format!("it ran for longer than {deadline} ms (an endless loop, or a busy host?)"),
        );
    }
    if was_refused_memory {
        let memory = MEMORY_MAX >> 20;
        return (
            JudgeFailureKind::Memory,
            format!("it asked for more than its {memory} MiB of memory and gave up"),
        );
    }
    if trap == Some(Trap::StackOverflow) {
        let stack = GUEST_STACK_SIZE >> 10;
        return (
            JudgeFailureKind::Trap,
            format!("it used up its {stack} KiB of stack (an endless recursion?)"),
        );
    }
    if let Some(trap) = trap {
        let hint = if trap == Trap::UnreachableCodeReached { " (a panic?)" } else { "" };
        return (JudgeFailureKind::Trap, format!("its code trapped: {trap}{hint}"));
    }
    let root = error.root_cause().to_string();
    if root.contains(COPIED_TOO_MUCH) {
        let copied = COPIED_BYTES_MAX >> 10;
        return (
            JudgeFailureKind::Oversized,
            format!("it handed over more than {copied} KiB at once"),
        );
    }
    match stage {
        Stage::Instantiating => {
            (JudgeFailureKind::Load, format!("it could not be instantiated: {root}"))
        }
        Stage::Called => {
            (JudgeFailureKind::Invalid, format!("what it handed over cannot be read: {root}"))
        }
    }
}

/// It answered with an error of its own.
pub(crate) fn declined(message: &str) -> JudgeFailure {
    plain(JudgeFailureKind::Declined, message)
}

/// It chose what it may not.
pub(crate) fn invalid(reason: &InvalidDecision) -> JudgeFailure {
    plain(JudgeFailureKind::Invalid, &reason.to_string())
}

/// The host itself failed.
pub(crate) fn not_asked() -> JudgeFailure {
    plain(
        JudgeFailureKind::Load,
        "it could not be asked: vman's own code failed while it was, which is a fault of vman",
    )
}

fn plain(kind: JudgeFailureKind, message: &str) -> JudgeFailure {
    JudgeFailure { kind, message: one_line(message, FAILURE_LENGTH_MAX), trace: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(error: Error, stage: Stage, was_refused_memory: bool) -> JudgeFailureKind {
        of_call(&error, stage, was_refused_memory).kind
    }

    #[test]
    fn every_way_to_fail_has_a_kind_of_its_own() {
        use Stage::{Called, Instantiating};
        let trapped = || Error::from(Trap::UnreachableCodeReached);
        assert_eq!(kind(Trap::OutOfFuel.into(), Called, false), JudgeFailureKind::Fuel);
        assert_eq!(kind(Trap::OutOfFuel.into(), Instantiating, true), JudgeFailureKind::Fuel);
        assert_eq!(kind(Trap::Interrupt.into(), Called, true), JudgeFailureKind::Deadline);
        assert_eq!(kind(trapped(), Called, true), JudgeFailureKind::Memory);
        assert_eq!(kind(trapped(), Called, false), JudgeFailureKind::Trap);
        let other = || Error::msg("no room");
        assert_eq!(kind(other(), Instantiating, false), JudgeFailureKind::Load);
        assert_eq!(kind(other(), Instantiating, true), JudgeFailureKind::Memory);
        assert_eq!(kind(other(), Called, false), JudgeFailureKind::Invalid);
    }

    #[test]
    fn a_message_is_one_line_whatever_the_guest_said() {
        let failure = declined("line one\nERROR | forged");
        assert_eq!(failure.to_string(), "declined: line one ERROR | forged");
    }
}
