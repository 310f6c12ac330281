//! What a client prefers about waiting: RFC 7240. A preference that is unknown or makes no sense is
//! ignored, as the RFC asks.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;

/// No request waits for longer.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// At most [`WAIT_MAX`].
    pub(crate) wait: Option<Duration>,
    pub(crate) respond_async: bool,
}

impl Prefer {
    /// How long an answer that would usually come after `usual` waits.
    pub(crate) fn wait_or(self, usual: Duration) -> Duration {
        match (self.wait, self.respond_async) {
            (Some(wait), _) => wait,
            (None, true) => Duration::ZERO,
            (None, false) => usual,
        }
    }

    /// Tells in `response` which preferences were honoured.
    pub(crate) fn applied(self, mut response: Response) -> Response {
        let wait = self.wait.map(|wait| format!("wait={}", wait.as_secs()));
        let respond_async = self.respond_async.then(|| "respond-async".to_owned());
        let applied: Vec<_> = respond_async.into_iter().chain(wait).collect();
        if let Ok(value) = HeaderValue::try_from(applied.join(", "))
            && !applied.is_empty()
        {
            response.headers_mut().insert(PREFERENCE_APPLIED, value);
        }
        response
    }
}

impl<S: Sync> FromRequestParts<S> for Prefer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parse(&parts.headers))
    }
}

fn parse(headers: &HeaderMap) -> Prefer {
    let mut prefer = Prefer::default();
    let lines = headers.get_all(PREFER).into_iter().filter_map(|line| line.to_str().ok());
    for preference in lines.flat_map(|line| split(line, ',')) {
        // Parameters after a semicolon are not defined for these two.
        let preference = split(preference, ';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
        if name == "respond-async" {
            prefer.respond_async = true;
        } else if name == "wait" && prefer.wait.is_none() {
            // The first one counts (RFC 7240, 2).
            prefer.wait = seconds(value).map(|wait| wait.min(WAIT_MAX));
        }
    }
    prefer
}

/// delta-seconds: digits alone; too many of them are as good as [`WAIT_MAX`].
pub(crate) fn seconds(text: &str) -> Option<Duration> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().map_or(WAIT_MAX, Duration::from_secs))
}

/// Splits at `separator` outside of quoted strings.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        let is_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&'static str]) -> (Option<u64>, bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, HeaderValue::from_static(line));
        }
        let prefer = parse(&headers);
        (prefer.wait.map(|wait| wait.as_secs()), prefer.respond_async)
    }

    #[test]
    fn preferences_are_read_as_the_rfc_writes_them() {
        assert_eq!(read(&[]), (None, false));
        assert_eq!(read(&["wait=10"]), (Some(10), false));
        assert_eq!(read(&["respond-async, wait=10"]), (Some(10), true));
        assert_eq!(read(&["Respond-Async", "Wait = \"7\""]), (Some(7), true));
        assert_eq!(read(&["foo; bar=\"a, wait=5\"; x, wait=6"]), (Some(6), false));
        assert_eq!(read(&["foo=\"\\\", wait=5\", wait=6;x=y"]), (Some(6), false));
    }

    #[test]
    fn the_first_of_two_counts_and_no_wait_is_longer_than_the_limit() {
        assert_eq!(read(&["wait=1, wait=2"]), (Some(1), false));
        assert_eq!(read(&["wait=100000"]), (Some(60), false));
        assert_eq!(read(&["wait=99999999999999999999999"]), (Some(60), false));
    }

    #[test]
    fn nonsense_is_ignored() {
        for nonsense in ["wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", ",,;=", "\"wait=5"] {
            assert_eq!(read(&[nonsense]), (None, false), "{nonsense}");
        }
    }
}
