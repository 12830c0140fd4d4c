//! Collections, whole or in pages, made an object at a time: each turn some, as JSON at once.
//!
//! Invariants: a list is of one revision, that of its first turn, whatever is written meanwhile. What is still to be told
//! of it, and what is told already, has room in the caller's share of answers; without room the list ends.

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
    read,
    shares::Place,
    status::{ApiError, json_text_response},
    turns::Line,
};

/// A collection, or a page of it, in the form the caller wants.
pub(crate) async fn list(
    call: &Call<'_>,
    scope: &Scope,
    parameters: &Parameters,
) -> Result<Response, ApiError> {
    let form = media::form(call.headers())?;
    let mut line = call.line();
    line.turn().await;
    let (mut items, revision) = state(call.server, scope, parameters).await?;
    if let Some(after) = &parameters.continue_from {
        let after = (after.namespace.as_str(), after.name.as_str());
        let told = items.partition_point(|item| (&*item.namespace, &*item.name) <= after);
        items.drain(..told);
    }
    let limit = parameters.limit.unwrap_or(usize::MAX);
    let all = items.len();
    if parameters.selector.is_everything() {
        items.truncate(limit);
    }
    let mut making = Making {
        room: call.answer_room(items.iter().map(|item| item.body.size()).sum())?,
        call,
        line,
        written: Writer::new(call.server, scope.kind, form, parameters),
    };
    let mut last: Option<Item> = None;
    let (mut seen, mut count) = (0, 0);
    for item in items {
        if count >= limit {
            break;
        }
        seen += 1;
        if making.add(scope, parameters, &item).await? {
            count += 1;
            last = Some(item);
        }
    }
    let more = all.saturating_sub(seen);
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
    making.end(&metadata)
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
        return Ok((read::with_unwritten(server, scope, items), revision));
    }
    let (items, head) = read::everything(server, scope)?;
    if let Some(asked) = parameters.resource_version
        && asked > head
    {
        return Err(ApiError::too_new(asked, head));
    }
    Ok((items, head))
}

/// A list on its way.
struct Making<'a> {
    call: &'a Call<'a>,
    line: Line,
    room: Place,
    written: Writer,
}

impl Making<'_> {
    /// Adds an object if it is selected; whether it is. Waits for another turn when it is time.
    async fn add(
        &mut self,
        scope: &Scope,
        parameters: &Parameters,
        item: &Item,
    ) -> Result<bool, ApiError> {
        let server = self.call.server;
        let value = read::shown(server, scope, item)?;
        self.room.shrink(item.body.size());
        let selected = parameters.selector.matches(&value);
        let mut bytes = 0;
        if selected {
            bytes = self.written.add(&value);
            let more = server.answers.more_room(&mut self.room, bytes);
            more.map_err(|full| server.answers.refused(full))?;
        }
        self.line.worked(bytes.max(item.body.size())).await;
        Ok(selected)
    }

    fn end(mut self, metadata: &Value) -> Result<Response, ApiError> {
        let items = self.written.items.len();
        let text = self.written.end(metadata);
        let answers = &self.call.server.answers;
        // The head, and what was read and not told is room to spare.
        let more = answers.more_room(&mut self.room, text.len() - items);
        more.map_err(|full| answers.refused(full))?;
        self.call.answered(self.room);
        Ok(json_text_response(StatusCode::OK, text))
    }
}

/// The text of a list: an object, whose last field are the items.
struct Writer {
    kind: Kind,
    form: Form,
    style: Style,
    items: String,
}

impl Writer {
    fn new(server: &Server, kind: Kind, form: Form, parameters: &Parameters) -> Self {
        let version = match form {
            Form::Table(version) => version,
            Form::Json | Form::Metadata => "",
        };
        Self {
            kind,
            form,
            style: Style {
                version,
                include: parameters.include,
                now: server.api.environment.now(),
            },
            items: String::new(),
        }
    }

    /// Adds an object; how many bytes that are.
    fn add(&mut self, object: &Value) -> usize {
        let text = match self.form {
            Form::Json => object.to_string(),
            Form::Metadata => columns::partial(object).to_string(),
            Form::Table(_) => columns::row(self.kind, object, self.style).to_string(),
        };
        if !self.items.is_empty() {
            self.items.push(',');
        }
        self.items.push_str(&text);
        text.len() + 1
    }

    /// All of it, in the place of the items: a second copy would have no room.
    fn end(self, metadata: &Value) -> String {
        let (head, field) = match self.form {
            Form::Json => {
                let (kind, version) = (object::list_kind(self.kind), self.kind.api_version());
                let head = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
                (head, "items")
            }
            Form::Metadata => {
                let kind = "PartialObjectMetadataList";
                let version = "meta.k8s.io/v1";
                let head = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
                (head, "items")
            }
            Form::Table(_) => (columns::head(self.kind, metadata, self.style), "rows"),
        };
        let head = head.to_string();
        let head = head.strip_suffix('}').unwrap_or(&head);
        let mut text = self.items;
        text.insert_str(0, &format!("{head},\"{field}\":["));
        text.push_str("]}");
        text
    }
}
