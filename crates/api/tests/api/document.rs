//! The OpenAPI document against the router: what the one says, the other does.

use std::collections::BTreeSet;

use axum::body::Body;
use serde_json::Value;

use crate::harness::Api;

/// What the API promises to serve.
const ROUTES: [&str; 37] = [
    "GET /templates",
    "POST /templates",
    "GET /templates/{name}",
    "DELETE /templates/{name}",
    "GET /vms",
    "POST /vms",
    "GET /vms/{id}",
    "PATCH /vms/{id}",
    "DELETE /vms/{id}",
    "POST /vms/{id}/actions/start",
    "POST /vms/{id}/actions/stop",
    "POST /vms/{id}/actions/restart",
    "POST /vms/{id}/actions/pause",
    "POST /vms/{id}/actions/resume",
    "POST /vms/{id}/actions/reset",
    "POST /vms/{id}/actions/kill",
    "GET /disks",
    "POST /disks",
    "GET /disks/{id}",
    "DELETE /disks/{id}",
    "POST /disks/{id}/attach",
    "POST /disks/{id}/detach",
    "POST /disks/{id}/resize",
    "GET /operations",
    "GET /operations/{id}",
    "POST /operations/{id}/cancel",
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

/// They make nothing, so that they can be sent as often as one likes.
const REPEATED_WITHOUT_A_KEY: [&str; 2] = ["/operations/{id}/cancel", "/observer/run"];

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
            let has_body = ["post", "patch"].contains(&method.as_str());
            assert_eq!(has("413"), has_body, "{method} {path}");
            // Where the same request can be sent again, what it made may be gone.
            assert_eq!(has("404"), path.contains('{') || has("422"), "{method} {path}");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let is_key = |each: &Value| each["name"] == "Idempotency-Key";
            let repeats = method == "post" && !REPEATED_WITHOUT_A_KEY.contains(&path.as_str());
            assert_eq!(parameters.into_iter().any(is_key), repeats, "{method} {path}");
            assert_eq!(has("422"), repeats, "{method} {path}");
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

/// What of `value` is not as `schema` has it: a type, a field that is required or unknown, or a
/// word outside of a closed set.
fn departures(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return departures(document, document.pointer(&reference[1..]).unwrap(), value, at);
    }
    let fits = |one: &Value| departures(document, one, value, at).is_empty();
    if let Some(choices) = schema["oneOf"].as_array() {
        let found = choices.iter().any(fits);
        return if found { vec![] } else { vec![format!("{at}: {value} is none of {schema}")] };
    }
    let one = &schema["type"];
    let types = one.as_array().cloned().unwrap_or_else(|| vec![one.clone()]);
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&Value::from(kind)) {
        return vec![format!("{at}: {value} is no {types:?}")];
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return vec![format!("{at}: {value} is none of {}", schema["enum"])];
    }
    let elements = value.as_array().into_iter().flatten();
    let mut found: Vec<String> =
        elements.flat_map(|each| departures(document, &schema["items"], each, at)).collect();
    let Some(members) = value.as_object() else { return found };
    for required in schema["required"].as_array().into_iter().flatten() {
        if !members.contains_key(required.as_str().unwrap()) {
            found.push(format!("{at}: {required} is required and not there"));
        }
    }
    for (name, member) in members {
        let at = format!("{at}.{name}");
        match schema["properties"].get(name).or_else(|| schema.get("additionalProperties")) {
            Some(schema) => found.extend(departures(document, schema, member, &at)),
            None => found.push(format!("{at}: is not documented")),
        }
    }
    found
}

#[tokio::test]
async fn what_is_served_is_as_the_document_says() {
    let api = Api::new();
    let document = document(&api).await;
    let (vm, disk) = (api.new_vm().await, api.new_disk().await);
    let attach = format!("/disks/{disk}/attach");
    api.post(&attach, serde_json::json!({"vm_id": vm})).await.expect(202);
    let start = api.prefer("POST", &format!("/vms/{vm}/actions/start"), "wait=20").await;
    let operation = start.expect(200).header("location").to_owned();
    let operation = operation.strip_prefix("/operations/").unwrap();
    for (path, id) in [
        ("/templates", None),
        ("/vms", None),
        ("/vms/{id}", Some(vm.as_str())),
        ("/disks", None),
        ("/disks/{id}", Some(disk.as_str())),
        ("/operations", None),
        ("/operations/{id}", Some(operation)),
        ("/issues", None),
        ("/observer/status", None),
        ("/network/config", None),
        ("/backends", None),
        ("/policies", None),
        ("/health", None),
    ] {
        let served = api.get(&path.replace("{id}", id.unwrap_or_default())).await;
        let body = served.expect(200).json();
        let response = &document["paths"][path]["get"]["responses"]["200"];
        let schema = &response["content"]["application/json"]["schema"];
        let departures = departures(&document, schema, &body, path);
        assert!(departures.is_empty(), "{departures:#?}");
        assert!(path == "/issues" || body.as_array().is_none_or(|list| !list.is_empty()), "{path}");
    }
    let unknown = api.get("/vms/x").await.expect(404).json();
    let problem = &document["components"]["schemas"]["Problem"];
    assert_eq!(departures(&document, problem, &unknown, "problem"), [] as [&str; 0]);
}

#[tokio::test]
async fn states_are_closed_sets_and_what_is_always_there_is_required() {
    let api = Api::new();
    let document = document(&api).await;
    let schema = |name: &str| document["components"]["schemas"][name].clone();
    let states = &schema("Vm")["properties"]["state"];
    assert!(states["enum"].as_array().unwrap().contains(&Value::from("paused")), "{states}");
    assert!(states["description"].as_str().unwrap().contains("`paused`"), "{states}");
    let verdicts = &schema("Decision")["properties"]["verdict"]["enum"];
    assert!(verdicts.as_array().unwrap().contains(&Value::Null), "{verdicts}");
    for (name, field) in [("Vm", "process"), ("Disk", "vm_id"), ("Operation", "ended_at")] {
        let required = schema(name)["required"].as_array().unwrap().clone();
        assert!(required.contains(&Value::from(field)), "{name}.{field} is always there");
    }
    let parameters = document["paths"]["/issues"]["get"]["parameters"].as_array().unwrap().clone();
    let state = parameters.iter().find(|each| each["name"] == "state").unwrap();
    assert!(state["schema"]["enum"].as_array().unwrap().contains(&Value::from("open")), "{state}");
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
