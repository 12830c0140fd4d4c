//! Watches: a stream of events, one JSON object a line, that begins at a revision and tells every later change once.
//!
//! A selector makes its own view: an object that begins to match is ADDED, one that ceases to is DELETED. A watch ends
//! with an ERROR event (410) when it falls behind, without one when its time is over; the client resumes from the last
//! revision it saw, which bookmarks keep recent.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::{
    changes::{Beside, ObjectChange, Scope, Source},
    columns::{self, Style},
    handler::{Call, Server},
    media::{self, Form},
    object::{self, Item},
    query::{Match, Parameters},
    read,
    status::ApiError,
    turns::Line,
    watchers::Watcher,
};

/// Where a watch begins.
enum Start {
    /// With everything there is, as ADDED, and then the changes.
    State,
    /// With the changes after a revision.
    After(u64),
    /// With the changes from now.
    Now,
}

/// One watch.
struct Watching {
    server: Arc<Server>,
    scope: Scope,
    parameters: Parameters,
    form: Form,
    /// What was there at the start and is not told yet.
    initial: VecDeque<Item>,
    /// The bookmark that ends the initial events is due.
    initial_bookmark: bool,
    source: Option<Source>,
    /// An error to tell before the end.
    failed: Option<ApiError>,
    bookmarks: Interval,
    end: Instant,
    /// What was told last of each object, as hashes of its name and of all of it: what is computed when it is read may
    /// turn out to be the same.
    told: HashMap<u64, u64>,
    /// Table columns are told with the first row only.
    columns_told: bool,
    watcher: Arc<Watcher>,
    /// What is told without a pause takes its turns.
    line: Line,
}

