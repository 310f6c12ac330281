//! What `[backends.dry-run]` may say: latencies and faults to simulate. Not here: what they do.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use vman_plugin::{BackendError, ErrorCode};

use crate::disks::Guest;

/// Longer waits are surely mistakes.
const MAX_WAIT_MS: u64 = 3_600_000;

/// Every key has a default that simulates a machine without faults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// How long a launch takes, in milliseconds.
    pub(crate) launch_ms: u64,
    /// How long a guest takes to power itself off, in milliseconds.
    pub(crate) shutdown_ms: u64,
    /// The guest does nothing about its power button.
    pub(crate) ignore_power_button: bool,
    /// How long a guest takes to let go of a disk it is asked for, in milliseconds, whatever the
    /// bus. `detach-disk` waits for a tenth of a second of it.
    pub(crate) unplug_ms: u64,
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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            launch_ms: 0,
            shutdown_ms: 50,
            ignore_power_button: false,
            unplug_ms: 0,
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
        }
    }
}

impl Settings {
    /// Null means that nothing was set.
    pub(crate) fn parse(settings: Value) -> Result<Self, BackendError> {
        let settings = match settings {
            Value::Null => Self::default(),
            table @ Value::Object(_) => {
                serde_json::from_value(table).map_err(|error| invalid(&error.to_string()))?
            }
            // A sequence would be taken for the fields in their order.
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(invalid("it must be a table of settings"));
            }
        };
        for (key, wait) in [
            ("launch_ms", settings.launch_ms),
            ("shutdown_ms", settings.shutdown_ms),
            ("unplug_ms", settings.unplug_ms),
        ] {
            if wait > MAX_WAIT_MS {
                return Err(invalid(&format!(
                    "`{key}` is {wait}; it may be {MAX_WAIT_MS} (one hour) at most"
                )));
            }
        }
        Ok(settings)
    }

    /// What a guest does that is asked for a disk.
    pub(crate) fn guest(&self) -> Guest {
        if self.refuse_unplug {
            Guest::Refuses
        } else if self.ignore_unplug {
            Guest::Ignores
        } else {
            Guest::LetsGoAfter(Duration::from_millis(self.unplug_ms))
        }
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
    fn a_value_of_another_type_or_out_of_range_is_refused() {
        for settings in [
            json!({"launch_ms": "5"}),
            json!({"launch_ms": -1}),
            json!({"shutdown_ms": 3_600_001}),
            json!({"unplug_ms": 3_600_001}),
            json!({"hang_launch": 1}),
            json!([1]),
            json!("x"),
        ] {
            let error = Settings::parse(settings.clone()).unwrap_err();
            assert_eq!(error.code, ErrorCode::Invalid, "{settings}");
        }
    }
}
