//! `GET /meshes/M/leno/v1/mtls`.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};

use super::{Access, Answer, Context, Who, may};

/// What each port does with plaintext, and who calls in clear.
pub(super) async fn list(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let list = context.on_mesh(mesh, |mesh, clock| mesh.mtls(clock.uptime()));
    Ok(Json(list.await?).into_response())
}
