//! A small REST client for the demo: JSON in, JSON out, and every refusal an error that shows what
//! the server said. It knows no endpoint.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body, RequestExt};

/// The longest that one answer may take: longer than any wait asked for with `Prefer`.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How long the server may hold back an answer until an operation has ended, in seconds.
const PREFER: &str = "wait=90";

/// A client of one server.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    base: String,
    token: String,
}

impl Client {
    /// `address` is `host:port`.
    pub(crate) fn new(address: &str, token: &str) -> Self {
        // Not one for all of a request: for that one the library starts a thread, each time.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_recv_response(Some(ANSWER_WITHIN))
            .timeout_recv_body(Some(ANSWER_WITHIN))
            .proxy(None);
        let base = format!("http://{address}");
        Self { agent: config.build().into(), base, token: token.to_owned() }
    }

    /// GET; the body.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        Ok(self.send("GET", path, None)?.body)
    }

    /// POST; waits for the operation that it starts, if it starts one.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send("POST", path, Some(body))
    }

    /// DELETE; waits until it is done.
    pub(crate) fn delete(&self, path: &str) -> Result<Answer> {
        self.send("DELETE", path, None)
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let doing = || format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token))
            .header("prefer", PREFER);
        let response = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                let request = request.body(body.to_string()).with_context(doing)?;
                request.with_agent(&self.agent).run()
            }
            None => request.body(()).with_context(doing)?.with_agent(&self.agent).run(),
        };
        Answer::read(response.with_context(doing)?).with_context(doing)
    }
}

/// A server's answer that is not a refusal.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Where the new object or the operation is.
    pub(crate) location: Option<String>,
    /// `null` where there is none.
    pub(crate) body: Value,
}

impl Answer {
    fn read(mut response: Response<Body>) -> Result<Self> {
        let status = response.status();
        let location = response.headers().get("location");
        let location = location.and_then(|value| value.to_str().ok()).map(Into::into);
        let text = response.body_mut().read_to_string().context("reading the answer")?;
        if !status.is_success() {
            bail!("the server answered {status}: {text}");
        }
        let body = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).context("the answer is not JSON")?,
        };
        Ok(Self { status: status.as_u16(), location, body })
    }
}

/// The text at `key` of an object.
///
/// # Errors
/// Shows the object when it has no such text.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> Result<&'a str> {
    object[key].as_str().with_context(|| format!("no text `{key}` in {object}"))
}
