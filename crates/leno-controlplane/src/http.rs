//! What is no object: tokens, proxies, telemetry, the CA, summaries. JSON and NDJSON on the same port as the API.
//!
//! Refuses callers without access to the mesh, in the shape of a Kubernetes `Status`, like the API beside it.

mod agents;
mod audit;
mod backup;
mod meshes;
mod mtls;
mod users;
mod why;

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{StatusCode, header};
use leno_api::{Access, Caller};
use leno_store::{Expect, Key, Store, StoreError, Write};
use leno_types::{DnsLabel, HostPort, JoinToken, MeshName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    audit::AuditLog,
    authority::random,
    core::{Clock, Handle},
    distribution::Type,
    documents::{LocalAgentRequest, LocalAgentResponse, TokenCreated, TokenInfo, TokenRequest},
    grpc::Connection,
    mesh::{Mesh, SignError},
    metrics::Meters,
    tenants::{Directory, Founder},
    times::{rfc3339, unix},
    tokens::{MAX_TOKENS, TOKENS, TokenRecord},
};

/// Largest body of a request here.
const MAX_BODY: usize = 64 << 10;
/// Seconds that one live view (`?watch=1`) lasts at most.
const MAX_WATCH: usize = 3_600;
const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

/// What the handlers need.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) handle: Handle,
    pub(crate) directory: Directory,
    pub(crate) store: Arc<dyn Store>,
    /// Held from counting tokens until one more is written, so that many at once stay under the ceiling.
    pub(crate) counting: Arc<tokio::sync::Mutex<()>>,
    /// What is measured of the control plane itself.
    pub(crate) meters: Meters,
    /// Held while a backup is made: one at a time.
    pub(crate) backing_up: Arc<tokio::sync::Mutex<()>>,
    /// Where its state is.
    pub(crate) data_dir: PathBuf,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) founder: Founder,
    /// Held while a mesh is made or removed: one at a time.
    pub(crate) founding: Arc<tokio::sync::Mutex<()>>,
}

/// An answer that is no success.
#[derive(Debug)]
struct Problem {
    code: StatusCode,
    reason: &'static str,
    message: String,
}

impl Problem {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
        }
    }

    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let told = audit::Told(self.message.clone());
        let body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        (self.code, Extension(told), Json(body)).into_response()
    }
}

impl From<crate::core::Ending> for Problem {
    fn from(ending: crate::core::Ending) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            ending.to_string(),
        )
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let (code, reason) = match &error {
            StoreError::Full => (StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage"),
            StoreError::NotFound { .. } => (StatusCode::NOT_FOUND, "NotFound"),
            StoreError::Conflict { .. } | StoreError::Exists { .. } => {
                (StatusCode::CONFLICT, "Conflict")
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        };
        Self::new(code, reason, error.to_string())
    }
}

impl From<SignError> for Problem {
    fn from(error: SignError) -> Self {
        let text = error.to_string();
        match error {
            SignError::Store(error) => error.into(),
            SignError::Ca(_) => Self::invalid(text),
            SignError::NoMesh(_) => Self::not_found(text),
            SignError::Token(_)
            | SignError::NotHosted { .. }
            | SignError::UnknownAgent(_)
            | SignError::Outdated(_) => Self::new(StatusCode::FORBIDDEN, "Forbidden", text),
        }
    }
}

type Answer<T> = Result<T, Problem>;

