//! Holds the state machine against its whole table, and against random sequences of commands.

use std::net::Ipv4Addr;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::disk::{Bus, Disk, DiskState, ImageFormat};
use crate::ident::{DiskId, Generation, OperationId, Timestamp};
use crate::network::{Lease, Mac};
use crate::operation::{Effect, Operation, OperationState, Reason, StepState, Subject};
use crate::vm::{Machine, Vm, VmState};

fn states() -> Vec<VmState> {
    VmState::WORDS
        .iter()
        .map(|word| VmState::from_word(word, Some("broken")).expect("a word of WORDS"))
        .collect()
}

/// One line per state, one column per command in the order of [`VmCommand::ALL`]: start, stop,
/// restart, kill, pause, resume, reset, delete, autostart, mark-stopped, mark-running, stop-stray,
/// guest-ended. The next state, `=` for already so, or the code of the denial.
const TABLE: [(&str, &str); 7] = [
    (
        "stopped",
        "starting = not-running = not-running not-running not-running deleting = = starting \
         stopping =",
    ),
    (
        "starting",
        "= stopping being-started stopping being-started being-started being-started deleting = \
         being-started being-started being-started being-started",
    ),
    (
        "running",
        "= stopping starting stopping running running running deleting starting stopping = \
         running stopping",
    ),
    (
        "paused",
        "paused stopping starting stopping paused paused paused deleting starting stopping \
         starting paused stopping",
    ),
    (
        "stopping",
        "being-stopped = being-stopped stopping being-stopped being-stopped being-stopped \
         deleting = being-stopped being-stopped being-stopped =",
    ),
    (
        "failed",
        "starting stopping starting stopping failed failed failed deleting failed stopping \
         starting stopping stopping",
    ),
    (
        "deleting",
        "being-deleted being-deleted being-deleted being-deleted being-deleted being-deleted \
         being-deleted = being-deleted being-deleted being-deleted being-deleted being-deleted",
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
        let row: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(row.len(), VmCommand::ALL.len());
        for (command, expected) in VmCommand::ALL.into_iter().zip(row) {
            assert_eq!(outcome(state, command), expected, "{word} × {command:?}");
        }
    }
}

#[test]
fn a_vm_that_got_its_wish_is_in_a_state_in_which_the_wish_is_granted() {
    for state in states() {
        for command in VmCommand::ALL {
            let Ok(Some(transition)) = decide_vm(&state, command) else { continue };
            let vm = vm_in(transition.next);
            match vm_end(&vm, command.verb(), &Outcome::Succeeded).expect("a verb of VMs") {
                VmEnd::State(done) => {
                    let again = decide_vm(&done, command);
                    let granted = !matches!(again, Ok(Some(_))) || command == VmCommand::Restart;
                    // A stray that was ended is a stopped VM, whose stray can be ended again.
                    let repeatable = [
                        VmCommand::StopStray,
                        VmCommand::Autostart,
                        VmCommand::Pause,
                        VmCommand::Resume,
                    ];
                    assert!(granted || repeatable.contains(&command), "{state:?} {command:?}");
                }
                VmEnd::Kept => assert_eq!((command, &vm.state), (VmCommand::Reset, &state)),
                VmEnd::Gone => assert_eq!(command, VmCommand::Delete),
            }
        }
    }
}

#[test]
fn a_machine_that_would_not_be_paused_resumed_or_reset_is_what_it_was() {
    let failed = Outcome::Failed("no answer".to_owned());
    for (before, command) in [
        (VmState::Running, VmCommand::Pause),
        (VmState::Running, VmCommand::Resume),
        (VmState::Paused, VmCommand::Pause),
        (VmState::Paused, VmCommand::Resume),
        (VmState::Running, VmCommand::Reset),
        (VmState::Paused, VmCommand::Reset),
    ] {
        let next = decide_vm(&before, command).ok().flatten().expect("let in").next;
        let after = match vm_end(&vm_in(next.clone()), command.verb(), &failed) {
            Some(VmEnd::State(state)) => state,
            Some(VmEnd::Kept) => next,
            other @ (Some(VmEnd::Gone) | None) => panic!("{other:?}"),
        };
        assert_eq!(after, before, "{command:?}");
    }
    let end = vm_end(&vm_in(VmState::Starting), Verb::VmStart, &failed);
    assert!(matches!(end, Some(VmEnd::State(VmState::Failed(_)))), "{end:?}");
}

