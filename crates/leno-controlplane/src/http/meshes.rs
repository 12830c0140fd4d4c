//! The meshes of this control plane: which there are, one more, one less.
//!
//! Making and removing them is the control plane's own admin's, who calls at its admin socket: an admin of a mesh is
//! nobody outside of it. Each is done to its end once it has begun, whether or not its caller waits.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection},
};
use http::StatusCode;
use leno_api::{Access, Caller};
use leno_store::{Expect, StoreError};
use leno_types::MeshName;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::{Answer, Context, Problem, Who, may, no_mesh, parse};
use crate::{
    core::{Core, Ending},
    documents::{MeshInfo, MeshRequest},
    mesh::Mesh,
    tenants::{FoundingError, MAX_MESHES, MeshRecord, Plan},
    tokens::TOKENS,
};

/// The meshes that the caller has a role in.
pub(super) async fn list(State(context): State<Context>, who: Who) -> Answer<Json<Vec<MeshInfo>>> {
    let Some(Extension(caller)) = who else {
        return Err(Problem::unauthorized("no client certificate"));
    };
    let everything = is_control_planes_admin(&caller);
    let served = context.handle.call(move |core| {
        let seen = core
            .meshes
            .values()
            .filter(|mesh| caller.access(mesh.name()) != Access::None);
        seen.map(|mesh| info(core, mesh)).collect::<Vec<_>>()
    });
    let mut list = served.await?;
    if everything {
        list.extend(unserved(&context, &list)?);
    }
    for info in &mut list {
        if let Ok(mesh) = info.name.parse() {
            info.tokens = context.store.list(&mesh, TOKENS, None)?.0.len();
        }
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(list))
}

/// One mesh.
pub(super) async fn get(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Json<MeshInfo>> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    Ok(Json(context.mesh_info(&mesh).await?))
}

/// Makes a mesh.
pub(super) async fn create(
    State(context): State<Context>,
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
    .and_then(|plan| context.founder.admit(&plan.domain).map(|()| plan))
    .map_err(Problem::invalid)?;
    let made = context
        .run_to_its_end(make(context.clone(), who, plan))
        .await??;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn make(context: Context, who: Who, plan: Plan) -> Answer<MeshInfo> {
    let _founding = context.founding.lock().await;
    let name = plan.name.clone();
    if context.directory.get(&name).is_some() || MeshRecord::read(&*context.store, &name)?.is_some()
    {
        return Err(Problem::conflict(format!("there is a mesh {name} already")));
    }
    if let Some(other) = context.directory.with_domain(&plan.domain) {
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
    if context.handle.call(full).await? {
        let message = format!("there are {MAX_MESHES} meshes: remove some (leno mesh delete)");
        return Err(Problem::too_many(message));
    }
    let begins = context.founder.found(&*context.store, &plan).await?;
    context.audit.open(&name);
    let made = json!({"trustDomain": plan.domain.as_str(), "prefixes": plan.prefixes.len()});
    let change = context
        .change(&who, &name, "created", "Mesh", name.as_str())?
        .after(&made);
    change.done(begins);
    let founder = context.founder.clone();
    let opened = context.handle.call(move |core| {
        let mesh = founder.open(&Plan { begins, ..plan })?;
        core.add_mesh(mesh)?;
        Ok::<_, FoundingError>(())
    });
    opened.await??;
    tracing::info!(mesh = %name, "a mesh was made");
    context.mesh_info(&name).await
}

/// What is asked of a removal.
#[derive(Deserialize)]
pub(super) struct Removal {
    /// Also with everything that is in it.
    #[serde(default)]
    purge: bool,
}

/// Removes a mesh; what was in it is the answer.
pub(super) async fn remove(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    Query(removal): Query<Removal>,
) -> Answer<Json<MeshInfo>> {
    control_planes_admin(&who, "remove a mesh")?;
    let name: MeshName = mesh.parse().map_err(|_| no_mesh(&mesh))?;
    let removed = unmake(context.clone(), who, name, removal.purge);
    Ok(Json(context.run_to_its_end(removed).await??))
}

async fn unmake(context: Context, who: Who, name: MeshName, purge: bool) -> Answer<MeshInfo> {
    let _founding = context.founding.lock().await;
    let was = context.mesh_info(&name).await?;
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
        MeshRecord::read(&*context.store, &name)?.ok_or_else(|| no_mesh(name.as_str()))?;
    record.deleting = true;
    let write = record.write(&name, Expect::Revision(entry.revision));
    context.audit.open(&name);
    let change = context
        .change(&who, &name, "deleted", "Mesh", name.as_str())?
        .before(&was);
    context.store(change, vec![write]).await?;
    let gone = name.clone();
    context
        .handle
        .call(move |core| core.remove_mesh(&gone))
        .await?;
    context.founder.dissolve(&*context.store, &name).await?;
    context.audit.close(&name);
    tracing::info!(mesh = %name, "a mesh was removed");
    Ok(was)
}

impl Context {
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
fn unserved(context: &Context, served: &[MeshInfo]) -> Result<Vec<MeshInfo>, StoreError> {
    let mut list = Vec::new();
    for name in context.store.meshes()? {
        if served.iter().any(|mesh| mesh.name == name.as_str()) {
            continue;
        }
        if let Some((record, _)) = MeshRecord::read(&*context.store, &name)? {
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
