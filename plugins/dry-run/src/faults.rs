//! `[[backends.dry-run.fault]]`: what is to go wrong, with which machines and when. It draws the
//! plan of each start; what comes of a plan is told in `plan` and `machines`.

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;
use vman_plugin::ExitCause;

use crate::clock::ClockKind;
use crate::draw::{Draw, Span};
use crate::plan::{Planned, Trouble};

/// More are surely a mistake; each is gone through at every start of a machine.
pub(crate) const MAX_FAULTS: usize = 64;
/// Machines that one fault may name.
const MAX_NAMED: usize = 1000;
/// Disks of one machine are counted up to here.
const MAX_DISK: usize = 63;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Crash,
    GuestPanic,
    Hang,
    LostEvent,
    SlowUnplug,
    ImageLoss,
    ProbeFailure,
}

impl Kind {
    /// The keys that say something for it.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Crash => &["kind", "machines", "on_start", "at_ms", "after_start_ms", "cause"],
            Self::GuestPanic => &["kind", "machines", "on_start", "at_ms", "after_start_ms"],
            Self::Hang | Self::LostEvent => {
                &["kind", "machines", "on_start", "at_ms", "after_start_ms", "for_ms"]
            }
            Self::SlowUnplug => {
                &["kind", "machines", "on_start", "at_ms", "after_start_ms", "for_ms", "delay_ms"]
            }
            Self::ImageLoss => &["kind", "machines", "on_start", "at_ms", "after_start_ms", "disk"],
            Self::ProbeFailure => &["kind", "at_ms", "for_ms", "reason"],
        }
    }
}

/// Which machines.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "\"all\" was expected, or a share of them from 0 to 1, or a list of their ids"
)]
enum Which {
    All(All),
    Share(f64),
    Named(Vec<Uuid>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum All {
    #[serde(rename = "all")]
    All,
}

/// One fault of the settings. Which keys a kind takes is said by [`Kind::keys`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    kind: Kind,
    /// Absent: all.
    machines: Option<Which>,
    /// At this start of the machine alone, counted from 1. Absent: at each.
    on_start: Option<u64>,
    /// When it begins, on the virtual clock.
    at_ms: Option<u64>,
    /// Or so long after the machine was started. Absent: at once.
    after_start_ms: Option<Span>,
    /// How long it lasts. Absent: until the machine ends.
    for_ms: Option<Span>,
    /// How much longer a guest takes to let go of a disk. Absent: it never does.
    delay_ms: Option<Span>,
    /// Which disk of the machine, from 0, the root disk. Absent: 0.
    disk: Option<usize>,
    /// What is told of the end. Absent: `failed`.
    cause: Option<ExitCause>,
    /// What is told of the failure.
    reason: Option<String>,
}

impl Fault {
    /// An error names the key. What the keys say is for [`check`](Self::check).
    pub(crate) fn parse(table: &Value) -> Result<Self, String> {
        let fault: Self = serde_json::from_value(table.clone()).map_err(|error| {
            culprit(table).map_or_else(|| error.to_string(), |key| format!("`{key}`: {error}"))
        })?;
        let known = fault.kind.keys();
        let given = table.as_object().into_iter().flat_map(|table| table.keys());
        if let Some(key) = given.into_iter().find(|key| !known.contains(&key.as_str())) {
            let kind = &table["kind"];
            return Err(format!(
                "`{key}` says nothing of kind = {kind}; that takes: {}",
                known.join(", ")
            ));
        }
        Ok(fault)
    }

