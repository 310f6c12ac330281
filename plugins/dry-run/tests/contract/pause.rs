//! Guests that are halted, let go on and reset, and how a machine's end is told afterwards.

use std::slice::from_ref;

use serde_json::{Value, json};
use uuid::Uuid;
use vman_plugin::host::{Client, Offer};
use vman_plugin::{ErrorCode, Event, ExitCause, Machine, RunState, Survey};

use crate::{Host, REPEATS, SOON, in_state, next, over_both, plain};

over_both!(
    a_guest_is_halted_and_goes_on_and_ten_times_is_once,
    a_halted_guest_stays_halted_when_the_instance_is_gone_and_when_it_is_reset,
    a_guest_that_cannot_go_on_does_after_a_reset,
    each_reset_is_counted_and_the_machine_stays,
    a_machine_that_is_gone_is_not_brought_back_by_any_verb,
    one_machine_is_sighted_as_the_survey_sees_it,
    the_end_of_a_machine_is_told_with_its_cause_until_it_lives_again,
    a_machine_whose_folder_vanished_has_ended_for_an_unknown_cause,
);

async fn state(client: &Client, id: Uuid) -> RunState {
    let seen = client.sight(id).await.unwrap().unwrap();
    match seen.control {
        vman_plugin::Control::Connected { run_state } => run_state,
        vman_plugin::Control::Unreachable { reason } => panic!("{reason}"),
    }
}

async fn a_guest_is_halted_and_goes_on_and_ten_times_is_once(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(plain());
    let capabilities = &client.manifest().capabilities;
    assert!(capabilities.pause && capabilities.reset);
    let id = host.launched(&client).await;
    for _ in 0..REPEATS {
        client.pause(id).await.unwrap();
    }
    let run_state = RunState::Paused;
    assert_eq!(next(&mut events).await, Event::MachineChanged { id, run_state });
    assert_eq!(host.machine(id)["state"], "paused");
    assert_eq!(client.survey().await.unwrap().machines, [in_state(id, run_state)]);
    for _ in 0..REPEATS {
        client.resume(id).await.unwrap();
    }
    let run_state = RunState::Running;
    assert_eq!(next(&mut events).await, Event::MachineChanged { id, run_state });
    assert_eq!(host.machine(id)["state"], "running");
    client.kill(id).await.unwrap();
    assert!(matches!(next(&mut events).await, Event::MachineEnded { .. }), "and nothing between");
}

async fn a_halted_guest_stays_halted_when_the_instance_is_gone_and_when_it_is_reset(offer: Offer) {
    let host = Host::new(offer);
    let first = host.start(plain());
    let id = host.launched(&first.0).await;
    first.0.pause(id).await.unwrap();
    for _ in 0..REPEATS {
        let instance = host.start(plain());
        instance.0.pause(id).await.unwrap();
        host.stop(instance).await;
    }
    host.stop(first).await;
    let (client, _events) = host.start(plain());
    assert_eq!(state(&client, id).await, RunState::Paused);
    client.reset(id).await.unwrap();
    assert_eq!(state(&client, id).await, RunState::Paused);
    client.resume(id).await.unwrap();
    assert_eq!(state(&client, id).await, RunState::Running);
}

async fn a_guest_that_cannot_go_on_does_after_a_reset(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(json!({"shutdown_ms": 0}));
    let id = host.launched(&client).await;
    client.power_button(id).await.unwrap();
    let off = Event::MachineChanged { id, run_state: RunState::GuestShutdown };
    assert_eq!(next(&mut events).await, off);
    client.pause(id).await.unwrap();
    assert_eq!(state(&client, id).await, RunState::GuestShutdown);
    let error = client.resume(id).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(error.message.contains("reset it"), "{error}");
    client.reset(id).await.unwrap();
    assert_eq!(state(&client, id).await, RunState::Running);

    for (state_now, goes_on) in
        [("io-error", true), ("guest-panicked", false), ("internal-error", false)]
    {
        let content = json!({"id": id, "state": state_now, "starts": 1});
        std::fs::write(host.machine_file(id), content.to_string()).unwrap();
        let seen = client.sight(id).await.unwrap().unwrap();
        assert_eq!(seen.disks, None, "the file does not say");
        assert_eq!(client.resume(id).await.is_ok(), goes_on, "{state_now}");
        client.reset(id).await.unwrap();
        assert_eq!(state(&client, id).await, RunState::Running);
    }
}

async fn each_reset_is_counted_and_the_machine_stays(offer: Offer) {
    let host = Host::new(offer);
    let first = host.start(plain());
    let id = host.launched(&first.0).await;
    for _ in 0..REPEATS {
        first.0.reset(id).await.unwrap();
    }
    host.stop(first).await;
    let (client, _events) = host.start(plain());
    client.reset(id).await.unwrap();
    let expected = json!({"id": id, "state": "running", "starts": 1, "resets": 11, "disks": []});
    assert_eq!(host.machine(id), expected);
    client.kill(id).await.unwrap();
}

