//! One verb on one VM or on several, some at a time. Which VMs are meant is settled before.

use std::io::Write;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use vman_api_types::Vm;

use super::connection::{Connection, parsed};
use super::follow;
use super::output::Output;
use crate::failure::Failure;

/// VMs that are dealt with at the same time.
const AT_ONCE: usize = 8;

/// The VM as it is once it has ended, or, if that is not waited for, as it is now.
pub(super) fn on_one(
    verb: &str,
    id: Uuid,
    at_most: Option<Duration>,
    connection: &Connection,
) -> Result<Value, Failure> {
    let what = format!("{verb} vm {id}");
    let answer = connection.act(&what, &format!("/vms/{id}/actions/{verb}"))?;
    let Some(at_most) = at_most else { return Ok(answer.body) };
    follow::success(connection, &answer, at_most)?;
    Ok(connection.get(&what, &format!("/vms/{id}"))?.body)
}

/// As [`on_one`] for each, begun in this order; each result is told when it comes.
///
/// # Errors
/// One of them failed: the others went on.
pub(super) fn on_each<W: Write>(
    verb: &str,
    ids: Vec<Uuid>,
    at_most: Option<Duration>,
    connection: &Connection,
    output: &mut Output<W>,
) -> Result<(), Failure> {
    let count = ids.len();
    let waiting = Mutex::new(ids.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (teller, told) = mpsc::channel();
    let results = thread::scope(|scope| {
        for teller in vec![teller; AT_ONCE.min(count)] {
            scope.spawn(move || {
                while let Some(id) = next() {
                    // Whoever listens does so to the end.
                    let _ = teller.send((id, on_one(verb, id, at_most, connection)));
                }
            });
        }
        tell(&told, output)
    });
    let failed = results?;
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::Failed(format!("cannot {verb} {failed} of {count} vms")))
}

type Told = (Uuid, Result<Value, Failure>);

/// How many failed. What cannot be printed does not keep the others from being done.
fn tell<W: Write>(told: &mpsc::Receiver<Told>, output: &mut Output<W>) -> Result<usize, Failure> {
    let (mut failed, mut all, mut printed) = (0, Vec::new(), Ok(()));
    for (id, result) in told {
        let result = result.and_then(|body| {
            let vm: Vm = parsed("see the vm", body.clone())?;
            Ok((vm.state, body))
        });
        let line = match result {
            Ok((state, body)) => {
                all.push(json!({"id": id, "vm": body, "error": null}));
                format!("vm {id} is {state}")
            }
            Err(failure) => {
                failed += 1;
                let text = failure.to_string();
                all.push(json!({"id": id, "vm": null, "error": text}));
                let parts: Vec<&str> = text.lines().map(str::trim).collect();
                format!("vm {id}: {}", parts.join("; "))
            }
        };
        printed = printed.and_then(|()| output.line(&line));
    }
    printed?;
    if output.is_json() {
        output.json(&Value::Array(all))?;
    }
    Ok(failed)
}