    /// An error names the key.
    pub(crate) fn check(&self, clock: ClockKind, most_ms: u64) -> Result<(), String> {
        match &self.machines {
            Some(Which::Share(share)) if !(0.0..=1.0).contains(share) => {
                return Err(format!("`machines` is {share}; a share is 0 to 1"));
            }
            Some(Which::Named(named)) if named.len() > MAX_NAMED => {
                return Err(format!("`machines` names {}, {MAX_NAMED} at most", named.len()));
            }
            Some(Which::All(All::All) | Which::Share(_) | Which::Named(_)) | None => {}
        }
        if self.on_start == Some(0) {
            return Err("`on_start` is 0; the first start is 1".to_owned());
        }
        if self.at_ms.is_some() && clock == ClockKind::Real {
            return Err("`at_ms` needs clock = \"virtual\"; or say `after_start_ms`".to_owned());
        }
        if self.at_ms.is_some() && self.after_start_ms.is_some() {
            return Err("`at_ms` and `after_start_ms` are two beginnings; say one".to_owned());
        }
        if let Some(disk) = self.disk.filter(|disk| *disk > MAX_DISK) {
            return Err(format!("`disk` is {disk}; {MAX_DISK} at most"));
        }
        for (key, span) in [
            ("after_start_ms", self.after_start_ms),
            ("for_ms", self.for_ms),
            ("delay_ms", self.delay_ms),
        ] {
            check_span(key, span.unwrap_or_default(), most_ms)?;
        }
        Ok(())
    }

    /// What this fault, the `index`-th of the settings, has in store for a start at `now`.
    fn plan(&self, index: usize, draw: Draw, now: u64) -> Option<Planned> {
        let starts = draw.count;
        let hits =
            self.on_start.is_none_or(|on_start| on_start == starts) && self.chooses(index, draw);
        let trouble = self.trouble(index, draw).filter(|_| hits)?;
        let span = |span: Option<Span>, key: &str| {
            span.map(|span| span.draw(draw, &format!("fault {index} {key}")))
        };
        let after_ms = span(self.after_start_ms, "after_start_ms").unwrap_or(0);
        let from_ms = self.at_ms.unwrap_or_else(|| now.saturating_add(after_ms));
        let for_ms = span(self.for_ms, "for_ms");
        let until_ms = for_ms.map(|for_ms| from_ms.saturating_add(for_ms));
        let is_over = match self.kind {
            // A moment that the machine was not there for.
            Kind::Crash | Kind::GuestPanic | Kind::ImageLoss => from_ms < now,
            Kind::Hang | Kind::LostEvent | Kind::SlowUnplug | Kind::ProbeFailure => {
                until_ms.is_some_and(|until| until <= now)
            }
        };
        (!is_over).then_some(Planned { trouble, from_ms, until_ms })
    }

    /// Whether a machine is one of those it is about; the same at each of its starts.
    fn chooses(&self, index: usize, draw: Draw) -> bool {
        match &self.machines {
            None | Some(Which::All(All::All)) => true,
            Some(Which::Share(share)) => {
                Draw { count: 0, ..draw }.is_of(*share, &format!("fault {index} machines"))
            }
            Some(Which::Named(named)) => named.contains(&draw.machine),
        }
    }

    /// None of one that is no machine's.
    fn trouble(&self, index: usize, draw: Draw) -> Option<Trouble> {
        Some(match self.kind {
            Kind::Crash => Trouble::Crash { cause: self.cause.unwrap_or(ExitCause::Failed) },
            Kind::GuestPanic => Trouble::GuestPanic,
            Kind::Hang => Trouble::Hang,
            Kind::LostEvent => Trouble::LostEvent,
            Kind::SlowUnplug => {
                let what = format!("fault {index} delay_ms");
                Trouble::SlowUnplug { delay_ms: self.delay_ms.map(|span| span.draw(draw, &what)) }
            }
            Kind::ImageLoss => Trouble::ImageLoss { disk: self.disk.unwrap_or(0) },
            Kind::ProbeFailure => return None,
        })
    }

