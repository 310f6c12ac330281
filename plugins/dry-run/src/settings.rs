//! What `[backends.dry-run]` may say: the clock, the seed, latencies and faults to simulate. Not
//! here: what they do. README.md has a table of them.

use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;
use vman_plugin::{BackendError, ErrorCode};

use crate::clock::ClockKind;
use crate::disks::Guest;
use crate::draw::{Draw, Span};
use crate::faults::{Fault, MAX_FAULTS, check_span};

/// Longer waits are surely mistakes.
const MAX_WAIT_MS: u64 = 3_600_000;

/// Every key has a default that simulates a machine without faults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// What is drawn by chance follows from it: lengths of time, and the machines of a share.
    pub(crate) seed: u64,
    /// The time that machines live in: the host's, or one that stands until it is told.
    pub(crate) clock: ClockKind,
    /// How long a launch takes, in milliseconds, as all lengths of time here: one number, or the
    /// least and the most of what is drawn.
    pub(crate) launch_ms: Span,
    /// How long a guest takes to power itself off.
    pub(crate) shutdown_ms: Span,
    /// How long a machine takes to end when it is asked to through its control channel.
    pub(crate) quit_ms: Span,
    /// How long an image takes to be made.
    pub(crate) image_ms: Span,
    /// The guest does nothing about its power button.
    pub(crate) ignore_power_button: bool,
    /// How long a guest takes to let go of a disk it is asked for, whatever the bus. `detach-disk`
    /// waits for a tenth of a second of it.
    pub(crate) unplug_ms: Span,
    /// The guest does nothing about being asked for a disk; what was asked for goes when the
    /// machine is reset or ended.
    pub(crate) ignore_unplug: bool,
    /// The guest says that it will not let go of a disk.
    pub(crate) refuse_unplug: bool,
    /// `probe` tells this reason why no machine can run here.
    pub(crate) unusable: Option<String>,
    /// The verb of this name fails for this reason, before it has done anything.
    pub(crate) fail_probe: Option<String>,
    pub(crate) fail_launch: Option<String>,
    pub(crate) fail_quit: Option<String>,
    pub(crate) fail_create_image: Option<String>,
    pub(crate) fail_survey: Option<String>,
    pub(crate) fail_pause: Option<String>,
    pub(crate) fail_resume: Option<String>,
    pub(crate) fail_reset: Option<String>,
    /// `attach-disk`
    pub(crate) fail_attach: Option<String>,
    /// `detach-disk`
    pub(crate) fail_detach: Option<String>,
    /// `resize-disk` and `resize-image`
    pub(crate) fail_resize: Option<String>,
    /// `launch` never ends.
    pub(crate) hang_launch: bool,
    /// `launch` panics.
    pub(crate) panic_launch: bool,
    /// What is to go wrong by itself.
    #[serde(rename = "fault")]
    pub(crate) faults: Vec<Fault>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            clock: ClockKind::Real,
            launch_ms: Span::of(0),
            shutdown_ms: Span::of(50),
            quit_ms: Span::of(0),
            image_ms: Span::of(0),
            ignore_power_button: false,
            unplug_ms: Span::of(0),
            ignore_unplug: false,
            refuse_unplug: false,
            unusable: None,
            fail_probe: None,
            fail_launch: None,
            fail_quit: None,
            fail_create_image: None,
            fail_survey: None,
            fail_pause: None,
            fail_resume: None,
            fail_reset: None,
            fail_attach: None,
            fail_detach: None,
            fail_resize: None,
            hang_launch: false,
            panic_launch: false,
            faults: Vec::new(),
        }
    }
}

impl Settings {
    /// Null means that nothing was set.
    pub(crate) fn parse(settings: Value) -> Result<Self, BackendError> {
        let table = match settings {
            Value::Null => Map::new(),
            Value::Object(table) => table,
            // A sequence would be taken for the fields in their order.
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(invalid("it must be a table of settings"));
            }
        };
        Self::read(table).map_err(|why| invalid(&why))
    }

    fn read(table: Map<String, Value>) -> Result<Self, String> {
        let of = |index: usize| move |why: String| format!("fault {}: {why}", index + 1);
        // First, to name the one that is refused.
        let faults = table.get("fault").and_then(Value::as_array).into_iter().flatten();
        for (index, fault) in faults.enumerate() {
            Fault::parse(fault).map_err(of(index))?;
        }
        let settings: Self = serde_json::from_value(Value::Object(table.clone()))
            .map_err(|error| named(&table, &error.to_string()))?;
        for (key, span) in [
            ("launch_ms", settings.launch_ms),
            ("shutdown_ms", settings.shutdown_ms),
            ("quit_ms", settings.quit_ms),
            ("image_ms", settings.image_ms),
            ("unplug_ms", settings.unplug_ms),
        ] {
            check_span(key, span, MAX_WAIT_MS)?;
        }
        let count = settings.faults.len();
        if count > MAX_FAULTS {
            return Err(format!("`fault`: there are {count}, {MAX_FAULTS} at most"));
        }
        for (index, fault) in settings.faults.iter().enumerate() {
            fault.check(settings.clock, MAX_WAIT_MS).map_err(of(index))?;
        }
        Ok(settings)
    }

    pub(crate) fn draw(&self, machine: Uuid, count: u64) -> Draw {
        Draw { seed: self.seed, machine, count }
    }

    /// What a guest does that is asked for a disk.
    pub(crate) fn guest(&self, machine: Uuid, disk: Uuid) -> Guest {
        if self.refuse_unplug {
            Guest::Refuses
        } else if self.ignore_unplug {
            Guest::Ignores
        } else {
            let what = format!("unplug {disk}");
            Guest::LetsGoAfter(self.unplug_ms.draw(self.draw(machine, 0), &what))
        }
    }
}

