//! The proxies of a mesh: which there are, what each was given, and how it sees the endpoints it knows.

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use leno_api::Access;
use leno_types::DnsLabel;

use super::{Answer, Context, Problem, Who, may, shown, why};
use crate::distribution::Type;

/// Every proxy that is connected or away.
pub(super) async fn list(
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

/// One of the views of a proxy.
pub(super) async fn of_host(
    State(context): State<Context>,
    Path((mesh, host, what)): Path<(String, String, String)>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let unknown = || Problem::not_found(format!("no proxy {} is connected", shown(&host)));
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
