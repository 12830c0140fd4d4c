//! The TLS port, the admin socket and the metrics port: who connects, and what is served on it.
//!
//! Refuses, on the admin socket, every user but the control plane's own and root. Every connection and stream counts
//! against a ceiling. Invariant: a request carries the [`Connection`] it came on, and a [`Caller`] exactly if that
//! proved who it is.

mod linger;
mod patient;

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::{Router, body::Body};
use futures_util::FutureExt;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use leno_api::{Access, Caller};
use leno_runtime::{Guest, Guests, Scope, Stop};
use leno_tls::{Alpn, Peer, control::ControlAcceptor};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
};
use tower::{Service, ServiceExt};

use crate::{
    StartError,
    grpc::Connection,
    tenants::{Directory, Tenant},
};
use linger::Lent;
use patient::Patient;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;
/// How long the head of an HTTP/1 request may take.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// Bytes of one HTTP/1 connection that wait to be read or to be written; so also of a request's head.
const BUFFER: usize = 64 << 10;
/// Streams of one connection of an agent or a person.
const STREAMS: u32 = 1_024;
/// Streams of one connection that has shown no certificate.
const STRANGER_STREAMS: u32 = 8;
/// Connections without a client certificate that may be open at once, handshakes included; the oldest is closed for a
/// new one.
pub(crate) const STRANGERS: usize = 1_024;
/// Connections of readers of metrics that may be open at once; the oldest is closed for a new one.
const METRICS_CONNECTIONS: usize = 32;
/// How long one of them may last: who reads again connects again.
const METRICS_TIME: Duration = Duration::from_secs(60);
/// How long a connection without a certificate may last: many times what it takes to redeem a token.
const STRANGER_TIME: Duration = Duration::from_secs(60);
/// Receive window of an agent's connection and of each stream of it. The window is what bounds memory; its size also
/// says how many small messages may come at once before h2 takes them for an attack ("too many data frames"): an agent
/// that comes back names up to 512 workloads in a burst.
const WINDOW: u32 = 1 << 20;
/// How often an HTTP/2 peer is asked whether it is there, and how long it may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// After an error of `accept`, such as too many open files, nothing is accepted for so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection is served with.
pub(crate) struct Serving {
    pub(crate) router: Router,
    pub(crate) scope: Scope,
    pub(crate) acceptor: watch::Receiver<ControlAcceptor>,
    pub(crate) meshes: Directory,
    /// Whoever has shown no certificate (yet).
    pub(crate) strangers: Guests,
    /// Connections that ended because their client took nothing of what was sent.
    pub(crate) stalled: Arc<AtomicU64>,
}

/// The option by which people choose where agents and people reach the control plane.
pub(crate) const LISTEN: &str = "--listen";
/// That of its metrics.
pub(crate) const METRICS: &str = "--metrics (with leno up: --control-plane-metrics)";

/// Opens a TCP port that `option` chooses; version 6 is version 6 only, so that both families can have the same port.
pub(crate) fn bind(address: SocketAddr, option: &'static str) -> Result<TcpListener, StartError> {
    listen(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = leno_net::process::owner_of_port(address.port());
            StartError::PortTaken {
                address,
                holder: holder
                    .map_or_else(String::new, |(pid, name)| format!(" by pid {pid} ({name})")),
                option,
            }
        }
        _ => StartError::Listen {
            address,
            option,
            source,
        },
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // A restart must not wait for the connections of before.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(std::net::TcpListener::from(socket))
}

/// Opens the admin socket, 0600; one that a dead control plane left is replaced.
pub(crate) fn bind_admin(path: &Path) -> Result<UnixListener, StartError> {
    let error = |reason: String| StartError::AdminSocket {
        path: path.into(),
        reason,
    };
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(error(
                "another control plane listens on it: stop that, or choose another place".into(),
            ));
        }
        std::fs::remove_file(path).map_err(|source| error(source.to_string()))?;
    }
    let listener = UnixListener::bind(path).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidInput => {
            error("its path is longer than 107 bytes: choose a shorter one".into())
        }
        _ => error(source.to_string()),
    })?;
    // Its directory is 0700, so nobody came in between; and every peer's uid is checked as well.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|source| error(source.to_string()))?;
    Ok(listener)
}

