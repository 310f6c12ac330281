//! What the demo prints: its steps with their times, and an issue's whole story. It only reads.

use std::time::Instant;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use super::client::{Client, text};

/// How many characters of a content hash are shown.
const HASH_SHOWN: usize = 12;

/// Prints steps with the time since the demo began and since the step before.
#[derive(Debug)]
pub(super) struct Report {
    began: Instant,
    last: Instant,
}

impl Report {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        println!("{:>9} {:>9}", "at", "took");
        Self { began: now, last: now }
    }

    /// A step that ended now.
    pub(super) fn step(&mut self, what: &str) {
        let now = Instant::now();
        let (at, took) = (now - self.began, now - self.last);
        self.last = now;
        let (at, took) = (at.as_secs_f64(), took.as_secs_f64());
        println!("{at:>8.3}s {took:>8.3}s  {what}");
    }

    /// More about the last step.
    pub(super) fn detail(what: &str) {
        println!("{:21}{what}", "");
    }
}

/// Tells an issue from its evidence to its repair.
pub(super) fn story(client: &Client, issue: &Value, killed: Timestamp) -> Result<()> {
    println!("\nthe story of issue {}", text(issue, "id")?);
    let subject = &issue["subject"];
    line("what", &format!("{}: {}", text(issue, "kind")?, text(issue, "message")?));
    line("about", &format!("{} {}", text(subject, "kind")?, text(subject, "id")?));
    let seen: Timestamp = text(issue, "first_seen")?.parse().context("first_seen is no time")?;
    line("seen", &format!("{:.1} ms after SIGKILL", milliseconds(killed, seen)));
    for fact in list(issue, "evidence")? {
        line("evidence", &format!("{} = {}", text(fact, "key")?, plain(&fact["value"])));
    }
    for candidate in list(issue, "candidates")? {
        line("could do", text(candidate, "kind")?);
    }
    for decision in list(issue, "decisions")? {
        judgement(decision, seen)?;
    }
    for operation in list(issue, "repairs")? {
        let operation = operation.as_str().context("a repair is no id")?;
        repair(&client.get(&format!("/operations/{operation}"))?)?;
    }
    let resolved: Timestamp = text(issue, "resolved_at")?.parse().context("no time")?;
    let after = milliseconds(killed, resolved);
    line("resolved", &format!("{}, {after:.1} ms after SIGKILL", plain(&issue["resolution"])));
    println!();
    Ok(())
}

fn judgement(decision: &Value, seen: Timestamp) -> Result<()> {
    let hash: String = text(decision, "policy_hash")?.chars().take(HASH_SHOWN).collect();
    let policy = text(decision, "policy")?;
    line("policy", &format!("{policy} {hash} ({})", text(decision, "mode")?));
    let verdict = text(decision, "verdict")?;
    line("verdict", &format!("{verdict}: {}", plain(&decision["message"])));
    let at: Timestamp = text(decision, "at")?.parse().context("a decision has no time")?;
    let took = decision["duration_us"].as_f64().context("a decision has no duration")?;
    let after = milliseconds(seen, at);
    let fuel = plain(&decision["fuel"]);
    line("judged", &format!("in {took:.0} us with {fuel} fuel, {after:.1} ms after it was seen"));
    Ok(())
}

fn repair(operation: &Value) -> Result<()> {
    let (kind, state) = (text(operation, "kind")?, text(operation, "state")?);
    let took = took(operation, "created_at")?;
    let reason = &operation["reason"];
    let why = format!("{} by {}", plain(&reason["kind"]), plain(&reason["policy"]));
    line("repair", &format!("{kind} {state} in {took:.1} ms ({why})"));
    steps(operation)
}

/// Prints the steps of an operation.
pub(super) fn steps(operation: &Value) -> Result<()> {
    for step in list(operation, "steps")? {
        let name = text(step, "name")?;
        let note = plain(&step["note"]);
        let took = took(step, "started_at").map_or(String::new(), |took| format!("{took:.1} ms"));
        line("  step", format!("{name} {took} {note}").trim_end());
    }
    Ok(())
}

/// The milliseconds from `key` to `ended_at`.
fn took(object: &Value, key: &str) -> Result<f64> {
    let from: Timestamp = text(object, key)?.parse().context("no time")?;
    let to: Timestamp = text(object, "ended_at")?.parse().context("no time")?;
    Ok(milliseconds(from, to))
}

fn milliseconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

fn line(word: &str, what: &str) {
    println!("  {word:<9} {what}");
}

fn list<'a>(object: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    object[key].as_array().with_context(|| format!("no list `{key}` in {object}"))
}

/// A value without JSON's quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}
