//! The batch of `leno apply`: all documents or none, in one transaction.
//!
//! Each document replaces what there is of the same kind, namespace and name. Everything that is wrong with any of
//! them is told at once.

use std::collections::HashMap;

use axum::{body::Body, response::Response};
use http::StatusCode;
use leno_config::{Finding, Kind, Resource, nearest};
use leno_store::{Entry, Expect, Key, StoreError, Write};
use serde_json::{Value, json};

use crate::{
    duplicates,
    handler::Call,
    media, object,
    plan::{self, Outcome, Planned, Provenance, Written},
    status::{ApiError, Invalid, json_response},
    store_key,
    turns::Line,
    warnings,
    write::{Change, TRIES, json_only, same_uid, store, texts},
};

/// A document that is right by itself.
struct Document {
    item: usize,
    kind: Kind,
    key: Key,
    value: Value,
    resource: Resource,
    /// Its bytes.
    size: usize,
    /// The revision it was read at, where it says so: it replaces that one and no other.
    revision: Option<String>,
    /// The uid it was read with; empty where it says none.
    uid: String,
}

/// The same, with what is to be written.
struct Ready<'a> {
    document: &'a Document,
    planned: Planned,
    /// What is there now.
    old: Option<Entry>,
}

impl Ready<'_> {
    fn written(&self) -> Written<'_> {
        let key = &self.document.key;
        Written {
            kind: self.document.kind,
            namespace: &key.namespace,
            name: &key.name,
            planned: Some(&self.planned),
            size: self.document.size,
        }
    }
}

/// Serves a batch.
pub(crate) async fn apply(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    json_only(&media::content_type(call.headers())?)?;
    let limit = call.server.api.limits.batch_bytes;
    let bytes = call.read_body(body, limit).await?;
    let mut line = call.line();
    let batch = duplicates::parse(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the batch is no JSON: {error}")))?;
    drop(bytes);
    let (items, dry_run) = parts(call, batch)?;
    let documents = admitted(call, &mut line, items).await?;
    for _ in 0..TRIES {
        let ready = planned(call, &mut line, &documents).await?;
        let written = ready.iter().map(Ready::written).collect();
        let cut_off = plan::cut_off(&call.server.api, call.mesh, &mut line, written).await;
        if dry_run {
            return Ok(answer(&mut line, &ready, &cut_off, None, true).await);
        }
        let mut changes = Vec::new();
        for one in &ready {
            if let Some(change) = change_of(one) {
                line.worked(change.write.value.as_ref().map_or(0, Vec::len))
                    .await;
                changes.push(change);
            }
        }
        let count = changes.len() as u64;
        let audit = &call.server.api.audit;
        let _begun = audit
            .ready(call.mesh, changes.len())
            .map_err(ApiError::unaudited)?;
        match store(call, &mut line, changes).await {
            Ok(last) => {
                // Each write of a transaction takes one revision, in order.
                let first = last - count + u64::from(count > 0);
                return Ok(answer(&mut line, &ready, &cut_off, Some(first), false).await);
            }
            // Somebody else was faster: once more, on what they wrote.
            Err(
                StoreError::Conflict { .. }
                | StoreError::Exists { .. }
                | StoreError::NotFound { .. },
            ) => {}
            Err(error) => return Err(ApiError::store(&error)),
        }
    }
    Err(ApiError::too_many(
        "the objects of the batch are being changed by others: try again",
    ))
}

/// The documents and `dryRun`.
fn parts(call: &Call<'_>, batch: Value) -> Result<(Vec<Value>, bool), ApiError> {
    let Value::Object(mut batch) = batch else {
        return Err(ApiError::bad_request("a batch is {\"items\": [..]}"));
    };
    let items = match batch.shift_remove("items") {
        Some(Value::Array(items)) => items,
        _ => return Err(ApiError::bad_request("a batch is {\"items\": [..]}")),
    };
    let dry_run = match batch.shift_remove("dryRun") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(dry_run)) => dry_run,
        Some(_) => return Err(ApiError::bad_request("dryRun is true or false")),
    };
    if let Some(name) = batch.keys().next() {
        return Err(ApiError::bad_request(format!(
            "a batch has items and dryRun, not \"{name}\""
        )));
    }
    let limit = call.server.api.limits.batch_objects;
    if items.len() > limit {
        return Err(ApiError::too_large(format!(
            "a batch has at most {limit} objects, this has {}",
            items.len()
        )));
    }
    Ok((items, dry_run))
}

/// Every document by itself, or everything that is wrong with any.
async fn admitted(
    call: &Call<'_>,
    line: &mut Line,
    items: Vec<Value>,
) -> Result<Vec<Document>, ApiError> {
    let mut documents: Vec<Document> = Vec::with_capacity(items.len());
    let mut invalid = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    for (item, value) in items.into_iter().enumerate() {
        let size = value.to_string().len();
        line.worked(size).await;
        let mut about = Invalid {
            item: Some(item),
            kind: value
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or("object")
                .into(),
            namespace: object::meta_text(&value, "namespace").into(),
            name: object::meta_text(&value, "name").into(),
            findings: Vec::new(),
        };
        match document(call, item, value, size) {
            Ok(document) => {
                if let Some(first) = places.insert(document.key.clone(), item) {
                    about.findings.push(Finding::new(
                        "metadata.name",
                        format!("the same object stands twice in the batch, first as item {first}"),
                    ));
                }
                documents.push(document);
            }
            Err(findings) => about.findings = findings,
        }
        if !about.findings.is_empty() {
            invalid.push(about);
        }
    }
    if invalid.is_empty() {
        Ok(documents)
    } else {
        Err(ApiError::invalid_batch(&invalid))
    }
}

