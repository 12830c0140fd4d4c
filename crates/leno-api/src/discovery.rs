//! What there is: `/version`, `/api`, `/apis` and the lists beneath, plain and aggregated.

use axum::response::Response;
use http::{HeaderMap, StatusCode};
use leno_config::Kind;
use serde_json::{Value, json};

use crate::{
    media::{self, Discovery},
    status::{ApiError, json_response, typed_response},
};

/// What can be asked for of what is derived.
pub(crate) const READ: &[&str] = &["get", "list", "watch"];
/// What can be asked for of what people write.
pub(crate) const WRITE: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];

/// The Kubernetes release whose API this is a subset of, and Leno's own.
pub(crate) const GIT_VERSION: &str = concat!("v1.33.0+leno-", env!("CARGO_PKG_VERSION"));

/// `/version`: the Kubernetes release whose API this is a subset of, and Leno's own.
pub(crate) fn version() -> Response {
    let version = json!({
        "major": "1",
        "minor": "33",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_name(std::env::consts::ARCH)),
    });
    json_response(StatusCode::OK, &version)
}

/// A processor as clients call it.
fn go_name(arch: &'static str) -> &'static str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/healthz`, `/livez`, `/readyz`: whoever answers is.
pub(crate) fn health() -> Response {
    let mut response = Response::new(axum::body::Body::from("ok"));
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, text);
    response
}

/// `/`: where to look further.
pub(crate) fn root() -> Response {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for (group, version) in group_versions() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    let more = [
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ];
    paths.extend(more.map(Into::into));
    json_response(StatusCode::OK, &json!({"paths": paths}))
}

/// `/api`
pub(crate) fn core_versions(headers: &HeaderMap) -> Result<Response, ApiError> {
    Ok(match media::discovery(headers)? {
        Discovery::Plain => json_response(
            StatusCode::OK,
            &json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [],
            }),
        ),
        Discovery::Aggregated(version) => aggregated(version, true),
    })
}

/// `/apis`
pub(crate) fn groups(headers: &HeaderMap) -> Result<Response, ApiError> {
    Ok(match media::discovery(headers)? {
        Discovery::Plain => {
            let groups: Vec<_> = group_versions()
                .into_iter()
                .filter(|(group, _)| !group.is_empty())
                .map(|(group, version)| group_value(group, version))
                .collect();
            json_response(
                StatusCode::OK,
                &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
            )
        }
        Discovery::Aggregated(version) => aggregated(version, false),
    })
}

/// `/apis/GROUP`
pub(crate) fn group(group: &str) -> Response {
    let version = group_versions()
        .into_iter()
        .find_map(|(g, version)| (g == group).then_some(version))
        .unwrap_or_default();
    let mut value = group_value(group, version);
    if let Some(object) = value.as_object_mut() {
        object.insert("kind".into(), "APIGroup".into());
        object.insert("apiVersion".into(), "v1".into());
    }
    json_response(StatusCode::OK, &value)
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub(crate) fn resources(group: &str, version: &str) -> Response {
    let mut resources = Vec::new();
    for kind in kinds(group, version) {
        let verbs = if kind.derived() { READ } else { WRITE };
        resources.push(json!({
            "name": kind.plural(),
            "singularName": kind.singular(),
            "namespaced": kind.namespaced(),
            "kind": kind.kind(),
            "verbs": verbs,
            "shortNames": kind.short_names(),
            "categories": kind.categories(),
        }));
        resources.push(json!({
            "name": format!("{}/status", kind.plural()),
            "singularName": "",
            "namespaced": kind.namespaced(),
            "kind": kind.kind(),
            "verbs": ["get"],
        }));
    }
    let value = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": resources,
    });
    json_response(StatusCode::OK, &value)
}

/// `v1`, `leno.dev/v1alpha1`.
pub(crate) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.into()
    } else {
        format!("{group}/{version}")
    }
}

/// Each group with its version, in the order of the kinds. A group has one version.
pub(crate) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut list = Vec::new();
    for kind in Kind::ALL {
        let pair = (kind.group(), kind.version());
        if !list.contains(&pair) {
            list.push(pair);
        }
    }
    list
}

pub(crate) fn kinds(group: &str, version: &str) -> impl Iterator<Item = Kind> {
    Kind::ALL
        .iter()
        .copied()
        .filter(move |kind| kind.group() == group && kind.version() == version)
}

fn group_value(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": api_version(group, version), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn aggregated(discovery: &'static str, core: bool) -> Response {
    let items: Vec<_> = group_versions()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, version)| {
            let resources: Vec<_> = kinds(group, version).map(aggregated_resource).collect();
            json!({
                "metadata": if core { json!({"creationTimestamp": null}) } else { json!({"name": group, "creationTimestamp": null}) },
                "versions": [{"version": version, "resources": resources, "freshness": "Current"}],
            })
        })
        .collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{discovery}"),
        "metadata": {},
        "items": items,
    });
    let media = match discovery {
        "v2beta1" => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    };
    typed_response(StatusCode::OK, media, &value)
}

fn aggregated_resource(kind: Kind) -> Value {
    let response = json!({"group": kind.group(), "version": kind.version(), "kind": kind.kind()});
    json!({
        "resource": kind.plural(),
        "responseKind": response,
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular(),
        "verbs": if kind.derived() { READ } else { WRITE },
        "shortNames": kind.short_names(),
        "categories": kind.categories(),
        "subresources": [{"subresource": "status", "responseKind": response, "verbs": ["get"]}],
    })
}
