//! An API over a real store on a loopback port, and a client that speaks HTTP to it.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test owns its tasks by a JoinSet"
)]

use std::{
    future::IntoFuture,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{extract::Request, middleware::Next};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use leno_api::{Access, Api, Caller, Derived, Limits};
use leno_config::{Finding, Kind, Resource};
use leno_store::{Options, SqliteStore};
use leno_types::DnsLabel;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

/// A control plane that gives addresses, and has the EndpointSlices it is told to have.
pub(crate) struct Plane {
    pub(crate) slices: Mutex<Vec<Value>>,
    /// Services that nobody wrote.
    pub(crate) services: Mutex<Vec<Value>>,
    /// What the status of every route says.
    pub(crate) programmed: Mutex<&'static str>,
    changes: tokio::sync::watch::Sender<u64>,
}

impl Plane {
    pub(crate) fn set_slices(&self, slices: Vec<Value>) {
        *self.slices.lock().unwrap() = slices;
        self.changes.send_modify(|version| *version += 1);
    }

    pub(crate) fn set_services(&self, services: Vec<Value>) {
        *self.services.lock().unwrap() = services;
        self.changes.send_modify(|version| *version += 1);
    }

    pub(crate) fn set_programmed(&self, status: &'static str) {
        *self.programmed.lock().unwrap() = status;
        self.changes.send_modify(|version| *version += 1);
    }

    fn route_status(&self) -> Value {
        let status = *self.programmed.lock().unwrap();
        json!({"conditions": [{"type": "Programmed", "status": status}]})
    }
}

impl Derived for Plane {
    fn list(&self, mesh: &DnsLabel, kind: Kind, namespace: Option<&str>) -> Vec<Value> {
        let all = match kind {
            Kind::EndpointSlice if mesh.as_str() == "default" => &self.slices,
            Kind::Service if mesh.as_str() == "default" => &self.services,
            _ => return Vec::new(),
        };
        let slices = all.lock().unwrap();
        let ours = |slice: &&Value| namespace.is_none_or(|n| slice["metadata"]["namespace"] == n);
        slices.iter().filter(ours).cloned().collect()
    }

    fn status(&self, _: &DnsLabel, kind: Kind, _: &str, _: &str) -> Option<Value> {
        (kind == Kind::HttpRoute).then(|| self.route_status())
    }

    fn statuses(&self, mesh: &DnsLabel, kind: Kind) -> Vec<(String, String, Value)> {
        // Of routes named split in the namespace shop, whether or not they are there.
        let is_told = kind == Kind::HttpRoute && mesh.as_str() == "default";
        let status = is_told.then(|| ("shop".into(), "split".into(), self.route_status()));
        status.into_iter().collect()
    }

    fn admit_write(
        &self,
        _: &DnsLabel,
        kind: Kind,
        object: &mut Value,
        old: Option<&Value>,
        _: SystemTime,
    ) -> Result<(), Vec<Finding>> {
        if object["metadata"]["name"] == "forbidden-name" {
            return Err(vec![Finding::new("metadata.name", "this name is taken")]);
        }
        if kind == Kind::Service && object["spec"].get("clusterIPs").is_none() {
            let ips = old.map_or_else(
                || json!(["240.240.0.7"]),
                |old| old["spec"]["clusterIPs"].clone(),
            );
            object["spec"]["clusterIP"] = ips[0].clone();
            object["spec"]["clusterIPs"] = ips;
        }
        Ok(())
    }

    fn warnings(&self, _: &DnsLabel, together: &[&Resource]) -> Vec<Vec<Finding>> {
        let names: Vec<&str> = together.iter().map(|of| of.meta().name.as_str()).collect();
        let of = |resource: &&Resource| match resource {
            Resource::HttpRoute(route)
                if !names.contains(&route.parents[0].service.name.as_str()) =>
            {
                let reason = "there is no service shop/\"catalog\"";
                vec![Finding::new("spec.parentRefs[0].name", reason)]
            }
            _ => Vec::new(),
        };
        together.iter().map(of).collect()
    }

    fn changes(&self, _: &DnsLabel) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn has_mesh(&self, mesh: &DnsLabel) -> bool {
        mesh.as_str() != "nowhere"
    }
}

/// A running API.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) plane: Arc<Plane>,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) counters: Arc<leno_api::Counters>,
    /// The same, where a test wants no connection.
    pub(crate) router: axum::Router,
    connections: Mutex<JoinSet<()>>,
    _serving: JoinSet<std::io::Result<()>>,
    _directory: TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    pub(crate) media: String,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Value,
}

