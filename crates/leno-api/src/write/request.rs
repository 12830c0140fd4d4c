//! What a write's request says: its body, held to its path, and the versions that it names.

use axum::body::Body;
use leno_config::{Finding, Kind};
use serde_json::Value;

use crate::{
    duplicates::{self, Unread},
    handler::Call,
    media, object,
    query::Validation,
    status::ApiError,
};

/// Reads an object from a body.
pub(super) async fn read_object(
    call: &Call<'_>,
    kind: Kind,
    validation: Validation,
    body: Body,
) -> Result<(Value, Vec<Finding>), ApiError> {
    json_only(&media::content_type(call.headers())?)?;
    let limit = call.server.api.limits.object_bytes;
    let bytes = call.read_body(body, limit).await?;
    let (value, notes) = parse_fields(kind, validation, &bytes).map_err(|error| {
        ApiError::bad_request(format!("the object provided is unrecognized: {error}"))
    })?;
    if !value.is_object() {
        return Err(ApiError::bad_request(format!(
            "the body is no object: send a {} as JSON",
            kind.kind()
        )));
    }
    Ok((value, notes))
}

/// Whether fields that there are not are left out instead of refused. What guards something is never read in part,
/// whatever the caller asks for: with a condition left out it would allow more than was written.
pub(super) fn lenient(kind: Kind, validation: Validation) -> bool {
    validation != Validation::Strict && !kind.guards()
}

/// JSON, with what is to be said of fields that stand twice: of such the last holds, where that was asked for.
pub(super) fn parse_fields(
    kind: Kind,
    validation: Validation,
    bytes: &[u8],
) -> Result<(Value, Vec<Finding>), Unread> {
    let error = match duplicates::parse(bytes) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) if error.twice && lenient(kind, validation) => error,
        Err(error) => return Err(error),
    };
    let value = serde_json::from_slice(bytes)?;
    let note = Finding::new("", error.to_string());
    let told = validation == Validation::Warn;
    Ok((value, told.then_some(note).into_iter().collect()))
}

pub(crate) fn json_only(media: &str) -> Result<(), ApiError> {
    match media {
        "" | "application/json" => Ok(()),
        media::PROTOBUF => Err(ApiError::unsupported_media(
            "protobuf bodies are not spoken here: send application/json",
        )),
        other => Err(ApiError::unsupported_media(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types include: application/json"
        ))),
    }
}

/// How a patch is written.
#[derive(Clone, Copy)]
pub(super) enum PatchForm {
    Json,
    Merge,
    Strategic,
}

pub(super) fn patch_form(call: &Call<'_>, kind: Kind) -> Result<PatchForm, ApiError> {
    match media::content_type(call.headers())?.as_str() {
        "application/json-patch+json" => Ok(PatchForm::Json),
        "application/merge-patch+json" => Ok(PatchForm::Merge),
        "application/strategic-merge-patch+json" if kind == Kind::Service => {
            Ok(PatchForm::Strategic)
        }
        "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
            Err(ApiError::unsupported_media(
                "server-side apply is not there yet: use client-side apply, or leno apply",
            ))
        }
        other => Err(ApiError::unsupported_media(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types include: \
             application/json-patch+json, application/merge-patch+json{}",
            if kind == Kind::Service {
                ", application/strategic-merge-patch+json"
            } else {
                ""
            }
        ))),
    }
}

/// Holds what names an object, and which state of it, to be text: what is none names nothing, and a precondition that is
/// not read is one that always holds.
pub(crate) fn texts(object: &Value) -> Result<(), Finding> {
    for field in ["name", "namespace", "uid", "resourceVersion"] {
        let pointer = format!("/metadata/{field}");
        let said = object.pointer(&pointer).filter(|said| !said.is_null());
        if said.is_some_and(|said| !said.is_string()) {
            let field = format!("metadata.{field}");
            return Err(Finding::new(field, "is a text, in quotes"));
        }
    }
    Ok(())
}

/// Holds the body to its path: type, namespace and name. What it leaves out is filled in.
pub(super) fn agree(
    kind: Kind,
    object: &mut Value,
    namespace: &str,
    name: &str,
) -> Result<(), ApiError> {
    let given = |field: &str| object.get(field).and_then(Value::as_str);
    let (version, of) = (given("apiVersion"), given("kind"));
    if version.is_some_and(|version| version != kind.api_version())
        || of.is_some_and(|of| of != kind.kind())
    {
        return Err(ApiError::bad_request(format!(
            "the object is a {} of {}, the path is for a {} of {}",
            of.unwrap_or_default(),
            version.unwrap_or_default(),
            kind.kind(),
            kind.api_version()
        )));
    }
    texts(object).map_err(|finding| {
        ApiError::bad_request(format!("{} {}", finding.field, finding.reason))
    })?;
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".into(), kind.api_version().into());
        object.insert("kind".into(), kind.kind().into());
    }
    let (given_namespace, given_name) = (
        object::meta_text(object, "namespace").to_owned(),
        object::meta_text(object, "name").to_owned(),
    );
    if !given_namespace.is_empty() && given_namespace != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !given_name.is_empty() && given_name != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given_name}) does not match the name on the URL ({name})"
        )));
    }
    if let Some(metadata) = object::metadata(object) {
        if !name.is_empty() {
            metadata.insert("name".into(), name.into());
        }
        if !namespace.is_empty() {
            metadata.insert("namespace".into(), namespace.into());
        }
    }
    Ok(())
}