/// With the key whose value alone is refused, where the error does not name it.
fn named(table: &Map<String, Value>, error: &str) -> String {
    let refused = |key: &str, value: &Value| {
        serde_json::from_value::<Settings>(serde_json::json!({key: value})).is_err()
    };
    match table.iter().find(|(key, value)| refused(key, value)) {
        Some((key, _)) if !error.contains(&format!("`{key}`")) => format!("`{key}`: {error}"),
        Some(_) | None => error.to_owned(),
    }
}

fn invalid(why: &str) -> BackendError {
    BackendError::new(ErrorCode::Invalid, format!("[backends.dry-run]: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_set_means_the_defaults() {
        assert_eq!(Settings::parse(Value::Null).unwrap(), Settings::default());
        assert_eq!(Settings::parse(json!({})).unwrap(), Settings::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_known_ones() {
        let error = Settings::parse(json!({"launchms": 5})).unwrap_err();
        assert_eq!(error.code, ErrorCode::Invalid);
        for part in ["[backends.dry-run]", "`launchms`", "`launch_ms`"] {
            assert!(error.message.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn a_value_of_another_type_or_out_of_range_is_refused_by_name() {
        for (settings, named) in [
            (json!({"launch_ms": "5"}), "`launch_ms`"),
            (json!({"launch_ms": -1}), "`launch_ms`"),
            (json!({"launch_ms": [1, 2, 3]}), "`launch_ms`"),
            (json!({"image_ms": [5, 2]}), "`image_ms` is [5, 2]; the least comes first"),
            (json!({"quit_ms": [1, 3_600_001]}), "`quit_ms` is 3600001"),
            (json!({"shutdown_ms": 3_600_001}), "`shutdown_ms`"),
            (json!({"unplug_ms": 3_600_001}), "`unplug_ms`"),
            (json!({"hang_launch": 1}), "`hang_launch`"),
            (json!({"clock": "sun"}), "`clock`"),
            (json!({"seed": -1}), "`seed`"),
            (json!({"fault": {"kind": "crash"}}), "`fault`"),
            (json!({"fault": vec![json!({"kind": "hang"}); 65]}), "64 at most"),
            (json!([1]), "a table"),
            (json!("x"), "a table"),
        ] {
            let error = Settings::parse(settings.clone()).unwrap_err();
            assert_eq!(error.code, ErrorCode::Invalid, "{settings}");
            assert!(error.message.contains(named), "{named} in {error}");
        }
    }

    #[test]
    fn a_fault_that_makes_no_sense_is_refused_by_its_number_and_key() {
        for (fault, named) in [
            (json!({}), "`kind`"),
            (json!({"kind": "flood"}), "`slow-unplug`"),
            (json!({"kind": "hang", "form_ms": 1}), "`for_ms`"),
            (json!({"kind": "hang", "cause": "killed"}), "`cause` says nothing of kind = \"hang\""),
            (json!({"kind": "probe-failure", "machines": 1}), "`machines`"),
            (json!({"kind": "hang", "for_ms": "1"}), "`for_ms`"),
            (json!({"kind": "hang", "for_ms": 3_600_001}), "`for_ms` is 3600001"),
            (json!({"kind": "crash", "machines": 1.5}), "`machines` is 1.5"),
            (json!({"kind": "crash", "machines": "some"}), "`machines`"),
            (json!({"kind": "crash", "machines": ["x"]}), "`machines`"),
            (json!({"kind": "crash", "on_start": 0}), "`on_start` is 0"),
            (json!({"kind": "crash", "at_ms": 1}), "`at_ms` needs clock"),
            (json!({"kind": "image-loss", "disk": 64}), "`disk` is 64"),
        ] {
            let faults = json!({"fault": [{"kind": "lost-event"}, fault]});
            let error = Settings::parse(faults).unwrap_err();
            for part in ["fault 2", named] {
                assert!(error.message.contains(part), "{fault}: {part} in {error}");
            }
        }
        let twice = json!({"kind": "crash", "at_ms": 1, "after_start_ms": 1});
        let settings = json!({"clock": "virtual", "fault": [twice]});
        let error = Settings::parse(settings).unwrap_err();
        assert!(error.message.contains("`after_start_ms`"), "{error}");
    }

    #[test]
    fn the_example_of_the_readme_is_valid_and_its_table_has_every_key() {
        let readme = include_str!("../README.md");
        let example = json!({
            "seed": 7, "clock": "virtual", "launch_ms": [5, 50],
            "fault": [
                {"kind": "crash", "machines": 0.1, "on_start": 1, "after_start_ms": [1000, 60000]},
                {"kind": "hang", "machines": "all", "at_ms": 90000, "for_ms": 5000},
            ],
        });
        assert_eq!(Settings::parse(example).unwrap().faults.len(), 2);
        let error = Settings::parse(json!({"?": 1})).unwrap_err().message;
        let error = error + &Settings::parse(json!({"fault": [{"?": 1}]})).unwrap_err().message;
        let keys: Vec<&str> =
            error.split('`').skip(1).step_by(2).filter(|key| *key != "?").collect();
        assert!(keys.len() > 30, "{error}");
        for key in keys {
            assert!(readme.contains(&format!("| `{key}` |")), "README.md has no row of `{key}`");
        }
    }
}