/// Who calls, by the header that only this test's listener knows.
async fn identify(mut request: Request, next: Next) -> axum::response::Response {
    let caller = match request
        .headers()
        .get("x-test-caller")
        .map(|value| value.as_bytes())
    {
        Some(b"nobody") => None,
        Some(b"viewer") => Some(Caller::of_mesh(
            "victor",
            "default".parse().unwrap(),
            Access::Viewer,
        )),
        Some(b"carol") => Some(Caller::everywhere("carol", Access::Admin)),
        _ => Some(Caller::everywhere("alice", Access::Admin)),
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default(), Limits::default()).await
    }

    pub(crate) async fn with(options: Options, limits: Limits) -> Self {
        Self::made(options, |api| api.limits = limits).await
    }

    /// One that differs.
    pub(crate) async fn made(options: Options, differ: impl FnOnce(&mut Api)) -> Self {
        let directory = TempDir::new().unwrap();
        let store = SqliteStore::open(&directory.path().join("store.db"), options).unwrap();
        let store = Arc::new(store);
        let plane = Arc::new(Plane {
            slices: Mutex::default(),
            services: Mutex::default(),
            programmed: Mutex::new("True"),
            changes: tokio::sync::watch::Sender::new(0),
        });
        let mut api = Api::new(store.clone(), plane.clone());
        differ(&mut api);
        let counters = Arc::clone(&api.counters);
        let answers = api.answers();
        let router = api
            .router(answers)
            .layer(axum::middleware::from_fn(identify));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(axum::serve(listener, router.clone()).into_future());
        Self {
            address,
            plane,
            store,
            counters,
            router,
            connections: Mutex::default(),
            _serving: serving,
            _directory: directory,
        }
    }

    /// Sends a request; the path is under the mesh `default`.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let mut request = http::Request::builder()
            .method(method)
            .uri(if path.starts_with("/meshes/") || path == "/version" {
                path.to_owned()
            } else {
                format!("/meshes/default{path}")
            })
            .header("host", "leno.test");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        // Driven for as long as the body is read, which is longer than this function.
        let driving = async move { drop(connection.await) };
        self.connections.lock().unwrap().spawn(driving);
        sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.send(method, path, headers, body).await;
        let code = response.status();
        let media = response
            .headers()
            .get("content-type")
            .map_or("", |value| value.to_str().unwrap())
            .to_owned();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|value| value.to_str().unwrap().to_owned());
        let warnings: Vec<String> = warnings.collect();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if code.is_client_error() || code.is_server_error() {
            assert_eq!(body["kind"], "Status", "{code}: {bytes:?}");
            assert_eq!(body["code"], code.as_u16());
            assert_eq!(body["status"], "Failure");
            assert!(!body["message"].as_str().unwrap().is_empty());
            assert!(!body["reason"].as_str().unwrap().is_empty());
        }
        Answer {
            code,
            media,
            warnings,
            body,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, &JSON, body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, &JSON, body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, media: &str, body: &Value) -> Answer {
        self.call(
            Method::PATCH,
            path,
            &[("content-type", media)],
            body.to_string(),
        )
        .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, &[], "").await
    }

    /// Starts a watch.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, &[]).await
    }

    pub(crate) async fn watch_as(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let response = self.send(Method::GET, path, headers, "").await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        Events {
            body: response.into_body(),
            buffer: Vec::new(),
        }
    }
}

pub(crate) const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
pub(crate) const SERVICES: &str = "/api/v1/namespaces/shop/services";
pub(crate) const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes";

/// The events of a watch.
pub(crate) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame());
            let frame = frame.await.expect("an event within 20 s")?.unwrap();
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// The next event as `TYPE NAME`.
    pub(crate) async fn short(&mut self) -> String {
        let event = self.next().await.expect("an event");
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or("-")
        )
    }
}

pub(crate) fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"ports": [{"name": "http", "port": port, "targetPort": 8080}]},
    })
}

pub(crate) fn route(name: &str, weight: u32) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "catalog", "port": 80}],
            "rules": [{"backendRefs": [{"name": "catalog-v2", "port": 80, "weight": weight}]}],
        },
    })
}

pub(crate) fn slice(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"port": 8080}],
    })
}

/// The `resourceVersion` of an object or list.
pub(crate) fn version(body: &Value) -> String {
    body["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned()
}
