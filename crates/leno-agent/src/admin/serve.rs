//! Serves one of the agent's HTTP ports to whoever asks.
//!
//! Nobody proves who they are there, and the data plane lives in the same process: so connections have a ceiling, at
//! which the oldest makes room, and a time, within which also who reads slowly must have read.

use std::{
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use leno_runtime::{Guest, Guests, Scope, Stop};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// Connections to one of the agent's HTTP ports that may be open at once; the oldest makes room for a new one.
const ADMIN_CONNECTIONS: usize = 32;
/// How long one of them may last: who asks again connects again.
const ADMIN_TIME: Duration = Duration::from_secs(60);
/// How long the head of a request to one may take.
const ADMIN_HEAD_TIME: Duration = Duration::from_secs(10);
/// After an error of `accept`, such as too many open files, nothing is accepted for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the stop; `ended` counts those who had to make room.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    ended: Arc<AtomicU64>,
    stop: Stop,
) {
    let scope = Scope::new(stop.clone(), None);
    let guests = Guests::new(ADMIN_CONNECTIONS, ended);
    while let Some(accepted) = stop.run_until_stopped(listener.accept()).await {
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let work = connection(socket, router.clone(), guests.enter(&stop), stop.clone());
        if let Err(error) = scope.spawn("admin-connection", work) {
            tracing::debug!(%error, "a connection was refused");
        }
    }
}

async fn connection(socket: TcpStream, router: Router, guest: Guest, stop: Stop) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEAD_TIME)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let work = async {
        tokio::select! {
            served = served.as_mut() => served,
            () = guest.leave().cancelled() => {
                // At the end of the agent what was asked is still answered; who makes room goes at once.
                if !stop.is_stopping() {
                    return Ok(());
                }
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    if let Ok(Err(error)) = timeout(ADMIN_TIME, work).await {
        tracing::debug!(%error, "a connection to an admin port ended");
    }
}
