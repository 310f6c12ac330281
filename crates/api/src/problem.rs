//! Why a request was not done, as an answer: every error of the engine gets its status, its stable
//! code and its hint here, and nowhere else.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use vman_api_types::{self as body, FieldProblem, PROBLEM_CONTENT_TYPE, Problem};
use vman_core::ident::OperationId;
use vman_core::lifecycle::{Denied, NotCancellable};
use vman_core::operation::Subject;
use vman_core::ports::RecordError;
use vman_engine::EngineError;

use crate::convert;

/// Seconds a client is asked to wait when too much is going on.
const RETRY_AFTER: &str = "1";
/// Characters of a client's own text that are told back to it.
const EXCERPT_LENGTH_MAX: usize = 80;

/// An answer from 400 on.
#[derive(Debug)]
pub(crate) struct Fault {
    problem: Box<Problem>,
    status: StatusCode,
    header: Option<(HeaderName, &'static str)>,
}

impl Fault {
    /// `code` is stable; `detail` says what is wrong with this very request.
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let problem = Box::new(Problem {
            type_uri: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_owned(),
            object: None,
            state: None,
            hint: None,
            problems: Vec::new(),
            operation: None,
        });
        Self { problem, status, header: None }
    }

    /// 404 for an object that the path names.
    pub(crate) fn unknown(kind: &str, id: &str) -> Self {
        let id = excerpt(id);
        let object = body::Subject { kind: kind.to_owned(), id: id.clone() };
        Self::new(StatusCode::NOT_FOUND, "not-found", format!("{kind} {id} does not exist"))
            .about(object)
    }

    /// 400 with everything that is wrong.
    pub(crate) fn invalid(what: &str, problems: Vec<FieldProblem>) -> Self {
        let listed: Vec<_> =
            problems.iter().map(|each| format!("{} {}", each.field, each.problem)).collect();
        let detail = format!("the {what} is invalid: {}", listed.join("; "));
        let mut fault = Self::new(StatusCode::BAD_REQUEST, "invalid", detail);
        fault.problem.problems = problems;
        fault
    }

    /// 503: the command was right, and what it needed of the host failed.
    pub(crate) fn operation_failed(operation: OperationId, error: &str) -> Self {
        let mut fault = Self::new(StatusCode::SERVICE_UNAVAILABLE, "operation-failed", error)
            .hint(format!("see GET /operations/{operation} for the step that failed"));
        fault.problem.operation = Some(operation.0);
        fault
    }

    /// 409: the command was right, and somebody asked that it be broken off.
    pub(crate) fn operation_cancelled(operation: OperationId, who: &str) -> Self {
        let mut fault = Self::new(StatusCode::CONFLICT, "operation-cancelled", who)
            .hint("repeat the request, if it is still wanted");
        fault.problem.operation = Some(operation.0);
        fault
    }

    /// 500: our own fault.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
            .hint("this is a defect of vman; its log says more")
    }

    pub(crate) fn about(mut self, object: body::Subject) -> Self {
        self.problem.object = Some(object);
        self
    }

    pub(crate) fn in_state(mut self, state: &str) -> Self {
        self.problem.state = Some(state.to_owned());
        self
    }

    /// What was asked can be asked again after `operation`.
    pub(crate) fn until(mut self, operation: OperationId) -> Self {
        self.problem.operation = Some(operation.0);
        self.hint(format!("GET /operations/{operation}?wait=30s waits for it; then ask again"))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }
}

