//! Get and list.

use axum::response::Response;
use http::StatusCode;
use leno_config::Kind;
use serde_json::{Value, json};

use crate::{
    changes::{self, Scope},
    columns::{self, Style},
    handler::{Call, Server},
    media::{self, Form},
    object::{self, Item},
    query::{Continue, Match, Parameters},
    status::{ApiError, json_response},
    store_key,
};

/// An object as callers see it: with its status.
pub(crate) fn shown(server: &Server, scope: &Scope, item: &Item) -> Result<Value, ApiError> {
    let mut value = item.body.to_value()?;
    add_status(server, scope, &item.namespace, &item.name, &mut value);
    Ok(value)
}

/// Adds the status of a stored object; a derived one has its own.
pub(crate) fn add_status(
    server: &Server,
    scope: &Scope,
    namespace: &str,
    name: &str,
    value: &mut Value,
) {
    if scope.kind.derived() {
        return;
    }
    let status = server
        .api
        .derived
        .status(&scope.mesh, scope.kind, namespace, name);
    if let (Some(object), Some(status)) = (value.as_object_mut(), status) {
        object.insert("status".into(), status);
    }
}

/// One object, in the form the caller wants.
pub(crate) fn get(
    call: &Call<'_>,
    scope: &Scope,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    let form = media::form(call.headers())?;
    let name = scope.name.as_deref().unwrap_or_default();
    let item = find(call.server, scope)?;
    let value = match item {
        Some(item) => shown(call.server, scope, &item)?,
        None => return Err(ApiError::not_found(scope.kind, name)),
    };
    Ok(one(
        call,
        scope.kind,
        &value,
        form,
        parameters,
        StatusCode::OK,
    ))
}

fn find(server: &Server, scope: &Scope) -> Result<Option<Item>, ApiError> {
    let namespace = scope.namespace.as_deref().unwrap_or_default();
    let name = scope.name.as_deref().unwrap_or_default();
    if scope.kind.derived() {
        let (items, _) = changes::current(server, scope)?;
        return Ok(items.into_iter().next());
    }
    let entry = server
        .api
        .store
        .get(&store_key(&scope.mesh, scope.kind, namespace, name))
        .map_err(|error| ApiError::store(&error))?;
    let stored = entry.map(|entry| Item {
        namespace: namespace.into(),
        name: name.into(),
        body: object::Body::Stored(entry),
    });
    Ok(stored.or_else(|| unwritten(server, scope, &[]).pop()))
}

/// Objects of a kind that people may write which the control plane derives where nobody has: services of what is
/// registered.
pub(crate) fn unwritten(server: &Server, scope: &Scope, written: &[Item]) -> Vec<Item> {
    let mut items = server.overlays.unwritten(scope);
    let is_written = |item: &Item| {
        written
            .iter()
            .any(|of| (&of.namespace, &of.name) == (&item.namespace, &item.name))
    };
    items.retain(|item| !is_written(item));
    items
}

/// The objects of a scope as they are now, ordered, those that nobody wrote among them; and their revision.
pub(crate) fn everything(server: &Server, scope: &Scope) -> Result<(Vec<Item>, u64), ApiError> {
    let (items, head) = changes::current(server, scope)?;
    Ok((with_unwritten(server, scope, items), head))
}

fn with_unwritten(server: &Server, scope: &Scope, mut items: Vec<Item>) -> Vec<Item> {
    if !scope.kind.derived() {
        let unwritten = unwritten(server, scope, &items);
        items.extend(unwritten);
        items.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    }
    items
}

/// An answer that is one object.
pub(crate) fn one(
    call: &Call<'_>,
    kind: Kind,
    value: &Value,
    form: Form,
    parameters: &Parameters,
    code: StatusCode,
) -> Response {
    match form {
        Form::Json => json_response(code, value),
        Form::Metadata => json_response(code, &columns::partial(value)),
        Form::Table(version) => {
            let metadata = json!({"resourceVersion": object::meta_text(value, "resourceVersion")});
            let style = Style {
                version,
                include: parameters.include,
                now: call.server.api.environment.now(),
            };
            let table = columns::table(kind, std::slice::from_ref(value), &metadata, style);
            json_response(code, &table)
        }
    }
}

/// A collection, or a page of it, in the form the caller wants.
pub(crate) async fn list(
    call: &Call<'_>,
    scope: &Scope,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    let form = media::form(call.headers())?;
    let server = call.server;
    let (items, revision) = state(server, scope, parameters).await?;
    let mut objects = Vec::new();
    let mut last: Option<&Item> = None;
    let mut more = 0_u64;
    let after = parameters.continue_from.as_ref();
    for item in &items {
        if after.is_some_and(|after| {
            (&*item.namespace, &*item.name) <= (after.namespace.as_str(), after.name.as_str())
        }) {
            continue;
        }
        if parameters.limit.is_some_and(|limit| objects.len() >= limit) {
            more += 1;
            continue;
        }
        let value = shown(server, scope, item)?;
        if parameters.selector.matches(&value) {
            objects.push(value);
            last = Some(item);
        }
    }
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (true, Some(item), Some(object)) = (more > 0, last, metadata.as_object_mut()) {
        let next = Continue {
            revision,
            namespace: item.namespace.to_string(),
            name: item.name.to_string(),
        };
        object.insert("continue".into(), next.to_text().into());
        if parameters.selector.is_everything() {
            object.insert("remainingItemCount".into(), more.into());
        }
    }
    Ok(many(
        call, scope.kind, &objects, &metadata, form, parameters,
    ))
}

/// The items to choose from, and their revision.
async fn state(
    server: &Server,
    scope: &Scope,
    parameters: &Parameters,
) -> Result<(Vec<Item>, u64), ApiError> {
    let exact = match (&parameters.continue_from, parameters.resource_version) {
        (Some(next), _) => Some(next.revision),
        (None, Some(version)) if parameters.resource_version_match == Match::Exact => Some(version),
        _ => None,
    };
    if let Some(revision) = exact {
        let items = changes::at(server, scope, revision).await?;
        return Ok((with_unwritten(server, scope, items), revision));
    }
    let (items, head) = everything(server, scope)?;
    if let Some(asked) = parameters.resource_version
        && asked > head
    {
        return Err(ApiError::too_new(asked, head));
    }
    Ok((items, head))
}

fn many(
    call: &Call<'_>,
    kind: Kind,
    objects: &[Value],
    metadata: &Value,
    form: Form,
    parameters: &Parameters,
) -> Response {
    let value = match form {
        Form::Json => json!({
            "kind": object::list_kind(kind),
            "apiVersion": kind.api_version(),
            "metadata": metadata,
            "items": objects,
        }),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": objects.iter().map(columns::partial).collect::<Vec<_>>(),
        }),
        Form::Table(version) => {
            let style = Style {
                version,
                include: parameters.include,
                now: call.server.api.environment.now(),
            };
            columns::table(kind, objects, metadata, style)
        }
    };
    json_response(StatusCode::OK, &value)
}