/// Accepts TLS connections until `stop`.
pub(crate) async fn serve_tls(listener: TcpListener, serving: Rc<Serving>, stop: Stop) {
    while let Some(accepted) = stop.run_until_stopped(listener.accept()).await {
        let (socket, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let source = from.ip().to_canonical();
        let work = serve_one(socket, source, Rc::clone(&serving), stop.clone());
        if let Err(error) = serving.scope.spawn("connection", work) {
            tracing::warn!(%source, %error, "a connection was refused");
        }
    }
}

/// Who has come, and is served.
struct Visit {
    served: Pin<Box<dyn Future<Output = ()>>>,
    who: Known,
    /// For how long they may stay.
    left: Duration,
    /// Told when they have to leave before.
    leave: Stop,
    /// The place of somebody without a certificate.
    _place: Option<Guest>,
}

async fn shake(socket: TcpStream, source: IpAddr, serving: &Serving, stop: &Stop) -> Option<Visit> {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%source, %error, "the connection ended at once");
        return None;
    }
    // Both of one moment: who is let in as somebody of a mesh is so of no later one with the same trust domain.
    let (acceptor, meshes) = (serving.acceptor.borrow().clone(), serving.meshes.now());
    let stranger = serving.strangers.enter(stop);
    let shaking = Box::pin(acceptor.accept(socket));
    let accepted = match stranger.leave().run_until_stopped(shaking).await? {
        Ok(accepted) => accepted,
        Err(error) => {
            let reason = leno_tls::verify_failure_reason(&error);
            tracing::info!(%source, reason, %error, "a TLS handshake failed");
            return None;
        }
    };
    let peer = accepted.peer.map(Arc::new);
    let tenant = peer.as_ref().and_then(|peer| meshes.of(&peer.identity));
    let (left, leave) = match &peer {
        None => (STRANGER_TIME, stranger.leave().clone()),
        // Who was let in by a certificate leaves with it, and who was let in by a mesh with that.
        Some(peer) => {
            let left = peer.not_after.duration_since(std::time::SystemTime::now());
            let leave = tenant.map(|tenant| tenant.stop.clone());
            (left.unwrap_or_default(), leave.unwrap_or_default())
        }
    };
    let who = match &peer {
        Some(peer) => Known::Peer(Arc::clone(peer), tenant.cloned()),
        None => Known::Nobody,
    };
    let place = Some(stranger).filter(|_| peer.is_none());
    let connection = Connection {
        peer,
        source: Some(source),
        local: false,
    };
    let protocol = if accepted.alpn == Alpn::H2 {
        Protocol::Http2
    } else {
        Protocol::Http1
    };
    let stream = accepted.stream;
    Some(Visit {
        served: serve_http(stream, protocol, connection, who.clone(), serving, stop),
        who,
        left,
        leave,
        _place: place,
    })
}

