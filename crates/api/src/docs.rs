//! The OpenAPI document, made from the code: `GET /openapi.yaml` and `GET /openapi.json`. Holds
//! what is the same for all routes: the frame, the token, and the problems a route may answer with.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
    ResponseBuilder,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};
use vman_api_types::{PROBLEM_CONTENT_TYPE, Problem};

use crate::auth::OPEN_PATH;
use crate::vocabulary;

const TOKEN_SCHEME: &str = "token";

/// The document in both notations, written once.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    yaml: Arc<str>,
    json: Arc<str>,
}

impl Documents {
    pub(crate) fn new(mut openapi: OpenApi) -> Self {
        add_what_every_route_has(&mut openapi);
        vocabulary::add_to(&mut openapi);
        let invariant = "what utoipa built can be written";
        Self {
            yaml: openapi.to_yaml().expect(invariant).into(),
            json: openapi.to_json().expect(invariant).into(),
        }
    }
}

/// The API as an OpenAPI document
#[utoipa::path(get, path = "/openapi.yaml", operation_id = "get_openapi_yaml", tag = "about",
    responses(
        (status = 200, description = "This document in YAML", body = String,
            content_type = "application/yaml"),
    )
)]
pub(crate) async fn yaml(Extension(documents): Extension<Documents>) -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], documents.yaml.to_string()).into_response()
}

/// The API as an OpenAPI document
#[utoipa::path(get, path = "/openapi.json", operation_id = "get_openapi_json", tag = "about",
    responses(
        (status = 200, description = "This document in JSON", body = String,
            content_type = "application/json"),
    )
)]
pub(crate) async fn json(Extension(documents): Extension<Documents>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], documents.json.to_string()).into_response()
}

/// The document without any route.
pub(crate) fn frame(version: &str) -> OpenApi {
    let info = InfoBuilder::new()
        .title("vman")
        .version(version)
        .description(Some(
            "Makes, runs, watches and repairs virtual machines. Errors are RFC 9457 problems with \
             a stable `code`. Accepted commands answer 202 with their operation in `Location`; \
             `Prefer: wait=N` (RFC 7240) waits for its end, up to 60 seconds. A request with an \
             `Idempotency-Key` is carried out once, however often it is sent.",
        ))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("What the file `token` in the storage folder holds."))
        .build();
    let components = ComponentsBuilder::new()
        .security_scheme(TOKEN_SCHEME, SecurityScheme::Http(bearer))
        .schema(Problem::name(), Problem::schema())
        .schema(vman_api_types::FieldProblem::name(), vman_api_types::FieldProblem::schema())
        .schema(vman_api_types::Subject::name(), vman_api_types::Subject::schema())
        .build();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some([SecurityRequirement::new(TOKEN_SCHEME, [] as [&str; 0])]))
        .build()
}

fn add_what_every_route_has(openapi: &mut OpenApi) {
    for (path, item) in &mut openapi.paths.paths {
        let methods = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in methods.into_iter().filter_map(Option::as_mut) {
            let responses = &mut operation.responses.responses;
            if path == OPEN_PATH {
                operation.security = Some(vec![SecurityRequirement::default()]);
            } else {
                responses.insert("401".to_owned(), problem("There is no token, or it is wrong."));
            }
            let refused = "The Host or the Origin is refused; only where no token is asked for.";
            responses.insert("403".to_owned(), problem(refused));
            responses.insert("500".to_owned(), problem("A defect of vman."));
        }
    }
}

fn problem(description: &str) -> RefOr<utoipa::openapi::Response> {
    let schema = Ref::from_schema_name(Problem::name());
    let content = Content::new(Some(RefOr::<utoipa::openapi::Schema>::Ref(schema)));
    RefOr::T(
        ResponseBuilder::new()
            .description(description)
            .content(PROBLEM_CONTENT_TYPE, content)
            .build(),
    )
}

/// `Idempotency-Key`, of a route that carries out the same request once.
pub(crate) struct KeyHeader;

impl IntoParams for KeyHeader {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "Names this request: sent again with the same key it is not carried out \
            again, and answers as it did the first time, with the object as it is now. 1 to 255 \
            visible ASCII characters, in quotes (RFC 8941) or bare. \
            draft-ietf-httpapi-idempotency-key-header";
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .schema(Some(String::schema()))
            .description(Some(description))
            .example(Some("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"".into()));
        vec![parameter.build()]
    }
}

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident { $($status:literal = $description:literal,)* })*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
                BTreeMap::from([$(($status.to_owned(), problem($description)),)*])
            }
        }
    )*};
}

problems! {
    /// Of a route that reads a JSON body.
    BadBody {
        "400" = "The body is not a JSON object, or fields are missing, unknown or invalid.",
        "408" = "The body did not arrive in time.",
        "413" = "The body is larger than 1 MiB.",
        "415" = "The body is not declared as JSON.",
    }
    /// Of a route that reads a query.
    BadQuery { "400" = "Parameters of the query are unknown or invalid.", }
    /// Of a route that is told a key by [`KeyHeader`].
    Reused { "422" = "The Idempotency-Key was used for another request.", }
    /// As [`Reused`], of a route that may have an image made.
    Unmade {
        "422" = "The Idempotency-Key was used for another request, or the backend makes no such \
                 images.",
    }
    /// Of a route that names an object.
    Unknown { "404" = "There is no such object.", }
    /// Of a route that changes something.
    Conflict { "409" = "It conflicts with the present state, which is named.", }
    /// Of a route that reads records.
    NotNow { "503" = "It cannot be done now; of a command: what it needed of the host failed.", }
    /// Of a route that begins an operation.
    TooMany { "429" = "Too many operations are under way.", }
}
