//! Identities, names and points in time: the small values every noun is made of. Where they come
//! from (a clock, a random source) is not known here.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

/// A value was refused; the text says what is wrong with it and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Invalid(pub String);

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

typed_id!(
    /// Names one VM; also the uuid its machine carries on the host.
    VmId
);
typed_id!(
    /// Names one disk; its image file bears this name.
    DiskId
);
typed_id!(
    /// Names one operation.
    OperationId
);
typed_id!(
    /// Names one issue.
    IssueId
);

/// Counts the state changes of one record. A value computed from an older generation is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of a new record.
    pub const FIRST: Self = Self(1);

    /// The generation after one more state change.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Milliseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Milliseconds from `earlier` to here; 0 if the clock went back.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment, `milliseconds` earlier, and not before the epoch.
    #[must_use]
    pub fn minus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_sub(milliseconds))
    }

    /// This moment, `milliseconds` later.
    pub fn plus(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

/// Characters in an idempotency key.
pub const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;

/// Names one request, so that its repetition is known: draft-ietf-httpapi-idempotency-key-header.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=IDEMPOTENCY_KEY_LENGTH_MAX).contains(&text.len());
        if fits && text.chars().all(|c| c.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid(format!(
                "must be 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} visible ASCII characters, e.g. a UUID"
            )))
        }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Characters in a name.
pub const NAME_LENGTH_MAX: usize = 63;
/// Characters in a file name; well under the 255 bytes of NAME_MAX in limits.h(0p).
pub const FILE_NAME_LENGTH_MAX: usize = 128;

fn is_plain_name(text: &str, length_max: usize) -> bool {
    text.len() <= length_max
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $length_max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                if is_plain_name(text, $length_max) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Invalid(format!(
                        "must be 1 to {} letters, digits, '.', '_' or '-', and begin with a \
                         letter or digit",
                        $length_max
                    )))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

plain_name!(
    /// The name of a template or a VM.
    Name,
    NAME_LENGTH_MAX
);
plain_name!(
    /// The name of a file inside a folder of ours. It cannot lead out of that folder: it has no
    /// separator and does not begin with a dot.
    FileName,
    FILE_NAME_LENGTH_MAX
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_or_hide_are_refused() {
        for bad in ["", ".", "..", "../etc", "a/b", "/etc/passwd", ".hidden", "-rf", "a b", "ä"] {
            bad.parse::<FileName>().expect_err(bad);
            bad.parse::<Name>().expect_err(bad);
        }
        "a\0b".parse::<FileName>().unwrap_err();
        "x".repeat(NAME_LENGTH_MAX + 1).parse::<Name>().unwrap_err();
    }

    #[test]
    fn ordinary_names_are_kept_as_they_are() {
        for good in ["small", "vmlinuz-6.1.0-amd64", "Debian_12", "9p", "a..b"] {
            assert_eq!(good.parse::<FileName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn time_never_runs_backwards() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), 0);
        assert_eq!(Timestamp(9).since(Timestamp(5)), 4);
    }
}
