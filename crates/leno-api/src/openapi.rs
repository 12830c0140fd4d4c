//! `/openapi/v3` and `/openapi/v2`: what there is and what each object holds, for `kubectl explain`, `apply` and their
//! like.
//!
//! Made once of the tables that validate ([`leno_config::schema`]); nothing of a schema is written here. Paths in a
//! document are those of a cluster, without the mesh: clients put the server of their context before them.
//! Invariant: an operation that is listed is answered, with the parameters that are listed.

mod proto;
mod schema;

use std::{
    hash::{DefaultHasher, Hasher},
    sync::LazyLock,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use leno_config::Kind;
use leno_types::DnsLabel;
use serde_json::{Map, Value, json};

use crate::{
    discovery,
    media::{self, OpenApi},
    status::{ApiError, json_response},
};

/// A document as it is sent, and what tells it from another.
struct Published {
    bytes: Bytes,
    tag: String,
}

impl Published {
    fn new(bytes: Vec<u8>) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        Self {
            tag: format!("{:016X}", hasher.finish()),
            bytes: bytes.into(),
        }
    }

    /// The answer; a caller that has this very document is told so.
    fn answer(&self, headers: &HeaderMap, media: &'static str, forever: bool) -> Response {
        let tag = format!("\"{}\"", self.tag);
        let known = headers.get_all(header::IF_NONE_MATCH).iter();
        let known = known.filter_map(|value| value.to_str().ok());
        let is_known = known
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().trim_start_matches("W/") == tag);
        let mut response = Response::new(Body::empty());
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = Body::from(self.bytes.clone());
        }
        let lasts = if forever {
            "public, immutable"
        } else {
            "no-cache, private"
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(lasts));
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }
}

static SWAGGER: LazyLock<Value> = LazyLock::new(swagger);
static V2_JSON: LazyLock<Published> =
    LazyLock::new(|| Published::new(SWAGGER.to_string().into_bytes()));
static V2_PROTO: LazyLock<Published> = LazyLock::new(|| Published::new(proto::document(&SWAGGER)));
static V3: LazyLock<Vec<(String, Published)>> = LazyLock::new(|| {
    let of = |(group, version)| {
        let text = document(group, version).to_string();
        (
            group_path(group, version),
            Published::new(text.into_bytes()),
        )
    };
    discovery::group_versions().into_iter().map(of).collect()
});

/// `/openapi/v2`
pub(crate) fn v2(headers: &HeaderMap) -> Result<Response, ApiError> {
    Ok(match media::open_api(headers)? {
        OpenApi::Json => V2_JSON.answer(headers, "application/json", false),
        OpenApi::Proto => V2_PROTO.answer(headers, media::OPEN_API_PROTO, false),
    })
}

/// `/openapi/v3`: where the document of each group and version is. The hash makes it another place when it changes.
pub(crate) fn index(mesh: &DnsLabel) -> Response {
    let paths: Map<String, Value> = V3
        .iter()
        .map(|(path, published)| {
            let url = format!("/meshes/{mesh}/openapi/v3/{path}?hash={}", published.tag);
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json_response(StatusCode::OK, &json!({"paths": paths}))
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
pub(crate) fn v3(
    group: &str,
    version: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if media::open_api(headers)? == OpenApi::Proto {
        return Err(ApiError::not_acceptable(
            "only the following media types are accepted: application/json",
        ));
    }
    let path = group_path(group, version);
    let (_, published) = V3
        .iter()
        .find(|(of, _)| *of == path)
        .ok_or_else(|| ApiError::no_path(&path))?;
    let asked = query.and_then(|query| query.strip_prefix("hash="));
    let forever = asked == Some(published.tag.as_str());
    Ok(published.answer(headers, "application/json", forever))
}

/// `api/v1`, `apis/leno.dev/v1alpha1`
fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// The two forms in which a document can be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Swagger 2.0, in which `kubectl` up to 1.26 reads.
    V2,
    /// OpenAPI 3.0.
    V3,
}

fn info() -> Value {
    json!({"title": "Leno", "version": discovery::GIT_VERSION})
}

fn swagger() -> Value {
    let mut paths = Map::new();
    for kind in Kind::ALL {
        add_paths(&mut paths, *kind, Dialect::V2);
    }
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths,
        "definitions": schema::definitions(Kind::ALL, Dialect::V2),
    })
}

