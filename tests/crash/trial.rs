//! The trials: a verb is carried out once to see which points there are, and then again for each of
//! them, killed or failing there, and, where a failure is unwound, killed while it is. Which ends
//! each may have is said here.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use vman_tests::{NO_BODY, Points};

use crate::judge::{End, Machines, Outcome, Verdict, clear, judge_run_states, message, settle};
use crate::report::{Report, Trial};
use crate::stage::{DRY_RUN, Play, Stage};
use crate::verbs::{Ask, Asked, Fate, Then, Verb};
use crate::world::{World, machines};

/// Trials of one verb at a time: much of each is waiting.
const AT_ONCE: usize = 2;
const SIGKILL: i32 = 9;

/// What came of a trial.
struct Tried {
    trial: Trial,
    verdict: Verdict,
    /// The points that were passed after the one at which it failed.
    later: Vec<String>,
}

/// Tries a verb at all its points, and reports.
pub(crate) fn prove(name: &'static str, backend: &'static str, verb: Verb) {
    let stage = Stage::set(verb, backend);
    let points = stage.points();
    assert!(!points.is_empty(), "{name} passed no point");
    let kills = (0..points.len()).map(Trial::Kill);
    let fails = (0..points.len()).filter(|index| can_fail(&points[*index])).map(Trial::Fail);
    let trials = kills.chain(fails).chain([Trial::Twice]).collect();
    let mut tried = stage.try_all(trials, &points);
    if verb.killed_undoing && backend == DRY_RUN {
        let undone = tried.iter().flat_map(|tried| match tried.trial {
            Trial::Fail(index) if points[index].contains(" effect ") => killed_after(index, tried),
            Trial::Fail(_) | Trial::Kill(_) | Trial::FailThenKill { .. } | Trial::Twice => vec![],
        });
        let trials: Vec<Trial> = undone.collect();
        assert!(!trials.is_empty(), "{name} is never undone");
        tried.extend(stage.try_all(trials, &points));
    }
    let verdicts = tried.into_iter().map(|tried| (tried.trial, tried.verdict)).collect();
    Report { verb: name, backend, points, verdicts }.settle();
}

/// After a commit nothing can fail any more: it is durable.
fn can_fail(point: &str) -> bool {
    !point.starts_with("after commit")
}

/// Killed at each point that is passed after the failure.
fn killed_after(index: usize, failed: &Tried) -> Vec<Trial> {
    let later = failed.later.iter().enumerate();
    let trial = |(at, point): (usize, &String)| {
        // The failure is the first thing that is recorded after it.
        let recorded = failed.later[..=at].iter().any(|point| point.starts_with("after commit"));
        Trial::FailThenKill { index, kill: point.clone(), recorded }
    };
    later.map(trial).collect()
}

impl Stage {
    /// The points of the verb, in their order, where nothing happens to it.
    fn points(&self) -> Vec<String> {
        let mut play = self.play(&Points::default());
        self.ask(&mut play);
        let settled = settle(self, &play, &self.undisturbed(&play), None);
        let points = play.points();
        let verdict = told(&play, settled.and_then(|()| clear(self, &play)));
        assert!(verdict.is_ok(), "undisturbed: {verdict:?}");
        points
    }

