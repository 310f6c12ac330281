//! Processes that a case left: whatever names its folder in its command line. Machines that are no
//! processes are found by a survey.

use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{end as end_process, naming};

/// A process that was ended may still be seen for a moment.
const GRACE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of a command line that are told.
const SHOWN: usize = 200;

/// Ends them, and tells what they were; `None` if there was nothing that stays.
pub(super) async fn end(folder: &Path) -> Option<String> {
    let begun = Instant::now();
    let mut left = naming(folder);
    while !left.is_empty() && begun.elapsed() < GRACE {
        tokio::time::sleep(LOOK).await;
        left = naming(folder);
    }
    for process in &left {
        end_process(process, folder);
    }
    let told = left.iter().map(|process| {
        let command: String = process.command.chars().take(SHOWN).collect();
        format!("process {}: {command}", process.pid)
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| format!("it left {}", told.join(", ")))
}
