//! Who may call: the holder of the token, or, without one, whoever is not a web page of a stranger.
//! What a caller may do is not graded: who may call may do all.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::problem::{Fault, excerpt};
use crate::state::{App, Auth};

/// Needs no token: it says only that the daemon answers.
pub(crate) const OPEN_PATH: &str = "/health";

const SCHEME: &str = "bearer";
/// `http://localhost` as a configured origin stands for every port.
const ANY_PORT_ORIGINS: [&str; 2] = ["http://localhost", "http://127.0.0.1"];

/// Lets a request through to the handlers, or answers 401 or 403.
pub(crate) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    let checked = match &app.auth {
        Auth::Token(_) if request.uri().path() == OPEN_PATH => Ok(()),
        Auth::Token(token) => check_token(token, request.headers()),
        Auth::None => check_host(&request).and_then(|()| check_origin(&app, request.headers())),
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(fault) => fault.into_response(),
    }
}

/// One of the origins, or one of their ports where the entry stands for all.
pub(crate) fn is_origin_allowed(origin: &HeaderValue, allowed: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    allowed.iter().any(|entry| {
        let port = origin.strip_prefix(entry.as_str());
        port == Some("")
            || ANY_PORT_ORIGINS.contains(&entry.as_str())
                && port.and_then(|rest| rest.strip_prefix(':')).is_some_and(is_port)
    })
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn check_token(expected: &str, headers: &HeaderMap) -> Result<(), Fault> {
    let mut given = headers.get_all(header::AUTHORIZATION).into_iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(unauthorized("there must be one Authorization header"));
    };
    let value = value.as_bytes();
    let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else {
        return Err(unauthorized("the Authorization header is not of the scheme Bearer"));
    };
    if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) || token.first() != Some(&b' ') {
        return Err(unauthorized("the Authorization header is not of the scheme Bearer"));
    }
    let is_right: bool = token.trim_ascii().ct_eq(expected.as_bytes()).into();
    if is_right && !expected.is_empty() { Ok(()) } else { Err(unauthorized("the token is wrong")) }
}

fn unauthorized(detail: &str) -> Fault {
    Fault::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        .hint("send Authorization: Bearer, and what the file `token` in the storage folder holds")
        .header(header::WWW_AUTHENTICATE, "Bearer realm=\"vman\"")
}

/// A page that makes its own name resolve to this host still sends that name.
fn check_host(request: &Request) -> Result<(), Fault> {
    let given = match (request.headers().get(header::HOST), request.uri().host()) {
        (Some(given), _) => given.to_str().unwrap_or_default(),
        (None, Some(given)) => given,
        // Only a program leaves it out, and programs are let in.
        (None, None) => return Ok(()),
    };
    let authority = given.parse::<Authority>();
    let host = authority.as_ref().map(Authority::host).unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") {
        return Ok(());
    }
    let detail = format!("the host {:?} is neither an IP address nor localhost", excerpt(given));
    Err(Fault::new(StatusCode::FORBIDDEN, "host-refused", detail)
        .hint("call the daemon by its address, or use [auth] mode = \"token\""))
}

/// Without a token to send, a page of any site could send commands that need no preflight.
fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), Fault> {
    match headers.get(header::ORIGIN) {
        Some(origin) if !is_origin_allowed(origin, &app.cors_origins) => {
            let origin = excerpt(&String::from_utf8_lossy(origin.as_bytes()));
            let detail = format!("web pages of {origin:?} may not call");
            Err(Fault::new(StatusCode::FORBIDDEN, "origin-refused", detail)
                .hint("add it to the allowed origins of the daemon's configuration"))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_allowed_as_a_whole_and_local_ones_with_every_port() {
        let allowed = ["http://localhost".to_owned(), "https://console.example".to_owned()];
        for (origin, expected) in [
            ("http://localhost", true),
            ("http://localhost:5173", true),
            ("http://localhost:", false),
            ("http://localhost:+80", false),
            ("http://localhost:99999", false),
            ("http://localhost.evil.example", false),
            ("http://localhost:80.evil.example", false),
            ("https://localhost", false),
            ("http://127.0.0.1:80", false),
            ("https://console.example", true),
            ("https://console.example:8443", false),
            ("null", false),
        ] {
            let header = HeaderValue::from_static(origin);
            assert_eq!(is_origin_allowed(&header, &allowed), expected, "{origin}");
        }
    }
}
