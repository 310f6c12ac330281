//! Finds the daemon and talks to it: one request, one answer, or a typed failure. What is asked for
//! is not known here.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{Request, Response, Uri, header};
use vman_api_types::Problem;

use crate::cli::Global;
use crate::config::{self, Surroundings};
use crate::failure::Failure;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// Above the longest that the daemon lets a request wait, which is a minute.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(75);
const ANSWER_SIZE_MAX: u64 = 64 * 1024 * 1024;
const PAGES_MAX: usize = 1000;
/// Elements asked for in one page, the most there may be.
const PAGE_LIMIT: usize = 1000;
const TOKEN_SIZE_MAX: usize = 4096;

/// A daemon that can be asked.
#[derive(Debug)]
pub(crate) struct Connection {
    agent: Agent,
    /// Without a slash at the end.
    base: String,
    token: Option<String>,
    /// Why there is no token, if one was looked for.
    token_missing: Option<String>,
    /// The storage folder, if the daemon is this host's.
    storage: Option<PathBuf>,
}

/// What the daemon answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Null if there was none.
    pub(crate) body: Value,
    /// Where the operation is that goes on.
    pub(crate) location: Option<String>,
    next_page: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    fn content_type(self) -> &'static str {
        match self {
            // RFC 7396
            Self::Patch => "application/merge-patch+json",
            Self::Get | Self::Post | Self::Delete => "application/json",
        }
    }
}

