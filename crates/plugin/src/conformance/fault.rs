//! What a case says when a backend does not hold the contract, and the few questions every case
//! asks. What must hold is told by the cases.

use std::fmt::{self, Debug};
use std::time::{Duration, Instant};

use crate::{BackendError, ErrorCode};

/// Longer than anything a case waits for takes, on any host.
pub(super) const SOON: Duration = Duration::from_secs(30);
/// Between two looks at what tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(10);

/// In which way a backend does not hold the contract; for its author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault(pub(super) String);

/// What a case comes to.
pub(super) type Outcome = Result<(), Fault>;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self(why)
    }
}

/// Ends the case with these words unless the condition holds.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err($crate::conformance::fault::Fault(format!($($why)+)));
        }
    };
}
pub(super) use ensure;

/// A verb that must succeed.
pub(super) trait Works<T> {
    /// `what` was asked for, in words for people.
    fn works(self, what: &str) -> Result<T, Fault>;
}

impl<T> Works<T> for Result<T, BackendError> {
    fn works(self, what: &str) -> Result<T, Fault> {
        self.map_err(|error| Fault(format!("{what} failed as {}", told(&error))))
    }
}

/// A verb that must fail, as one of `codes`, and say why.
pub(super) fn fails<T: Debug>(
    result: Result<T, BackendError>,
    what: &str,
    codes: &[ErrorCode],
) -> Outcome {
    let expected: Vec<String> = codes.iter().map(|code| name(*code)).collect();
    let expected = expected.join(" or ");
    match result {
        Ok(value) => {
            Err(Fault(format!("{what} succeeded ({value:?}) and must fail as {expected}")))
        }
        Err(error) if !codes.contains(&error.code) => {
            Err(Fault(format!("{what} failed as {}; it must fail as {expected}", told(&error))))
        }
        Err(error) if error.message.trim().is_empty() => {
            Err(Fault(format!("{what} failed as {expected} without a word to its user")))
        }
        Err(_) => Ok(()),
    }
}

/// Its code and message.
pub(super) fn told(error: &BackendError) -> String {
    format!("{}: {}", name(error.code), error.message)
}

/// As the contract writes it.
fn name(code: ErrorCode) -> String {
    let word = serde_json::to_value(code).ok();
    let word = word.as_ref().and_then(serde_json::Value::as_str).unwrap_or("other");
    format!("`{word}`")
}

/// Looks until there is something, [`SOON`] at most.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, Fault>,
) -> Result<T, Fault> {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        ensure!(begun.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_another_code_or_without_a_word_or_none_is_a_fault() {
        let failed = |code, message: &str| Err::<(), _>(BackendError::new(code, message));
        let as_not_found = |result| fails(result, "it", &[ErrorCode::NotFound]);
        as_not_found(failed(ErrorCode::NotFound, "gone")).unwrap();
        let fault = as_not_found(failed(ErrorCode::Failed, "oh")).unwrap_err();
        assert_eq!(fault.0, "it failed as `failed`: oh; it must fail as `not-found`");
        let fault = as_not_found(failed(ErrorCode::NotFound, " ")).unwrap_err();
        assert!(fault.0.contains("without a word"), "{fault}");
        let fault = as_not_found(Ok(())).unwrap_err();
        assert!(fault.0.contains("succeeded"), "{fault}");
    }
}
