//! What form the caller wants its answer in, from `Accept`.

use http::{HeaderMap, header};

use crate::status::ApiError;

/// The form of an answer about objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects.
    Json,
    /// A `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// Only metadata.
    Metadata,
}

/// The form of a discovery document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// A list for each group and version.
    Plain,
    /// Everything in one document, of this version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
}

/// One media range: its type, and its parameters `as`, `g` and `v`.
struct Range<'a> {
    media: &'a str,
    target: &'a str,
    group: &'a str,
    version: &'a str,
}

fn ranges(accept: &str) -> impl Iterator<Item = Range<'_>> {
    accept.split(',').map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let mut range = Range {
            media: parts.next().unwrap_or_default(),
            target: "",
            group: "",
            version: "",
        };
        for part in parts {
            match part.split_once('=') {
                Some(("as", value)) => range.target = value,
                Some(("g", value)) => range.group = value,
                Some(("v", value)) => range.version = value,
                _ => {}
            }
        }
        range
    })
}

fn accept(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut text = String::new();
    for value in headers.get_all(header::ACCEPT) {
        let value = value
            .to_str()
            .map_err(|_| ApiError::bad_request("the Accept header is no text"))?;
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(value);
    }
    Ok((!text.trim().is_empty()).then_some(text))
}

fn is_json(media: &str) -> bool {
    matches!(media, "application/json" | "application/*" | "*/*")
}

fn nothing() -> ApiError {
    ApiError::not_acceptable(
        "only the following media types are accepted: application/json, also as Table and PartialObjectMetadata of \
         meta.k8s.io; protobuf is not spoken here",
    )
}

/// The first form of the `Accept` header that can be given.
pub(crate) fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let Some(accept) = accept(headers)? else {
        return Ok(Form::Json);
    };
    ranges(&accept)
        .filter(|range| is_json(range.media))
        .find_map(|range| match (range.target, range.group, range.version) {
            ("", ..) => Some(Form::Json),
            ("Table", "meta.k8s.io", "v1") => Some(Form::Table("meta.k8s.io/v1")),
            ("Table", "meta.k8s.io", "v1beta1") => Some(Form::Table("meta.k8s.io/v1beta1")),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                Some(Form::Metadata)
            }
            _ => None,
        })
        .ok_or_else(nothing)
}

/// The first form of a discovery document that can be given.
pub(crate) fn discovery(headers: &HeaderMap) -> Result<Discovery, ApiError> {
    let Some(accept) = accept(headers)? else {
        return Ok(Discovery::Plain);
    };
    ranges(&accept)
        .filter(|range| is_json(range.media))
        .find_map(|range| match (range.target, range.group, range.version) {
            ("", ..) => Some(Discovery::Plain),
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => {
                Some(Discovery::Aggregated("v2"))
            }
            ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => {
                Some(Discovery::Aggregated("v2beta1"))
            }
            _ => None,
        })
        .ok_or_else(nothing)
}

/// How the stream of a watch is called: as a stream only where the caller does.
pub(crate) fn of_watch(headers: &HeaderMap) -> &'static str {
    let asked = headers.get_all(header::ACCEPT).iter();
    let asked = asked.filter_map(|value| value.to_str().ok());
    if asked.into_iter().any(|text| text.contains("stream=watch")) {
        "application/json;stream=watch"
    } else {
        "application/json"
    }
}

/// Kubernetes' own protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The form of an OpenAPI document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenApi {
    /// JSON.
    Json,
    /// Gnostic's protobuf.
    Proto,
}

/// How an OpenAPI v2 document is called as protobuf, and how it was before `@` was found to be no part of such a name.
pub(crate) const OPEN_API_PROTO: &str =
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const OPEN_API_PROTO_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The first form of an OpenAPI document that can be given.
pub(crate) fn open_api(headers: &HeaderMap) -> Result<OpenApi, ApiError> {
    let Some(accept) = accept(headers)? else {
        return Ok(OpenApi::Json);
    };
    ranges(&accept)
        .find_map(|range| match range.media {
            OPEN_API_PROTO | OPEN_API_PROTO_OLD => Some(OpenApi::Proto),
            media => is_json(media).then_some(OpenApi::Json),
        })
        .ok_or_else(|| {
            ApiError::not_acceptable(format!(
                "only the following media types are accepted: application/json, {OPEN_API_PROTO}"
            ))
        })
}

/// The media type of a body, without its parameters, in lower case.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<String, ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(String::new());
    };
    let text = value
        .to_str()
        .map_err(|_| ApiError::bad_request("the Content-Type header is no text"))?;
    let media = text.split(';').next().unwrap_or_default();
    Ok(media.trim().to_ascii_lowercase())
}
