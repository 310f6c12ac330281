//! The trials: a verb is carried out once to see which points there are, and then again for each of
//! them, killed or failing there. What must be so afterwards is decided here.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{any::Any, fs};

use serde_json::Value;
use vman_tests::{Points, SOON, text};

use crate::report::{Broken, Report, Trial};
use crate::stage::{Play, Stage};
use crate::verbs::{Ask, Fate, Verb};
use crate::world::{World, list, machines};

/// Trials of one verb at a time: much of each is waiting.
const AT_ONCE: usize = 2;
const LOOK_EVERY: Duration = Duration::from_millis(5);
const SIGKILL: i32 = 9;

type Verdict = Result<(), Broken>;

/// What must be so in the end.
struct Wanted<'a> {
    /// One of these.
    worlds: Vec<World>,
    outcome: Outcome<'a>,
    machine: Option<Fate>,
    /// The machines that there were when the daemon was killed.
    at_crash: Option<&'a BTreeMap<&'static str, String>>,
}

/// What came of what was asked.
enum Outcome<'a> {
    /// It was never let in.
    Nothing,
    Succeeded,
    /// With this point in the error.
    Failed(&'a str),
}

/// Tries a verb at all its points, and reports.
pub(crate) fn prove(name: &'static str, backend: &'static str, verb: Verb) {
    let stage = Stage::set(verb, backend).ready();
    let points = stage.points();
    assert!(!points.is_empty(), "{name} passed no point");
    let kills = (0..points.len()).map(Trial::Kill);
    let fails = (0..points.len()).filter(|index| can_fail(&points[*index])).map(Trial::Fail);
    let trials: Vec<Trial> = kills.chain(fails).chain([Trial::Twice]).collect();
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    let test = thread::current().name().unwrap_or("a crash test").to_owned();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let work = || {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = stage.tried(trial, &points);
                    verdicts
                        .lock()
                        .expect("no panic while it is held")
                        .push((trial.clone(), verdict));
                }
            };
            thread::Builder::new().name(test.clone()).spawn_scoped(scope, work).expect("a thread");
        }
    });
    let verdicts = verdicts.into_inner().expect("no panic while it is held");
    Report { verb: name, backend, points, verdicts }.settle();
}

/// After a commit nothing can fail any more: it is durable.
fn can_fail(point: &str) -> bool {
    !point.starts_with("after commit")
}

impl Stage {
    /// The points of the verb, in their order, where nothing happens to it.
    fn points(&self) -> Vec<String> {
        let play = self.play(&Points::default());
        self.ask(&play);
        let wanted = self.wished(&play, None);
        let verdict = settle(&play, self, &wanted);
        assert!(verdict.is_ok(), "undisturbed: {verdict:?}\n{}", play.daemon.log_tail());
        let points = play.points();
        let verdict = clear(&play);
        assert!(verdict.is_ok(), "undisturbed: {verdict:?}\n{}", play.daemon.log_tail());
        points
    }

    fn tried(&self, trial: &Trial, points: &[String]) -> Verdict {
        let tried = AssertUnwindSafe(|| match trial {
            Trial::Kill(index) => self.killed(&points[*index], *index == 0),
            Trial::Fail(index) => self.failing(&points[*index], *index == 0),
            Trial::Twice => self.twice(),
        });
        catch_unwind(tried).unwrap_or_else(|panic| Err(Broken::Untrue(message(panic.as_ref()))))
    }

    fn killed(&self, point: &str, is_first: bool) -> Verdict {
        let kill = Some(point.to_owned());
        let mut play = self.play(&Points { kill, ..Points::default() });
        self.ask(&play);
        let status = play.daemon.ends();
        assert_eq!(status.signal(), Some(SIGKILL), "the daemon ended by itself: {status}");
        let at_crash = machines(&play.daemon, &play.cast);
        self.goes_on(&mut play.daemon);
        let wanted = if is_first && self.is_asked_once() {
            unchanged(&play)
        } else {
            self.wished(&play, Some(&at_crash))
        };
        told(&play, settle(&play, self, &wanted).and_then(|()| clear(&play)))
    }

    fn failing(&self, point: &str, is_first: bool) -> Verdict {
        let fail = Some(point.to_owned());
        let play = self.play(&Points { fail, ..Points::default() });
        let answer = self.ask(&play);
        let wanted = if point.contains(" effect ") {
            let mut worlds = vec![made(&play, self.verb.failure)];
            // What is still wrong is tried again.
            if !self.is_asked_once() {
                worlds.push(made(&play, self.verb.wish));
            }
            Wanted { worlds, outcome: Outcome::Failed(point), machine: None, at_crash: None }
        } else if is_first && self.is_asked_once() {
            let status = answer.as_ref().map(|answer| answer.status);
            assert_eq!(status, Some(503), "the records could not be used: {answer:?}");
            unchanged(&play)
        } else {
            self.wished(&play, None)
        };
        told(&play, settle(&play, self, &wanted).and_then(|()| clear(&play)))
    }

    fn twice(&self) -> Verdict {
        let play = self.play(&Points { twice: true, ..Points::default() });
        self.ask(&play);
        let wanted = self.wished(&play, None);
        told(&play, settle(&play, self, &wanted).and_then(|()| clear(&play)))
    }

    /// What happens on the host is seen by every daemon; a request is made to one.
    fn is_asked_once(&self) -> bool {
        match self.verb.ask {
            Ask::Post(..) | Ask::Delete(_) => true,
            Ask::Repair(..) | Ask::Host(_) => false,
        }
    }

    fn wished<'a>(
        &self,
        play: &Play,
        at_crash: Option<&'a BTreeMap<&'static str, String>>,
    ) -> Wanted<'a> {
        let worlds = vec![made(play, self.verb.wish)];
        Wanted { worlds, outcome: Outcome::Succeeded, machine: Some(self.verb.machine), at_crash }
    }
}

