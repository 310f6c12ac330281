//! Holds the state machine against its whole table, and against random sequences of commands.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::vm::FailureReason;

fn states() -> Vec<VmState> {
    VmState::WORDS
        .iter()
        .map(|word| VmState::from_word(word, Some("broken")).expect("a word of WORDS"))
        .collect()
}

/// One line per state, one column per command in the order of [`VmCommand::ALL`]: the next state,
/// `=` for already so, or the code of the denial.
const TABLE: [(&str, [&str; 9]); 7] = [
    (
        "stopped",
        ["starting", "=", "not-running", "=", "deleting", "=", "starting", "stopping", "="],
    ),
    (
        "starting",
        [
            "=",
            "stopping",
            "being-started",
            "stopping",
            "deleting",
            "being-started",
            "being-started",
            "being-started",
            "being-started",
        ],
    ),
    (
        "running",
        [
            "=", "stopping", "starting", "stopping", "deleting", "stopping", "=", "running",
            "stopping",
        ],
    ),
    (
        "paused",
        [
            "paused", "stopping", "starting", "stopping", "deleting", "stopping", "starting",
            "paused", "stopping",
        ],
    ),
    (
        "stopping",
        [
            "being-stopped",
            "=",
            "being-stopped",
            "stopping",
            "deleting",
            "being-stopped",
            "being-stopped",
            "being-stopped",
            "=",
        ],
    ),
    (
        "failed",
        [
            "starting", "stopping", "starting", "stopping", "deleting", "stopping", "starting",
            "stopping", "stopping",
        ],
    ),
    (
        "deleting",
        [
            "being-deleted",
            "being-deleted",
            "being-deleted",
            "being-deleted",
            "=",
            "being-deleted",
            "being-deleted",
            "being-deleted",
            "being-deleted",
        ],
    ),
];

fn outcome(state: &VmState, command: VmCommand) -> &'static str {
    match decide_vm(state, command) {
        Ok(Some(transition)) => transition.next.word(),
        Ok(None) => "=",
        Err(denied) => denied.code(),
    }
}

#[test]
fn every_pair_of_state_and_command_has_the_outcome_of_the_table() {
    assert_eq!(TABLE.map(|(state, _)| state), VmState::WORDS);
    for (state, (word, row)) in states().iter().zip(TABLE) {
        for (command, expected) in VmCommand::ALL.into_iter().zip(row) {
            assert_eq!(outcome(state, command), expected, "{word} × {command:?}");
        }
    }
}

#[test]
fn where_a_command_ends_depends_on_its_verb_alone() {
    for state in states() {
        for command in VmCommand::ALL {
            let Ok(Some(transition)) = decide_vm(&state, command) else { continue };
            assert_eq!(Some(transition.done), vm_end(command.verb()), "{state:?} {command:?}");
        }
    }
}

#[test]
fn every_step_that_makes_something_names_its_undo_or_outlives_failure_on_purpose() {
    for state in states() {
        for command in VmCommand::ALL {
            let Ok(Some(transition)) = decide_vm(&state, command) else { continue };
            for step in transition.steps {
                match step.effect {
                    Effect::ConnectNetwork | Effect::Launch | Effect::CreateImage => {
                        assert!(step.undo.is_some(), "{:?}", step.effect);
                    }
                    // The directory holds the log that says why a start failed.
                    Effect::PrepareDirectory
                    | Effect::DisconnectNetwork
                    | Effect::Adopt
                    | Effect::PowerOff
                    | Effect::End
                    | Effect::Kill
                    | Effect::RemoveDirectory
                    | Effect::DeleteImage
                    | Effect::QuarantineFile => assert_eq!(step.undo, None),
                }
            }
        }
    }
}

#[test]
fn a_machine_is_ended_before_its_directory_goes() {
    for state in states() {
        let Ok(Some(transition)) = decide_vm(&state, VmCommand::Delete) else { continue };
        let effects: Vec<Effect> = transition.steps.iter().map(|step| step.effect).collect();
        assert!(matches!(effects[0], Effect::PowerOff | Effect::End), "{state:?}");
        assert_eq!(effects.last(), Some(&Effect::RemoveDirectory));
        assert_eq!(transition.done, Done::Gone);
    }
}

