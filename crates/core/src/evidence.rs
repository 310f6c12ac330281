//! Evidence: facts as they travel from what found them to the policy that judges by them and to the
//! audit. What a fact means is known to whoever writes it.

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub key: String,
    pub value: Value,
}

/// Frozen: policies know exactly these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Text(String),
    Texts(Vec<String>),
}

impl Fact {
    pub fn text(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: Value::Text(value.into()) }
    }

    /// Saturates at the largest signed integer.
    pub fn integer(key: impl Into<String>, value: u64) -> Self {
        Self { key: key.into(), value: Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)) }
    }
}