#[test]
fn every_step_that_makes_something_names_its_undo_or_outlives_failure_on_purpose() {
    for state in states() {
        for command in VmCommand::ALL {
            let Ok(Some(transition)) = decide_vm(&state, command) else { continue };
            for step in transition.steps {
                match step.effect {
                    Effect::PrepareDisks | Effect::ConnectNetwork | Effect::Launch => {
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
                    | Effect::Pause
                    | Effect::Resume
                    | Effect::Reset => assert_eq!(step.undo, None),
                    Effect::DiscardNewDisks
                    | Effect::CreateImage
                    | Effect::ResizeImage
                    | Effect::AttachDisk
                    | Effect::DetachDisk
                    | Effect::DeleteImage
                    | Effect::QuarantineFile => panic!("{:?} is no step of a VM", step.effect),
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
        let end = vm_end(&vm_in(state), Verb::VmDelete, &Outcome::Succeeded);
        assert_eq!(end, Some(VmEnd::Gone));
    }
}

fn vm_in(state: VmState) -> Vm {
    let id = VmId(Uuid::from_u128(1));
    Vm {
        id,
        name: None,
        template: "small".parse().expect("valid"),
        state,
        autostart: false,
        generation: Generation::FIRST,
        machine: None,
        lease: Lease { address: Ipv4Addr::new(10, 0, 0, 2), mac: Mac::of(id) },
        created_at: Timestamp(1),
        updated_at: Timestamp(1),
    }
}

/// Of 2 GiB.
fn disk_in(state: DiskState, vm: Option<VmId>) -> Disk {
    Disk {
        id: DiskId(Uuid::from_u128(2)),
        size_gib: 2,
        format: ImageFormat::Qcow2,
        bus: Bus::VirtioScsi,
        state,
        mount_point: None,
        vm,
        generation: Generation::FIRST,
        created_at: Timestamp(1),
        updated_at: Timestamp(1),
    }
}

fn disk_states() -> Vec<DiskState> {
    [
        "creating",
        "available",
        "attaching",
        "attached",
        "detaching",
        "resizing",
        "missing",
        "failed",
        "deleting",
    ]
    .iter()
    .map(|word| DiskState::from_word(word, Some("broken"), Some(9)).expect("a word of a state"))
    .collect()
}

/// One line per state, whether a VM holds it, and the state of the VM concerned. One column per
/// command: attach to that VM, detach, resize to 9 GiB, delete, released, mark-missing,
/// mark-available. The next state, `=` for already so, or the code of the denial.
const DISKS: [(&str, bool, &str, &str); 19] = [
    ("creating", false, "stopped", BEING_CREATED),
    ("available", false, "stopped", "attached = resizing deleting = missing ="),
    ("available", false, "running", "attaching = resizing deleting = missing ="),
    ("available", false, "paused", "attaching = resizing deleting = missing ="),
    ("available", false, "starting", "vm-in-transition = vm-in-transition deleting = missing ="),
    ("available", true, "stopped", "attached available resizing attached = missing available"),
    ("attached", true, "stopped", "= available resizing attached attached missing available"),
    ("attached", true, "running", "= detaching resizing attached attached missing held"),
    ("attached", true, "paused", "= detaching resizing attached attached missing held"),
    ("attached", true, "failed", "= detaching resizing attached attached missing held"),
    (
        "attached",
        true,
        "stopping",
        "= vm-in-transition vm-in-transition attached attached missing vm-in-transition",
    ),
    ("attaching", true, "running", BEING_MOVED),
    (
        "detaching",
        true,
        "running",
        "being-moved detaching being-moved being-moved available being-moved being-moved",
    ),
    ("resizing", true, "running", BEING_RESIZED),
    ("missing", false, "stopped", "image-missing missing image-missing deleting = = available"),
    ("missing", true, "stopped", "image-missing missing image-missing attached = = attached"),
    ("missing", true, "running", "image-missing held image-missing attached = = attached"),
    ("failed", false, "stopped", "failed failed failed deleting failed failed failed"),
    (
        "deleting",
        false,
        "stopped",
        "being-deleted being-deleted being-deleted = being-deleted being-deleted being-deleted",
    ),
];
const BEING_CREATED: &str = "being-created being-created being-created being-created \
    being-created being-created being-created";
const BEING_MOVED: &str =
    "being-moved being-moved being-moved being-moved being-moved being-moved being-moved";
const BEING_RESIZED: &str = "being-resized being-resized being-resized being-resized \
    being-resized being-resized being-resized";

#[test]
fn every_disk_meets_every_command_with_the_outcome_of_the_table() {
    let holder = VmId(Uuid::from_u128(1));
    let commands = [
        DiskCommand::Attach(holder),
        DiskCommand::Detach,
        DiskCommand::Resize(9),
        DiskCommand::Delete,
        DiskCommand::Released,
        DiskCommand::MarkMissing,
        DiskCommand::MarkAvailable,
    ];
    for (state, held, vm_state, row) in DISKS {
        let disk_state =
            DiskState::from_word(state, Some("broken"), Some(9)).expect("a word of a state");
        let disk = disk_in(disk_state, held.then_some(holder));
        let vm_state = VmState::from_word(vm_state, Some("broken"));
        let row: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(row.len(), commands.len(), "{state}");
        for (command, expected) in commands.into_iter().zip(row) {
            let outcome = match decide_disk(&disk, vm_state.as_ref(), command) {
                Ok(Some(transition)) => transition.next.word(),
                Ok(None) => "=",
                Err(denied) => denied.code(),
            };
            assert_eq!(outcome, expected, "{state}, held {held}, {vm_state:?} × {command:?}");
        }
    }
    let told: Vec<&str> = DISKS.iter().map(|(state, ..)| *state).collect();
    assert!(disk_states().iter().all(|state| told.contains(&state.word())));
}

#[test]
fn a_disk_held_by_one_vm_is_not_given_to_another_and_never_shrinks() {
    let other = VmId(Uuid::from_u128(7));
    let held = disk_in(DiskState::Attached, Some(VmId(Uuid::from_u128(1))));
    let stopped = Some(&VmState::Stopped);
    let decide = |command| decide_disk(&held, stopped, command).map(|let_in| let_in.is_some());
    assert_eq!(decide(DiskCommand::Attach(other)), Err(Denied::AttachedElsewhere));
    assert_eq!(decide(DiskCommand::Resize(1)), Err(Denied::Smaller));
    assert_eq!(decide(DiskCommand::Resize(2)), Ok(false));
}

#[test]
fn only_a_refusal_gives_a_disk_back_that_the_guest_was_asked_for() {
    let holder = Some(VmId(Uuid::from_u128(1)));
    let asked = disk_in(DiskState::Detaching, holder);
    let text = || "why".to_owned();
    for (outcome, state, vm) in [
        (Outcome::Succeeded, DiskState::Available, None),
        (Outcome::Refused(text()), DiskState::Attached, holder),
        (Outcome::LeftToTheGuest(text()), DiskState::Detaching, holder),
        (Outcome::Failed(text()), DiskState::Detaching, holder),
        (Outcome::Cancelled(text()), DiskState::Detaching, holder),
    ] {
        let end = disk_end(&asked, Verb::DiskDetach, &outcome);
        assert_eq!(end, Some(DiskEnd::Is { state, vm, size_gib: 2 }), "{outcome:?}");
    }
}

#[test]
fn a_disk_has_its_new_size_only_once_it_was_made_so_large() {
    let growing = disk_in(DiskState::Resizing(9), None);
    let end = |outcome| disk_end(&growing, Verb::DiskResize, &outcome);
    let is = |size_gib| Some(DiskEnd::Is { state: DiskState::Available, vm: None, size_gib });
    assert_eq!(end(Outcome::Succeeded), is(9));
    assert_eq!(end(Outcome::Failed("no room".to_owned())), is(2));
}

#[test]
fn an_attachment_that_failed_leaves_the_disk_to_others() {
    let coming = disk_in(DiskState::Attaching, Some(VmId(Uuid::from_u128(1))));
    let end = disk_end(&coming, Verb::DiskAttach, &Outcome::Failed("locked".to_owned()));
    let expected = DiskEnd::Is { state: DiskState::Available, vm: None, size_gib: 2 };
    assert_eq!(end, Some(expected));
}

fn start_in(done: usize, state: OperationState) -> Operation {
    let steps = decide_vm(&VmState::Running, VmCommand::Restart);
    let mut steps = steps.ok().flatten().expect("let in").steps;
    steps.iter_mut().take(done).for_each(|step| step.state = StepState::Done);
    let id = VmId(Uuid::from_u128(1));
    Operation {
        id: OperationId(Uuid::from_u128(3)),
        subject: Subject::Vm(id),
        verb: Verb::VmRestart,
        reason: Reason::User,
        state,
        turn_of: None,
        cancel_requested: false,
        steps,
        created_at: Timestamp(1),
        ended_at: None,
    }
}

#[test]
fn what_only_waits_or_can_be_undone_may_be_cancelled_and_nothing_that_has_ended() {
    for done in 0..=4 {
        assert_eq!(may_cancel(&start_in(done, OperationState::Running)), Ok(()), "{done} done");
    }
    let mut undone = start_in(2, OperationState::Running);
    undone.steps[3].state = StepState::Failed;
    assert_eq!(may_cancel(&undone), Err(NotCancellable::Begun(Verb::VmRestart)), "being undone");
    let all_done = may_cancel(&start_in(5, OperationState::Running));
    assert_eq!(all_done, Err(NotCancellable::Begun(Verb::VmRestart)));
    let ended = may_cancel(&start_in(5, OperationState::Succeeded));
    assert_eq!(ended, Err(NotCancellable::Ended));
    let mut short = start_in(0, OperationState::Pending);
    short.verb = Verb::VmKill;
    assert_eq!(may_cancel(&short), Err(NotCancellable::Short(Verb::VmKill)));
}

#[test]
fn a_cancelled_operation_leaves_a_vm_as_its_machine_is() {
    let cancelled = Outcome::Cancelled("by a request".to_owned());
    let mut vm = vm_in(VmState::Stopping);
    let end = |vm: &Vm| vm_end(vm, Verb::VmStop, &cancelled);
    assert_eq!(end(&vm), Some(VmEnd::State(VmState::Stopped)));
    vm.machine = Some(Machine { backend: "test".to_owned(), process: None });
    assert_eq!(end(&vm), Some(VmEnd::State(VmState::Running)));
}

proptest! {
    #[test]
    fn repeating_a_command_before_it_is_done_never_does_more(
        start in 0..7usize,
        commands in prop::collection::vec(0..VmCommand::ALL.len(), 1..20),
    ) {
        let mut state = states().swap_remove(start);
        for index in commands {
            let command = VmCommand::ALL[index];
            let Ok(Some(transition)) = decide_vm(&state, command) else { continue };
            // A kill may hang behind a wedged machine. Of the others it is the host that knows
            // whether they were done.
            let repeats =
                [VmCommand::Kill, VmCommand::Pause, VmCommand::Resume, VmCommand::Reset];
            if let Ok(Some(again)) = decide_vm(&transition.next, command) {
                prop_assert!(repeats.contains(&command));
                prop_assert_eq!(&again.next, &transition.next);
            }
            match vm_end(&vm_in(transition.next.clone()), command.verb(), &Outcome::Succeeded) {
                Some(VmEnd::State(done)) => state = done,
                Some(VmEnd::Kept) | None => state = transition.next,
                Some(VmEnd::Gone) => break,
            }
        }
    }

    #[test]
    fn a_deleted_vm_never_comes_back(
        commands in prop::collection::vec(0..VmCommand::ALL.len(), 1..20),
    ) {
        let state = VmState::Deleting;
        for index in commands {
            let decided = decide_vm(&state, VmCommand::ALL[index]);
            let moves = matches!(decided, Ok(Some(_)));
            prop_assert!(!moves);
        }
    }
}

#[test]
fn only_a_kill_or_a_deletion_cuts_short_and_only_what_waits_for_a_machine() {
    for verb in Verb::ALL {
        let ends = matches!(verb, Verb::VmKill | Verb::VmDelete);
        assert_eq!(cuts_short(*verb, Effect::PowerOff), ends, "{}", verb.word());
        assert_eq!(cuts_short(*verb, Effect::DetachDisk), ends, "{}", verb.word());
        for effect in [Effect::End, Effect::Kill, Effect::CreateImage, Effect::RemoveDirectory] {
            assert!(!cuts_short(*verb, effect), "{} {}", verb.word(), effect.word());
        }
    }
}