async fn a_machine_that_is_gone_is_not_brought_back_by_any_verb(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(plain());
    let id = host.launched(&client).await;
    std::fs::remove_file(host.machine_file(id)).unwrap();
    for _ in 0..REPEATS {
        for result in [client.pause(id).await, client.resume(id).await, client.reset(id).await] {
            let error = result.unwrap_err();
            assert_eq!(error.code, ErrorCode::NotFound);
            assert!(error.message.contains(&id.to_string()), "{error}");
        }
    }
    assert_eq!(client.sight(id).await.unwrap(), None);
    assert!(!host.machine_file(id).exists());
}

async fn one_machine_is_sighted_as_the_survey_sees_it(offer: Offer) {
    let host = Host::new(offer);
    let (client, _events) = host.start(json!({"fail_survey": "nobody looks at them all"}));
    let [id, other] = [host.launched(&client).await, host.launched(&client).await];
    client.pause(other).await.unwrap();
    assert_eq!(client.sight(id).await.unwrap(), Some(in_state(id, RunState::Running)));
    let (surveyor, _events) = host.start(plain());
    for machine in surveyor.survey().await.unwrap().machines {
        assert_eq!(client.sight(machine.machine.id).await.unwrap(), Some(machine));
    }
    assert_eq!(client.sight(Uuid::nil()).await.unwrap(), None);
}

/// The causes told of machines that ended, by a survey that sees none alive.
async fn ends(client: &Client) -> Vec<(Uuid, ExitCause, String)> {
    let Survey { machines, ended } = client.survey().await.unwrap();
    assert_eq!(machines, []);
    let told = ended.into_iter().map(|end| {
        assert_eq!(end.machine, Machine { id: end.machine.id, process: None });
        (end.machine.id, end.cause, end.detail)
    });
    told.collect()
}

async fn the_end_of_a_machine_is_told_with_its_cause_until_it_lives_again(offer: Offer) {
    let host = Host::new(offer);
    let (client, mut events) = host.start(json!({"shutdown_ms": 0}));
    let spec = host.spec();
    let id = spec.id;
    let hint = host.directory(id).join("machine.end");
    let crash = |hint_says: Option<Value>| {
        if let Some(says) = hint_says {
            std::fs::write(&hint, says.to_string()).unwrap();
        }
        std::fs::remove_file(host.machine_file(id)).unwrap();
    };
    let oom = json!({"cause": "out-of-memory", "detail": "it wanted 9 GiB"});
    for (how, cause, detail) in [
        ("kill", ExitCause::Asked, "asked to end"),
        ("power off", ExitCause::GuestShutdown, "powered itself off"),
        ("crash", ExitCause::Unknown, "machine.json was removed"),
        ("run out of memory", ExitCause::OutOfMemory, "9 GiB"),
        ("crash", ExitCause::Unknown, "machine.json was removed"),
    ] {
        client.launch(spec.clone()).await.unwrap();
        let Survey { machines, ended } = client.survey().await.unwrap();
        assert_eq!(machines, from_ref(&in_state(id, RunState::Running)));
        assert_eq!(ended, []);
        match how {
            "kill" => client.kill(id).await.unwrap(),
            "crash" => crash(None),
            "run out of memory" => crash(Some(oom.clone())),
            _ => {
                client.power_button(id).await.unwrap();
                assert!(matches!(next(&mut events).await, Event::MachineChanged { .. }));
                client.quit(id).await.unwrap();
            }
        }
        let ends = ends(&client).await;
        let [(whose, told, words)] = &ends[..] else { panic!("{how}: {ends:?}") };
        assert_eq!((*whose, *told), (id, cause), "{how}");
        assert!(words.contains(detail), "{how}: {words}");
        let event = next(&mut events).await;
        assert_eq!(event, Event::MachineEnded { id, reason: words.clone() });
    }
    let (newcomer, _events) = host.start(plain());
    assert_eq!(ends(&newcomer).await, [], "it watched none");
}

async fn a_machine_whose_folder_vanished_has_ended_for_an_unknown_cause(offer: Offer) {
    let host = Host::new(offer);
    let first = host.start(plain());
    let id = host.launched(&first.0).await;
    host.stop(first).await;
    let (client, mut events) = host.start(plain());
    client.reattach(Machine { id, process: None }).await.unwrap();
    std::fs::remove_dir_all(host.directory(id)).unwrap();
    // Found without a survey, too.
    let ended = tokio::time::timeout(SOON, events.recv()).await.unwrap();
    assert!(matches!(ended, Some(Event::MachineEnded { id: which, .. }) if which == id));
    let ends = ends(&client).await;
    assert_eq!((ends.len(), ends[0].1), (1, ExitCause::Unknown));
}
