//! An API with an engine of its own for each test, and requests in one line.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tower::ServiceExt;
use vman_api::{ApiState, Auth, Backends, ObserverHandle, router};
use vman_api_types::{Backend, NetworkConfig, Policy};
use vman_core::disk::ImageFormat;
use vman_core::ident::Timestamp;
use vman_core::network::{Network, NetworkMode, Subnet};
use vman_core::ports::ObserverStatus;
use vman_core::testing::{FakeHost, FixedClock, MemoryRecords, ScriptedJudge};
use vman_engine::{Engine, EngineConfig, Ports, RepairConfig};

pub(crate) const TOKEN: &str = "the-right-token";
/// 2026-11-22T19:24:00.000Z
pub(crate) const NOW: Timestamp = Timestamp(1_795_375_440_000);

pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) records: Arc<MemoryRecords>,
    pub(crate) observer: watch::Sender<ObserverStatus>,
    pub(crate) wake: Arc<Notify>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Api {
    pub(crate) fn new() -> Self {
        Self::with(Auth::Token(TOKEN.to_owned()), &[])
    }

    pub(crate) fn with(auth: Auth, cors_origins: &[&str]) -> Self {
        let host = Arc::new(FakeHost::default());
        let records = Arc::new(MemoryRecords::default());
        let (observer, status) = watch::channel(ObserverStatus::default());
        let wake = Arc::new(Notify::new());
        let state = ApiState {
            engine: engine(records.clone(), host.clone()),
            observer: ObserverHandle {
                status,
                wake: wake.clone(),
                interval: Duration::from_secs(5),
            },
            network: network(),
            backends: Backends::new(|| vec![backend()]),
            policies: vec![policy()],
            auth,
            cors_origins: cors_origins.iter().map(|origin| (*origin).to_owned()).collect(),
            version: "1.2.3".to_owned(),
        };
        Self { router: router(state), host, records, observer, wake }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        let json = ("content-type", "application/json");
        self.send("POST", path, &[json], Body::from(body.to_string())).await
    }

    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: Value) -> Answer {
        let body = Body::from(body.to_string());
        self.send("PATCH", path, &[("content-type", content_type)], body).await
    }

    /// As [`post`](Self::post), with an `Idempotency-Key`.
    pub(crate) async fn post_once(&self, path: &str, key: &str, body: Value) -> Answer {
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.send("POST", path, &headers, Body::from(body.to_string())).await
    }

    /// Without a body, with a `Prefer` header.
    pub(crate) async fn prefer(&self, method: &str, path: &str, preference: &str) -> Answer {
        self.send(method, path, &[("prefer", preference)], Body::empty()).await
    }

    /// With the right token.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let token = format!("Bearer {TOKEN}");
        let mut all = vec![("authorization", token.as_str())];
        all.extend_from_slice(headers);
        self.send_bare(method, path, &all, body).await
    }

    pub(crate) async fn send_bare(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(to_bytes(body, 1 << 24).await.unwrap().into()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// The id of a new VM of a new template.
    pub(crate) async fn new_vm(&self) -> String {
        let template = json!({"name": "small", "cpu_count": 1, "ram_amount": 64});
        self.post("/templates", template).await.expect(201);
        self.post("/vms", json!({"vm_template": "small"})).await.expect(201).id()
    }

    pub(crate) async fn new_disk(&self) -> String {
        self.post("/disks", json!({"size": 1})).await.expect(201).id()
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// A problem of that status and code, and well formed.
    #[track_caller]
    pub(crate) fn expect_problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], "about:blank");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    #[track_caller]
    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }

    /// Empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }
}

fn engine(records: Arc<MemoryRecords>, host: Arc<FakeHost>) -> Engine {
    let subnet = Subnet::new("10.77.0.0/29".parse().unwrap(), "10.77.0.1".parse().unwrap());
    let network = Network {
        mode: NetworkMode::User,
        reason: "for a test".to_owned(),
        subnet: subnet.unwrap(),
        dns: None,
    };
    let ports = Ports {
        record: records,
        network: host.clone(),
        operator: host,
        judge: Arc::new(ScriptedJudge::default()),
        clock: Arc::new(FixedClock::at(NOW)),
        wake_observer: Arc::new(|| {}),
    };
    let repair = RepairConfig { enabled: true, budget: 3, window: Duration::from_secs(600) };
    let backend = "fake".to_owned();
    let stop_grace = Duration::from_secs(10);
    let image_formats = vec![ImageFormat::Qcow2, ImageFormat::Raw];
    Engine::new(ports, EngineConfig { network, backend, image_formats, stop_grace, repair })
}

fn network() -> NetworkConfig {
    NetworkConfig {
        mode: "user".to_owned(),
        reason: "for a test".to_owned(),
        subnet: "10.77.0.0/29".to_owned(),
        gateway: "10.77.0.1".to_owned(),
        dns: None,
        bridge: None,
        vlan_id: None,
        uplink: None,
    }
}

fn backend() -> Backend {
    Backend {
        name: "fake".to_owned(),
        version: Some("1.2.3".to_owned()),
        mode: Some("static".to_owned()),
        source: "built-in".to_owned(),
        state: "started".to_owned(),
        usable: true,
        reason: "for a test".to_owned(),
        notes: vec!["nothing is confined".to_owned()],
        selected: true,
    }
}

fn policy() -> Policy {
    Policy {
        name: "log-only".to_owned(),
        mode: "enforce".to_owned(),
        source: "built-in".to_owned(),
        hash: Some("0".repeat(64)),
        kinds: vec![],
    }
}
