//! Reads the body of a request as one JSON object, within limits of size, time and depth. Which
//! fields it must have is for the resource to say, through [`Fields`].

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use crate::fields::{Fields, kind};
use crate::problem::{Fault, excerpt};

/// Bytes: 1 MiB.
const BODY_SIZE_MAX: usize = 1 << 20;
/// For a body to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// A JSON object.
#[derive(Debug)]
pub(crate) struct JsonBody(pub(crate) Fields);

/// No body, or an object without fields.
#[derive(Debug)]
pub(crate) struct NoBody;

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        check_content_type(&parts.headers)?;
        let bytes = read(&parts.headers, body).await?;
        parse(&bytes).map(|fields| Self(Fields::new("body", fields)))
    }
}

impl<S: Sync> FromRequest<S> for NoBody {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &S) -> Result<Self, Fault> {
        let (parts, body) = request.into_parts();
        let bytes = read(&parts.headers, body).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(Self);
        }
        check_content_type(&parts.headers)?;
        Fields::new("body", parse(&bytes)?).finish(|| Some(Self))
    }
}

/// `application/json` or none at all.
fn check_content_type(headers: &HeaderMap) -> Result<(), Fault> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    if essence.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let given = excerpt(&String::from_utf8_lossy(given.as_bytes()));
    let detail = format!("the body is declared as {given:?}, and only JSON is understood");
    Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
        .hint("send Content-Type: application/json"))
}

async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Fault> {
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > BODY_SIZE_MAX as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIME_MAX, to_bytes(body, BODY_SIZE_MAX + 1)).await {
        Ok(Ok(bytes)) if bytes.len() <= BODY_SIZE_MAX => Ok(bytes.into()),
        // The limit is the one cause there is while the client is still there to be answered.
        Ok(Ok(_) | Err(_)) => Err(too_large()),
        Err(_) => {
            let detail = format!("the body did not arrive within {BODY_TIME_MAX:?}");
            Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail))
        }
    }
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