/// The versions that name an object as it is now: from the one in which it was stored to the store's head, which a
/// watch that told of its status may have given.
pub(super) struct Current {
    pub(super) stored: u64,
    pub(super) head: u64,
}

impl Current {
    pub(super) fn is(&self, version: u64) -> bool {
        (self.stored..=self.head).contains(&version)
    }
}

/// Holds the versions a caller names to those that are there.
pub(super) fn same_object(
    kind: Kind,
    name: &str,
    proposed: &Value,
    old: &Value,
    current: &Current,
) -> Result<(), ApiError> {
    let version = object::meta_text(proposed, "resourceVersion");
    if !version.is_empty() && version != "0" {
        match version.parse::<u64>() {
            Ok(version) if current.is(version) => {}
            Ok(_) => return Err(ApiError::modified(kind, name)),
            Err(_) => {
                return Err(ApiError::bad_request(
                    "metadata.resourceVersion is none that this server gave",
                ));
            }
        }
    }
    same_uid(kind, name, object::meta_text(proposed, "uid"), old)
}

/// Holds the uid a caller names, if any, to the one that is there.
pub(crate) fn same_uid(kind: Kind, name: &str, given: &str, old: &Value) -> Result<(), ApiError> {
    let uid = object::meta_text(old, "uid");
    if !given.is_empty() && given != uid {
        let why =
            format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
        return Err(ApiError::conflict(kind, name, &why));
    }
    Ok(())
}

/// Gives an object that has only a `generateName` its name.
pub(super) fn name_generated(call: &Call<'_>, proposed: &mut Value) {
    let prefix = object::meta_text(proposed, "generateName").to_owned();
    if prefix.is_empty() || !object::meta_text(proposed, "name").is_empty() {
        return;
    }
    let suffix = object::suffix(call.server.api.environment.random());
    let kept: String = prefix.chars().take(58).collect();
    if let Some(metadata) = object::metadata(proposed) {
        metadata.insert("name".into(), format!("{kept}{suffix}").into());
    }
}

/// What of `DeleteOptions` concerns us. Nothing here has dependents, so how to propagate does not matter.
#[derive(Default)]
pub(super) struct DeleteOptions {
    pub(super) dry_run: bool,
    pub(super) uid: Option<String>,
    pub(super) revision: Option<u64>,
}

/// How deletion goes on to what depends on the object: nothing does, but a word that is none is refused.
pub(crate) fn propagation(policy: &str) -> Result<(), ApiError> {
    match policy {
        "" | "Foreground" | "Background" | "Orphan" => Ok(()),
        _ => Err(ApiError::bad_request(
            "propagationPolicy is Foreground, Background or Orphan",
        )),
    }
}

/// Nothing is deleted on terms that are not read.
fn readable_preconditions(said: Option<&Value>) -> Result<(), ApiError> {
    let Some(said) = said.filter(|said| !said.is_null()) else {
        return Ok(());
    };
    let reads = said.as_object().is_some_and(|said| {
        said.iter().all(|(name, value)| {
            matches!(name.as_str(), "uid" | "resourceVersion")
                && (value.is_string() || value.is_null())
        })
    });
    if reads {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "preconditions are a uid and a resourceVersion, each a text in quotes",
    ))
}

pub(super) async fn read_options(call: &Call<'_>, body: Body) -> Result<DeleteOptions, ApiError> {
    let limit = call.server.api.limits.object_bytes;
    let bytes = call.read_body(body, limit).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(DeleteOptions::default());
    }
    json_only(&media::content_type(call.headers())?)?;
    let value = duplicates::parse(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the DeleteOptions are no JSON: {error}"))
    })?;
    if !value.is_object() {
        return Err(ApiError::bad_request(
            "the body is no object: send DeleteOptions, or nothing",
        ));
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    readable_preconditions(value.get("preconditions"))?;
    // Not half: somebody who sends something else does not mean to delete on its terms.
    if let Some(other) = text("/kind").filter(|kind| *kind != "DeleteOptions") {
        return Err(ApiError::bad_request(format!(
            "the body is a {other}: send DeleteOptions, or nothing"
        )));
    }
    if let Some(policy) = text("/propagationPolicy") {
        propagation(policy)?;
    }
    let revision = text("/preconditions/resourceVersion")
        .map(str::parse)
        .transpose()
        .map_err(|_| {
            ApiError::bad_request("preconditions.resourceVersion is none that this server gave")
        })?;
    let dry_run = match value.get("dryRun") {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) if list.iter().all(|item| item == "All") => !list.is_empty(),
        Some(_) => return Err(ApiError::bad_request("dryRun is [\"All\"] or absent")),
    };
    Ok(DeleteOptions {
        dry_run,
        uid: text("/preconditions/uid").map(Into::into),
        revision,
    })
}
