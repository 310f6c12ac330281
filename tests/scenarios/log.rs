//! The log of a scenario: what is told of steps, issues and operations, in words that are the same
//! in each run. Ids become names; times and counts of looks, which are the host's, are left out.

use serde_json::Value;
use vman_tests::text;

/// Lines in the making.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) lines: Vec<String>,
    names: Vec<(String, String)>,
}

impl Log {
    /// From now on `id` is told as `name`.
    pub(crate) fn name(&mut self, id: &str, name: &str) {
        self.names.push((id.to_owned(), name.to_owned()));
    }

    pub(crate) fn step(&mut self, step: &str) {
        self.lines.push(step.to_owned());
    }

    pub(crate) fn outcome(&mut self, outcome: &str) {
        let named = self.names.iter();
        let told = named.fold(outcome.to_owned(), |told, (id, name)| told.replace(id, name));
        self.lines.push(format!("  {told}"));
    }

    /// With its judgements, each once: how often it was judged is the host's affair.
    pub(crate) fn issue(&mut self, issue: &Value) {
        let how = issue["resolution"].as_str().map(|how| format!(" {how}")).unwrap_or_default();
        let (kind, state) = (text(issue, "kind"), text(issue, "state"));
        self.outcome(&format!("  issue {kind} {state}{how}: {}", text(issue, "message")));
        let mut told = Vec::new();
        for decision in issue["decisions"].as_array().expect("a list") {
            let verdict = decision["verdict"].as_str().unwrap_or("failed");
            let judged = format!("    {} says {verdict}", text(decision, "policy"));
            if !told.contains(&judged) {
                self.outcome(&judged);
                told.push(judged);
            }
        }
    }

    pub(crate) fn operation(&mut self, operation: &Value) {
        let reason = text(&operation["reason"], "kind");
        self.outcome(&format!("  operation {} by {reason}", end_of(operation)));
    }
}

/// Which operation it was, and how it ended.
pub(crate) fn end_of(operation: &Value) -> String {
    format!("{} {}", text(operation, "kind"), text(operation, "state"))
}
