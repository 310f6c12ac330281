//! Runs the cases in this very process, for a plugin's own tests and for debuggers. A plugin that
//! crashes ends this process; one that hangs is given up, and not ended.

use std::io;
use std::path::Path;
use std::time::Instant;

use tokio::time::timeout;

use super::bench::{Bench, lay_out};
use super::case::{Case, lacking};
use super::fault::{Fault, Outcome};
use super::subject::Subject;
use super::verdict::{Report, Verdict};
use super::{leftovers, task};

/// Runs the cases one after the other. Those that need a second process are skipped.
///
/// # Errors
/// A case's folder cannot be made.
pub async fn check_here(subject: &Subject, cases: &[Case]) -> io::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for case in cases {
        let folder = tempfile::tempdir()?;
        lay_out(folder.path())?;
        let begun = Instant::now();
        let verdict = one(subject, case, folder.path()).await;
        let left = leftovers::end(folder.path()).await;
        let verdict = verdict.with_leftovers(left);
        reports.push(Report::new(case, subject.opening.mode(), verdict, begun.elapsed()));
    }
    Ok(reports)
}

async fn one(subject: &Subject, case: &Case, folder: &Path) -> Verdict {
    let bench = match Bench::new(subject.clone(), folder.to_owned(), None) {
        Ok(bench) => bench,
        Err(Fault(why)) => return Verdict::Failed { why },
    };
    if let Some(why) = lacking(case, bench.capabilities(), subject, false) {
        return Verdict::Skipped { why: why.to_owned() };
    }
    let outcome = timeout(case.timeout, (case.run)(&bench)).await;
    let verdict = match outcome {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(Fault(why))) => Verdict::Failed { why },
        Err(_) => {
            let after = u64::try_from(case.timeout.as_millis()).unwrap_or(u64::MAX);
            Verdict::TimedOut { after, at: String::new() }
        }
    };
    verdict.with_leftovers(swept(&bench).await.err().map(|fault| fault.0))
}

async fn swept(bench: &Bench) -> Outcome {
    let left = task::sweep(bench).await?;
    if left.is_empty() { Ok(()) } else { Err(Fault(format!("it left the machines {left:?}"))) }
}
