//! Which hosts are members of a mesh, and that one is so no longer.
//!
//! Writes the record of an agent only: what follows from it (its sessions end, its endpoints vanish, nothing is signed for
//! it) follows from the store, as after a restart. A record stays until its last certificate has ended, so that its name is
//! never given to another.

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use leno_api::Access;
use leno_store::{Entry, Expect, Key, StoreError, Write};
use leno_types::DnsLabel;

use super::{Answer, Context, Problem, Who, may};
use crate::{
    documents::AgentInfo,
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
    let records = entries.iter().filter_map(read);
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
            scope: record.scope,
        }
    };
    Ok(Json(records.map(info).collect()))
}

/// Lets an agent's certificate count no more.
pub(super) async fn revoke(
    State(context): State<Context>,
    Path((mesh, name)): Path<(String, String)>,
    who: Who,
) -> Answer<Json<serde_json::Value>> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let unknown = || {
        let name: String = name.chars().take(63).collect();
        Problem::not_found(format!("{name} is no agent of mesh {mesh}"))
    };
    let name: DnsLabel = name.parse().map_err(|_| unknown())?;
    let key = Key::new(mesh.clone(), AGENTS, "", name.as_str());
    for _ in 0..ATTEMPTS {
        let entry = context.store.get(&key)?;
        let (revision, mut record) = entry
            .and_then(|entry| Some((entry.revision, read(&entry)?)))
            .ok_or_else(unknown)?;
        if record.token.is_empty() {
            let message =
                format!("{name} is the control plane's own machine: end it with leno down");
            return Err(Problem::new(StatusCode::CONFLICT, "Conflict", message));
        }
        record.revoked = true;
        let value =
            serde_json::to_vec(&record).map_err(|error| Problem::invalid(error.to_string()))?;
        let write = Write::put(key.clone(), value, Expect::Revision(revision));
        let change = context
            .change(&who, &mesh, "revoked", "Agent", name.as_str())?
            .before(&record.scope);
        match context.store(change, vec![write]).await {
            Err(StoreError::Conflict { .. }) => {}
            written => {
                written?;
                tracing::info!(agent = %name, %mesh, "an agent is revoked");
                return Ok(Json(super::success()));
            }
        }
    }
    let message = format!("{name} is written by others all the time: try again");
    Err(Problem::new(StatusCode::CONFLICT, "Conflict", message))
}

fn read(entry: &Entry) -> Option<AgentRecord> {
    serde_json::from_slice(&entry.value).ok()
}
