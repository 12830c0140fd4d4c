//! The meshes of this control plane: which there are, one more, one less.
//!
//! Making and removing them is the control plane's own admin's, who calls at its admin socket: an admin of a mesh is
//! nobody outside of it. Each is done to its end once it has begun, whether or not its caller waits.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection},
    routing,
};
use http::StatusCode;
use leno_api::{Access, Caller};
use leno_store::{Expect, Store, StoreError};
use leno_types::MeshName;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    Answer, Problem, Who,
    audit::{begin, store},
    may, no_mesh, parse,
};
use crate::{
    audit::AuditLog,
    core::{Core, Ending, Handle},
    documents::{MeshInfo, MeshRequest},
    mesh::Mesh,
    tenants::{Directory, Founder, FoundingError, MAX_MESHES, MeshRecord, Plan},
    tokens::TOKENS,
};

/// Makes and removes meshes.
#[derive(Clone)]
pub(crate) struct Meshes {
    handle: Handle,
    directory: Directory,
    store: Arc<dyn Store>,
    audit: Arc<AuditLog>,
    founder: Founder,
    /// Held while a mesh is made or removed: one at a time.
    founding: Arc<tokio::sync::Mutex<()>>,
}

impl Meshes {
    /// Those of a control plane whose state this is.
    pub(crate) fn new(
        core: &Core,
        store: Arc<dyn Store>,
        audit: Arc<AuditLog>,
        founder: Founder,
    ) -> Self {
        Self {
            handle: core.handle.clone(),
            directory: core.directory.clone(),
            store,
            audit,
            founder,
            founding: Arc::default(),
        }
    }
}

/// The routes.
pub(crate) fn router<S>(meshes: Meshes) -> Router<S> {
    Router::new()
        .route("/meshes", routing::get(list).post(create))
        .route("/meshes/{mesh}", routing::get(get).delete(remove))
        .with_state(meshes)
}

/// The meshes that the caller has a role in.
async fn list(State(meshes): State<Meshes>, who: Who) -> Answer<Json<Vec<MeshInfo>>> {
    let Some(Extension(caller)) = who else {
        return Err(Problem::unauthorized("no client certificate"));
    };
    let everything = is_control_planes_admin(&caller);
    let served = meshes.handle.call(move |core| {
        let seen = core
            .meshes
            .values()
            .filter(|mesh| caller.access(mesh.name()) != Access::None);
        seen.map(|mesh| info(core, mesh)).collect::<Vec<_>>()
    });
    let mut list = served.await?;
    if everything {
        list.extend(unserved(&meshes, &list)?);
    }
    for info in &mut list {
        if let Ok(mesh) = info.name.parse() {
            info.tokens = meshes.store.list(&mesh, TOKENS, None)?.0.len();
        }
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(list))
}

/// One mesh.
async fn get(
    State(meshes): State<Meshes>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Json<MeshInfo>> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    Ok(Json(meshes.mesh_info(&mesh).await?))
}