/// Starts a watch; its answer streams until it ends.
pub(crate) async fn watch(
    call: &Call<'_>,
    scope: Scope,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let form = media::form(call.headers())?;
    let server = Arc::clone(call.server);
    let watcher = server
        .watchers
        .open(&scope.mesh, &call.caller.name)
        .map_err(|full| ApiError::too_many(format!("too many watches: {full}; try again later")))?;
    let limits = server.api.limits;
    let now = Instant::now();
    let mut bookmarks = interval_at(now + limits.bookmark_interval, limits.bookmark_interval);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let lasts = parameters.timeout.unwrap_or(limits.watch_time);
    let mut watching = Watching {
        scope,
        form,
        initial: VecDeque::new(),
        initial_bookmark: false,
        source: None,
        failed: None,
        bookmarks,
        end: now + lasts.min(limits.watch_time),
        told: HashMap::new(),
        columns_told: false,
        watcher,
        line: call.line(),
        parameters,
        server,
    };
    watching.line.turn().await;
    // As a cluster does it: the stream begins, and its first event says that it cannot go on.
    if let Err(error) = watching.begin() {
        if error.code() != http::StatusCode::GONE {
            return Err(error);
        }
        watching.failed = Some(error);
    }
    let chunks = stream::unfold(watching, |mut watching| async move {
        watching.watcher.taken();
        if watching.watcher.is_ended() {
            return None;
        }
        let chunk = watching.chunk().await?;
        watching.watcher.waits();
        Some((Ok::<_, Infallible>(chunk), watching))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(media::of_watch(call.headers())),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    Ok(response)
}

impl Watching {
    fn begin(&mut self) -> Result<(), ApiError> {
        let parameters = &self.parameters;
        let start = match (parameters.send_initial_events, parameters.resource_version) {
            (Some(true), _) | (None, None | Some(0)) => Start::State,
            (Some(false), None | Some(0)) => Start::Now,
            (_, Some(version)) => Start::After(version),
        };
        let (from, beside) = match start {
            Start::After(version) => (version, Beside::Since),
            Start::State | Start::Now => {
                let (items, head) = read::everything(&self.server, &self.scope)?;
                if let (Match::NotOlderThan, Some(asked)) = (
                    parameters.resource_version_match,
                    parameters.resource_version,
                ) && asked > head
                {
                    return Err(ApiError::too_new(asked, head));
                }
                if matches!(start, Start::State) {
                    self.initial = items.into();
                    self.initial_bookmark =
                        parameters.send_initial_events == Some(true) && parameters.allow_bookmarks;
                }
                (head, Beside::Now)
            }
        };
        let source = Source::open(&self.server, self.scope.clone(), from, beside)?;
        self.source = Some(source);
        Ok(())
    }

    /// The next piece of the stream: one event; `None` at its end.
    async fn chunk(&mut self) -> Option<Bytes> {
        match self.event().await {
            Ok(event) => event.map(|event| line(&event)),
            Err(error) => {
                self.source = None;
                Some(line(&json!({"type": "ERROR", "object": error.to_value()})))
            }
        }
    }

    async fn event(&mut self) -> Result<Option<Value>, ApiError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        while let Some(item) = self.initial.pop_front() {
            self.line.worked(item.body.size()).await;
            let value = read::shown(&self.server, &self.scope, &item)?;
            if self.parameters.selector.matches(&value) {
                self.is_news(&item.namespace, &item.name, &value);
                return Ok(Some(self.told("ADDED", &value)));
            }
        }
        if std::mem::take(&mut self.initial_bookmark) {
            return Ok(self.bookmark(true));
        }
        loop {
            let Some(source) = &mut self.source else {
                return Ok(None);
            };
            let step = tokio::select! {
                step = source.next() => step?,
                _ = self.bookmarks.tick(), if self.parameters.allow_bookmarks => {
                    return Ok(self.bookmark(false));
                }
                () = tokio::time::sleep_until(self.end) => {
                    let last = self.bookmark(false).filter(|_| self.parameters.allow_bookmarks);
                    self.source = None;
                    return Ok(last);
                }
            };
            let Some(change) = step.change else {
                // Of another mesh or kind: passed over, which is short, but there may be many.
                tokio::task::consume_budget().await;
                continue;
            };
            // A watch lasts: were it as old as its beginning, its caller's lists would wait as long as things change.
            self.line.anew();
            let body = change.new.as_ref().or(change.old.as_ref());
            self.line.worked(body.map_or(0, object::Body::size)).await;
            if let Some(event) = self.changed(&change)? {
                return Ok(Some(event));
            }
        }
    }

    /// The event of a change, in the view of the selector.
    fn changed(&mut self, change: &ObjectChange) -> Result<Option<Value>, ApiError> {
        let everything = self.parameters.selector.is_everything();
        let value =
            |body: &Option<object::Body>| body.as_ref().map(object::Body::to_value).transpose();
        let new = value(&change.new)?.filter(|new| self.parameters.selector.matches(new));
        let was = match &change.old {
            Some(_) if everything => true,
            None => false,
            old => value(old)?.is_some_and(|old| self.parameters.selector.matches(&old)),
        };
        let (what, mut value) = match (new, was) {
            (Some(new), true) => ("MODIFIED", new),
            (Some(new), false) => ("ADDED", new),
            (None, true) => match value(&change.old)? {
                Some(old) => ("DELETED", old),
                None => return Ok(None),
            },
            (None, false) => return Ok(None),
        };
        if what == "DELETED" {
            // The version of the deletion: a client resumes from the last one it saw.
            object::set_revision(&mut value, change.revision);
            self.told
                .remove(&hash(&(&*change.namespace, &*change.name)));
        } else {
            read::add_status(
                &self.server,
                &self.scope,
                &change.namespace,
                &change.name,
                &mut value,
            );
            let is_news = self.is_news(&change.namespace, &change.name, &value);
            if what == "MODIFIED" && !is_news {
                return Ok(None);
            }
            // What the control plane added is newer than what is stored: versions in a watch only grow.
            object::set_revision(&mut value, change.revision);
        }
        Ok(Some(self.told(what, &value)))
    }

    /// Notes what is told of an object; whether it is anything else than before.
    fn is_news(&mut self, namespace: &str, name: &str, value: &Value) -> bool {
        let told = hash(&value.to_string());
        self.told.insert(hash(&(namespace, name)), told) != Some(told)
    }

    /// An event in the form the caller wants.
    fn told(&mut self, what: &str, value: &Value) -> Value {
        let object = match self.form {
            Form::Json => value.clone(),
            Form::Metadata => columns::partial(value),
            Form::Table(version) => {
                let metadata =
                    json!({"resourceVersion": object::meta_text(value, "resourceVersion")});
                let style = Style {
                    version,
                    include: self.parameters.include,
                    now: self.server.api.environment.now(),
                };
                let mut table = columns::table(self.scope.kind, value, &metadata, style);
                if self.columns_told
                    && let Some(table) = table.as_object_mut()
                {
                    table.insert("columnDefinitions".into(), Value::Null);
                }
                self.columns_told = true;
                table
            }
        };
        json!({"type": what, "object": object})
    }

    /// A bookmark: everything up to this revision was told.
    fn bookmark(&self, ends_initial: bool) -> Option<Value> {
        let revision = self.source.as_ref()?.revision();
        let kind = self.scope.kind;
        let (kind, version) = match self.form {
            Form::Json => (kind.kind(), kind.api_version()),
            Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".into()),
            Form::Table(version) => ("Table", version.into()),
        };
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if let (true, Some(metadata)) = (ends_initial, metadata.as_object_mut()) {
            metadata.insert(
                "annotations".into(),
                json!({"k8s.io/initial-events-end": "true"}),
            );
        }
        let mut object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
        if let (Form::Table(_), Some(table)) = (self.form, object.as_object_mut()) {
            table.insert("columnDefinitions".into(), json!([]));
            table.insert("rows".into(), json!([]));
        }
        Some(json!({"type": "BOOKMARK", "object": object}))
    }
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn line(event: &Value) -> Bytes {
    let mut text = event.to_string();
    text.push('\n');
    text.into()
}
