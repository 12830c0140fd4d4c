//! The agent's own HTTP: metrics (15020), readiness (15021), admin on loopback (15000).
//!
//! Owns the listeners; what a page says is asked of the agent's loop, so that nothing here shares its state.

mod serve;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use leno_runtime::Tasks;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Config,
    agent::AgentError,
    busy,
    handover::{Handle, Handles, Inherited},
    hosted::LISTEN_BACKLOG,
};

/// Pages that wait to be written.
const PAGES: usize = 32;

/// A page that the agent's loop writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Prometheus text.
    Metrics,
    /// Whether programs may start here.
    Ready,
    /// What this proxy runs, as JSON.
    Config,
    /// The certificates, as JSON.
    Certs,
    /// The latest refusals, as JSON.
    Refusals,
}

/// A page, asked for.
pub(crate) struct Ask {
    pub(crate) page: Page,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// A page, written.
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) body: String,
}

/// What the agent's loop is asked.
pub(crate) struct Asks {
    pub(crate) pages: mpsc::Receiver<Ask>,
    /// Connections that made room for newer ones.
    pub(crate) ended: Ended,
}

/// How many connections made room for newer ones.
#[derive(Clone, Default)]
pub(crate) struct Ended(Arc<AtomicU64>);

impl Ended {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Listens on the three ports, and serves them as tasks.
pub(crate) fn start(
    config: &Config,
    inherited: &mut Inherited,
    handles: &mut Handles,
    tasks: &mut Tasks,
) -> Result<Asks, AgentError> {
    let (asks, pages) = mpsc::channel(PAGES);
    let ended = Ended::default();
    let page = |page: Page, kind: &'static str| {
        get(
            move |State(asks): State<mpsc::Sender<Ask>>| async move { answer(&asks, page, kind).await },
        )
    };
    let (text, json) = (
        "text/plain; version=0.0.4; charset=utf-8",
        "application/json",
    );
    let metrics = Router::new()
        .route("/metrics", page(Page::Metrics, text))
        .route("/stats/prometheus", page(Page::Metrics, text));
    let ready = Router::new()
        .route("/healthz/ready", page(Page::Ready, text))
        .route("/ready", page(Page::Ready, text));
    let admin = Router::new()
        .route("/config_dump", page(Page::Config, json))
        .route("/certs", page(Page::Certs, json))
        .route("/refusals", page(Page::Refusals, json))
        .route("/stats/prometheus", page(Page::Metrics, text))
        .route("/ready", page(Page::Ready, text));
    let served = [
        ("metrics", Handle::Metrics, metrics),
        ("readiness", Handle::Readiness, ready),
        ("admin", Handle::Admin, admin),
    ];
    for ((name, handle, router), (address, option)) in served.into_iter().zip(ports(config)) {
        let failed = |error: std::io::Error| AgentError::Listen(error.to_string());
        let listener = inherited
            .take(handle)
            .pop()
            .map_or_else(|| listen(address, option), Ok)?;
        handles.keep(handle, &listener).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|error| AgentError::Listen(error.to_string()))?;
        let (router, stop) = (router.with_state(asks.clone()), tasks.stop().clone());
        let serving = serve::serve(listener, router, Arc::clone(&ended.0), stop);
        tasks.spawn_critical(name, serving);
    }
    Ok(Asks { pages, ended })
}

/// Where metrics, readiness and admin pages are, and the option that chooses another place.
fn ports(config: &Config) -> [(SocketAddr, &'static str); 3] {
    [
        (config.metrics, "--metrics (LENO_METRICS_ADDR)"),
        (config.readiness, "--readiness (LENO_READINESS_ADDR)"),
        (config.admin, "--admin (LENO_ADMIN_ADDR)"),
    ]
}

/// That an agent which is no successor can listen here; nothing is listened on afterwards.
pub(crate) fn can_listen(config: &Config) -> Result<(), AgentError> {
    let mut held = everywhere(Vec::new(), config.hbone_port)?.listeners;
    for (address, option) in ports(config) {
        held.push(listen(address, option)?);
    }
    drop(held);
    Ok(())
}

async fn answer(asks: &mpsc::Sender<Ask>, page: Page, kind: &'static str) -> Response {
    let (reply, answered) = oneshot::channel();
    let stopping = || (StatusCode::SERVICE_UNAVAILABLE, "the agent stops\n").into_response();
    if asks.send(Ask { page, reply }).await.is_err() {
        return stopping();
    }
    let Ok(Answer { ok, body }) = answered.await else {
        return stopping();
    };
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, [(CONTENT_TYPE, kind)], body).into_response()
}

/// Listeners on one port of every address of this host.
pub(crate) struct Everywhere {
    pub(crate) port: u16,
    pub(crate) listeners: Vec<TcpListener>,
}

/// Listens on a port of every address, of both families where both are there; 0 lets the kernel choose.
pub(crate) fn everywhere(inherited: Vec<TcpListener>, port: u16) -> Result<Everywhere, AgentError> {
    let of = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
    if let Some(first) = inherited.first() {
        let port = of(first).map_err(|error| AgentError::Listen(error.to_string()))?;
        return Ok(Everywhere {
            port,
            listeners: inherited,
        });
    }
    let option = "--hbone-port (LENO_HBONE_PORT)";
    let v4 = listen(
        SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        option,
    )?;
    let port = v4
        .local_addr()
        .map_err(|error| AgentError::Listen(error.to_string()))?
        .port();
    let mut listeners = vec![v4];
    if leno_net::link::ipv6_enabled() {
        listeners.push(listen(
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            option,
        )?);
    }
    Ok(Everywhere { port, listeners })
}

/// `option` chooses another port.
fn listen(address: SocketAddr, option: &str) -> Result<TcpListener, AgentError> {
    let instead = format!("choose another port with {option}");
    leno_net::socket::listen_tcp(address, LISTEN_BACKLOG)
        .map_err(|error| AgentError::Listen(busy::why(address, &error, &instead)))
}