impl Connection {
    /// Finds the daemon that the options, the environment or the configuration name.
    ///
    /// # Errors
    /// The configuration is wrong, a named token cannot be read, or no daemon runs here.
    pub(crate) fn find(global: &Global) -> Result<Self, Failure> {
        let surroundings = Surroundings::of_process();
        let (base, storage) = match &global.url {
            Some(url) => (checked_url(url)?, None),
            None => local(global, &surroundings).map(|(base, storage)| (base, Some(storage)))?,
        };
        let (token, token_missing) = token(global, &surroundings, storage.as_deref())?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .timeout_global(Some(REQUEST_TIME_MAX))
            .user_agent(concat!("vman/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), base, token, token_missing, storage })
    }

    /// The storage folder, if the daemon is this host's.
    pub(crate) fn storage(&self) -> Option<&Path> {
        self.storage.as_deref()
    }

    /// `what` completes "cannot …".
    pub(crate) fn get(&self, what: &str, path: &str) -> Result<Answer, Failure> {
        self.request(what, Method::Get, path, None)
    }

    pub(crate) fn post<T: Serialize>(
        &self,
        what: &str,
        path: &str,
        body: &T,
    ) -> Result<Answer, Failure> {
        let body = serde_json::to_string(body).expect("request bodies are plain JSON");
        self.request(what, Method::Post, path, Some(body))
    }

    pub(crate) fn patch<T: Serialize>(
        &self,
        what: &str,
        path: &str,
        body: &T,
    ) -> Result<Answer, Failure> {
        let body = serde_json::to_string(body).expect("request bodies are plain JSON");
        self.request(what, Method::Patch, path, Some(body))
    }

    pub(crate) fn act(&self, what: &str, path: &str) -> Result<Answer, Failure> {
        self.request(what, Method::Post, path, None)
    }

    pub(crate) fn delete(&self, what: &str, path: &str) -> Result<Answer, Failure> {
        self.request(what, Method::Delete, path, None)
    }

    /// A whole list, page by page.
    pub(crate) fn list(&self, what: &str, path: &str) -> Result<Value, Failure> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut next = Some(format!("{path}{separator}limit={PAGE_LIMIT}"));
        let mut whole = Vec::new();
        for _ in 0..PAGES_MAX {
            let Some(page) = next else { return Ok(Value::Array(whole)) };
            let answer = self.get(what, &page)?;
            whole.extend(parsed::<Vec<Value>>(what, answer.body)?);
            next = answer.next_page;
        }
        Err(Failure::Failed(format!(
            "cannot {what}: there are more than {}",
            PAGES_MAX * PAGE_LIMIT
        )))
    }

    fn request(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Answer, Failure> {
        let uri = format!("{}{path}", self.base);
        let mut request = match method {
            Method::Get => Request::get(uri),
            Method::Post => Request::post(uri),
            Method::Patch => Request::patch(uri),
            Method::Delete => Request::delete(uri),
        };
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let answered = match body {
            Some(body) => {
                let request =
                    request.header(header::CONTENT_TYPE, method.content_type()).body(body);
                request.map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
            None => {
                let request = request.body(());
                request.map_err(ureq::Error::from).and_then(|request| self.agent.run(request))
            }
        };
        self.answer(what, answered.map_err(|error| self.unreachable(&error))?)
    }

    fn answer(&self, what: &str, response: Response<ureq::Body>) -> Result<Answer, Failure> {
        let (parts, mut body) = response.into_parts();
        let text = body.with_config().limit(ANSWER_SIZE_MAX).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        if !parts.status.is_success() {
            return Err(self.refused(what, parts.status.as_u16(), &text));
        }
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).map_err(|error| not_understood(what, &error))?
        };
        Ok(Answer {
            body,
            location: header(header::LOCATION).filter(|l| l.starts_with('/')).map(str::to_owned),
            next_page: header(header::LINK).and_then(next_page),
        })
    }

    fn refused(&self, what: &str, status: u16, text: &str) -> Failure {
        let Ok(mut problem) = serde_json::from_str::<Problem>(text) else {
            return Failure::Failed(format!(
                "cannot {what}: {} answered {status} without saying why; is it a vman daemon?",
                self.base
            ));
        };
        if status == 401
            && let Some(missing) = &self.token_missing
        {
            problem.hint = Some(format!("{missing}; name the token's file by --token-file"));
        }
        Failure::Refused { what: what.to_owned(), problem: Box::new(problem) }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let next = match &self.storage {
            Some(_) => "start it by `vman serve`, or name another by --url",
            None => "check that it runs and that the address is right",
        };
        Failure::Unreachable {
            at: format!(" at {}", self.base),
            why: error.to_string(),
            next: next.to_owned(),
        }
    }
}

/// `body` as what the daemon promises to answer.
///
/// # Errors
/// The daemon is of another version, or no vman.
pub(crate) fn parsed<T: DeserializeOwned>(what: &str, body: Value) -> Result<T, Failure> {
    serde_json::from_value(body).map_err(|error| not_understood(what, &error))
}

fn not_understood(what: &str, error: &serde_json::Error) -> Failure {
    Failure::Failed(format!(
        "cannot {what}: the answer was not understood ({error}); is the daemon of the same version \
         as this program? `vman health` tells; -o json shows answers as they are"
    ))
}

/// `<path>; rel="next"` (RFC 8288, 3).
fn next_page(link: &str) -> Option<String> {
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    (parameters.contains("rel=\"next\"") && target.starts_with('/')).then(|| target.to_owned())
}

fn checked_url(url: &str) -> Result<String, Failure> {
    let refused = |why: &str| Failure::Usage(format!("--url {url}: {why}"));
    let uri: Uri = url.parse().map_err(|_| refused("is no URL, e.g. http://127.0.0.1:8000"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http"), Some(_)) => Ok(url.trim_end_matches('/').to_owned()),
        (Some("https"), _) => Err(refused("TLS is not spoken; use http through a tunnel")),
        (_, _) => Err(refused("must begin with http:// and name a host")),
    }
}

/// The daemon of this host: its address and its storage folder.
fn local(global: &Global, surroundings: &Surroundings) -> Result<(String, PathBuf), Failure> {
    let storage = config::load(&global.into(), surroundings)?.config.storage;
    let file = storage.join("run/address");
    let address = std::fs::read_to_string(&file).map_err(|error| Failure::Unreachable {
        at: format!(" of {}", storage.display()),
        why: format!("cannot read {}: {error}", file.display()),
        next: "start it by `vman serve`, or name it by --url, --config or --storage".to_owned(),
    })?;
    Ok((format!("http://{}", address.trim()), storage))
}

/// The token, or why there is none. The local daemon's token is not sent to other hosts.
fn token(
    global: &Global,
    surroundings: &Surroundings,
    storage: Option<&Path>,
) -> Result<(Option<String>, Option<String>), Failure> {
    if let Some(file) = &global.token_file {
        let token = read_token(file).map_err(Failure::Usage)?;
        return Ok((Some(token), None));
    }
    if let Some(token) = surroundings.variable("VMAN_TOKEN") {
        let token =
            token.to_str().ok_or_else(|| Failure::Usage("VMAN_TOKEN is not text".into()))?;
        return checked_token(token)
            .map(|token| (Some(token), None))
            .map_err(|why| Failure::Usage(format!("VMAN_TOKEN {why}")));
    }
    let is_loopback = || global.url.as_deref().is_some_and(is_loopback);
    let storage = match storage {
        Some(storage) => Some(storage.to_owned()),
        None if is_loopback() => Some(config::load(&global.into(), surroundings)?.config.storage),
        None => None,
    };
    Ok(match storage.map(|storage| read_token(&storage.join("token"))) {
        Some(Ok(token)) => (Some(token), None),
        Some(Err(missing)) => (None, Some(missing)),
        None => (None, Some("no token was given".to_owned())),
    })
}

fn read_token(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read the token {}: {error}", file.display()))?;
    checked_token(&text).map_err(|why| format!("the token in {} {why}", file.display()))
}

fn checked_token(text: &str) -> Result<String, &'static str> {
    let token = text.trim();
    if token.is_empty() || token.len() > TOKEN_SIZE_MAX {
        return Err("is empty or too long");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds what cannot be in a token");
    }
    Ok(token.to_owned())
}

fn is_loopback(url: &str) -> bool {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_token_goes_to_this_host_alone() {
        for local in ["http://127.0.0.1:1", "http://[::1]:80/", "http://localhost"] {
            assert!(is_loopback(local), "{local}");
        }
        for other in ["http://10.0.0.1", "http://localhost.example.org", "http://127.0.0.1.example"]
        {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn only_the_next_page_of_the_same_daemon_is_followed() {
        let next = next_page("</vms?limit=2&after=x>; rel=\"next\"");
        assert_eq!(next.as_deref(), Some("/vms?limit=2&after=x"));
        assert_eq!(next_page("<http://example.org/vms>; rel=\"next\""), None);
        assert_eq!(next_page("</vms>; rel=\"prev\""), None);
    }

    #[test]
    fn an_address_that_cannot_be_asked_is_refused() {
        assert_eq!(checked_url("http://h:1/").ok().as_deref(), Some("http://h:1"));
        for bad in ["https://h", "h:1", "/path", "ftp://h", "http://"] {
            assert!(matches!(checked_url(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn a_token_that_could_break_a_header_is_refused() {
        assert_eq!(checked_token(" abc\n"), Ok("abc".to_owned()));
        assert_eq!(checked_token("a\r\nb").ok(), None);
        assert_eq!(checked_token("\n").ok(), None);
    }
}
