//! From a request to what does it: who calls, what for, may they.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering};

use axum::{
    body::{Body, HttpBody},
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, request::Parts};
use http_body_util::BodyExt;
use leno_types::DnsLabel;

use crate::{
    Access, Answers, Api, AuditLine, AuditObject, AuditOutcome, Caller, answers, apply,
    derived::Collections,
    discovery, lists, openapi,
    overlay::Overlays,
    query::Parameters,
    read, review,
    shares::{Place, Shares},
    status::ApiError,
    target::{InMesh, Objects, Target},
    turns::{self, Line},
    watch,
    watchers::Watchers,
    write,
};

/// The API and what it keeps between requests.
pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) collections: Collections,
    pub(crate) overlays: Overlays,
    pub(crate) watchers: Watchers,
    requests: Arc<Shares>,
    bodies: Arc<Shares>,
    pub(crate) answers: Arc<Answers>,
}

impl Server {
    pub(crate) fn new(api: Api, answers: Arc<Answers>) -> Self {
        Self {
            overlays: Overlays::new(
                Arc::clone(&api.derived),
                Arc::clone(&api.store),
                api.limits.derived_changes,
            ),
            collections: Collections::new(Arc::clone(&api.derived), api.limits.derived_changes),
            watchers: Watchers::new(api.limits.watches, Arc::clone(&api.counters)),
            requests: Shares::new(api.limits.requests),
            bodies: Shares::new(api.limits.bodies),
            answers,
            api,
        }
    }

    fn busy(&self, text: impl Into<String>) -> ApiError {
        let exceeded = &self.api.counters.requests_exceeded;
        exceeded.fetch_add(1, Ordering::Relaxed);
        ApiError::too_many(text)
    }
}

/// One authorised request about objects.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a Arc<Server>,
    pub(crate) caller: &'a Caller,
    pub(crate) mesh: &'a DnsLabel,
    pub(crate) parts: &'a Parts,
    /// The room that its body has, for as long as the request is worked on.
    room: Mutex<Option<Place>>,
    /// The room that its answer has already.
    answer: Mutex<Option<Place>>,
}

impl Call<'_> {
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// Its place among those that may be long.
    pub(crate) fn line(&self) -> Line {
        self.server.answers.turns.line(self.mesh, &self.caller.name)
    }

    /// Room for an answer that is made piece by piece, of so many bytes for now.
    pub(crate) fn answer_room(&self, size: usize) -> Result<Place, ApiError> {
        let answers = &self.server.answers;
        let room = answers.room(self.mesh, &self.caller.name, size);
        room.map_err(|full| answers.refused(full))
    }

    /// The answer is made, and has this room.
    pub(crate) fn answered(&self, place: Place) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// Reads the body to its end, at most `limit` bytes of it. Room for it is taken as it comes: what is only announced
    /// takes nobody's.
    pub(crate) async fn read_body(&self, body: Body, limit: usize) -> Result<Bytes, ApiError> {
        let exceeded = |error| {
            let counters = &self.server.api.counters;
            counters.bodies_exceeded.fetch_add(1, Ordering::Relaxed);
            error
        };
        let read =
            tokio::time::timeout(self.server.api.limits.body_time, self.collect(body, limit));
        match read.await {
            Err(_) => Err(exceeded(ApiError::body_timeout())),
            Ok(Err(error)) if error.code() == StatusCode::PAYLOAD_TOO_LARGE => Err(exceeded(error)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(bytes)) => {
                if bytes.len() > turns::BYTES {
                    // What is made of it takes long. It has arrived: how long this waits is not its sender's affair.
                    self.line().turn().await;
                }
                Ok(bytes)
            }
        }
    }

    async fn collect(&self, mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
        let too_large =
            || ApiError::too_large(format!("Request entity too large: limit is {limit}"));
        let busy = |full| {
            let text = format!("too many bytes in bodies at once: {full}; try again later");
            self.server.busy(text)
        };
        if usize::try_from(body.size_hint().lower()).is_ok_and(|announced| announced > limit) {
            return Err(too_large());
        }
        let shares = &self.server.bodies;
        let mut room = shares.take(self.mesh, &self.caller.name).map_err(busy)?;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                ApiError::bad_request(format!("the body could not be read: {error}"))
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > limit {
                return Err(too_large());
            }
            room.grow(data.len()).map_err(busy)?;
            bytes.extend_from_slice(&data);
        }
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = Some(room);
        Ok(bytes.freeze())
    }
}

