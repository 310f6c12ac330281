//! Every route, and what stands around all of them: the request log, panics made answers, CORS,
//! the limits of bodies, and who may call. What a route does is in the file of its resource.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::{Fault, excerpt};
use crate::state::{ApiState, App};
use crate::{
    auth, backends, body, disks, docs, health, issues, network, observer, operations, policies,
    request_log, templates, vms,
};

/// A browser asks again after so long whether it may call.
const PREFLIGHT_AGE_MAX: Duration = Duration::from_secs(600);

/// The whole API.
pub fn router(state: ApiState) -> Router {
    let app: App = Arc::new(state);
    let (routes, openapi) = all_routes(&app.version).split_for_parts();
    // The last layer is the outermost.
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(Extension(docs::Documents::new(openapi)))
        .layer(middleware::from_fn_with_state(app.clone(), auth::check))
        .layer(middleware::from_fn(body::gather))
        .layer(cors(&app))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(request_log::log))
        .with_state(app)
}

fn all_routes(version: &str) -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(docs::frame(version))
        .routes(routes!(templates::list, templates::create))
        .routes(routes!(templates::get, templates::delete))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::get, vms::update, vms::delete))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::restart))
        .routes(routes!(vms::pause))
        .routes(routes!(vms::resume))
        .routes(routes!(vms::reset))
        .routes(routes!(vms::kill))
        .routes(routes!(disks::list, disks::create))
        .routes(routes!(disks::get, disks::delete))
        .routes(routes!(disks::attach))
        .routes(routes!(disks::detach))
        .routes(routes!(disks::resize))
        .routes(routes!(operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(operations::cancel))
        .routes(routes!(issues::list))
        .routes(routes!(issues::get))
        .routes(routes!(observer::status))
        .routes(routes!(observer::run))
        .routes(routes!(network::config))
        .routes(routes!(backends::list))
        .routes(routes!(policies::list))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(docs::yaml))
        .routes(routes!(docs::json))
}

fn cors(app: &App) -> CorsLayer {
    let app = app.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| {
            auth::is_origin_allowed(origin, &app.cors_origins)
        }))
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            crate::keyed::IDEMPOTENCY_KEY,
            crate::prefer::PREFER,
            request_log::REQUEST_ID,
        ])
        .expose_headers([
            header::LOCATION,
            header::LINK,
            header::RETRY_AFTER,
            crate::prefer::PREFERENCE_APPLIED,
            request_log::REQUEST_ID,
        ])
        .max_age(PREFLIGHT_AGE_MAX)
}

async fn no_such_route(uri: axum::http::Uri) -> Fault {
    let detail = format!("there is nothing at {}", excerpt(uri.path()));
    Fault::new(StatusCode::NOT_FOUND, "no-such-route", detail)
        .hint("GET /openapi.json lists all there is")
}

async fn no_such_method(method: Method, uri: axum::http::Uri) -> Fault {
    let method = excerpt(method.as_str());
    let detail = format!("{} does not understand {method}", excerpt(uri.path()));
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
        .hint("the Allow header lists the methods it understands")
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    tracing::error!(target: request_log::LOG_TARGET, message, "a handler panicked");
    Fault::internal("the request could not be handled").into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_with_500_and_its_message_stays_here() {
        async fn broken() -> &'static str {
            panic!("the secret reason")
        }
        let router = Router::new()
            .route("/", get(broken))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(middleware::from_fn(request_log::log));
        let request = Request::get("/").body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key(request_log::REQUEST_ID));
        let body = axum::body::to_bytes(response.into_body(), 4096).await.expect("a body");
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
    }
}