    /// Why the backend cannot be probed at `now`, on the clock that began at `begun`.
    fn fails_probe(&self, begun: u64, now: u64) -> Option<&str> {
        let from = self.at_ms.unwrap_or(begun);
        // No machine draws it: of a span it lasts the whole.
        let until = self.for_ms.map(|span| from.saturating_add(span.most));
        let is_on = from <= now && until.is_none_or(|until| now < until);
        (self.kind == Kind::ProbeFailure && is_on)
            .then(|| self.reason.as_deref().unwrap_or("a fault of the settings"))
    }
}

/// What is to go wrong with the start that is drawn for.
pub(crate) fn plan(faults: &[Fault], draw: Draw, now: u64) -> Vec<Planned> {
    let faults = faults.iter().enumerate();
    faults.filter_map(|(index, fault)| fault.plan(index, draw, now)).collect()
}

/// Why a probe at `now` fails, if it does.
pub(crate) fn fails_probe(faults: &[Fault], begun: u64, now: u64) -> Option<&str> {
    faults.iter().find_map(|fault| fault.fails_probe(begun, now))
}

/// An error names the key.
pub(crate) fn check_span(key: &str, span: Span, most_ms: u64) -> Result<(), String> {
    if span.least > span.most {
        return Err(format!("`{key}` is [{}, {}]; the least comes first", span.least, span.most));
    }
    if span.most > most_ms {
        let most = span.most;
        return Err(format!("`{key}` is {most}; it may be {most_ms} (one hour) at most"));
    }
    Ok(())
}

/// The key whose value alone is refused.
fn culprit(table: &Value) -> Option<&String> {
    let mut keys = table.as_object()?.iter().filter(|(key, _)| *key != "kind");
    let alone = |key: &str, value: &Value| serde_json::json!({"kind": "hang", key: value});
    keys.find(|(key, value)| serde_json::from_value::<Fault>(alone(key, value)).is_err())
        .map(|(key, _)| key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fault(table: &Value) -> Fault {
        let fault = Fault::parse(table).unwrap();
        fault.check(ClockKind::Virtual, 3_600_000).unwrap();
        fault
    }

    fn start(machine: u128, count: u64) -> Draw {
        Draw { seed: 3, machine: Uuid::from_u128(machine), count }
    }

    #[test]
    fn a_share_of_the_machines_is_chosen_and_stays_chosen() {
        let faults = [fault(&json!({"kind": "crash", "machines": 0.25}))];
        let chosen = |count| {
            let hit = |id: &u128| !plan(&faults, start(*id, count), 0).is_empty();
            (0..400).filter(hit).collect::<Vec<_>>()
        };
        assert_eq!(chosen(1), chosen(2));
        assert!((60..140).contains(&chosen(1).len()), "{}", chosen(1).len());
    }

    #[test]
    fn a_named_machine_is_hit_at_the_named_start_alone() {
        let named = json!([Uuid::from_u128(5)]);
        let faults = [fault(&json!({"kind": "guest-panic", "machines": named, "on_start": 2}))];
        let hit = |id, count| !plan(&faults, start(id, count), 0).is_empty();
        assert_eq!([hit(5, 1), hit(5, 2), hit(5, 3), hit(6, 2)], [false, true, false, false]);
    }

    #[test]
    fn lengths_of_time_are_drawn_within_their_spans() {
        let table = json!({"kind": "hang", "after_start_ms": [10, 20], "for_ms": [5, 9]});
        let faults = [fault(&table)];
        let plans: Vec<Planned> = (0..50).flat_map(|id| plan(&faults, start(id, 1), 100)).collect();
        assert_eq!(plans.len(), 50);
        for planned in &plans {
            assert!((110..=120).contains(&planned.from_ms), "{planned:?}");
            let lasts = planned.until_ms.unwrap() - planned.from_ms;
            assert!((5..=9).contains(&lasts), "{planned:?}");
        }
        assert!(plans.iter().any(|planned| planned.from_ms != plans[0].from_ms));
    }

    #[test]
    fn what_was_before_the_start_does_not_hit_it() {
        let faults = [
            fault(&json!({"kind": "crash", "at_ms": 10})),
            fault(&json!({"kind": "hang", "at_ms": 10, "for_ms": 5})),
            fault(&json!({"kind": "lost-event", "at_ms": 10})),
        ];
        let count = |now| plan(&faults, start(1, 1), now).len();
        assert_eq!([0, 10, 11, 14, 15].map(count), [3, 3, 2, 2, 1]);
    }

    #[test]
    fn a_probe_fails_for_a_time_or_for_good() {
        let for_a_time = [fault(&json!({"kind": "probe-failure", "at_ms": 5, "for_ms": 5}))];
        let fails = |now| fails_probe(&for_a_time, 0, now).is_some();
        assert_eq!([4, 5, 9, 10].map(fails), [false, true, true, false]);
        let for_good = [fault(&json!({"kind": "probe-failure", "reason": "no device"}))];
        assert_eq!(fails_probe(&for_good, 7, 7), Some("no device"));
        assert_eq!(plan(&for_good, start(1, 1), 0), []);
    }
}
