//! Which hosts are members of a mesh, that one is so no longer, and that the control plane's own is one.
//!
//! Writes the record of an agent only: what follows from it (its sessions end, its endpoints vanish, nothing is signed for
//! it) follows from the store, as after a restart. A record stays until its last certificate has ended, so that its name is
//! never given to another.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
};
use http::StatusCode;
use leno_api::Access;
use leno_store::{Expect, StoreError};
use leno_types::{DnsLabel, HostPort, MeshName};
use tokio::sync::oneshot;

use super::{
    Answer, Context, Problem, Who, local_only, may, parse, read_csr, shown, success,
    users::IN_FORCE,
};
use crate::{
    documents::{AgentInfo, LocalAgentRequest, LocalAgentResponse},
    grpc::Connection,
    records::Record,
    times::rfc3339,
    tokens::{AGENTS, AgentRecord},
};

/// A record changes when a certificate is renewed: nobody does that so often at once.
const ATTEMPTS: usize = 8;

/// Every host that is a member, or was one while certificates of it may still be around.
pub(super) async fn list(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Json<Vec<AgentInfo>>> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let connected: Vec<DnsLabel> = context
        .on_mesh(mesh.clone(), |mesh, _| mesh.connected_agents())
        .await?;
    let (entries, _) = context.store.list(&mesh, AGENTS, None)?;
    let records = entries.iter().filter_map(AgentRecord::read);
    let info = |record: AgentRecord| {
        let is_connected = connected.iter().any(|name| name.as_str() == record.name);
        AgentInfo {
            state: match (record.revoked, is_connected) {
                (true, _) => "revoked",
                (false, true) => "connected",
                (false, false) => "away",
            }
            .into(),
            joined: rfc3339(record.created),
            name: record.name,
            token: record.token,
            scope: record.scope.to_document(),
        }
    };
    Ok(Json(records.map(info).collect()))
}

/// Lets an agent's certificate count no more, from the answer on.
pub(super) async fn revoke(
    State(context): State<Context>,
    Path((mesh, name)): Path<(String, String)>,
    who: Who,
) -> Answer<Json<serde_json::Value>> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let unknown = || Problem::not_found(format!("{} is no agent of mesh {mesh}", shown(&name)));
    let name: DnsLabel = name.parse().map_err(|_| unknown())?;
    let key = AgentRecord::key(&mesh, name.as_str());
    for _ in 0..ATTEMPTS {
        let entry = context.store.get(&key)?;
        let (revision, mut record) = entry
            .and_then(|entry| Some((entry.revision, AgentRecord::read(&entry)?)))
            .ok_or_else(unknown)?;
        if record.token.is_empty() {
            let message =
                format!("{name} is the control plane's own machine: end it with leno down");
            return Err(Problem::conflict(message));
        }
        record.revoked = true;
        let write = record.write(key.clone(), Expect::Revision(revision));
        let change = context
            .change(&who, &mesh, "revoked", "Agent", name.as_str())?
            .before(&record.scope);
        match context.store(change, vec![write]).await {
            Err(StoreError::Conflict { .. }) => {}
            written => {
                context.taken_in(&mesh, written?).await?;
                tracing::info!(agent = %name, %mesh, "an agent is revoked");
                return Ok(Json(success()));
            }
        }
    }
    let message = format!("{name} is written by others all the time: try again");
    Err(Problem::conflict(message))
}

impl Context {
    /// Waits until agents are judged by what was stored at a revision, and proxies are told.
    async fn taken_in(&self, mesh: &MeshName, revision: u64) -> Answer<()> {
        let (told, shown) = oneshot::channel();
        let asked = self.on_mesh(mesh.clone(), move |mesh, _| {
            mesh.tell_when_shown(revision, told);
        });
        let taken_in = async {
            asked.await?;
            // Who is not told learns that the control plane ends, or the mesh is gone.
            let _ending = shown.await;
            Ok(())
        };
        match tokio::time::timeout(IN_FORCE, taken_in).await {
            Ok(taken_in) => taken_in,
            Err(_) => {
                tracing::warn!(%mesh, "a revocation is not in force yet: there is too much to do");
                Ok(())
            }
        }
    }
}

/// Makes the control plane's own machine a member, without a token.
pub(super) async fn join_local(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    connection: Option<Extension<Connection>>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<(StatusCode, Json<LocalAgentResponse>)> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    local_only(
        connection.as_deref(),
        "a host joins without a token (with one: leno join)",
    )?;
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
