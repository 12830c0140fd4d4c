//! What a mesh is like as a whole, by the state that is in memory: summary, control plane, authority, plaintext.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use leno_api::Access;

use super::{Answer, Context, Who, may};

/// The mesh in a few numbers.
pub(super) async fn status(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let summary = context.on_mesh(mesh, |mesh, clock| mesh.summary(clock.since, clock.wall()));
    Ok(Json(summary.await?).into_response())
}

/// How the control plane itself is.
pub(super) async fn control_plane(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let known = context.meters.vitals();
    let vitals = context.on_mesh(mesh, |mesh, clock| mesh.vitals(known, clock.since));
    Ok(Json(vitals.await?).into_response())
}

/// The certificate authority: what it has issued with, and until when.
pub(super) async fn ca(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    Ok(Json(context.on_mesh(mesh, |mesh, _| mesh.ca_info()).await?).into_response())
}

/// What each port does with plaintext, and who calls in clear.
pub(super) async fn mtls(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let list = context.on_mesh(mesh, |mesh, clock| mesh.mtls(clock.uptime()));
    Ok(Json(list.await?).into_response())
}
