//! The trials: a verb is carried out once to see which points there are, and then again for each of
//! them, killed or failing there. Which ends each may have is said here.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use vman_tests::Points;

use crate::judge::{End, Machines, Outcome, Verdict, clear, message, settle};
use crate::report::{Report, Trial};
use crate::stage::{Play, Stage};
use crate::verbs::{Ask, Fate, Verb};
use crate::world::{World, machines};

/// Trials of one verb at a time: much of each is waiting.
const AT_ONCE: usize = 2;
const SIGKILL: i32 = 9;
/// From here on what was begun is being broken off.
const CANCELLED_FROM: &str = "after commit request cancel #1";

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
                    let mut verdicts = verdicts.lock().expect("no panic while it is held");
                    verdicts.push((trial.clone(), verdict));
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
        let mut ends = self.wished(&play);
        if let Ask::Cancelled(_) = self.verb.ask {
            ends = vec![cancelled(&play)];
        }
        let settled = settle(self, &play, &ends, None);
        let points = play.points();
        let verdict = told(&play, settled.and_then(|()| clear(&play)));
        assert!(verdict.is_ok(), "undisturbed: {verdict:?}");
        points
    }

    fn tried(&self, trial: &Trial, points: &[String]) -> Verdict {
        let tried = AssertUnwindSafe(|| match trial {
            Trial::Kill(index) => self.killed(points, *index),
            Trial::Fail(index) => self.failing(&points[*index], *index == 0),
            Trial::Twice => self.twice(),
        });
        catch_unwind(tried).unwrap_or_else(|panic| Err(message(panic.as_ref()).into()))
    }

    fn killed(&self, points: &[String], index: usize) -> Verdict {
        let kill = Some(points[index].clone());
        let mut play = self.play(&Points { kill, ..Points::default() });
        self.ask(&play);
        let status = play.daemon.ends();
        assert_eq!(status.signal(), Some(SIGKILL), "the daemon ended by itself: {status}");
        let at_crash = machines(&play.daemon, &play.cast);
        self.goes_on(&mut play.daemon);
        if let Ask::Once(..) = self.verb.ask {
            let status = self.ask(&play).map(|answer| answer.status);
            assert!(status.is_some_and(|status| status < 300), "asked again: {status:?}");
        }
        let is_over = |point: &String| point.as_str() == CANCELLED_FROM;
        let ends = match self.verb.ask {
            Ask::Request(..) | Ask::Cancelled(_) if index == 0 => vec![unchanged(&play)],
            Ask::Cancelled(_) if points[..=index].iter().any(is_over) => vec![cancelled(&play)],
            Ask::Request(..)
            | Ask::Once(..)
            | Ask::Cancelled(_)
            | Ask::Repair(..)
            | Ask::Host(_) => self.wished(&play),
        };
        self.settled(&play, &ends, Some(&at_crash))
    }

    fn failing(&self, point: &str, is_first: bool) -> Verdict {
        let fail = Some(point.to_owned());
        let play = self.play(&Points { fail, ..Points::default() });
        let answer = self.ask(&play);
        let ends = if point.contains(" effect ") {
            self.failed(&play, point)
        } else if is_first && self.verb.ask.is_request() {
            let status = answer.as_ref().map(|answer| answer.status);
            assert_eq!(status, Some(503), "the records could not be used: {answer:?}");
            vec![unchanged(&play)]
        } else {
            // What could not be broken off ends well.
            let mut ends = self.wished(&play);
            if let Ask::Cancelled(_) = self.verb.ask {
                ends.push(cancelled(&play));
            }
            ends
        };
        self.settled(&play, &ends, None)
    }

    fn twice(&self) -> Verdict {
        let play = self.play(&Points { twice: true, ..Points::default() });
        self.ask(&play);
        let mut ends = self.wished(&play);
        if let Ask::Cancelled(_) = self.verb.ask {
            ends = vec![cancelled(&play)];
        }
        self.settled(&play, &ends, None)
    }

    fn settled(&self, play: &Play, ends: &[End<'_>], at_crash: Option<&Machines>) -> Verdict {
        told(play, settle(self, play, ends, at_crash).and_then(|()| clear(play)))
    }

    fn wished<'a>(&self, play: &Play) -> Vec<End<'a>> {
        let world = made(play, self.verb.wish);
        vec![End { world, outcome: Outcome::Succeeded, machine: Some(self.verb.machine) }]
    }

    fn failed<'a>(&self, play: &Play, point: &'a str) -> Vec<End<'a>> {
        let mut worlds = vec![made(play, self.verb.failure)];
        if self.verb.heals {
            worlds.push(made(play, self.verb.wish));
        }
        if let Ask::Cancelled(_) = self.verb.ask {
            worlds.push(play.before.clone());
        }
        let end = |world| End { world, outcome: Outcome::Failed(point), machine: None };
        worlds.into_iter().map(end).collect()
    }
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

fn cancelled<'a>(play: &Play) -> End<'a> {
    End { outcome: Outcome::Cancelled, ..unchanged(play) }
}

/// With the log, if it is a bad one.
fn told(play: &Play, verdict: Verdict) -> Verdict {
    verdict.map_err(|broken| broken.with(&play.daemon.log_tail()))
}