/// Makes a mesh.
async fn create(
    State(meshes): State<Meshes>,
    who: Who,
    body: Result<Bytes, BytesRejection>,
) -> Answer<(StatusCode, Json<MeshInfo>)> {
    control_planes_admin(&who, "make a mesh")?;
    let request: MeshRequest = parse(body)?;
    let plan = Plan::read(
        &request.name,
        request.trust_domain.as_deref(),
        &request.prefixes,
    )
    .and_then(|plan| meshes.founder.admit(&plan.domain).map(|()| plan))
    .map_err(Problem::invalid)?;
    let made = meshes
        .run_to_its_end(make(meshes.clone(), who, plan))
        .await??;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn make(meshes: Meshes, who: Who, plan: Plan) -> Answer<MeshInfo> {
    let _founding = meshes.founding.lock().await;
    let name = plan.name.clone();
    if meshes.directory.get(&name).is_some() || MeshRecord::read(&*meshes.store, &name)?.is_some() {
        return Err(Problem::conflict(format!("there is a mesh {name} already")));
    }
    if let Some(other) = meshes.directory.with_domain(&plan.domain) {
        return Err(Problem::conflict(format!(
            "trust domain {} is that of mesh {other}: give this one another (trustDomain)",
            plan.domain
        )));
    }
    let full = |core: &mut Core| {
        let full = core.meshes.len() >= MAX_MESHES;
        core.meshes_refused += u64::from(full);
        full
    };
    if meshes.handle.call(full).await? {
        let message = format!("there are {MAX_MESHES} meshes: remove some (leno mesh delete)");
        return Err(Problem::too_many(message));
    }
    let begins = meshes.founder.found(&*meshes.store, &plan).await?;
    meshes.audit.open(&name);
    let made = json!({"trustDomain": plan.domain.as_str(), "prefixes": plan.prefixes.len()});
    let what = ("created", "Mesh", name.as_str());
    let change = begin(&meshes.audit, &who, &name, what)?.after(&made);
    change.done(begins);
    let founder = meshes.founder.clone();
    let opened = meshes.handle.call(move |core| {
        let mesh = founder.open(&Plan { begins, ..plan })?;
        core.add_mesh(mesh)?;
        Ok::<_, FoundingError>(())
    });
    opened.await??;
    tracing::info!(mesh = %name, "a mesh was made");
    meshes.mesh_info(&name).await
}

/// What is asked of a removal.
#[derive(Deserialize)]
struct Removal {
    /// Also with everything that is in it.
    #[serde(default)]
    purge: bool,
}

/// Removes a mesh; what was in it is the answer.
async fn remove(
    State(meshes): State<Meshes>,
    Path(mesh): Path<String>,
    who: Who,
    Query(removal): Query<Removal>,
) -> Answer<Json<MeshInfo>> {
    control_planes_admin(&who, "remove a mesh")?;
    let name: MeshName = mesh.parse().map_err(|_| no_mesh(&mesh))?;
    let removed = unmake(meshes.clone(), who, name, removal.purge);
    Ok(Json(meshes.run_to_its_end(removed).await??))
}

async fn unmake(meshes: Meshes, who: Who, name: MeshName, purge: bool) -> Answer<MeshInfo> {
    let _founding = meshes.founding.lock().await;
    let was = meshes.mesh_info(&name).await?;
    if was.own {
        return Err(Problem::conflict(format!(
            "mesh {name} is the one that this control plane was started with: it ends with it (leno down --purge)"
        )));
    }
    if !purge && (was.agents_connected > 0 || was.objects > 0) {
        return Err(Problem::conflict(format!(
            "mesh {name} is in use: {} of its {} hosts are connected, and it has {} objects; with purge they lose the mesh and everything of it is removed, its certificate authority too",
            was.agents_connected, was.agents, was.objects
        )));
    }
    let (mut record, entry) =
        MeshRecord::read(&*meshes.store, &name)?.ok_or_else(|| no_mesh(name.as_str()))?;
    record.deleting = true;
    let write = record.write(&name, Expect::Revision(entry.revision));
    meshes.audit.open(&name);
    let what = ("deleted", "Mesh", name.as_str());
    let change = begin(&meshes.audit, &who, &name, what)?.before(&was);
    store(&*meshes.store, change, vec![write]).await?;
    let gone = name.clone();
    meshes
        .handle
        .call(move |core| core.remove_mesh(&gone))
        .await?;
    meshes.founder.dissolve(&*meshes.store, &name).await?;
    meshes.audit.close(&name);
    tracing::info!(mesh = %name, "a mesh was removed");
    Ok(was)
}

impl Meshes {
    /// Does `work` to its end, also when who asked for it goes away.
    async fn run_to_its_end<R: Send + 'static>(
        &self,
        work: impl Future<Output = R> + Send + 'static,
    ) -> Answer<R> {
        let (told, heard) = oneshot::channel();
        let begun = self.handle.call(move |core| {
            core.scope.spawn("founding", async move {
                drop(told.send(work.await));
            })
        });
        begun.await?.map_err(|full| {
            let (code, reason) = (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
            Problem::new(code, reason, full.to_string())
        })?;
        Ok(heard.await.map_err(|_| Ending)?)
    }

    /// What there is of a mesh, served or not.
    async fn mesh_info(&self, name: &MeshName) -> Answer<MeshInfo> {
        let wanted = name.clone();
        let served = self
            .handle
            .call(move |core| core.meshes.get(&wanted).map(|mesh| info(core, mesh)));
        let mut found = match served.await? {
            Some(info) => info,
            None => match MeshRecord::read(&*self.store, name)? {
                Some((record, _)) => unserved_info(name, &record),
                None => return Err(no_mesh(name.as_str())),
            },
        };
        found.tokens = self.store.list(name, TOKENS, None)?.0.len();
        Ok(found)
    }
}

fn info(core: &Core, mesh: &Mesh) -> MeshInfo {
    MeshInfo {
        name: mesh.name().to_string(),
        trust_domain: mesh.domain().to_string(),
        state: "serving".into(),
        own: *mesh.name() == core.own,
        agents: mesh
            .known_agents
            .values()
            .filter(|agent| !agent.revoked)
            .count(),
        agents_connected: mesh.connected_agents().len(),
        objects: mesh.objects.len(),
        tokens: 0,
    }
}

/// Meshes that are recorded and not served.
fn unserved(meshes: &Meshes, served: &[MeshInfo]) -> Result<Vec<MeshInfo>, StoreError> {
    let mut list = Vec::new();
    for name in meshes.store.meshes()? {
        if served.iter().any(|mesh| mesh.name == name.as_str()) {
            continue;
        }
        if let Some((record, _)) = MeshRecord::read(&*meshes.store, &name)? {
            list.push(unserved_info(&name, &record));
        }
    }
    Ok(list)
}

fn unserved_info(name: &MeshName, record: &MeshRecord) -> MeshInfo {
    let state = if record.deleting {
        "removing"
    } else {
        "broken"
    };
    MeshInfo {
        name: name.to_string(),
        trust_domain: record.trust_domain.clone(),
        state: state.into(),
        ..MeshInfo::default()
    }
}

/// Whether this caller is admin of whatever there is: who owns the control plane's machine.
fn is_control_planes_admin(caller: &Caller) -> bool {
    caller.elsewhere == Access::Admin
}

fn control_planes_admin(who: &Who, what: &str) -> Answer<()> {
    let Some(Extension(caller)) = who else {
        let message = format!(
            "to {what} is the control plane's admin's, at the admin socket of its machine; this call has no certificate"
        );
        return Err(Problem::unauthorized(message));
    };
    if is_control_planes_admin(caller) {
        return Ok(());
    }
    let message = format!(
        "{} may not {what}: that is the control plane's own admin's, at the admin socket of its machine, and no role in a mesh is enough",
        caller.name
    );
    Err(Problem::forbidden(message))
}

impl From<FoundingError> for Problem {
    fn from(error: FoundingError) -> Self {
        let text = error.to_string();
        match error {
            FoundingError::Store(error) => error.into(),
            FoundingError::Stray(_) => Self::conflict(text),
            FoundingError::Disk(..) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                text,
            ),
            FoundingError::Authority(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text)
            }
        }
    }
}
