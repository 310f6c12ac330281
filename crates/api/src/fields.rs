//! Reads the fields of a body or a query one by one and collects every problem, so that a client
//! learns of all of them at once. What a value means is for the caller to say.

use serde_json::{Map, Value};
use vman_api_types::FieldProblem;
use vman_core::ident::Invalid;

use crate::problem::{Fault, excerpt};

/// Problems told at once; more are only counted.
const PROBLEMS_MAX: usize = 32;

/// The fields that have not been read yet, and the problems so far.
#[derive(Debug)]
pub(crate) struct Fields {
    what: &'static str,
    prefix: &'static str,
    left: Map<String, Value>,
    known: Vec<&'static str>,
    problems: Vec<FieldProblem>,
}

impl Fields {
    /// `what` they are the fields of, as in "the body is invalid".
    pub(crate) fn new(what: &'static str, fields: Map<String, Value>) -> Self {
        Self { what, prefix: "", left: fields, known: Vec::new(), problems: Vec::new() }
    }

    /// `None` if it is missing or wrong, which is then one of the problems. `null` is missing.
    pub(crate) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, Invalid>,
    ) -> Option<T> {
        match self.take(name) {
            Some(value) => self.keep(name, read(value)),
            None => {
                self.problem(name, "is required".to_owned());
                None
            }
        }
    }

    /// `None` if it is absent, `null` or wrong; the last is then one of the problems.
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, Invalid>,
    ) -> Option<T> {
        let value = self.take(name)?;
        self.keep(name, read(value))
    }

    /// As [`optional`](Self::optional) for an object, whose fields are read by `read`; their
    /// problems become problems of this.
    pub(crate) fn optional_object<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let object = self.optional(name, object)?;
        let mut inner = Self { prefix: name, ..Self::new(self.what, object) };
        let value = read(&mut inner);
        inner.refuse_leftovers();
        self.problems.append(&mut inner.problems);
        value
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// Adds a problem that only shows between fields.
    pub(crate) fn problem(&mut self, name: &str, problem: String) {
        let name = excerpt(name);
        let field = if self.prefix.is_empty() { name } else { format!("{}.{name}", self.prefix) };
        self.problems.push(FieldProblem { field, problem });
    }

    /// What `build` makes of the fields, unless there was a problem. `build` may answer `None` only
    /// where a field had one.
    pub(crate) fn finish<T>(mut self, build: impl FnOnce() -> Option<T>) -> Result<T, Fault> {
        self.refuse_leftovers();
        let more = self.problems.len().saturating_sub(PROBLEMS_MAX);
        self.problems.truncate(PROBLEMS_MAX);
        if more > 0 {
            let problem = format!("and {more} more");
            self.problems.push(FieldProblem { field: "…".to_owned(), problem });
        }
        match build() {
            Some(value) if self.problems.is_empty() => Ok(value),
            Some(_) | None => Err(Fault::invalid(self.what, self.problems)),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn keep<T>(&mut self, name: &str, read: Result<T, Invalid>) -> Option<T> {
        read.map_err(|Invalid(problem)| self.problem(name, problem)).ok()
    }

    fn refuse_leftovers(&mut self) {
        let known = self.known.join(", ");
        for name in std::mem::take(&mut self.left).into_iter().map(|(name, _)| name) {
            let problem = if known.is_empty() {
                "is unknown; there are no fields here".to_owned()
            } else {
                format!("is unknown; there are {known}")
            };
            self.problem(&name, problem);
        }
    }
}

/// Any string.
pub(crate) fn string(value: Value) -> Result<String, Invalid> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(Invalid(format!("must be a string, not {}", kind(&value))))
        }
    }
}

/// A string that `T` can be read from.
pub(crate) fn parsed<T: std::str::FromStr<Err = Invalid>>(value: Value) -> Result<T, Invalid> {
    string(value)?.parse()
}

pub(crate) fn boolean(value: Value) -> Result<bool, Invalid> {
    match value {
        Value::Bool(value) => Ok(value),
        Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            Err(Invalid(format!("must be true or false, not {}", kind(&value))))
        }
    }
}

/// A whole number that passes `check`.
pub(crate) fn integer<T>(
    check: impl FnOnce(i128) -> Result<T, Invalid>,
) -> impl FnOnce(Value) -> Result<T, Invalid> {
    move |value| {
        let Value::Number(number) = &value else {
            return Err(Invalid(format!("must be a whole number, not {}", kind(&value))));
        };
        if let Some(whole) = number.as_i128() {
            return check(whole);
        }
        match number.as_f64() {
            // Larger than any integer type: let the range say so.
            Some(huge) if huge >= u64::MAX as f64 => check(i128::MAX),
            Some(huge) if huge <= i64::MIN as f64 => check(i128::MIN),
            Some(_) | None => Err(Invalid(
                "must be a whole number, written without a fraction or an exponent".to_owned(),
            )),
        }
    }
}

fn object(value: Value) -> Result<Map<String, Value>, Invalid> {
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(Invalid(format!("must be an object, not {}", kind(&value))))
        }
    }
}

/// What a value is, with its article.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