    fn try_all(&self, trials: Vec<Trial>, points: &[String]) -> Vec<Tried> {
        let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let test = thread::current().name().unwrap_or("a crash test").to_owned();
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                let work = || {
                    while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let tried = self.tried(trial, points);
                        all.lock().expect("no panic while it is held").push(tried);
                    }
                };
                thread::Builder::new()
                    .name(test.clone())
                    .spawn_scoped(scope, work)
                    .expect("a thread");
            }
        });
        all.into_inner().expect("no panic while it is held")
    }

    fn tried(&self, trial: &Trial, points: &[String]) -> Tried {
        let mut later = Vec::new();
        let attempt = AssertUnwindSafe(|| match trial {
            Trial::Kill(index) => self.killed(points, *index),
            Trial::Fail(index) => self.failing(&points[*index], *index, &mut later),
            Trial::FailThenKill { index, kill, recorded } => {
                self.killed_undoing(&points[*index], kill, *recorded)
            }
            Trial::Twice => self.twice(),
        });
        let verdict =
            catch_unwind(attempt).unwrap_or_else(|panic| Err(message(panic.as_ref()).into()));
        Tried { trial: trial.clone(), verdict, later }
    }

    fn killed(&self, points: &[String], index: usize) -> Verdict {
        let kill = Some(points[index].clone());
        let mut play = self.play(&Points { kill, ..Points::default() });
        let at_crash = self.crash(&mut play);
        if let Ask::Once(..) = self.verb.ask {
            let status = self.ask(&mut play).map(|answer| answer.status);
            assert!(status.is_some_and(|status| status < 300), "asked again: {status:?}");
        }
        let is_in = |then: &Then| {
            let let_in = let_in(then.asked);
            let_in.is_none_or(|point| points[..=index].contains(&point))
        };
        let ends = match self.verb.ask {
            Ask::Request(..) | Ask::Then(..) if index == 0 => vec![unchanged(&play)],
            Ask::Then(_, _, then) if is_in(&then) => vec![both(&play, &then)],
            Ask::Request(..)
            | Ask::Once(..)
            | Ask::Then(..)
            | Ask::Repair(..)
            | Ask::Host(_)
            | Ask::Boot => vec![self.wished(&play)],
        };
        self.settled(&play, &ends, Some(&at_crash))
    }

    /// Asks for the verb, and starts the daemon again after its death; the machines in between.
    fn crash(&self, play: &mut Play) -> Machines {
        self.ask(play);
        let status = play.daemon.ends();
        assert_eq!(status.signal(), Some(SIGKILL), "the daemon ended by itself: {status}");
        let at_crash = machines(&play.daemon, &play.cast);
        self.goes_on(&mut play.daemon);
        at_crash
    }

    fn failing(&self, point: &str, index: usize, later: &mut Vec<String>) -> Verdict {
        let fail = Some(point.to_owned());
        let mut play = self.play(&Points { fail, ..Points::default() });
        let answer = self.ask(&mut play);
        if let Ask::Boot = self.verb.ask
            && play.daemon.has_ended()
        {
            // It does not start before it knows what to start by itself.
            self.goes_on(&mut play.daemon);
        }
        let ends = if point.contains(" effect ") {
            self.failed(&play, point)
        } else if index == 0 && self.verb.ask.is_request() {
            let status = answer.as_ref().map(|answer| answer.status);
            assert_eq!(status, Some(503), "the records could not be used: {answer:?}");
            vec![unchanged(&play)]
        } else {
            // What could not be broken off ends well.
            let then = self.verb.ask.then().map(|then| both(&play, &then));
            [self.wished(&play)].into_iter().chain(then).collect()
        };
        let verdict = settle(self, &play, &ends, None);
        if point.contains(" effect ") {
            later.extend(play.points().into_iter().skip_while(|passed| passed != point).skip(1));
        }
        let verdict = verdict.and_then(|()| {
            if self.verb.may_disagree() { self.brought_together(&play, index) } else { Ok(()) }
        });
        told(&play, verdict.and_then(|()| clear(self, &play)))
    }

    /// Whoever pauses or resumes the VM then has the machine do what is recorded of it.
    fn brought_together(&self, play: &Play, index: usize) -> Verdict {
        let vm = self.cast.id("vm").expect("it is in the scene");
        let mut actions = ["pause", "resume"];
        if index.is_multiple_of(2) {
            actions.reverse();
        }
        for action in actions {
            play.daemon.operate(&format!("/vms/{vm}/actions/{action}"), &NO_BODY);
            judge_run_states(self, play, &World::of(&play.daemon, &play.cast))?;
        }
        Ok(())
    }

    /// Killed at a point that is passed after the one at which it fails.
    fn killed_undoing(&self, fail: &str, kill: &str, recorded: bool) -> Verdict {
        let points = Points {
            fail: Some(fail.to_owned()),
            kill: Some(kill.to_owned()),
            ..Points::default()
        };
        let mut play = self.play(&points);
        let at_crash = self.crash(&mut play);
        // Of a failure that was not recorded the next daemon knows nothing.
        let ends = if recorded { self.failed(&play, fail) } else { vec![self.wished(&play)] };
        self.settled(&play, &ends, Some(&at_crash))
    }

    fn twice(&self) -> Verdict {
        let mut play = self.play(&Points { twice: true, ..Points::default() });
        self.ask(&mut play);
        self.settled(&play, &self.undisturbed(&play), None)
    }

    fn settled(&self, play: &Play, ends: &[End<'_>], at_crash: Option<&Machines>) -> Verdict {
        told(play, settle(self, play, ends, at_crash).and_then(|()| clear(self, play)))
    }

    fn undisturbed<'a>(&self, play: &Play) -> Vec<End<'a>> {
        vec![match self.verb.ask.then() {
            Some(then) => both(play, &then),
            None => self.wished(play),
        }]
    }

    /// What is asked first, and nothing else, is done.
    fn wished<'a>(&self, play: &Play) -> End<'a> {
        let world = made(play, self.verb.wish);
        End { world, outcome: Outcome::Succeeded, machine: Some(self.verb.machine) }
    }

    fn failed<'a>(&self, play: &Play, point: &'a str) -> Vec<End<'a>> {
        let mut worlds = vec![made(play, self.verb.failure)];
        worlds.extend(self.verb.kept.map(|kept| made(play, kept)));
        if self.verb.heals {
            worlds.push(made(play, self.verb.wish));
        }
        worlds.extend(self.verb.ask.then().map(|then| made(play, then.wish)));
        let end = |world| End { world, outcome: Outcome::Failed(point), machine: None };
        worlds.into_iter().map(end).collect()
    }
}

/// The point at which it is let in; none if it is not let in as a thing of its own.
fn let_in(asked: Asked) -> Option<String> {
    match asked {
        Asked::Cancel => Some("after commit request cancel #1".to_owned()),
        Asked::Same => None,
        Asked::Request(_, _, commit) => Some(format!("after commit {commit} #1")),
    }
}

/// What was asked first is done, and what was asked then.
fn both<'a>(play: &Play, then: &Then) -> End<'a> {
    let outcome = match then.asked {
        Asked::Cancel => Outcome::Cancelled,
        Asked::Same => Outcome::Succeeded,
        Asked::Request(_, kind, _) => Outcome::Both(kind),
    };
    End { world: made(play, then.wish), outcome, machine: Some(then.machine) }
}

fn made(play: &Play, change: fn(&mut World)) -> World {
    let mut world = play.before.clone();
    change(&mut world);
    world
}

fn unchanged<'a>(play: &Play) -> End<'a> {
    let world = play.before.clone();
    End { world, outcome: Outcome::Nothing, machine: Some(Fate::Stays) }
}

/// With the log, if it is a bad one.
fn told(play: &Play, verdict: Verdict) -> Verdict {
    verdict.map_err(|broken| broken.with(&play.daemon.log_tail()))
}
