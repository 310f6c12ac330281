//! A client of one daemon that shows every answer as it is: a refusal is an answer too.

use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body, RequestExt};

/// Longer than the server ever holds an answer back.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Bytes; the OpenAPI document is the largest answer.
const ANSWER_SIZE_MAX: u64 = 16 << 20;

/// A client that shows the token, if there is one.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    address: String,
    token: Option<String>,
}

/// What the daemon said.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// The body as JSON; `null` if it is none.
    pub body: Value,
}

impl Client {
    /// `address` is `host:port`.
    pub fn new(address: &str, token: Option<&str>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(ANSWER_WITHIN))
            .proxy(None);
        let token = token.map(str::to_owned);
        Self { agent: config.build().into(), address: address.to_owned(), token }
    }

    /// `host:port`
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Any request. Panics if no answer comes.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Any request; an error if no answer comes.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, ureq::Error> {
        let uri = format!("http://{}{path}", self.address);
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = if body.is_empty() {
            request.body(())?.with_agent(&self.agent).run()?
        } else {
            request.body(body)?.with_agent(&self.agent).run()?
        };
        Answer::read(response)
    }
}

impl Answer {
    fn read(mut response: Response<Body>) -> Result<Self, ureq::Error> {
        let limited = response.body_mut().with_config().limit(ANSWER_SIZE_MAX);
        let text = limited.read_to_string()?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let status = response.status().as_u16();
        Ok(Self { status, headers: response.headers().clone(), text, body })
    }

    /// Itself, if it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "the daemon said: {}", self.text);
        self
    }

    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
