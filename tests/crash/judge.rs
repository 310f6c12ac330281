//! What must be so after a trial: how operations may have ended, what may be recorded, which
//! machines may live, and what may be left when everything is deleted.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vman_tests::{Daemon, NO_BODY, SOON, text, wait_for};

use crate::deeds::STRAY;
use crate::report::Broken;
use crate::stage::{DRY_RUN, Play, Stage};
use crate::verbs::{Ask, Fate, Guest};
use crate::world::{World, list, machines, run_states};

const LOOK_EVERY: Duration = Duration::from_millis(5);

pub(crate) type Verdict = Result<(), Broken>;
pub(crate) type Machines = BTreeMap<&'static str, String>;

/// One way in which it may end.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) world: World,
    pub(crate) outcome: Outcome<'a>,
    /// Anything, if nothing is said.
    pub(crate) machine: Option<Fate>,
}

/// What came of what was asked.
#[derive(Debug)]
pub(crate) enum Outcome<'a> {
    /// It was never let in.
    Nothing,
    Succeeded,
    /// And after it another operation, of this kind.
    Both(&'static str),
    Cancelled,
    /// With this point in the error.
    Failed(&'a str),
}

/// Waits until it is as in one of `ends`, has the observer look at it, and sees that it is so
/// still. `at_crash` are the machines that there were when the daemon was killed.
pub(crate) fn settle(
    stage: &Stage,
    play: &Play,
    ends: &[End<'_>],
    at_crash: Option<&Machines>,
) -> Verdict {
    judge_in_time(stage, play, ends, at_crash)?;
    look_twice(&play.daemon);
    judge_in_time(stage, play, ends, at_crash)
}

/// Has the host looked at twice from now on, so that one look began after now.
fn look_twice(daemon: &Daemon) {
    let now = daemon.looks();
    wait_for("two more looks", SOON, || {
        daemon.post("/observer/run", &NO_BODY).expect(202);
        (daemon.looks() >= now + 2).then_some(())
    });
}

fn judge_in_time(
    stage: &Stage,
    play: &Play,
    ends: &[End<'_>],
    at_crash: Option<&Machines>,
) -> Verdict {
    let until = Instant::now() + SOON;
    loop {
        match judge_now(stage, play, ends, at_crash) {
            Err(_) if Instant::now() < until => {
                // What is to be seen or taken up is so by the next look.
                play.daemon.post("/observer/run", &NO_BODY).expect(202);
                thread::sleep(LOOK_EVERY);
            }
            verdict => return verdict,
        }
    }
}

fn judge_now(stage: &Stage, play: &Play, ends: &[End<'_>], at_crash: Option<&Machines>) -> Verdict {
    let operations = play.operations();
    if let Some(going_on) = operations.iter().find(|operation| operation["ended_at"].is_null()) {
        return Err(Broken::Untrue(format!("it has not ended: {going_on}")));
    }
    let world = World::of(&play.daemon, &play.cast);
    let seen = Seen { operations, world, machines: machines(&play.daemon, &play.cast) };
    let verdicts = ends.iter().map(|end| judge(stage, play, &seen, end, at_crash).err());
    let broken: Option<Vec<Broken>> = verdicts.collect();
    broken.map_or(Ok(()), |broken| Err(Broken::all(broken)))
}

/// What there is.
struct Seen {
    operations: Vec<Value>,
    world: World,
    machines: Machines,
}

fn judge(
    stage: &Stage,
    play: &Play,
    seen: &Seen,
    end: &End<'_>,
    at_crash: Option<&Machines>,
) -> Verdict {
    let Seen { operations, world, machines } = seen;
    judge_operations(operations, stage.verb.operation, &end.outcome)?;
    if *world != end.world {
        let story = format!("{world:?} instead of {:?}", end.world);
        let lost = end.world.has_more_than(world);
        return Err(if lost { Broken::Lost(story) } else { Broken::Untrue(story) });
    }
    judge_machine("witness", Fate::Stays, &play.machines, at_crash, machines)?;
    if let Some(fate) = end.machine {
        judge_machine("vm", fate, &play.machines, at_crash, machines)?;
    }
    match end.outcome {
        // A guest that would not be halted, or not go on, may have been for all that.
        Outcome::Failed(_) if stage.verb.may_disagree() => Ok(()),
        // What could not be done may well be an issue.
        Outcome::Failed(_) => judge_run_states(stage, play, world),
        Outcome::Nothing | Outcome::Succeeded | Outcome::Both(_) | Outcome::Cancelled => {
            judge_run_states(stage, play, world)?;
            judge_issues(play, stage.verb.ask)
        }
    }
}

fn judge_operations(operations: &[Value], kind: Option<&str>, outcome: &Outcome<'_>) -> Verdict {
    let told = |one: &Value| format!("{} {}", text(one, "kind"), text(one, "state"));
    let all: Vec<String> = operations.iter().map(told).collect();
    let is_one = |state: &str| kind.is_some_and(|kind| all == [format!("{kind} {state}")]);
    let is_true = match outcome {
        Outcome::Nothing => all.is_empty(),
        Outcome::Succeeded => is_one("succeeded") || (kind.is_none() && all.is_empty()),
        Outcome::Both(second) => {
            kind.is_some_and(|kind| all == [second, kind].map(|kind| format!("{kind} succeeded")))
        }
        Outcome::Cancelled => is_one("cancelled"),
        Outcome::Failed(point) => operations.iter().any(|operation| {
            operation["state"] != "succeeded" && operation.to_string().contains(point)
        }),
    };
    if is_true { Ok(()) } else { Err(Broken::Untrue(format!("the operations are {all:?}"))) }
}

fn judge_machine(
    name: &str,
    fate: Fate,
    before: &Machines,
    at_crash: Option<&Machines>,
    now: &Machines,
) -> Verdict {
    let (before, after) = (before.get(name), now.get(name));
    let crashed = at_crash.and_then(|machines| machines.get(name));
    let story = || Broken::Untrue(format!("{name}'s machine: {before:?}, {crashed:?}, {after:?}"));
    let (goes_on, is_as_wished) = match fate {
        Fate::Stays => (before, after == before),
        // One that the killed daemon had started.
        Fate::Begins | Fate::Changes => {
            (crashed.filter(|one| Some(*one) != before), after.is_some() && after != before)
        }
        Fate::Ends => (None, after.is_none()),
    };
    if goes_on.is_some() && after != goes_on {
        return Err(Broken::Killed(story().to_string()));
    }
    if is_as_wished { Ok(()) } else { Err(story()) }
}

/// Simulated machines do what is recorded of them.
pub(crate) fn judge_run_states(stage: &Stage, play: &Play, world: &World) -> Verdict {
    if stage.backend != DRY_RUN {
        return Ok(());
    }
    let mut states = run_states(&play.daemon, &play.cast);
    // What a failure has left of a machine is not recorded.
    states.retain(|name, _| !world.has_failed(name));
    let recorded = world.run_states();
    if states == recorded {
        return Ok(());
    }
    Err(Broken::Untrue(format!("the machines are {states:?}, and recorded {recorded:?}")))
}

/// No issue is open, or none that the repair is offered for.
fn judge_issues(play: &Play, ask: Ask) -> Verdict {
    let mut issues = list(&play.daemon, "/issues");
    issues.retain(|issue| issue["state"] != "resolved");
    if let Ask::Repair(_, repair) = ask {
        let is_it = |candidate: &Value| candidate["kind"] == repair;
        issues.retain(|issue| {
            issue["candidates"].as_array().is_some_and(|all| all.iter().any(is_it))
        });
    }
    match issues.first() {
        Some(issue) => Err(Broken::Untrue(format!("an issue is left: {issue}"))),
        None => Ok(()),
    }
}

/// Deletes everything, and looks what is left.
pub(crate) fn clear(stage: &Stage, play: &Play) -> Verdict {
    let daemon = &play.daemon;
    if stage.verb.scene.guest == Guest::Ignores {
        for vm in list(daemon, "/vms?state=running") {
            daemon.operate(&format!("/vms/{}/actions/kill", text(&vm, "id")), &NO_BODY);
        }
    }
    for (path, key) in [("/vms", "id"), ("/disks", "id"), ("/templates", "name")] {
        for thing in list(daemon, path) {
            let answer = daemon.delete(&format!("{path}/{}", text(&thing, key)));
            if answer.status != 204 {
                let story = format!("{thing} cannot be deleted: {}", answer.text);
                return Err(Broken::Leaked(story));
            }
        }
    }
    // What was put there by hand is for hands to take away.
    drop(fs::remove_dir_all(daemon.storage().join("quarantine")));
    drop(fs::remove_dir_all(daemon.machine_folder(STRAY)));
    let left = catch_unwind(AssertUnwindSafe(|| daemon.assert_nothing_left()));
    left.map_err(|panic| Broken::Leaked(message(panic.as_ref())))
}

pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
