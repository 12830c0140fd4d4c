//! One object as callers see it, and everything there is of a scope.

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
    query::Parameters,
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
pub(crate) async fn get(
    call: &Call<'_>,
    scope: &Scope,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    let form = media::form(call.headers())?;
    let name = scope.name.as_deref().unwrap_or_default();
    if scope.kind.derived() {
        // All of its collection is brought up to date for it.
        call.line().turn().await;
    }
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
    Ok(stored.or_else(|| server.overlays.unwritten(scope).pop()))
}

/// The objects of a scope as they are now, ordered, those that nobody wrote among them; and their revision.
pub(crate) fn everything(server: &Server, scope: &Scope) -> Result<(Vec<Item>, u64), ApiError> {
    let (items, head) = changes::current(server, scope)?;
    Ok((with_unwritten(server, scope, items), head))
}

/// With objects of a kind that people may write which the control plane derives where nobody has: services of what is
/// registered.
pub(crate) fn with_unwritten(server: &Server, scope: &Scope, mut items: Vec<Item>) -> Vec<Item> {
    if scope.kind.derived() {
        return items;
    }
    let unwritten = server.overlays.unwritten(scope);
    if !unwritten.is_empty() {
        fn name(item: &Item) -> (&str, &str) {
            (&item.namespace, &item.name)
        }
        // Of two with one name the written one comes first, and stays.
        items.extend(unwritten);
        items.sort_by(|a, b| name(a).cmp(&name(b)));
        items.dedup_by(|later, first| name(later) == name(first));
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
            let table = columns::table(kind, value, &metadata, style);
            json_response(code, &table)
        }
    }
}