/// A disk state, its holder, the state of the VM concerned, and what each command then leads to.
#[test]
fn disks_move_only_between_vms_at_rest() {
    let vm = VmId(Uuid::from_u128(1));
    let other = VmId(Uuid::from_u128(2));
    let attach = DiskCommand::Attach(vm);
    let running = Some(&VmState::Running);
    let stopped = Some(&VmState::Stopped);
    let decide = |state: &DiskState, holder, vm_state, command| {
        decide_disk(state, holder, vm_state, command)
            .map(|transition| transition.map(|transition| transition.next))
    };
    let cases = [
        (DiskState::Available, None, stopped, attach, Ok(Some(DiskState::Attached))),
        (DiskState::Available, None, running, attach, Err(Denied::VmNotStopped)),
        (DiskState::Available, None, None, DiskCommand::Detach, Ok(None)),
        (DiskState::Attached, Some(vm), stopped, attach, Ok(None)),
        (DiskState::Attached, Some(other), stopped, attach, Err(Denied::AttachedElsewhere)),
        (
            DiskState::Attached,
            Some(vm),
            stopped,
            DiskCommand::Detach,
            Ok(Some(DiskState::Available)),
        ),
        (DiskState::Attached, Some(vm), running, DiskCommand::Detach, Err(Denied::VmNotStopped)),
        (DiskState::Attached, Some(vm), stopped, DiskCommand::Delete, Err(Denied::Attached)),
        (DiskState::Available, None, None, DiskCommand::Delete, Ok(Some(DiskState::Deleting))),
        (DiskState::Missing, None, None, DiskCommand::Delete, Ok(Some(DiskState::Deleting))),
        (DiskState::Missing, None, stopped, attach, Err(Denied::ImageMissing)),
        (DiskState::Creating, None, None, DiskCommand::Delete, Err(Denied::BeingCreated)),
        (DiskState::Deleting, None, None, DiskCommand::Delete, Ok(None)),
        (
            DiskState::Missing,
            Some(vm),
            stopped,
            DiskCommand::MarkAvailable,
            Ok(Some(DiskState::Attached)),
        ),
        (
            DiskState::Failed(FailureReason("x".to_owned())),
            None,
            stopped,
            attach,
            Err(Denied::Failed),
        ),
    ];
    for (state, holder, vm_state, command, expected) in cases {
        assert_eq!(decide(&state, holder, vm_state, command), expected, "{state:?} {command:?}");
    }
}

proptest! {
    #[test]
    fn repeating_a_command_before_it_is_done_never_does_more(
        start in 0..7usize,
        commands in prop::collection::vec(0..9usize, 1..20),
    ) {
        let mut state = states().swap_remove(start);
        for index in commands {
            let command = VmCommand::ALL[index];
            let Ok(Some(transition)) = decide_vm(&state, command) else { continue };
            // Kill may be repeated: the first may hang behind a wedged machine.
            if let Ok(Some(again)) = decide_vm(&transition.next, command) {
                prop_assert_eq!(command, VmCommand::Kill);
                prop_assert_eq!(again.next, transition.next);
            }
            match transition.done {
                Done::State(done) => state = done,
                Done::Gone => break,
            }
        }
    }

    #[test]
    fn a_deleted_vm_never_comes_back(commands in prop::collection::vec(0..9usize, 1..20)) {
        let state = VmState::Deleting;
        for index in commands {
            let decided = decide_vm(&state, VmCommand::ALL[index]);
            let moves = matches!(decided, Ok(Some(_)));
            prop_assert!(!moves);
        }
    }
}

#[test]
fn only_a_kill_or_a_deletion_cuts_short_and_only_the_wait_for_a_guest() {
    for verb in Verb::ALL {
        for effect in Effect::ALL {
            let expected =
                *effect == Effect::PowerOff && matches!(verb, Verb::VmKill | Verb::VmDelete);
            assert_eq!(cuts_short(*verb, *effect), expected, "{} {}", verb.word(), effect.word());
        }
    }
}
