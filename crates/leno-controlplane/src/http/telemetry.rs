//! What proxies measured of late: each caller's calls of each service, over a window or in all, once or as it goes on.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use http::header;
use leno_api::Access;
use serde::Deserialize;

use super::{Answer, Context, Problem, Who, is_yes, line, may};
use crate::{core::Clock, mesh::Mesh, telemetry::LONGEST};

/// Seconds that one live view (`?watch=1`) lasts at most.
const MAX_WATCH: usize = 3_600;
const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(super) struct Window {
    window: Option<String>,
    #[serde(default)]
    watch: String,
}

/// Rates and latencies over a window; with `watch` a line of them each second.
pub(super) async fn edges(
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
    if window < Duration::from_secs(1) || window > LONGEST {
        return Err(Problem::invalid("window: 1s to 10m are kept"));
    }
    let look = move |mesh: &mut Mesh, clock: Clock| mesh.edges(Some(window), clock.uptime());
    if !is_yes(&query.watch) {
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

/// What was counted in all.
pub(super) async fn totals(
    State(context): State<Context>,
    Path(mesh): Path<String>,
    who: Who,
) -> Answer<Response> {
    let mesh = may(&who, &mesh, Access::Viewer)?;
    let list = context.on_mesh(mesh, |mesh, clock| mesh.edges(None, clock.uptime()));
    Ok(Json(list.await?).into_response())
}