/// The routes, to be merged with the API's.
pub(crate) fn router(context: Context) -> Router {
    Router::new()
        .route("/leno/v1/backup", get(backup::download))
        .route("/meshes", get(meshes::list).post(meshes::create))
        .route("/meshes/{mesh}", get(meshes::get).delete(meshes::remove))
        .route(
            "/meshes/{mesh}/leno/v1/tokens",
            get(list_tokens).post(create_token),
        )
        .route("/meshes/{mesh}/leno/v1/tokens/{id}", delete(delete_token))
        .route("/meshes/{mesh}/leno/v1/agents", get(agents::list))
        .route(
            "/meshes/{mesh}/leno/v1/agents/{name}",
            delete(agents::revoke),
        )
        .route("/meshes/{mesh}/leno/v1/telemetry/edges", get(edges))
        .route("/meshes/{mesh}/leno/v1/telemetry/totals", get(totals))
        .route("/meshes/{mesh}/leno/v1/mtls", get(mtls::list))
        .route("/meshes/{mesh}/leno/v1/proxies", get(proxies))
        .route("/meshes/{mesh}/leno/v1/proxies/{host}/{what}", get(proxy))
        .route("/meshes/{mesh}/leno/v1/refusals", get(why::refusals))
        .route("/meshes/{mesh}/leno/v1/refusals/{id}", get(why::explain))
        .route("/meshes/{mesh}/leno/v1/logs", get(why::logs))
        .route("/meshes/{mesh}/leno/v1/status", get(status))
        .route("/meshes/{mesh}/leno/v1/control-plane", get(control_plane))
        .route("/meshes/{mesh}/leno/v1/ca", get(ca))
        .route("/meshes/{mesh}/leno/v1/local-agent", post(local_agent))
        .route("/meshes/{mesh}/leno/v1/local-user", post(users::create))
        .route("/meshes/{mesh}/leno/v1/users", get(users::list))
        .route("/meshes/{mesh}/leno/v1/users/{name}", delete(users::revoke))
        .route("/meshes/{mesh}/leno/v1/audit", get(audit::read))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn_with_state(
            context.clone(),
            audit::note_refusals,
        ))
        .with_state(context)
}

type Who = Option<Extension<Caller>>;

fn may(who: &Who, mesh: &str, least: Access) -> Answer<MeshName> {
    let Some(Extension(caller)) = who else {
        let message = "no client certificate: use a context of this mesh that has one, or the admin socket of the control plane's machine";
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "Unauthorized",
            message,
        ));
    };
    let name: MeshName = mesh.parse().map_err(|_| no_mesh(mesh))?;
    let role = match (caller.access(&name), least) {
        (Access::Admin, _) | (Access::Viewer, Access::Viewer) => return Ok(name),
        (Access::Viewer, _) => "its role there is viewer, which only reads, and this needs admin",
        (Access::None, _) => "it has no role there",
    };
    let message = format!("{} may not do this in mesh {name}: {role}", caller.name);
    Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", message))
}

fn no_mesh(mesh: &str) -> Problem {
    Problem::not_found(format!(
        "there is no mesh {}",
        mesh.chars().take(63).collect::<String>()
    ))
}

impl Context {
    async fn on_mesh<R: Send + 'static>(
        &self,
        name: MeshName,
        job: impl FnOnce(&mut Mesh, Clock) -> R + Send + 'static,
    ) -> Answer<R> {
        let wanted = name.clone();
        let outcome = self.handle.call(move |core| {
            let clock = core.clock.clone();
            core.meshes.get_mut(&wanted).map(|mesh| job(mesh, clock))
        });
        outcome.await?.ok_or_else(|| no_mesh(name.as_str()))
    }
}