async fn serve_one(socket: TcpStream, source: IpAddr, serving: Rc<Serving>, stop: Stop) {
    // On the heap, and gone: a handshake takes many times what a connection has of it for days.
    let Some(visit) = Box::pin(shake(socket, source, &serving, &stop)).await else {
        return;
    };
    tokio::select! {
        () = visit.served => {}
        // Streams that somebody opened end with the role that let them.
        () = visit.who.has_changed() => {}
        () = tokio::time::sleep(visit.left) => {
            tracing::info!(%source, "a connection lasted longer than its client's certificate, or than one without may");
        }
        () = visit.leave.cancelled() => {
            tracing::debug!(%source, "a connection made room for another, or its mesh was removed");
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
enum Known {
    /// Somebody who has shown no certificate.
    Nobody,
    /// Whoever has shown this one, of this mesh.
    Peer(Arc<Peer>, Option<Arc<Tenant>>),
    /// Who owns this machine.
    Owner(u32),
}

impl Known {
    /// What they are allowed at the API, as of now: people what their role says, agents and workloads nothing.
    fn caller(&self) -> Option<Caller> {
        match self {
            Self::Nobody => None,
            Self::Owner(uid) => {
                let caller = Caller::everywhere(format!("uid {uid}"), Access::Admin);
                Some(caller.calling_from("admin socket"))
            }
            Self::Peer(peer, None) => {
                Some(Caller::everywhere(peer.identity.to_string(), Access::None))
            }
            Self::Peer(peer, Some(tenant)) => {
                let access = Self::role(peer, tenant);
                let name = peer.identity.to_string();
                Some(Caller::of_mesh(name, tenant.name.clone(), access))
            }
        }
    }

    fn role(peer: &Peer, tenant: &Tenant) -> Access {
        match peer.identity.user_name() {
            Some(user) => tenant.people.access(user, peer.issued),
            None => Access::None,
        }
    }

    /// Ready once a person's role is another than now.
    async fn has_changed(&self) {
        if let Self::Peer(peer, Some(tenant)) = self
            && peer.identity.user_name().is_some()
        {
            // Agents have no role: their connections have no room for this.
            Box::pin(Self::role_has_changed(peer, tenant)).await;
        } else {
            std::future::pending().await
        }
    }

    async fn role_has_changed(peer: &Peer, tenant: &Tenant) {
        let (mut changes, now) = (tenant.people.changes(), Self::role(peer, tenant));
        while changes.changed().await.is_ok() {
            if Self::role(peer, tenant) != now {
                return;
            }
        }
        std::future::pending().await
    }
}

/// Accepts people of this machine until `stop`.
pub(crate) async fn serve_admin(
    listener: UnixListener,
    path: std::path::PathBuf,
    serving: Rc<Serving>,
    stop: Stop,
) {
    let owner = std::fs::metadata(&path).map(|meta| meta.uid()).unwrap_or(0);
    while let Some(accepted) = stop.run_until_stopped(listener.accept()).await {
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin socket could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let work = serve_local(socket, owner, Rc::clone(&serving), stop.clone());
        if let Err(error) = serving.scope.spawn("admin-connection", work) {
            tracing::warn!(%error, "a connection to the admin socket was refused");
        }
    }
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, "the admin socket was gone already");
    }
}

async fn serve_local(socket: UnixStream, owner: u32, serving: Rc<Serving>, stop: Stop) {
    let uid = match leno_net::fdpass::peer(&socket) {
        Ok(peer) => peer.uid,
        Err(error) => {
            tracing::warn!(%error, "who calls at the admin socket cannot be seen");
            return;
        }
    };
    if uid != owner && uid != 0 {
        tracing::warn!(
            uid,
            "a user who is neither the control plane's nor root was refused at the admin socket"
        );
        return;
    }
    let connection = Connection {
        peer: None,
        source: None,
        local: true,
    };
    serve_http(
        socket,
        Protocol::Http1,
        connection,
        Known::Owner(uid),
        &serving,
        &stop,
    )
    .await;
}

/// Accepts readers of metrics until `stop`.
pub(crate) async fn serve_metrics(
    listener: TcpListener,
    router: Router,
    scope: Scope,
    ended: Arc<AtomicU64>,
    stop: Stop,
) {
    let guests = Guests::new(METRICS_CONNECTIONS, ended);
    while let Some(accepted) = stop.run_until_stopped(listener.accept()).await {
        let Ok((socket, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (router, guest) = (router.clone(), guests.enter(&stop));
        let work = async move {
            let io = TokioIo::new(socket);
            let service = hyper_util::service::TowerToHyperService::new(router);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .serve_connection(io, service);
            let timed = tokio::time::timeout(METRICS_TIME, connection);
            if let Some(Ok(Err(error))) = guest.leave().run_until_stopped(timed).await {
                tracing::debug!(%error, "a metrics connection ended");
            }
        };
        if let Err(error) = scope.spawn("metrics-connection", work) {
            tracing::warn!(%error, "a metrics connection was refused");
        }
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Starts the tasks that hyper needs, on this thread.
#[derive(Clone)]
struct LocalExecutor(Scope);

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, work: F) {
        // Not an async block, which would hold the work twice.
        let started = self.0.spawn("http2-stream", work.map(drop));
        if let Err(error) = started {
            // The stream is dropped, and its peer sees a reset.
            tracing::warn!(%error, "a stream was refused");
        }
    }
}

// Not an `async fn`, nor is the answer to a request a future that hyper has in its own: a stream has room for it as long
// as it lives, and needs it until the head of the answer is there.
fn serve_http<IO: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: IO,
    protocol: Protocol,
    connection: Connection,
    who: Known,
    serving: &Serving,
    stop: &Stop,
) -> Pin<Box<dyn Future<Output = ()>>> {
    let io = TokioIo::new(Patient::new(stream, Arc::clone(&serving.stalled)));
    let router = serving.router.clone();
    let known = !matches!(who, Known::Nobody);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let extensions = request.extensions_mut();
        extensions.insert(connection.clone());
        if let Some(caller) = who.caller() {
            extensions.insert(match connection.source {
                Some(source) => caller.calling_from(source.to_string()),
                None => caller,
            });
        }
        Box::pin(answer(router.clone(), request))
    });
    let stop = stop.clone();
    // Ends what is open in order: streams of agents were ended by the task that owns the state.
    match protocol {
        Protocol::Http1 => {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME)
                .max_buf_size(BUFFER)
                .serve_connection(io, service);
            let mut served = Box::pin(served);
            Box::pin(async move {
                let outcome = tokio::select! {
                    outcome = served.as_mut() => outcome,
                    () = stop.cancelled() => {
                        served.as_mut().graceful_shutdown();
                        served.await
                    }
                };
                ended(outcome);
            })
        }
        Protocol::Http2 => {
            let served = http2::Builder::new(LocalExecutor(serving.scope.clone()))
                .timer(TokioTimer::new())
                .max_concurrent_streams(if known { STREAMS } else { STRANGER_STREAMS })
                .initial_connection_window_size(known.then_some(WINDOW))
                .initial_stream_window_size(known.then_some(WINDOW))
                .keep_alive_interval(Some(KEEPALIVE))
                .keep_alive_timeout(KEEPALIVE)
                .serve_connection(io, service);
            let mut served = Box::pin(served);
            Box::pin(async move {
                let outcome = tokio::select! {
                    outcome = served.as_mut() => outcome,
                    () = stop.cancelled() => {
                        served.as_mut().graceful_shutdown();
                        served.await
                    }
                };
                ended(outcome);
            })
        }
    }
}

fn ended(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn answer(
    mut router: Router,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let (lent, mut returned) = Lent::new(body);
    let request = Request::from_parts(head, Body::new(lent));
    ServiceExt::<Request<Body>>::ready(&mut router).await?;
    let response = router.call(request).await?;
    Ok(match returned.try_recv() {
        Ok(rest) => linger::answer(response, rest).await,
        Err(_) => response,
    })
}