fn made(play: &Play, change: fn(&mut World)) -> World {
    let mut world = play.before.clone();
    change(&mut world);
    world
}

fn unchanged<'a>(play: &Play) -> Wanted<'a> {
    let worlds = vec![play.before.clone()];
    Wanted { worlds, outcome: Outcome::Nothing, machine: Some(Fate::Stays), at_crash: None }
}

/// Waits until all is as wanted, has the observer look at it, and sees that it is so still.
fn settle(play: &Play, stage: &Stage, wanted: &Wanted<'_>) -> Verdict {
    judge_in_time(play, stage, wanted)?;
    play.daemon.look_again();
    judge_in_time(play, stage, wanted)
}

fn judge_in_time(play: &Play, stage: &Stage, wanted: &Wanted<'_>) -> Verdict {
    let until = Instant::now() + SOON;
    loop {
        match judge(play, stage, wanted) {
            Err(_) if Instant::now() < until => thread::sleep(LOOK_EVERY),
            verdict => return verdict,
        }
    }
}

fn judge(play: &Play, stage: &Stage, wanted: &Wanted<'_>) -> Verdict {
    let operations = play.operations();
    judge_operations(&operations, stage.verb.operation, &wanted.outcome)?;
    let world = World::of(&play.daemon, &play.cast);
    if !wanted.worlds.contains(&world) {
        let story = format!("{world:?} instead of {:?}", wanted.worlds);
        let lost = wanted.worlds.iter().all(|wanted| wanted.has_more_than(&world));
        return Err(if lost { Broken::Lost(story) } else { Broken::Untrue(story) });
    }
    let now = machines(&play.daemon, &play.cast);
    judge_machine("witness", Fate::Stays, play, None, &now)?;
    if let Some(fate) = wanted.machine {
        judge_machine("vm", fate, play, wanted.at_crash, &now)?;
    }
    match wanted.outcome {
        // What could not be done may well disagree with what is recorded.
        Outcome::Failed(_) => Ok(()),
        Outcome::Nothing | Outcome::Succeeded => judge_issues(play),
    }
}

fn judge_operations(operations: &[Value], kind: Option<&str>, outcome: &Outcome<'_>) -> Verdict {
    if let Some(going_on) = operations.iter().find(|operation| operation["ended_at"].is_null()) {
        return Err(Broken::Untrue(format!("it has not ended: {going_on}")));
    }
    let told: Vec<String> = operations
        .iter()
        .map(|one| format!("{} {} {}", text(one, "kind"), text(one, "state"), one["error"]))
        .collect();
    let is_true = match (outcome, kind) {
        (Outcome::Nothing, _) | (Outcome::Succeeded, None) => told.is_empty(),
        (Outcome::Succeeded, Some(kind)) => told == [format!("{kind} succeeded null")],
        (Outcome::Failed(point), _) => told.iter().any(|one| one.contains(point)),
    };
    if is_true { Ok(()) } else { Err(Broken::Untrue(format!("the operations are {told:?}"))) }
}

fn judge_machine(
    name: &str,
    fate: Fate,
    play: &Play,
    at_crash: Option<&BTreeMap<&'static str, String>>,
    now: &BTreeMap<&'static str, String>,
) -> Verdict {
    let (before, after) = (play.machines.get(name), now.get(name));
    let story = || format!("the machine of {name}: {before:?}, {at_crash:?}, {after:?}");
    // One that the killed daemon had started goes on.
    let started =
        at_crash.and_then(|machines| machines.get(name)).filter(|one| Some(*one) != before);
    let (goes_on, is_as_wished) = match fate {
        Fate::Stays => (before, after == before),
        Fate::Begins | Fate::Changes => (started, after.is_some() && after != before),
        Fate::Ends => (None, after.is_none()),
    };
    if goes_on.is_some() && after != goes_on {
        return Err(Broken::Killed(story()));
    }
    if is_as_wished { Ok(()) } else { Err(Broken::Untrue(story())) }
}

fn judge_issues(play: &Play) -> Verdict {
    let mut issues = list(&play.daemon, "/issues");
    issues.retain(|issue| issue["state"] != "resolved");
    match issues.first() {
        Some(issue) => Err(Broken::Untrue(format!("an issue is left: {issue}"))),
        None => Ok(()),
    }
}

/// Deletes everything, and looks what is left.
fn clear(play: &Play) -> Verdict {
    let daemon = &play.daemon;
    for (path, key) in [("/vms", "id"), ("/disks", "id"), ("/templates", "name")] {
        for thing in list(daemon, path) {
            let answer = daemon.delete(&format!("{path}/{}", text(&thing, key)));
            if answer.status != 204 {
                let story = format!("{thing} cannot be deleted: {}", answer.text);
                return Err(Broken::Leaked(story));
            }
        }
    }
    // What was put there is the user's.
    drop(fs::remove_dir_all(daemon.storage().join("quarantine")));
    let left = catch_unwind(AssertUnwindSafe(|| daemon.assert_nothing_left()));
    left.map_err(|panic| Broken::Leaked(message(panic.as_ref())))
}

/// With the log, if it is a bad one.
fn told(play: &Play, verdict: Verdict) -> Verdict {
    let with_log = |story: String| format!("{story}\n{}", play.daemon.log_tail());
    verdict.map_err(|broken| match broken {
        Broken::Lost(story) => Broken::Lost(with_log(story)),
        Broken::Leaked(story) => Broken::Leaked(with_log(story)),
        Broken::Killed(story) => Broken::Killed(with_log(story)),
        Broken::Untrue(story) => Broken::Untrue(with_log(story)),
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
