//! What is no object: tokens, hosts, people, meshes, proxies, telemetry, refusals, summaries, the audit log, backups. JSON
//! and NDJSON on the same port as the API.
//!
//! Owns the routes and what every handler does first: who asks, of which mesh, and may they. Refuses callers without access
//! to the mesh, in the shape of a Kubernetes `Status`, like the API beside it.

mod agents;
mod audit;
mod backup;
mod meshes;
mod proxies;
mod summaries;
mod telemetry;
mod tokens;
mod users;
mod why;

use std::{path::PathBuf, sync::Arc};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, rejection::BytesRejection},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bytes::Bytes;
use http::StatusCode;
use leno_api::{Access, Caller};
use leno_store::{Store, StoreError};
use leno_types::MeshName;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    audit::AuditLog,
    core::{Clock, Handle},
    grpc::Connection,
    mesh::{Mesh, SignError},
    metrics::Meters,
    tenants::Directory,
};

pub(crate) use meshes::{Meshes, router as meshes_router};

/// Largest body of a request here.
const MAX_BODY: usize = 64 << 10;

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
    pub(crate) meshes: Meshes,
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

    fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
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
            | SignError::Outdated(_) => Self::forbidden(text),
        }
    }
}

type Answer<T> = Result<T, Problem>;

/// The routes, to be merged with the API's.
pub(crate) fn router(context: Context) -> Router {
    Router::new()
        .route("/leno/v1/backup", get(backup::download))
        .merge(meshes::router(context.meshes.clone()))
        .route(
            "/meshes/{mesh}/leno/v1/tokens",
            get(tokens::list).post(tokens::create),
        )
        .route("/meshes/{mesh}/leno/v1/tokens/{id}", delete(tokens::delete))
        .route("/meshes/{mesh}/leno/v1/agents", get(agents::list))
        .route(
            "/meshes/{mesh}/leno/v1/agents/{name}",
            delete(agents::revoke),
        )
        .route(
            "/meshes/{mesh}/leno/v1/telemetry/edges",
            get(telemetry::edges),
        )
        .route(
            "/meshes/{mesh}/leno/v1/telemetry/totals",
            get(telemetry::totals),
        )
        .route("/meshes/{mesh}/leno/v1/mtls", get(summaries::mtls))
        .route("/meshes/{mesh}/leno/v1/proxies", get(proxies::list))
        .route(
            "/meshes/{mesh}/leno/v1/proxies/{host}/{what}",
            get(proxies::of_host),
        )
        .route("/meshes/{mesh}/leno/v1/refusals", get(why::refusals))
        .route("/meshes/{mesh}/leno/v1/refusals/{id}", get(why::explain))
        .route("/meshes/{mesh}/leno/v1/logs", get(why::logs))
        .route("/meshes/{mesh}/leno/v1/status", get(summaries::status))
        .route(
            "/meshes/{mesh}/leno/v1/control-plane",
            get(summaries::control_plane),
        )
        .route("/meshes/{mesh}/leno/v1/ca", get(summaries::ca))
        .route(
            "/meshes/{mesh}/leno/v1/local-agent",
            post(agents::join_local),
        )
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
        return Err(Problem::unauthorized(message));
    };
    let name: MeshName = mesh.parse().map_err(|_| no_mesh(mesh))?;
    let Err(why) = caller.may(&name, least) else {
        return Ok(name);
    };
    let message = format!("{} may not do this {why}", caller.name);
    Err(Problem::forbidden(message))
}

fn no_mesh(mesh: &str) -> Problem {
    Problem::not_found(format!("there is no mesh {}", shown(mesh)))
}

/// As much of what a caller calls a name as a name can have.
fn shown(name: &str) -> String {
    name.chars().take(63).collect()
}

/// Whether a parameter such as `watch` is set.
fn is_yes(parameter: &str) -> bool {
    matches!(parameter, "1" | "true")
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

fn success() -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

fn line(document: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(document).expect("texts and numbers are JSON");
    text.push(b'\n');
    text.into()
}

/// `what` is done by whoever owns the control plane's machine alone.
fn local_only(connection: Option<&Connection>, what: &str) -> Answer<()> {
    if connection.is_some_and(|connection| connection.local) {
        return Ok(());
    }
    Err(Problem::forbidden(format!(
        "{what} on the control plane's own machine alone, by whoever runs the control plane there"
    )))
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
