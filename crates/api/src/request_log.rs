//! One line for every request, with its duration, and an id that ties the other lines to it. No
//! header and no body is ever written.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use uuid::Uuid;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of an id that a client chose.
const REQUEST_ID_LENGTH_MAX: usize = 64;
/// What this crate's lines are known by; the daemon's log shows it as the service `api`.
pub(crate) const LOG_TARGET: &str = "vman_api";

/// Runs the request in a span with its id, and tells how it ended.
pub(crate) async fn log(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!(target: LOG_TARGET, "request", request_id = %id);
    let mut response = next.run(request).instrument(span).await;
    tracing::info!(
        target: LOG_TARGET,
        %method,
        path,
        status = response.status().as_u16(),
        duration_ms = format_args!("{:.3}", begun.elapsed().as_secs_f64() * 1e3),
        request_id = %id,
        "answered"
    );
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The client's own if it cannot disturb a log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let is_plain = |id: &&str| {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(is_plain);
    given.map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_request_id_is_kept_and_another_replaced() {
        let read = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(id).expect("a header value"));
            request_id(&headers)
        };
        assert_eq!(read("trace-1.a_B"), "trace-1.a_B");
        for bad in ["", "a b", "a|b", "x\ty", &"x".repeat(REQUEST_ID_LENGTH_MAX + 1)] {
            assert!(Uuid::parse_str(&read(bad)).is_ok(), "{bad:?}");
        }
    }
}