async fn create_token(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    body: Result<Bytes, BytesRejection>,
) -> Answer<(StatusCode, Json<TokenCreated>)> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let request: TokenRequest = parse(body)?;
    let _counting = context.counting.lock().await;
    if context.store.list(&mesh, TOKENS, None)?.0.len() >= MAX_TOKENS {
        let message = format!("there are {MAX_TOKENS} tokens: delete some (leno token delete)");
        return Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyRequests",
            message,
        ));
    }
    let (secret, id) = (random::<32>(), token_id());
    let now = unix(std::time::SystemTime::now());
    let record = TokenRecord::new(&request, id.clone(), &secret, now)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    let (addresses, pins) = context
        .on_mesh(mesh.clone(), |mesh, _| {
            (
                mesh.settings.advertise.clone(),
                mesh.authority.bundle().pins(),
            )
        })
        .await?;
    let token = JoinToken {
        id: id.clone(),
        secret,
        mesh: mesh.clone(),
        addresses,
        pins,
        expires: record.expires,
    };
    let answer = TokenCreated {
        token: token.encode(),
        id: id.clone(),
        expires: rfc3339(record.expires),
        scope: record.scope.clone(),
    };
    let value = serde_json::to_vec(&record).map_err(|error| Problem::invalid(error.to_string()))?;
    let change = context
        .change(&who, &mesh, "created", "Token", &id)?
        .after(&record.info(now));
    let key = Key::new(mesh, TOKENS, "", id);
    context
        .store(change, vec![Write::put(key, value, Expect::Absent)])
        .await?;
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn list_tokens(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Json<Vec<TokenInfo>>> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let now = unix(std::time::SystemTime::now());
    let (entries, _) = context.store.list(&mesh, TOKENS, None)?;
    let read = |entry: &leno_store::Entry| serde_json::from_slice::<TokenRecord>(&entry.value).ok();
    Ok(Json(
        entries
            .iter()
            .filter_map(read)
            .map(|record| record.info(now))
            .collect(),
    ))
}

async fn delete_token(
    State(context): State<Context>,
    Path((mesh, id)): Path<(String, String)>,
    who: Who,
) -> Answer<Json<serde_json::Value>> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let key = Key::new(mesh.clone(), TOKENS, "", id.as_str());
    let entry = context.store.get(&key)?;
    let there = entry.and_then(|entry| serde_json::from_slice::<TokenRecord>(&entry.value).ok());
    let now = unix(std::time::SystemTime::now());
    let change = context
        .change(&who, &mesh, "deleted", "Token", &id)?
        .before(&there.map(|record| record.info(now)));
    context
        .store(change, vec![Write::delete(key, Expect::Any)])
        .await?;
    Ok(Json(success()))
}

fn success() -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

#[derive(Deserialize)]
struct Window {
    window: Option<String>,
    watch: Option<String>,
}

async fn edges(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    Query(query): Query<Window>,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let window = match query.window {
        None => DEFAULT_WINDOW,
        Some(text) => leno_types::parse_duration(&text)
            .map_err(|error| Problem::invalid(format!("window: {error}")))?,
    };
    if window < Duration::from_secs(1) || window > crate::telemetry::LONGEST {
        return Err(Problem::invalid("window: 1s to 10m are kept"));
    }
    let look = move |mesh: &mut Mesh, clock: Clock| mesh.edges(Some(window), clock.uptime());
    if !query
        .watch
        .is_some_and(|watch| watch == "1" || watch == "true")
    {
        return Ok(Json(context.on_mesh(mesh, look).await?).into_response());
    }
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let lines = futures_util::stream::unfold(every, move |mut every| {
        let (context, mesh) = (context.clone(), mesh.clone());
        async move {
            every.tick().await;
            let list = context.on_mesh(mesh, look).await.ok()?;
            Some((Ok::<_, Infallible>(line(&list)), every))
        }
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(lines.take(MAX_WATCH))).into_response())
}

fn line(document: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(document).expect("texts and numbers are JSON");
    text.push(b'\n');
    text.into()
}

async fn totals(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let list = context.on_mesh(mesh, |mesh, clock| mesh.edges(None, clock.uptime()));
    Ok(Json(list.await?).into_response())
}

async fn proxies(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let list = context.on_mesh(mesh, |mesh, clock| {
        mesh.proxies(clock.uptime(), clock.wall())
    });
    Ok(Json(list.await?).into_response())
}

