//! Reads the body of a request as one JSON object, within limits of size, time and depth. Which
//! fields it must have is for the resource to say, through [`Fields`].

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::fields::{Fields, kind};
use crate::problem::{Fault, excerpt};

/// Bytes: 1 MiB.
const BODY_SIZE_MAX: usize = 1 << 20;
/// Bytes of a body that are read in all before the connection is cut: 64 MiB.
const DISCARD_MAX: usize = 64 << 20;
/// For a body to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// RFC 5789, 3.1
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

const JSON: &str = "application/json";
/// RFC 7396
const MERGE_PATCH: &str = "application/merge-patch+json";

/// A JSON object.
#[derive(Debug)]
pub(crate) struct JsonBody(pub(crate) Fields);

/// A JSON merge patch, also if it is declared as JSON alone.
#[derive(Debug)]
pub(crate) struct MergePatch(pub(crate) Fields);

/// No body, or an object without fields.
#[derive(Debug)]
pub(crate) struct NoBody;

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        if !is_of_type(&parts.headers, &[JSON]) {
            return Err(unsupported(&parts.headers, JSON));
        }
        let bytes = gathered(body).await?;
        parse(&bytes).map(|fields| Self(Fields::new("body", fields)))
    }
}

impl<S: Sync> FromRequest<S> for MergePatch {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        if !is_of_type(&parts.headers, &[MERGE_PATCH, JSON]) {
            return Err(unsupported(&parts.headers, MERGE_PATCH).header(ACCEPT_PATCH, MERGE_PATCH));
        }
        let patch = parse(&gathered(body).await?)?;
        // In a merge patch `null` takes a member away, and no member of ours can go.
        let (removed, set): (Map<_, _>, Map<_, _>) =
            patch.into_iter().partition(|(_, value)| value.is_null());
        let mut fields = Fields::new("body", set);
        for name in removed.keys() {
            let problem = "cannot be taken away: leave it out, or give it a value";
            fields.problem(name, problem.to_owned());
        }
        Ok(Self(fields))
    }
}

impl<S: Sync> FromRequest<S> for NoBody {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        let bytes = gathered(body).await?;
        // Some clients say nothing by sending nothing, others by sending `null`.
        if matches!(bytes.trim_ascii(), b"" | b"null") {
            return Ok(Self);
        }
        if !is_of_type(&parts.headers, &[JSON]) {
            return Err(unsupported(&parts.headers, JSON));
        }
        Fields::new("body", parse(&bytes)?).finish(|| Some(Self))
    }
}

/// One of `types`, or none at all.
fn is_of_type(headers: &HeaderMap, types: &[&str]) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    types.iter().any(|understood| essence.trim().eq_ignore_ascii_case(understood))
}

fn unsupported(headers: &HeaderMap, understood: &str) -> Fault {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = excerpt(&String::from_utf8_lossy(given));
    let detail = format!("the body is declared as {given:?}, and only JSON is understood");
    Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
        .hint(format!("send Content-Type: {understood}"))
}

/// Gathers the body of every request before anything else is done with it. A client that is still
/// sending when its answer comes and the connection closes never reads that answer, so what is too
/// large is read on, and thrown away, up to [`DISCARD_MAX`].
pub(crate) async fn gather(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return next.run(Request::from_parts(parts, body)).await;
    }
    // Such a client sends nothing before it is told to.
    let is_waiting = parts.headers.contains_key(header::EXPECT);
    if is_waiting && body.size_hint().lower() > BODY_SIZE_MAX as u64 {
        return too_large().into_response();
    }
    match tokio::time::timeout(BODY_TIME_MAX, receive(body)).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(fault)) => fault.into_response(),
        Err(_) => {
            let detail = format!("the body did not arrive within {BODY_TIME_MAX:?}");
            Fault::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail).into_response()
        }
    }
}

async fn receive(mut body: Body) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut size = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            let detail = format!("the body broke off: {error}");
            Fault::new(StatusCode::BAD_REQUEST, "body-broken", detail)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= BODY_SIZE_MAX {
            bytes.extend_from_slice(&data);
        } else if size > DISCARD_MAX {
            break;
        }
    }
    if size > BODY_SIZE_MAX { Err(too_large()) } else { Ok(bytes) }
}

/// What [`gather`] has gathered.
pub(crate) async fn gathered(body: Body) -> Result<Bytes, Fault> {
    to_bytes(body, BODY_SIZE_MAX).await.map_err(|_| too_large())
}

fn too_large() -> Fault {
    let detail = format!("the body is larger than {BODY_SIZE_MAX} bytes");
    Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    // serde_json stops at 128 levels, so depth cannot exhaust the stack.
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(
            other @ (Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)),
        ) => {
            let detail = format!("the body must be a JSON object, not {}", kind(&other));
            Err(Fault::new(StatusCode::BAD_REQUEST, "not-an-object", detail))
        }
        Err(_) if bytes.trim_ascii().is_empty() => {
            let detail = "the body is empty, and must be a JSON object";
            Err(Fault::new(StatusCode::BAD_REQUEST, "malformed-json", detail))
        }
        Err(error) => {
            let detail = format!("the body is not JSON: {error}");
            Err(Fault::new(StatusCode::BAD_REQUEST, "malformed-json", detail))
        }
    }
}