/// Answers a request; every error is a `Status`.
pub(crate) async fn handle(State(server): State<Arc<Server>>, request: Request<Body>) -> Response {
    server.api.counters.requests.fetch_add(1, Ordering::Relaxed);
    serve(&server, request)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn serve(server: &Arc<Server>, request: Request<Body>) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let caller = parts
        .extensions
        .get::<Caller>()
        .ok_or_else(ApiError::unauthorized)?;
    let (method, uri) = (&parts.method, parts.uri.clone());
    let path = uri.path();
    let (mesh, target) = match Target::parse(path).ok_or_else(|| ApiError::no_path(path))? {
        Target::Version => {
            reads_only(&parts.method)?;
            return Ok(discovery::version());
        }
        Target::Mesh(mesh, target) => (mesh, target),
    };
    let changes = matches!(target, InMesh::Objects(_) | InMesh::Apply) && !is_read(method);
    let refused = changes.then(|| refused_line(caller, &mesh, &parts, &target));
    let served = serve_in(server, &parts, caller, &mesh, target, body).await;
    if let (Err(error), Some(Some(line))) = (&served, refused)
        && let Some((code, message)) = error.refusal()
    {
        let message = message.to_owned();
        let outcome = AuditOutcome::Refused { code, message };
        server.api.audit.note(AuditLine { outcome, ..line });
    }
    served
}

/// The line of a change, should it be refused; a dry run has none.
fn refused_line(
    caller: &Caller,
    mesh: &DnsLabel,
    parts: &Parts,
    target: &InMesh,
) -> Option<AuditLine> {
    if Parameters::parse(&parts.uri).is_ok_and(|asked| asked.dry_run) {
        return None;
    }
    let object = match target {
        InMesh::Objects(objects) => AuditObject {
            kind: objects.kind.kind().into(),
            namespace: objects.namespace.clone().unwrap_or_default(),
            name: objects.name.clone().unwrap_or_default(),
        },
        _ => AuditObject {
            kind: "batch".into(),
            ..AuditObject::default()
        },
    };
    let verb = parts.method.as_str().to_ascii_lowercase();
    Some(AuditLine::new(caller, mesh, &verb, object))
}

async fn serve_in(
    server: &Arc<Server>,
    parts: &Parts,
    caller: &Caller,
    mesh: &DnsLabel,
    target: InMesh,
    body: Body,
) -> Result<Response, ApiError> {
    authorize(caller, mesh, &parts.method, &target)?;
    if !server.api.derived.has_mesh(mesh) {
        return Err(ApiError::no_mesh(mesh.as_str()));
    }
    let take = || server.requests.take(mesh, &caller.name);
    let place = server.answers.make_room(take).map_err(|full| {
        server.busy(format!(
            "too many requests at once: {full}; try again later"
        ))
    })?;
    let call = Call {
        server,
        caller,
        mesh,
        parts,
        room: Mutex::new(None),
        answer: Mutex::new(None),
    };
    let mut begun = None;
    if matches!(target, InMesh::Objects(_) | InMesh::Apply) {
        if !is_read(&parts.method) {
            let audit = &server.api.audit;
            begun = audit.ready(mesh, 1).map_err(ApiError::unaudited)?;
        }
        server.api.derived.settled(mesh).await;
    }
    let response = serve_target(&call, target, body).await?;
    drop(begun);
    held(&call, place, response).await
}

/// Hands an answer on as it is taken, and keeps the request's place until then, and for what is read room for the
/// answer: a caller that does not take what it asked for uses up its own share. A watch has a place of its own.
async fn held(call: &Call<'_>, place: Place, response: Response) -> Result<Response, ApiError> {
    let Some(size) = answers::size(&response) else {
        return Ok(response);
    };
    let mut places = vec![place];
    let has = call
        .answer
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match has {
        Some(room) => places.push(room),
        None if is_read(&call.parts.method) => places.push(call.answer_room(size)?),
        None => {}
    }
    Ok(call.server.answers.hand_on(response, places).await)
}