async fn proxy(
    State(context): State<Context>,
    Path((mesh, host, what)): Path<(String, String, String)>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let unknown = || {
        Problem::not_found(format!(
            "no proxy {} is connected",
            host.chars().take(63).collect::<String>()
        ))
    };
    let name: DnsLabel = host.parse().map_err(|_| unknown())?;
    let kinds: &'static [Type] = match what.as_str() {
        "certs" => {
            let list = context
                .on_mesh(mesh, move |mesh, clock| {
                    mesh.proxy_certificates(&name, clock.uptime(), clock.wall())
                })
                .await?;
            return Ok(Json(list.ok_or_else(unknown)?).into_response());
        }
        "standing" => return Ok(Json(why::standing(&context, mesh, name).await?).into_response()),
        "config" => &[Type::Mesh, Type::OwnWorkload, Type::Destination],
        "endpoints" => &[Type::Endpoints],
        _ => {
            return Err(Problem::not_found(
                "a proxy has config, endpoints, standing and certs",
            ));
        }
    };
    let list = context
        .on_mesh(mesh, move |mesh, _| mesh.proxy_resources(&name, kinds))
        .await?;
    Ok(Json(list.ok_or_else(unknown)?).into_response())
}

async fn status(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let summary = context.on_mesh(mesh, |mesh, clock| mesh.summary(clock.since, clock.wall()));
    Ok(Json(summary.await?).into_response())
}

async fn control_plane(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let known = context.meters.vitals();
    let vitals = context.on_mesh(mesh, |mesh, clock| mesh.vitals(known, clock.since));
    Ok(Json(vitals.await?).into_response())
}

async fn ca(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    Ok(Json(context.on_mesh(mesh, |mesh, _| mesh.ca_info()).await?).into_response())
}

fn local_only(connection: Option<&Connection>) -> Answer<()> {
    if connection.is_some_and(|connection| connection.local) {
        return Ok(());
    }
    let message = "this is answered on the admin socket of the control plane's machine only; elsewhere, join with a token";
    Err(Problem::new(StatusCode::FORBIDDEN, "Forbidden", message))
}

async fn local_agent(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    connection: Option<Extension<Connection>>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<(StatusCode, Json<LocalAgentResponse>)> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    local_only(connection.as_deref())?;
    let request: LocalAgentRequest = parse(body)?;
    let csr = read_csr(&request.csr)?;
    let store = Arc::clone(&context.store);
    let prepared = context.on_mesh(mesh.clone(), move |mesh, clock| {
        let made = mesh.local_agent(&*store, &request.host, &csr, 0, clock.wall());
        made.map(|made| (made, mesh.settings.advertise.clone()))
    });
    let ((agent, answer, writes), addresses) = prepared.await??;
    let change = context
        .change(&who, &mesh, "joined", "Agent", &agent.name)?
        .after(&agent.scope);
    let revision = context.store(change, writes).await?;
    context
        .on_mesh(mesh, move |mesh, _| mesh.note_agent(agent, revision))
        .await?;
    let answer = LocalAgentResponse {
        mesh: answer.mesh,
        trust_domain: answer.trust_domain,
        agent: answer.agent,
        chain: answer.chain,
        trust_bundle: answer.trust_bundle,
        addresses: addresses.iter().map(HostPort::to_string).collect(),
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

fn parse<T: for<'de> Deserialize<'de>>(body: Result<Bytes, BytesRejection>) -> Answer<T> {
    let body = body.map_err(|rejection| match rejection.status() {
        code @ StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("Request entity too large: limit is {MAX_BODY}");
            Problem::new(code, "RequestEntityTooLarge", message)
        }
        code => Problem::new(code, "BadRequest", rejection.body_text()),
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "BadRequest",
            format!("the body: {error}"),
        )
    })
}

/// A request as PEM, or as base64 of its DER.
fn read_csr(text: &str) -> Answer<leno_tls::ca::Csr> {
    use base64::Engine;
    let base64: String = text
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    let der = base64::engine::general_purpose::STANDARD
        .decode(base64)
        .map_err(|_| Problem::invalid("csr: neither PEM nor base64 of DER"))?;
    leno_tls::ca::Csr::from_der(&der).map_err(|error| Problem::invalid(format!("csr: {error}")))
}

/// Eight characters that can be read out.
fn token_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    random::<8>()
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
        .collect()
}
