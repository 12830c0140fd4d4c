//! The people of a mesh: a certificate and a role for one more, who there are, and that one may do nothing any more.

use std::time::{Duration, SystemTime};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
};
use http::StatusCode;
use leno_api::Access;
use leno_store::{Expect, StoreError, Write};
use leno_types::{DnsLabel, HostPort, MeshName};
use serde::Deserialize;
use serde_json::json;

use super::{
    Answer, Context, Problem, Who, local_only, may, no_mesh, parse, read_csr, shown, success,
};
use crate::{
    documents::UserInfo,
    grpc::Connection,
    mesh::SignError,
    people::{MAX_USERS, Role, USERS, UserRecord},
    records::Record,
    times::unix,
};

/// A change of roles is in force within this, once it is stored.
pub(super) const IN_FORCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LocalUser {
    name: String,
    csr: String,
    /// None: that of who has one already, otherwise the one that may do least.
    role: Option<Role>,
}

/// A certificate of 12 h for a person, with a role, given by whoever owns the control plane's machine.
pub(super) async fn create(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
    connection: Option<Extension<Connection>>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<(StatusCode, Json<serde_json::Value>)> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    local_only(connection.as_deref(), "people are given certificates")?;
    let request: LocalUser = parse(body)?;
    let name: DnsLabel = request
        .name
        .parse()
        .map_err(|error| Problem::invalid(format!("name: {error}")))?;
    let csr = read_csr(&request.csr)?;
    let role = {
        let _counting = context.counting.lock().await;
        let (writes, before, role) = on_record(&context, &mesh, &name, request.role)?;
        let change = context
            .change(&who, &mesh, "created", "User", name.as_str())?
            .before(&before.map(|role| json!({"role": role})))
            .after(&json!({"role": role}));
        let revision = context.store(change, writes).await?;
        context.in_force(&mesh, revision).await?;
        role
    };
    let signed = context.on_mesh(mesh, move |mesh, clock| {
        let chain = mesh
            .authority
            .sign_user(&csr, &name, clock.wall())
            .map_err(SignError::from)?;
        let addresses: Vec<String> = mesh
            .settings
            .advertise
            .iter()
            .map(HostPort::to_string)
            .collect();
        Ok::<_, SignError>(json!({
            "mesh": mesh.name().as_str(),
            "trust_domain": mesh.domain().as_str(),
            "user": name.as_str(),
            "role": role,
            "chain": chain.chain_pem,
            "trust_bundle": mesh.authority.bundle().to_pem(),
            "not_after": crate::times::rfc3339_of(chain.not_after),
            "addresses": addresses,
        }))
    });
    Ok((StatusCode::CREATED, Json(signed.await??)))
}

/// What is to be written for somebody who gets a certificate now; who is on record and has none any more goes.
fn on_record(
    context: &Context,
    mesh: &MeshName,
    name: &DnsLabel,
    role: Option<Role>,
) -> Answer<(Vec<Write>, Option<Role>, Role)> {
    let now = unix(SystemTime::now());
    let mut record = UserRecord {
        name: name.to_string(),
        role: role.unwrap_or(Role::Viewer),
        since: now,
        issued: now,
    };
    let mut writes = Vec::new();
    let (mut expect, mut there, mut before) = (Expect::Absent, 0, None);
    for entry in context.store.list(mesh, USERS, None)?.0 {
        let known = UserRecord::read(&entry);
        if *entry.key.name == *name.as_str() {
            expect = Expect::Revision(entry.revision);
            before = known.as_ref().map(|known| known.role);
            let kept = before.filter(|_| known.as_ref().is_some_and(|known| !known.is_over(now)));
            record.role = role.or(kept).unwrap_or(Role::Viewer);
            // Their other certificates stay good.
            record.since = known.map_or(now, |known| known.since.min(now));
        } else if known.is_none_or(|known| known.is_over(now)) {
            writes.push(Write::delete(entry.key, Expect::Revision(entry.revision)));
        } else {
            there += 1;
        }
    }
    if there >= MAX_USERS {
        let message = format!("there are {MAX_USERS} people: revoke some (leno user revoke)");
        return Err(Problem::too_many(message));
    }
    writes.push(record.write(UserRecord::key(mesh, name.as_str()), expect));
    Ok((writes, before, record.role))
}

/// Who has a role in the mesh.
pub(super) async fn list(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Json<Vec<UserInfo>>> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let now = unix(SystemTime::now());
    let (entries, _) = context.store.list(&mesh, USERS, None)?;
    let records = entries.iter().filter_map(UserRecord::read);
    let records = records.filter(|record| !record.is_over(now));
    Ok(Json(records.map(|record| record.info()).collect()))
}

/// Takes somebody's role away; their connections end.
pub(super) async fn revoke(
    State(context): State<Context>,
    Path((mesh, name)): Path<(String, String)>,
    who: Who,
) -> Answer<Json<serde_json::Value>> {
    let mesh = may(&who, &mesh, Access::Admin)?;
    let unknown = || Problem::not_found(format!("{} has no role in mesh {mesh}", shown(&name)));
    let name: DnsLabel = name.parse().map_err(|_| unknown())?;
    let key = UserRecord::key(&mesh, name.as_str());
    let there = context.store.get(&key)?;
    let change = context
        .change(&who, &mesh, "revoked", "User", name.as_str())?
        .before(
            &there
                .and_then(|entry| UserRecord::read(&entry))
                .map(|of| of.info()),
        );
    let write = Write::delete(key, Expect::Any);
    match context.store(change, vec![write]).await {
        Err(StoreError::NotFound { .. }) => return Err(unknown()),
        written => context.in_force(&mesh, written?).await?,
    }
    tracing::info!(user = %name, %mesh, "a person's role is revoked");
    Ok(Json(success()))
}

impl Context {
    /// Waits until requests are judged by what was stored at a revision.
    async fn in_force(&self, mesh: &MeshName, revision: u64) -> Answer<()> {
        let tenant = self
            .directory
            .get(mesh)
            .ok_or_else(|| no_mesh(mesh.as_str()))?;
        let mut changes = tenant.people.changes();
        let seen = changes.wait_for(|seen| *seen >= revision);
        if !matches!(tokio::time::timeout(IN_FORCE, seen).await, Ok(Ok(_))) {
            tracing::warn!(%mesh, "a change of roles is not in force yet: there is too much to do");
        }
        Ok(())
    }
}
