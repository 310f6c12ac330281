//! The closed sets of words in bodies and queries, as the OpenAPI document tells them: a generated
//! client then knows every state there is. Open sets, such as the kinds of issues and operations,
//! are not told: they grow without a new version of the API.

use serde_json::Value;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, SchemaType, Type};
use utoipa::openapi::{OpenApi, RefOr, Schema};
use vman_core::coherence::Severity;
use vman_core::disk::Bus;
use vman_core::operation::StepState;
use vman_core::repair::{Mode, Resolution, Verdict};
use vman_core::vm::VmState;

/// The words of `IssueState::word`.
pub(crate) const ISSUE_STATES: [&str; 3] = ["open", "repairing", "resolved"];
/// The words of `DiskState::word`.
const DISK_STATES: [&str; 9] = [
    "creating",
    "available",
    "attaching",
    "attached",
    "detaching",
    "resizing",
    "missing",
    "failed",
    "deleting",
];
/// The words of `OperationState::word`.
const OPERATION_STATES: [&str; 5] = ["pending", "running", "succeeded", "failed", "cancelled"];
/// The words of `ImageFormat::word`.
const FORMATS: [&str; 2] = ["qcow2", "raw"];
/// The kinds of `Reason`, as `convert` tells them.
const REASONS: [&str; 4] = ["user", "guest", "boot", "repair"];
/// The states of `ObserverHealth`, as `convert` tells them.
const HEALTH: [&str; 3] = ["starting", "healthy", "degraded"];

/// Adds the words to the fields and parameters that take no others.
pub(crate) fn add_to(openapi: &mut OpenApi) {
    let buses: Vec<_> = Bus::ALL.iter().map(|bus| bus.word()).collect();
    let severities: Vec<_> = Severity::ALL.iter().map(|severity| severity.word()).collect();
    let steps: Vec<_> = StepState::ALL.iter().map(|state| state.word()).collect();
    let verdicts: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.word()).collect();
    let modes: Vec<_> = Mode::ALL.iter().map(|mode| mode.word()).collect();
    let resolutions: Vec<_> = Resolution::ALL.iter().map(|how| how.word()).collect();
    for (schema, field, words) in [
        ("Vm", "state", &VmState::WORDS[..]),
        ("Disk", "state", &DISK_STATES),
        ("Disk", "format", &FORMATS),
        ("NewDisk", "format", &FORMATS),
        ("Disk", "bus", &buses),
        ("NewDisk", "bus", &buses),
        ("Operation", "state", &OPERATION_STATES),
        ("OperationStep", "state", &steps),
        ("OperationReason", "kind", &REASONS),
        ("Issue", "state", &ISSUE_STATES),
        ("Issue", "severity", &severities),
        ("Issue", "resolution", &resolutions),
        ("Decision", "verdict", &verdicts),
        ("Decision", "mode", &modes),
        ("Policy", "mode", &modes),
        ("ObserverStatus", "health", &HEALTH),
    ] {
        close(field_of(openapi, schema, field), words);
    }
    for (path, words) in [("/vms", &VmState::WORDS[..]), ("/issues", &ISSUE_STATES)] {
        let list = openapi.paths.paths.get_mut(path).and_then(|item| item.get.as_mut());
        close(state_of(list.expect("a list that is served")), words);
    }
}

/// A field of a body, which must be there: its name stands above.
fn field_of<'a>(openapi: &'a mut OpenApi, schema: &str, field: &str) -> &'a mut Object {
    let schemas = openapi.components.as_mut().map(|components| &mut components.schemas);
    let body = schemas.and_then(|schemas| schemas.get_mut(schema)).and_then(object);
    let field = body.and_then(|body| body.properties.get_mut(field)).and_then(object);
    field.expect("a field of a body that is served")
}

fn state_of(list: &mut Operation) -> &mut Object {
    let parameters = list.parameters.iter_mut().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        RefOr::Ref(_) => None,
    });
    let state = parameters.into_iter().find(|parameter| parameter.name == "state");
    let schema = state.and_then(|state| state.schema.as_mut()).and_then(object);
    schema.expect("a list that is filtered by state")
}

fn object(schema: &mut RefOr<Schema>) -> Option<&mut Object> {
    match schema {
        RefOr::T(Schema::Object(object)) => Some(object),
        RefOr::T(_) | RefOr::Ref(_) => None,
    }
}

fn close(object: &mut Object, words: &[&str]) {
    let is_nullable = match &object.schema_type {
        SchemaType::Array(types) => types.contains(&Type::Null),
        SchemaType::Type(_) | SchemaType::AnyValue => false,
    };
    let words = words.iter().map(|word| Value::from(*word));
    object.enum_values = Some(words.chain(is_nullable.then_some(Value::Null)).collect());
}

#[cfg(test)]
mod tests {
    use vman_core::disk::{DiskState, ImageFormat};
    use vman_core::ident::{OperationId, Timestamp};
    use vman_core::operation::OperationState;
    use vman_core::repair::IssueState;

    use super::*;

    #[test]
    fn the_words_are_those_of_the_domain() {
        for word in DISK_STATES {
            let state = DiskState::from_word(word, Some("why"), Some(2)).expect(word);
            assert_eq!(state.word(), word);
        }
        for word in OPERATION_STATES {
            let state = OperationState::from_word(word, Some("why")).expect(word);
            assert_eq!(state.word(), word);
        }
        for word in FORMATS {
            assert_eq!(word.parse::<ImageFormat>().expect(word).word(), word);
        }
        let operation = OperationId(uuid::Uuid::nil());
        let resolved = IssueState::Resolved { at: Timestamp(0), how: Resolution::ALL[0] };
        let states = [IssueState::Open, IssueState::Repairing(operation), resolved];
        assert_eq!(states.each_ref().map(IssueState::word), ISSUE_STATES);
    }
}
