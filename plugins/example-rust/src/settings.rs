//! What `[backends.example-rust]` may say, and whether machines can be run with it.

use std::path::PathBuf;

use rustix::fs::{Access, access};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use serde::Deserialize;
use serde_json::Value;
use vman_plugin::{BackendError, ErrorCode};

/// Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// What machines run: a program that takes what `sleep` takes. No script: the kernel gives it
    /// another first word.
    pub(crate) program: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self { program: "/bin/sleep".into() }
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
        if settings.program.is_absolute() {
            return Ok(settings);
        }
        let program = settings.program.display();
        Err(invalid(&format!(
            "`program` is {program}; write the absolute path of a program that takes what `sleep` \
             takes"
        )))
    }

    /// What is needed to run machines, tried; an error says what is missing.
    pub(crate) fn try_out(&self) -> Result<(), String> {
        pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|why| format!("pidfd_open(2) fails: {why}; Linux 5.3 or later is needed"))?;
        access(&self.program, Access::EXEC_OK).map_err(|why| {
            let program = self.program.display();
            format!("{program}, which machines are to run, cannot be executed: {why}")
        })
    }
}

fn invalid(why: &str) -> BackendError {
    BackendError::new(ErrorCode::Invalid, format!("[backends.example-rust]: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_set_means_the_default_and_a_wrong_setting_is_refused_by_name() {
        assert_eq!(Settings::parse(Value::Null).unwrap(), Settings::default());
        assert_eq!(Settings::parse(json!({})).unwrap(), Settings::default());
        for wrong in [json!({"programm": "/bin/sleep"}), json!({"program": "sleep"}), json!(1)] {
            let error = Settings::parse(wrong.clone()).unwrap_err();
            assert_eq!(error.code, ErrorCode::Invalid, "{wrong}");
            assert!(error.message.contains("[backends.example-rust]"), "{error}");
        }
    }
}