fn document(
    call: &Call<'_>,
    item: usize,
    value: Value,
    size: usize,
) -> Result<Document, Vec<Finding>> {
    let kind = kind_of(&value).map_err(|finding| vec![finding])?;
    let limit = call.server.api.limits.object_bytes;
    if size > limit {
        return Err(vec![Finding::new("", format!("larger than {limit} bytes"))]);
    }
    texts(&value).map_err(|finding| vec![finding])?;
    let uid = object::meta_text(&value, "uid").to_owned();
    let revision = Some(object::meta_text(&value, "resourceVersion"));
    let revision = revision.filter(|text| !text.is_empty()).map(str::to_owned);
    let (value, resource) = plan::admitted(kind, value)?;
    let meta = resource.meta();
    let key = store_key(call.mesh, kind, meta.namespace.as_str(), meta.name.as_str());
    Ok(Document {
        item,
        kind,
        key,
        value,
        resource,
        size,
        revision,
        uid,
    })
}

fn kind_of(value: &Value) -> Result<Kind, Finding> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, name) = (text("apiVersion"), text("kind"));
    let Some(kind) = Kind::from_type(version, name) else {
        let same = Kind::ALL.iter().find(|kind| kind.kind() == name);
        let (field, given, near) = match same {
            Some(kind) => ("apiVersion", version, Some(kind.api_version())),
            None => {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.kind()).collect();
                ("kind", name, nearest(name, &names))
            }
        };
        let reason = format!("there is no {name} of \"{version}\" here (\"{given}\" is not known)");
        return Err(Finding::new(field, reason).with_suggestion(near));
    };
    if kind.derived() {
        let reason =
            format!("a {name} is made by the control plane from what runs: it cannot be applied");
        return Err(Finding::new("kind", reason));
    }
    Ok(kind)
}

/// What each document will do to what is there.
async fn planned<'a>(
    call: &Call<'_>,
    line: &mut Line,
    documents: &'a [Document],
) -> Result<Vec<Ready<'a>>, ApiError> {
    let mut all = Vec::with_capacity(documents.len());
    let mut invalid = Vec::new();
    let api = &call.server.api;
    for document in documents {
        line.worked(document.size).await;
        let old = api
            .store
            .get(&document.key)
            .map_err(|error| ApiError::store(&error))?;
        let current = old.as_ref().map(object::stored).transpose()?;
        if let (Some(read_at), Some(entry)) = (&document.revision, &old)
            && *read_at != entry.revision.to_string()
        {
            return Err(ApiError::modified(document.kind, &document.key.name));
        }
        if let Some(there) = &current {
            same_uid(document.kind, &document.key.name, &document.uid, there)?;
        }
        let value = document.value.clone();
        let (kind, current) = (document.kind, current.as_ref());
        match plan::complete(api, call.mesh, kind, value, current, Provenance::Said) {
            Ok(planned) => all.push(Ready {
                document,
                planned,
                old,
            }),
            Err(findings) => invalid.push(Invalid {
                item: Some(document.item),
                kind: document.kind.kind().into(),
                namespace: document.key.namespace.to_string(),
                name: document.key.name.to_string(),
                findings,
            }),
        }
    }
    if invalid.is_empty() {
        line.turn().await;
        let resources: Vec<&Resource> = documents.iter().map(|of| &of.resource).collect();
        let mut planned: Vec<&mut Planned> = all.iter_mut().map(|of| &mut of.planned).collect();
        plan::warn(api, call.mesh, &resources, &mut planned);
        Ok(all)
    } else {
        Err(ApiError::invalid_batch(&invalid))
    }
}

fn change_of(ready: &Ready<'_>) -> Option<Change> {
    if ready.planned.outcome == Outcome::Unchanged {
        return None;
    }
    let expect = match &ready.old {
        Some(entry) => Expect::Revision(entry.revision),
        None => Expect::Absent,
    };
    let bytes = ready.planned.value.to_string().into_bytes();
    let old = ready.old.as_ref().map(|entry| &*entry.value);
    Some(Change {
        kind: ready.document.kind,
        write: Write::put(ready.document.key.clone(), bytes, expect),
        verb: ready.planned.outcome.as_str(),
        before: old.and_then(|bytes| serde_json::from_slice(bytes).ok()),
        after: Some(ready.planned.value.clone()),
    })
}

/// What became of each document; `first` is the revision of the first write.
async fn answer(
    line: &mut Line,
    ready: &[Ready<'_>],
    cut_off: &[String],
    first: Option<u64>,
    dry_run: bool,
) -> Response {
    let mut next = first;
    let mut items = Vec::with_capacity(ready.len());
    for one in ready {
        let changed = one.planned.outcome != Outcome::Unchanged;
        let old = one.old.as_ref().map(|entry| entry.revision);
        let revision = if changed { next } else { old };
        if changed {
            next = next.map(|revision| revision + 1);
        }
        let document = one.document;
        items.push(json!({
            "apiVersion": document.kind.api_version(),
            "kind": document.kind.kind(),
            "namespace": &*document.key.namespace,
            "name": &*document.key.name,
            "uid": object::meta_text(&one.planned.value, "uid"),
            "generation": one.planned.value.pointer("/metadata/generation"),
            "resourceVersion": revision.map(|revision| revision.to_string()),
            "result": one.planned.outcome.as_str(),
            "warnings": warnings::to_value(&one.planned.warnings),
        }));
        line.worked(0).await;
    }
    let answer = json!({"items": items, "dryRun": dry_run, "cutsOff": cut_off});
    json_response(StatusCode::OK, &answer)
}