fn document(group: &str, version: &str) -> Value {
    let kinds: Vec<Kind> = discovery::kinds(group, version).collect();
    let mut paths = Map::new();
    for kind in &kinds {
        add_paths(&mut paths, *kind, Dialect::V3);
    }
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {"schemas": schema::definitions(&kinds, Dialect::V3)},
    })
}

/// The paths of a kind, with what can be done there.
fn add_paths(paths: &mut Map<String, Value>, kind: Kind, dialect: Dialect) {
    let base = format!("/{}", group_path(kind.group(), kind.version()));
    let plural = kind.plural();
    let many = format!("{base}/namespaces/{{namespace}}/{plural}");
    let one = format!("{many}/{{name}}");
    let list = operation(kind, "list", dialect);
    let get = operation(kind, "get", dialect);
    let mut of_many = json!({"get": list, "parameters": [in_path("namespace", dialect)]});
    let named = json!([in_path("name", dialect), in_path("namespace", dialect)]);
    let mut of_one = json!({"get": get, "parameters": named});
    if !kind.derived() {
        of_many["post"] = operation(kind, "post", dialect);
        for (method, action) in [("put", "put"), ("patch", "patch"), ("delete", "delete")] {
            of_one[method] = operation(kind, action, dialect);
        }
    }
    paths.insert(format!("{base}/{plural}"), json!({"get": list}));
    paths.insert(
        format!("{one}/status"),
        json!({"get": get, "parameters": named}),
    );
    paths.insert(many, of_many);
    paths.insert(one, of_one);
}

fn operation(kind: Kind, action: &str, dialect: Dialect) -> Value {
    const WRITES: &[&str] = &["dryRun", "fieldValidation"];
    let parameters = match action {
        "list" => &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "timeoutSeconds",
            "watch",
        ],
        "post" | "put" | "patch" => WRITES,
        "delete" => &["dryRun"][..],
        _ => &[],
    };
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| in_query(name, dialect))
        .collect();
    json!({
        "operationId": format!("{action}{}{}", capital(kind.version()), kind.kind()),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": schema::type_of(kind, kind.kind()),
    })
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

fn in_path(name: &str, dialect: Dialect) -> Value {
    parameter(name, "path", "string", true, dialect)
}

fn in_query(name: &str, dialect: Dialect) -> Value {
    let kind = match name {
        "watch" | "allowWatchBookmarks" | "sendInitialEvents" => "boolean",
        "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    parameter(name, "query", kind, false, dialect)
}

fn parameter(name: &str, place: &str, kind: &str, required: bool, dialect: Dialect) -> Value {
    let mut value = json!({"name": name, "in": place});
    match dialect {
        Dialect::V2 => value["type"] = kind.into(),
        Dialect::V3 => value["schema"] = json!({"type": kind}),
    }
    if required {
        value["required"] = true.into();
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_can_be_written_says_that_it_can_be_tried_and_validated() {
        let path = "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}";
        for document in [swagger(), document("gateway.networking.k8s.io", "v1")] {
            let patch = &document["paths"][path]["patch"];
            let names: Vec<&str> = patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            assert_eq!(names, ["dryRun", "fieldValidation"]);
            assert_eq!(
                patch["x-kubernetes-group-version-kind"]["kind"],
                "HTTPRoute"
            );
        }
    }

    #[test]
    fn what_is_derived_can_only_be_read() {
        let document = document("discovery.k8s.io", "v1");
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods: Vec<_> = item.as_object().unwrap().keys().collect();
            assert!(
                methods.iter().all(|m| *m == "get" || *m == "parameters"),
                "{path}"
            );
        }
    }

    #[test]
    fn a_document_that_the_caller_has_is_not_sent_again() {
        let mut headers = HeaderMap::new();
        let answer = v2(&headers).unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let tag = answer.headers()[header::ETAG].clone();
        headers.insert(header::IF_NONE_MATCH, tag);
        assert_eq!(v2(&headers).unwrap().status(), StatusCode::NOT_MODIFIED);
    }
}
