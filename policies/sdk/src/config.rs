//! Reads a policy's configuration, a JSON object in which every key has a default, and collects
//! all that is wrong with it. Not a general JSON reader.

use core::fmt;
use core::ops::RangeInclusive;

use crate::alloc::borrow::ToOwned;
use crate::alloc::format;
use crate::alloc::string::{String, ToString};
use crate::alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::ConfigProblem;

/// A configuration being read: each key is taken once, and what is left over is unknown.
#[derive(Debug)]
pub struct Reader {
    keys: Map<String, Value>,
    known: Vec<&'static str>,
    problems: Vec<ConfigProblem>,
}

impl Reader {
    /// Takes the JSON text; an empty one and `null` are an empty object.
    pub fn new(text: &str) -> Self {
        let mut reader = Self { keys: Map::new(), known: Vec::new(), problems: Vec::new() };
        if text.trim().is_empty() {
            return reader;
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(keys)) => reader.keys = keys,
            Ok(Value::Null) => {}
            Ok(other) => reader.note("", format!("must be an object, not {}", shape(&other))),
            Err(error) => reader.note("", format!("is not JSON: {error}")),
        }
        reader
    }

    /// A whole number out of `range`; `default` where the key is absent or wrong.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some(value) = self.take(key) else {
            return default;
        };
        match value.as_u64() {
            Some(number) if range.contains(&number) => number,
            _ => {
                let (least, most) = (range.start(), range.end());
                let got = shape(&value);
                self.note(key, format!("must be a whole number from {least} to {most}, not {got}"));
                default
            }
        }
    }

    /// One of `choices`; `default` where the key is absent or wrong.
    pub fn choice(
        &mut self,
        key: &'static str,
        choices: &[&'static str],
        default: &'static str,
    ) -> &'static str {
        let Some(value) = self.take(key) else {
            return default;
        };
        let chosen = choices.iter().find(|choice| value.as_str() == Some(choice));
        if let Some(chosen) = chosen {
            return chosen;
        }
        self.note(key, format!("must be one of {}, not {}", choices.join(", "), shape(&value)));
        default
    }

    /// Notes a problem that only the policy can see, such as two keys that exclude each other.
    pub fn note(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(ConfigProblem { path: key.to_owned(), message: message.into() });
    }

    /// All that was wrong, the keys that nobody asked for included.
    pub fn finish(mut self) -> Vec<ConfigProblem> {
        let known = if self.known.is_empty() {
            "there are no keys here".to_owned()
        } else {
            format!("known are {}", self.known.join(", "))
        };
        let unknown: Vec<String> = self.keys.keys().cloned().collect();
        for key in unknown {
            self.note(&key, format!("is not a key of this policy; {known}"));
        }
        self.problems
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.keys.remove(key)
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "the configuration {}", self.message)
        } else {
            write!(f, "configuration key `{}` {}", self.path, self.message)
        }
    }
}

/// A value as a message shows it: scalars as they are, the rest by its type.
fn shape(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(problems: &[ConfigProblem]) -> Vec<&str> {
        problems.iter().map(|problem| problem.path.as_str()).collect()
    }

    #[test]
    fn an_empty_text_and_null_leave_every_key_at_its_default() {
        for text in ["", " \n", "null", "{}"] {
            let mut reader = Reader::new(text);
            assert_eq!(reader.integer("size", 1..=9, 4), 4, "{text:?}");
            assert!(paths(&reader.finish()).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn every_wrong_key_is_named_at_once() {
        let mut reader = Reader::new(r#"{"size": 12, "how": "fast", "colour": 1}"#);
        assert_eq!(reader.integer("size", 1..=9, 4), 4);
        assert_eq!(reader.choice("how", &["slow"], "slow"), "slow");
        let problems = reader.finish();
        assert_eq!(paths(&problems), ["size", "how", "colour"]);
        assert!(problems[2].message.contains("known are size, how"), "{}", problems[2]);
    }

    #[test]
    fn a_text_that_is_no_object_is_a_problem_of_the_whole() {
        for text in ["{", "[1]", "\"loop\"", "7"] {
            assert_eq!(paths(&Reader::new(text).finish()), [""], "{text:?}");
        }
    }
}