/// A client's text, short enough to be told back.
pub(crate) fn excerpt(text: &str) -> String {
    let mut excerpt: String = text.chars().take(EXCERPT_LENGTH_MAX).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.problem).expect("strings and numbers are always JSON");
        let mut response =
            (self.status, [(header::CONTENT_TYPE, PROBLEM_CONTENT_TYPE)], body).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<RecordError> for Fault {
    fn from(error: RecordError) -> Self {
        let detail = error.to_string();
        match error {
            RecordError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            RecordError::Exists(_) => Self::new(StatusCode::CONFLICT, "exists", detail)
                .hint("choose another name, or delete the one that has it"),
            RecordError::InUse(_) => Self::new(StatusCode::CONFLICT, "in-use", detail)
                .hint("delete what uses it first; GET /vms lists the VMs with their templates"),
            RecordError::Stale(_) => Self::new(StatusCode::CONFLICT, "changed-meanwhile", detail)
                .hint("read it again, and repeat the request if it still makes sense"),
            RecordError::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "records-unavailable", detail)
                    .hint("see the daemon's log, and whether the storage is full or read-only")
            }
        }
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        let detail = error.to_string();
        match error {
            EngineError::Record(error) => error.into(),
            EngineError::NotFound(subject) => Self::unknown(subject.kind(), &subject.id()),
            EngineError::NoTemplate(name) => {
                let object = body::Subject { kind: "template".to_owned(), id: name.to_string() };
                Self::new(StatusCode::NOT_FOUND, "template-not-found", detail)
                    .about(object)
                    .hint("GET /templates lists what there is; POST /templates makes a new one")
            }
            EngineError::Denied { subject, state, denied } => {
                Self::new(StatusCode::CONFLICT, denied.code(), detail)
                    .about(convert::subject(&subject))
                    .in_state(state)
                    .hint(remedy(&subject, denied))
            }
            EngineError::PoolExhausted(subnet) => {
                let object = body::Subject { kind: "network".to_owned(), id: subnet };
                Self::new(StatusCode::CONFLICT, "no-address-left", detail).about(object).hint(
                    "DELETE /vms/{id} of one that is not needed, or configure a larger \
                           [network] subnet",
                )
            }
            EngineError::NoFreeMountPoint(vm) => {
                Self::new(StatusCode::CONFLICT, "no-mount-point-left", detail)
                    .about(convert::subject(&Subject::Vm(vm)))
                    .hint(format!("POST /disks/{{id}}/detach one of its disks: GET /vms/{vm}"))
            }
            EngineError::NoSuchImages { backend, asked: _, makes } => {
                let object = body::Subject { kind: "backend".to_owned(), id: backend };
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, "image-format", detail).about(object).hint(match makes.first() {
                    Some(format) => format!("ask for \"format\": \"{}\"", format.word()),
                    None => {
                        "boot from a kernel or a firmware: POST /templates; or set [backend] use"
                            .to_owned()
                    }
                })
            }
            EngineError::KeyReused(_) => {
                let status = StatusCode::UNPROCESSABLE_ENTITY;
                Self::new(status, "idempotency-key-reused", detail)
                    .hint("take a new key for what is another request")
            }
            EngineError::NotCancellable { operation, verb: _, why } => {
                let object =
                    body::Subject { kind: "operation".to_owned(), id: operation.to_string() };
                Self::new(StatusCode::CONFLICT, why.code(), detail).about(object).hint(match why {
                    NotCancellable::Ended => format!("GET /operations/{operation} tells how"),
                    NotCancellable::Begun(_) | NotCancellable::Short(_) => {
                        format!("GET /operations/{operation}?wait=30s waits for its end")
                    }
                })
            }
            EngineError::Full(subject) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-operations", detail)
                    .about(convert::subject(&subject))
                    .hint("wait for its operations to end, then repeat the request")
                    .header(header::RETRY_AFTER, RETRY_AFTER)
            }
            EngineError::Contended(subject) => {
                Self::new(StatusCode::CONFLICT, "changed-meanwhile", detail)
                    .about(convert::subject(&subject))
                    .hint("read it again, and repeat the request if it still makes sense")
            }
        }
    }
}