async fn serve_target(call: &Call<'_>, target: InMesh, body: Body) -> Result<Response, ApiError> {
    let Call { mesh, parts, .. } = *call;
    match target {
        InMesh::Objects(objects) => serve_objects(call, objects, body).await,
        InMesh::Apply if parts.method == Method::POST => apply::apply(call, body).await,
        InMesh::Apply => Err(ApiError::method_not_allowed("apply is a POST")),
        InMesh::Review(review) if parts.method == Method::POST => {
            review::review(call, review, body).await
        }
        InMesh::Review(_) => Err(ApiError::method_not_allowed("a review is a POST")),
        document => {
            reads_only(&parts.method)?;
            serve_discovery(mesh, &document, parts)
        }
    }
}

fn serve_discovery(mesh: &DnsLabel, target: &InMesh, parts: &Parts) -> Result<Response, ApiError> {
    let headers = &parts.headers;
    match target {
        InMesh::OpenApiV2 => openapi::v2(headers),
        InMesh::OpenApiIndex => Ok(openapi::index(mesh)),
        InMesh::OpenApiV3(group, version) => {
            openapi::v3(group, version, parts.uri.query(), headers)
        }
        InMesh::CoreVersions => discovery::core_versions(headers),
        InMesh::Groups => discovery::groups(headers),
        InMesh::Group(group) => Ok(discovery::group(group)),
        InMesh::Resources(group, version) => Ok(discovery::resources(group, version)),
        InMesh::Root => Ok(discovery::root()),
        InMesh::Health => Ok(discovery::health()),
        InMesh::Version | InMesh::Apply | InMesh::Review(_) | InMesh::Objects(_) => {
            Ok(discovery::version())
        }
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn reads_only(method: &Method) -> Result<(), ApiError> {
    if is_read(method) {
        return Ok(());
    }
    Err(ApiError::method_not_allowed(
        "the server does not allow this method on the requested resource: it can only be read",
    ))
}

/// A viewer reads, an admin does everything; somebody with no role in a mesh does not learn whether it exists.
fn authorize(
    caller: &Caller,
    mesh: &DnsLabel,
    method: &Method,
    target: &InMesh,
) -> Result<(), ApiError> {
    let least = match is_read(method) || matches!(target, InMesh::Review(_)) {
        true => Access::Viewer,
        false => Access::Admin,
    };
    let Err(why) = caller.may(mesh, least) else {
        return Ok(());
    };
    let what = match target {
        InMesh::Objects(objects) => objects.kind.plural(),
        InMesh::Apply => "objects",
        _ => "the API",
    };
    Err(ApiError::forbidden(format!(
        "{} may not {} {what} {why}",
        caller.name,
        if is_read(method) { "read" } else { "write" },
    )))
}

async fn serve_objects(
    call: &Call<'_>,
    objects: Objects,
    body: Body,
) -> Result<Response, ApiError> {
    let method = &call.parts.method;
    let kind = objects.kind;
    if !is_read(method) && kind.derived() {
        return Err(ApiError::method_not_allowed(format!(
            "{} are made by the control plane from what runs: they can only be read",
            kind.plural()
        )));
    }
    if !is_read(method) && objects.status {
        return Err(ApiError::method_not_allowed(
            "status is computed when it is read: it cannot be written",
        ));
    }
    let Objects {
        namespace, name, ..
    } = objects;
    match (method.as_str(), namespace, name) {
        ("GET" | "HEAD", namespace, name) => read_objects(call, kind, namespace, name).await,
        ("POST", Some(namespace), None) => write::create(call, kind, &namespace, body).await,
        ("PUT", Some(namespace), Some(name)) => {
            write::update(call, kind, &namespace, &name, body).await
        }
        ("PATCH", Some(namespace), Some(name)) => {
            write::patch(call, kind, &namespace, &name, body).await
        }
        ("DELETE", Some(namespace), Some(name)) => {
            write::delete(call, kind, &namespace, &name, body).await
        }
        (method, namespace, _) => Err(ApiError::method_not_allowed(format!(
            "the server does not allow {method} on this path{}",
            if namespace.is_none() {
                ": name a namespace"
            } else {
                ""
            }
        ))),
    }
}

async fn read_objects(
    call: &Call<'_>,
    kind: leno_config::Kind,
    namespace: Option<String>,
    name: Option<String>,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(&call.parts.uri)?;
    let scope = crate::changes::Scope {
        mesh: call.mesh.clone(),
        kind,
        namespace,
        name,
    };
    if parameters.watch {
        return watch::watch(call, scope, parameters).await;
    }
    match scope.name {
        Some(_) => read::get(call, &scope, &parameters).await,
        None => lists::list(call, &scope, &parameters).await,
    }
}
