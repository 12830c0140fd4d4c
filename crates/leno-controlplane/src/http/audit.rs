//! The audit log over HTTP: read by a mesh's admins, and written by every change that is made here.

use std::{
    convert::Infallible,
    fmt::Display,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::{Path, Query, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode, header};
use leno_api::{
    Access, Audit, AuditLine, AuditObject, AuditOutcome, Begun, Caller, Intent, Unready,
};
use leno_store::{Store, StoreError, Write};
use leno_types::MeshName;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{
    broadcast::{Receiver, error::RecvError},
    oneshot,
};

use super::{Answer, Context, Problem, Who, is_yes, may, no_mesh};
use crate::audit::{AuditLog, Reading, Unread};

/// What a caller was told, for the line of a refusal.
#[derive(Clone, Debug)]
pub(super) struct Told(pub(super) String);

/// A change that is about to be made, with its line.
pub(super) struct Change {
    audit: Arc<dyn Audit>,
    line: AuditLine,
    /// Until the line is noted.
    begun: Begun,
}

impl Change {
    /// The same with what was there; never a secret.
    pub(super) fn before(mut self, document: &impl Serialize) -> Self {
        self.line.before = serde_json::to_value(document)
            .ok()
            .filter(|of| !of.is_null());
        self
    }

    /// The same with what is there now; never a secret.
    pub(super) fn after(mut self, document: &impl Serialize) -> Self {
        self.line.after = serde_json::to_value(document).ok();
        self
    }

    /// It is stored, as this revision.
    pub(super) fn done(self, revision: u64) {
        Intent::new(&self.audit, vec![self.line]).stored(revision);
    }
}

impl Context {
    /// Begins a change.
    ///
    /// # Errors
    /// When it could not be written down.
    pub(super) fn change(
        &self,
        who: &Who,
        mesh: &MeshName,
        verb: &str,
        kind: &str,
        name: &str,
    ) -> Answer<Change> {
        begin(&self.audit, who, mesh, (verb, kind, name))
    }

    /// Stores a change, and writes down who made it; the revision of the last write.
    pub(super) async fn store(
        &self,
        change: Change,
        writes: Vec<Write>,
    ) -> Result<u64, StoreError> {
        store(&*self.store, change, writes).await
    }
}

/// Begins a change: of the verb, the kind and the name.
///
/// # Errors
/// When it could not be written down.
pub(super) fn begin(
    audit: &Arc<AuditLog>,
    who: &Who,
    mesh: &MeshName,
    (verb, kind, name): (&str, &str, &str),
) -> Answer<Change> {
    let begun = audit.ready(mesh, 1).map_err(|unready| match unready {
        Unready::Waits(message) => {
            let code = StatusCode::INSUFFICIENT_STORAGE;
            Problem::new(code, "InsufficientStorage", message)
        }
        Unready::Busy(message) => Problem::too_many(message),
    })?;
    let nobody = || Caller::everywhere("", Access::None);
    let caller = who.as_ref().map_or_else(nobody, |of| of.0.clone());
    let object = AuditObject {
        kind: kind.into(),
        namespace: String::new(),
        name: name.chars().take(253).collect(),
    };
    Ok(Change {
        audit: Arc::clone(audit) as Arc<dyn Audit>,
        line: AuditLine::new(&caller, mesh, verb, object),
        begun,
    })
}

/// Stores a change, and writes down who made it; the revision of the last write.
pub(super) async fn store(
    store: &dyn Store,
    change: Change,
    writes: Vec<Write>,
) -> Result<u64, StoreError> {
    let Change {
        audit,
        line,
        begun: _begun,
    } = change;
    let intent = Intent::new(&audit, vec![line]);
    match store.commit(writes).await {
        Ok(revision) => {
            intent.stored(revision);
            Ok(revision)
        }
        Err(error) => {
            intent.forget();
            Err(error)
        }
    }
}

/// Writes down what is refused of what would change something.
pub(super) async fn note_refusals(
    State(context): State<Context>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let caller = request.extensions().get::<Caller>().cloned();
    let verb = request.method().as_str().to_ascii_lowercase();
    let path: String = request.uri().path().chars().take(253).collect();
    let response = next.run(request).await;
    let code = response.status();
    let refused = matches!(code, StatusCode::FORBIDDEN | StatusCode::CONFLICT);
    let named = path
        .strip_prefix("/meshes/")
        .and_then(|rest| rest.split('/').next()?.parse::<MeshName>().ok());
    // Who may make no mesh is told of where they are from.
    let own = || caller.as_ref()?.meshes.keys().next().cloned();
    if let (true, Some(mesh), Some(caller)) = (refused, named.or_else(own), &caller) {
        let object = AuditObject {
            kind: "path".into(),
            namespace: String::new(),
            name: path,
        };
        let told = response.extensions().get::<Told>();
        let outcome = AuditOutcome::Refused {
            code: code.as_u16(),
            message: told.map(|told| told.0.clone()).unwrap_or_default(),
        };
        context.audit.note(AuditLine {
            outcome,
            ..AuditLine::new(caller, &mesh, &verb, object)
        });
    }
    response
}

/// What is asked of the log.
#[derive(Deserialize)]
pub(super) struct Asked {
    /// How far back; all that there is when not given.
    since: Option<String>,
    /// Whether to go on with what comes.
    #[serde(default)]
    watch: String,
}

/// The lines of a mesh, one JSON object each.
pub(super) async fn read(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    Query(asked): Query<Asked>,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let since = match asked.since.as_deref() {
        None | Some("") => None,
        Some(text) => {
            let back = leno_types::parse_duration(text)
                .map_err(|error| Problem::invalid(format!("since: {error}")))?;
            Some(
                SystemTime::now()
                    .checked_sub(back)
                    .unwrap_or(SystemTime::UNIX_EPOCH),
            )
        }
    };
    let mut reading = context.audit.read(&mesh).map_err(|why| match why {
        Unread::NoMesh => no_mesh(mesh.as_str()),
        Unread::Busy => Problem::too_many("too many read this audit log at once; try again later"),
    })?;
    let (told, lines) = oneshot::channel();
    let read = move || drop(told.send((reading.lines(since), reading)));
    thread::Builder::new()
        .name("audit-read".into())
        .spawn(read)
        .map_err(unreadable)?;
    let (
        lines,
        Reading {
            followed, place, ..
        },
    ) = lines.await.map_err(|_| unreadable("its reader ended"))?;
    let past = stream::unfold(
        (lines.into_iter(), place),
        |(mut lines, place)| async move { Some((line_of(&lines.next()?), (lines, place))) },
    );
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    let body = if is_yes(&asked.watch) {
        Body::from_stream(past.chain(follow(followed)))
    } else {
        Body::from_stream(past)
    };
    Ok((headers, body).into_response())
}

fn unreadable(why: impl Display) -> Problem {
    let message = format!("the audit log cannot be read: {why}");
    let code = StatusCode::INTERNAL_SERVER_ERROR;
    Problem::new(code, "InternalError", message)
}

/// Longest time that one answer follows the log; its reader asks again.
const FOLLOWS: Duration = Duration::from_secs(3_600);

fn follow(followed: Receiver<Arc<str>>) -> impl futures_util::Stream<Item = Line> {
    let lines = stream::unfold(followed, |mut followed| async move {
        match followed.recv().await {
            Ok(line) => Some((line_of(&line), followed)),
            Err(RecvError::Lagged(missing)) => {
                let told = json!({"missing": missing, "message": "more came than could be sent: read the log again"});
                Some((line_of(&told.to_string()), followed))
            }
            Err(RecvError::Closed) => None,
        }
    });
    lines.take_until(tokio::time::sleep(FOLLOWS))
}

type Line = Result<Bytes, Infallible>;

fn line_of(text: &str) -> Line {
    Ok(Bytes::from(format!("{}\n", text.trim_end())))
}