/// The request that removes the obstacle.
fn remedy(subject: &Subject, denied: Denied) -> String {
    let path = format!("/{}s/{}", subject.kind(), subject.id());
    match denied {
        Denied::NotRunning => format!("POST {path}/actions/start"),
        Denied::Running => format!("POST {path}/actions/stop"),
        Denied::Paused => format!("POST {path}/actions/resume, or {path}/actions/stop"),
        Denied::BeingStarted => format!("POST {path}/actions/stop, or wait until it runs"),
        Denied::BeingStopped => format!("POST {path}/actions/kill, or wait until it has stopped"),
        Denied::BeingDeleted => format!("GET {path} is 404 once it is gone; make a new one"),
        Denied::BeingCreated | Denied::BeingResized => {
            format!("GET {path} tells its state; ask again when that is another")
        }
        Denied::BeingMoved => {
            format!("GET {path} tells its state; POST {path}/detach asks its guest again for it")
        }
        Denied::Smaller => format!("POST {path}/resize with more than its present size"),
        Denied::Attached | Denied::AttachedElsewhere => format!("POST {path}/detach"),
        Denied::VmInTransition => "GET /vms/{id} tells its VM's state; ask again then".to_owned(),
        Denied::Held => format!("POST /vms/{{id}}/actions/stop of its VM, the vm_id of GET {path}"),
        Denied::ImageMissing => format!("restore its image file, or DELETE {path}"),
        Denied::Failed => format!("GET {path} tells the state_reason; then DELETE {path}"),
        Denied::OtherBackend => {
            format!("set `[backend] use` to the `backend` of GET {path}, and restart the daemon")
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use uuid::Uuid;
    use vman_core::disk::ImageFormat;
    use vman_core::ident::VmId;
    use vman_core::operation::Verb;

    use super::*;

    #[test]
    fn every_error_of_the_engine_has_the_status_and_code_that_the_design_promises() {
        let vm = VmId(Uuid::from_u128(7));
        let subject = Subject::Vm(vm);
        let text = || "x".to_owned();
        let record = |error| EngineError::Record(error);
        let name = "small".parse().expect("a name");
        let key = "k".parse().expect("a key");
        let (operation, verb) = (OperationId(Uuid::from_u128(8)), Verb::VmStop);
        let not_cancellable = |why| EngineError::NotCancellable { operation, verb, why };
        let no_images = |makes| {
            let (backend, asked) = (text(), Some(ImageFormat::Qcow2));
            EngineError::NoSuchImages { backend, asked, makes }
        };
        let denied = EngineError::Denied {
            subject: subject.clone(),
            state: "stopped",
            denied: Denied::NotRunning,
        };
        for (error, status, code) in [
            (record(RecordError::NotFound(text())), 404, "not-found"),
            (record(RecordError::Exists(text())), 409, "exists"),
            (record(RecordError::InUse(text())), 409, "in-use"),
            (record(RecordError::Stale(text())), 409, "changed-meanwhile"),
            (record(RecordError::Unavailable(text())), 503, "records-unavailable"),
            (EngineError::NotFound(subject.clone()), 404, "not-found"),
            (EngineError::NoTemplate(name), 404, "template-not-found"),
            (denied, 409, "not-running"),
            (EngineError::PoolExhausted(text()), 409, "no-address-left"),
            (EngineError::NoFreeMountPoint(vm), 409, "no-mount-point-left"),
            (no_images(vec![]), 422, "image-format"),
            (no_images(vec![ImageFormat::Raw]), 422, "image-format"),
            (EngineError::KeyReused(key), 422, "idempotency-key-reused"),
            (not_cancellable(NotCancellable::Ended), 409, "ended"),
            (not_cancellable(NotCancellable::Begun(Verb::VmStop)), 409, "not-cancellable"),
            (EngineError::Full(subject.clone()), 429, "too-many-operations"),
            (EngineError::Contended(subject), 409, "changed-meanwhile"),
        ] {
            let fault = Fault::from(error);
            assert_eq!((fault.problem.status, fault.problem.code.as_str()), (status, code));
            // The id that was not found says all; every other error names the way out.
            assert_eq!(fault.problem.hint.is_some(), code != "not-found", "{code}");
            let response = fault.into_response();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_CONTENT_TYPE);
        }
    }

    #[test]
    fn a_denial_names_the_object_its_state_and_the_way_out() {
        let subject = Subject::Vm(VmId(Uuid::from_u128(7)));
        let denied = Denied::NotRunning;
        let problem =
            Fault::from(EngineError::Denied { subject, state: "stopped", denied }).problem;
        assert!(problem.detail.contains("is stopped"), "{}", problem.detail);
        assert_eq!(problem.object.map(|object| object.kind).as_deref(), Some("vm"));
        assert_eq!(problem.state.as_deref(), Some("stopped"));
        let start = format!("POST /vms/{}/actions/start", Uuid::from_u128(7));
        assert_eq!(problem.hint, Some(start));
    }

    #[test]
    fn a_long_text_of_the_client_is_not_told_back_whole() {
        let fault = Fault::unknown("vm", &"ä".repeat(10_000));
        assert!(fault.problem.detail.len() < 400);
        assert_eq!(fault.status, StatusCode::NOT_FOUND);
    }
}
