//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): reads the key of a request,
//! and what it asks for, so that the engine carries it out once. What became of it is the engine's.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use sha2::{Digest, Sha256};
use vman_core::ident::{IdempotencyKey, Invalid};
use vman_engine::RequestKey;

use crate::body::gathered;
use crate::problem::{Fault, excerpt};

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A body, and the key under which its request is carried out once, if it has one.
#[derive(Debug)]
pub(crate) struct Keyed<B>(pub(crate) B, pub(crate) Option<RequestKey>);

impl<S, B> FromRequest<S> for Keyed<B>
where
    S: Send + Sync,
    B: FromRequest<S, Rejection = Fault>,
{
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let Some(key) = read(request.headers())? else {
            return Ok(Self(B::from_request(request, state).await?, None));
        };
        let (parts, body) = request.into_parts();
        let body = gathered(body).await?;
        let fingerprint = fingerprint(&parts.method, &parts.uri, &body);
        let request = Request::from_parts(parts, Body::from(body));
        let body = B::from_request(request, state).await?;
        Ok(Self(body, Some(RequestKey { key, fingerprint })))
    }
}

fn read(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Fault> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let told = || excerpt(&String::from_utf8_lossy(line.as_bytes()));
    if lines.next().is_some() {
        return Err(refused("is given more than once"));
    }
    let text = line.to_str().map_err(|_| refused(&format!("{:?} is not ASCII", told())))?;
    let key = parse(text).map_err(|Invalid(why)| refused(&format!("{:?} {why}", told())))?;
    Ok(Some(key))
}

fn refused(why: &str) -> Fault {
    let detail = format!("the header Idempotency-Key {why}");
    Fault::new(StatusCode::BAD_REQUEST, "bad-idempotency-key", detail)
        .hint("send one key of your own making for each thing to be done, e.g. a UUID in quotes")
}

/// A string of RFC 8941, 3.3.3, as the draft asks for, or the bare key that many clients send.
fn parse(text: &str) -> Result<IdempotencyKey, Invalid> {
    let Some(rest) = text.strip_prefix('"') else {
        if text.contains(['"', '\\']) {
            return Err(Invalid("must stand in quotes as a whole, or in none".to_owned()));
        }
        return text.parse();
    };
    let mut key = String::new();
    let mut left = rest.chars();
    while let Some(next) = left.next() {
        match next {
            '"' if left.as_str().is_empty() => return key.parse(),
            '"' => return Err(Invalid("must end with its closing quote".to_owned())),
            '\\' => match left.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                Some(_) | None => {
                    return Err(Invalid("can escape a quote or a backslash alone".to_owned()));
                }
            },
            plain => key.push(plain),
        }
    }
    Err(Invalid("has no closing quote".to_owned()))
}

/// SHA-256 of all that was asked, in hexadecimal. Neither a method nor a target has a space or a
/// line's end (RFC 9112, 3), so no two requests read alike.
fn fingerprint(method: &Method, target: &Uri, body: &Bytes) -> String {
    let target = target.path_and_query().map_or_else(|| target.path(), |both| both.as_str());
    let mut hash = Sha256::new();
    hash.update(format!("{method} {target}\n"));
    hash.update(body);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_the_same_with_and_without_its_quotes() {
        for text in ["\"8e03978e-40d5\"", "8e03978e-40d5"] {
            assert_eq!(parse(text).map(|key| key.to_string()), Ok("8e03978e-40d5".to_owned()));
        }
        assert_eq!(parse(r#""a\"b\\c""#).map(|key| key.to_string()), Ok(r#"a"b\c"#.to_owned()));
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let long = "x".repeat(256);
        for bad in [
            "",
            "\"",
            "\"\"",
            "\"a",
            "a\"",
            "\"a\"b",
            "\"a\"; b=1",
            "\"\\x\"",
            "a b",
            "\"a b\"",
            &long,
        ] {
            parse(bad).expect_err(bad);
        }
        let mut headers = HeaderMap::new();
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert!(matches!(read(&headers), Ok(Some(_))));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        read(&headers).expect_err("two of them");
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let of = |method: Method, target: &str, body: &'static str| {
            let target: Uri = target.parse().expect("a target");
            fingerprint(&method, &target, &Bytes::from(body))
        };
        let one = of(Method::POST, "/vms", "{}");
        assert_eq!(one.len(), 64);
        assert_eq!(one, of(Method::POST, "/vms", "{}"));
        for other in [
            of(Method::PUT, "/vms", "{}"),
            of(Method::POST, "/disks", "{}"),
            of(Method::POST, "/vms?a=1", "{}"),
            of(Method::POST, "/vms", "{ }"),
        ] {
            assert_ne!(one, other);
        }
    }
}
