//! The OpenAPI document against the router: what the one says, the other does.

use std::collections::BTreeSet;

use axum::body::Body;
use serde_json::Value;

use crate::harness::Api;

/// What the API promises to serve.
const ROUTES: [&str; 30] = [
    "GET /templates",
    "POST /templates",
    "GET /templates/{name}",
    "DELETE /templates/{name}",
    "GET /vms",
    "POST /vms",
    "GET /vms/{id}",
    "DELETE /vms/{id}",
    "POST /vms/{id}/actions/start",
    "POST /vms/{id}/actions/stop",
    "POST /vms/{id}/actions/restart",
    "GET /disks",
    "POST /disks",
    "GET /disks/{id}",
    "DELETE /disks/{id}",
    "POST /disks/{id}/attach",
    "POST /disks/{id}/detach",
    "GET /operations",
    "GET /operations/{id}",
    "GET /issues",
    "GET /issues/{id}",
    "GET /observer/status",
    "POST /observer/run",
    "GET /network/config",
    "GET /backends",
    "GET /policies",
    "GET /health",
    "GET /ready",
    "GET /openapi.yaml",
    "GET /openapi.json",
];

async fn document(api: &Api) -> Value {
    api.get("/openapi.json").await.expect(200).json()
}

#[tokio::test]
async fn the_document_lists_every_route_and_the_router_serves_each() {
    let api = Api::new();
    let document = document(&api).await;
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(documented, ROUTES.map(ToOwned::to_owned).into());
    for route in documented {
        let (method, path) = route.split_once(' ').unwrap();
        let answer = api.send(method, path, &[], Body::empty()).await;
        assert_ne!(answer.status, 405, "{route}");
        assert!(!answer.text.contains("no-such-route"), "{route}");
    }
}

#[tokio::test]
async fn every_operation_has_its_responses_its_problems_and_its_security() {
    let api = Api::new();
    let document = document(&api).await;
    assert_eq!(document["info"]["version"], "1.2.3");
    assert_eq!(document["security"][0]["token"], Value::Array(vec![]));
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} is not unique");
            let responses = operation["responses"].as_object().unwrap();
            let has = |status: &str| responses.contains_key(status);
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
            assert!(has("500") && has("403"), "{method} {path}");
            assert_eq!(has("401"), path != "/health", "{method} {path}");
            assert_eq!(has("404"), path.contains('{') || path == "/vms" && method == "post");
            assert_eq!(has("413"), method == "post", "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(responses.values().all(|each| each["description"].is_string()), "{path}");
            for (status, response) in responses.iter().filter(|(s, _)| !s.starts_with('2')) {
                let schema = &response["content"]["application/problem+json"]["schema"];
                assert_eq!(schema["$ref"], "#/components/schemas/Problem", "{path} {status}");
            }
        }
    }
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    let api = Api::new();
    let document = document(&api).await;
    let mut waiting = vec![&document];
    let mut seen = 0;
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(members) => waiting.extend(members.values()),
            Value::Array(elements) => waiting.extend(elements),
            Value::String(text) if text.starts_with("#/") => {
                assert!(document.pointer(&text[1..]).is_some(), "{text}");
                seen += 1;
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    assert!(seen > 50, "{seen}");
}

#[tokio::test]
async fn the_yaml_says_the_same_and_each_has_its_media_type() {
    let api = Api::new();
    let yaml = api.get("/openapi.yaml").await.expect(200);
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(yaml.text.starts_with("openapi: 3."), "{}", &yaml.text[..100]);
    for (path, _) in document(&api).await["paths"].as_object().unwrap() {
        assert!(yaml.text.contains(&format!("  {path}:")), "{path}");
    }
    let json = api.get("/openapi.json").await.expect(200);
    assert_eq!(json.header("content-type"), "application/json");
}
