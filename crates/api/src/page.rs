//! Pages of a list: which part a query asks for, and the link to the next one (RFC 8288).

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;
use vman_api_types::FieldProblem;
use vman_core::ident::Invalid;
use vman_core::ports::{PAGE_LIMIT_MAX, Page, RecordError};

use crate::fields::{Fields, string};
use crate::path::PathKey;
use crate::problem::Fault;

/// Elements of a page if the query does not say.
const LIMIT_DEFAULT: u32 = 100;

/// Which part of a list is wanted.
#[derive(Debug, Clone, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Elements at the most, 1 to 1000; 100 if absent.
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<u32>,
    /// The id (of templates: the name) of the element that the part begins after.
    pub(crate) after: Option<String>,
}

/// The parameters of the query, not yet read.
#[derive(Debug)]
pub(crate) struct Query(pub(crate) Fields);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Fault> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let axum::extract::Query(pairs) =
            pairs.map_err(|error| Fault::invalid("query", vec![]).hint(error.to_string()))?;
        let mut fields = Map::new();
        let mut repeated = Vec::new();
        for (name, value) in pairs {
            if fields.insert(name.clone(), Value::String(value)).is_some() {
                repeated.push(name);
            }
        }
        let mut fields = Fields::new("query", fields);
        for name in repeated {
            fields.problem(&name, "is given more than once".to_owned());
        }
        Ok(Self(fields))
    }
}

/// Reads `limit` and `after`.
pub(crate) fn read<Key: PathKey>(fields: &mut Fields) -> Page<Key> {
    let limit = fields.optional("limit", limit);
    let after = fields.optional("after", |value| {
        Key::read(&string(value)?).ok_or_else(|| Invalid(format!("must name a {}", Key::KIND)))
    });
    Page { limit: limit.unwrap_or(LIMIT_DEFAULT), after }
}

/// A list that was recalled: the one thing it can miss is the element it was to begin after.
pub(crate) fn listed<T>(list: Result<Vec<T>, RecordError>) -> Result<Vec<T>, Fault> {
    list.map_err(|error| match error {
        RecordError::NotFound(_) => {
            let (field, problem) = ("after".to_owned(), error.to_string());
            Fault::invalid("query", vec![FieldProblem { field, problem }])
                .hint("begin again, without after")
        }
        RecordError::Exists(_)
        | RecordError::InUse(_)
        | RecordError::Stale(_)
        | RecordError::Unavailable(_) => error.into(),
    })
}

/// One of `words`.
pub(crate) fn one_of(
    words: &[&'static str],
) -> impl FnOnce(Value) -> Result<&'static str, Invalid> {
    move |value| {
        let given = string(value)?;
        let found = words.iter().find(|word| **word == given);
        found.copied().ok_or_else(|| Invalid(format!("must be one of {}", words.join(", "))))
    }
}

fn limit(value: Value) -> Result<u32, Invalid> {
    let limit = string(value)?.parse().ok();
    limit
        .filter(|limit| (1..=PAGE_LIMIT_MAX).contains(limit))
        .ok_or_else(|| Invalid(format!("must be from 1 to {PAGE_LIMIT_MAX}")))
}

/// The list, and the link to the next part if there may be one. `filter` is the rest of the query,
/// e.g. `state=running`; it and `last`, the key of the last element, need no escaping in a URI.
pub(crate) fn answer<T: Serialize>(
    path: &str,
    filter: Option<String>,
    limit: u32,
    last: Option<String>,
    list: Vec<T>,
) -> Response {
    let is_full = u32::try_from(list.len()).is_ok_and(|length| length >= limit);
    match last.filter(|_| is_full) {
        Some(last) => {
            let filter = filter.map(|filter| format!("{filter}&")).unwrap_or_default();
            let link = format!("<{path}?{filter}limit={limit}&after={last}>; rel=\"next\"");
            ([(header::LINK, link)], Json(list)).into_response()
        }
        None => Json(list).into_response(),
    }
}
