//! Mesh connections of one workload to its peers (decision 5).
//!
//! A pool belongs to one workload of one mesh, a [`Peer`] to one endpoint as it was described (uid, identity, address,
//! port), a connection to one generation of the workload's certificate and one ALPN: together that is the key, and
//! nothing is ever shared beyond it. Requests that need a connection at the same time wait for one handshake.
//!
//! Invariant: a connection that is handed out was verified to be the endpoint's, is of the current generation, and no
//! certificate on it is past its end.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    sync::Arc,
    time::{Duration, Instant},
};

use leno_http::{ClientError, Corked, ReadAhead, client};
use leno_ir::Endpoint;
use leno_telemetry::counters::{Counter, Limit};
use leno_tls::{Alpn, Connector, HandshakeError, verify_failure_reason};
use leno_types::{Refusal, WorkloadUid};
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout, timeout_at},
};

use crate::{
    counters::{count, limit},
    foreign::Foreign,
    metadata::ToCache,
    record::EdgeCache,
    state::{Held, Local, Shared, instant_of},
};

/// Unacknowledged data ends a mesh connection after this: a host that vanished is noticed.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 2;

/// The peers of one workload.
#[derive(Default)]
pub(crate) struct Pool {
    peers: RefCell<HashMap<WorkloadUid, Rc<Peer>>>,
}

/// One endpoint as one workload calls it.
pub(crate) struct Peer {
    /// The endpoint; another description is another peer.
    pub(crate) endpoint: Arc<Endpoint>,
    /// `x-leno-to` fields of what is sent there.
    pub(crate) to: ToCache,
    /// Metrics' ids of what is sent there.
    pub(crate) edges: EdgeCache,
    connections: RefCell<Vec<Rc<Connection>>>,
    connector: RefCell<Option<(u64, Connector)>>,
    attempt: RefCell<Option<Rc<Attempt>>>,
    /// A stream or a connection ended.
    room: Notify,
    used: Cell<Instant>,
}

/// One mesh connection.
pub(crate) struct Connection {
    /// The multiplexed connection.
    pub(crate) h2: client::H2,
    /// What the peer speaks: requests, or CONNECT only.
    pub(crate) alpn: Alpn,
    /// HTTP connections to the application within CONNECT streams, where the peer is not Leno.
    pub(crate) foreign: Foreign,
    generation: u64,
    expires: Instant,
    born: Instant,
    used: Cell<Instant>,
    retire: Notify,
    retired: Cell<bool>,
}

/// Why no connection could be had. Nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// The workload has no valid certificate.
    #[error("the workload has no valid certificate")]
    NoCertificate,
    /// Nobody answers at the endpoint's addresses.
    #[error("{address} cannot be reached: {why}")]
    Connect {
        /// The last address tried.
        address: SocketAddr,
        /// What happened.
        why: Rc<str>,
    },
    /// Somebody else answers there.
    #[error("{address} proved to be somebody else: {why}")]
    Identity {
        /// The address.
        address: SocketAddr,
        /// Who, and who was expected.
        why: Rc<str>,
    },
    /// TLS or HTTP/2 did not come about.
    #[error("no TLS with {address}: {why}")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// What happened.
        why: Rc<str>,
    },
    /// The ceiling on connections or tasks.
    #[error("too many connections to this endpoint")]
    Overflow,
}

impl PoolError {
    /// The reason a caller is given.
    pub(crate) const fn refusal(&self) -> Refusal {
        match self {
            Self::NoCertificate => Refusal::NoCertificate,
            Self::Connect { .. } => Refusal::UpstreamConnectFailure,
            Self::Identity { .. } => Refusal::PeerIdentity,
            Self::Handshake { .. } => Refusal::TlsHandshake,
            Self::Overflow => Refusal::Overflow,
        }
    }
}

/// One handshake that several requests wait for.
#[derive(Default)]
struct Attempt {
    failed: RefCell<Option<PoolError>>,
    ended: Cell<bool>,
    done: Notify,
}

impl Pool {
    /// The peer that `endpoint` is; one that was described otherwise is let go.
    pub(crate) fn peer(&self, endpoint: &Arc<Endpoint>) -> Rc<Peer> {
        let mut peers = self.peers.borrow_mut();
        if let Some(peer) = peers.get(&endpoint.uid) {
            if Arc::ptr_eq(&peer.endpoint, endpoint) || peer.is_same(endpoint) {
                return Rc::clone(peer);
            }
            peer.retire_all();
        }
        let peer = Rc::new(Peer {
            endpoint: Arc::clone(endpoint),
            to: ToCache::default(),
            edges: EdgeCache::default(),
            connections: RefCell::default(),
            connector: RefCell::default(),
            attempt: RefCell::default(),
            room: Notify::new(),
            used: Cell::new(Instant::now()),
        });
        peers.insert(endpoint.uid, Rc::clone(&peer));
        peer
    }

    /// A newer certificate is there: nothing begins on connections of older ones.
    pub(crate) fn rotate(&self, generation: u64) {
        for peer in self.peers.borrow().values() {
            let old = peer.take(|connection| connection.generation != generation);
            for connection in old {
                count(Counter::RotationDrains);
                connection.retire();
            }
            peer.connector.replace(None);
        }
    }

    /// Closes what is too old or unused.
    pub(crate) fn sweep(&self, shared: &Shared, now: Instant) {
        let limits = &shared.config.limits;
        self.peers.borrow_mut().retain(|_, peer| {
            let aged = |c: &Connection| {
                now.saturating_duration_since(c.born) >= limits.connection_age || now >= c.expires
            };
            let idle = |c: &Connection| {
                c.h2.open_streams() == 0
                    && now.saturating_duration_since(c.used.get()) >= limits.connection_idle
            };
            for connection in peer.take(|c| aged(c) || idle(c)) {
                if aged(&connection) {
                    limit(Limit::ConnectionAge);
                }
                connection.retire();
            }
            let unused = now.saturating_duration_since(peer.used.get()) >= limits.connection_idle;
            !(unused && peer.connections.borrow().is_empty() && Rc::strong_count(peer) == 1)
        });
    }

    /// Lets every connection end with its streams.
    pub(crate) fn retire_all(&self) {
        for (_, peer) in self.peers.borrow_mut().drain() {
            peer.retire_all();
        }
    }
}

impl Peer {
    /// Whether what a connection depends on is the same.
    fn is_same(&self, other: &Endpoint) -> bool {
        let own = &*self.endpoint;
        own.identity == other.identity
            && own.addresses == other.addresses
            && own.hbone_port == other.hbone_port
            && own.name == other.name
            && own.version == other.version
            && own.service == other.service
    }

    /// A connection with room for one more stream.
    ///
    /// # Errors
    /// [`PoolError`]: nothing was sent.
    pub(crate) async fn connection(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        local: &Rc<Local>,
        now: Instant,
    ) -> Result<Rc<Connection>, PoolError> {
        self.used.set(now);
        let held = local.certificate(now).ok_or(PoolError::NoCertificate)?;
        if let Some(connection) = self.usable(held.generation(), now) {
            return Ok(connection);
        }
        Box::pin(self.wait(shared, local, now)).await
    }

    fn usable(&self, generation: u64, now: Instant) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        let usable = connections.iter().find(|connection| {
            connection.generation == generation
                && now < connection.expires
                && !connection.retired.get()
                && connection.h2.has_capacity()
        })?;
        usable.used.set(now);
        Some(Rc::clone(usable))
    }

    async fn wait(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        local: &Rc<Local>,
        begin: Instant,
    ) -> Result<Rc<Connection>, PoolError> {
        let limits = &shared.config.limits;
        let deadline = begin + limits.queue_timeout;
        loop {
            let now = Instant::now();
            let held = local.certificate(now).ok_or(PoolError::NoCertificate)?;
            if let Some(connection) = self.usable(held.generation(), now) {
                return Ok(connection);
            }
            drop(self.take(|connection| connection.h2.is_closing()));
            let running = self.attempt.borrow().clone();
            let full = self.connections.borrow().len() >= limits.connections_per_peer;
            if running.is_none() && full {
                limit(Limit::ConnectionsPerPeer);
                let room = self.room.notified();
                if timeout_at(deadline.into(), room).await.is_err() {
                    limit(Limit::Queue);
                    return Err(PoolError::Overflow);
                }
                continue;
            }
            let attempt = match running {
                Some(attempt) => attempt,
                None => self.begin(shared, local, held)?,
            };
            if !attempt.ended.get()
                && timeout_at(deadline.into(), attempt.done.notified())
                    .await
                    .is_err()
            {
                limit(Limit::Queue);
                return Err(PoolError::Overflow);
            }
            let failed = attempt.failed.borrow().clone();
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }

    /// Starts a handshake in a task of its own: who asked may go away, the others still wait for it.
    fn begin(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        local: &Rc<Local>,
        held: Rc<Held>,
    ) -> Result<Rc<Attempt>, PoolError> {
        let attempt = Rc::new(Attempt::default());
        self.attempt.replace(Some(Rc::clone(&attempt)));
        let (peer, shared_, attempt_) = (Rc::clone(self), Rc::clone(shared), Rc::clone(&attempt));
        let local = Rc::clone(local);
        let work = async move {
            // Whatever way this ends, who waits is woken.
            let ends = EndAttempt {
                peer: &peer,
                attempt: &attempt_,
            };
            match peer.open(&shared_, &held).await {
                Ok(connection) => {
                    count(Counter::PeerConnections);
                    let renewed = local
                        .certificate(Instant::now())
                        .is_none_or(|now| now.generation() != held.generation());
                    if renewed {
                        connection.retire();
                    } else {
                        peer.connections.borrow_mut().push(connection);
                    }
                }
                Err(error) => {
                    tracing::debug!(endpoint = %peer.endpoint.name, %error, "no mesh connection");
                    attempt_.failed.replace(Some(error));
                }
            }
            drop(ends);
        };
        if shared.background.spawn("mesh-connect", work).is_err() {
            self.attempt.replace(None);
            return Err(PoolError::Overflow);
        }
        Ok(attempt)
    }

    async fn open(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        held: &Held,
    ) -> Result<Rc<Connection>, PoolError> {
        let endpoint = &self.endpoint;
        let (address, stream) = self.dial(shared).await?;
        let handshake = |why: &dyn std::fmt::Display| PoolError::Handshake {
            address,
            why: why.to_string().into(),
        };
        let connector = self.connector(held).map_err(|error| handshake(&error))?;
        let connected = connector
            .connect(ReadAhead::new(stream), Some(&endpoint.uid))
            .await
            .map_err(|error| match &error {
                HandshakeError::PeerIdentity { .. } => PoolError::Identity {
                    address,
                    why: error.to_string().into(),
                },
                other => handshake(&format_args!("{} ({other})", verify_failure_reason(other))),
            })?;
        let (alpn, peer_end) = (connected.alpn, connected.peer.not_after);
        if !matches!(alpn, Alpn::Leno1 | Alpn::H2) {
            return Err(handshake(&"the peer agrees to no protocol of the mesh"));
        }
        let io = Corked::new(connected.stream, &shared.corker);
        let made = timeout(
            shared.config.limits.http.header_timeout,
            client::H2::handshake(io, Rc::clone(&shared.http)),
        );
        let (h2, driver) = match made.await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(handshake(&error)),
            Err(_) => return Err(handshake(&"HTTP/2 did not begin in time")),
        };
        h2.keep_alive(true);
        let now = Instant::now();
        let connection = Rc::new(Connection {
            h2,
            alpn,
            foreign: Foreign::default(),
            generation: held.generation(),
            expires: held.expires.min(instant_of(peer_end)),
            born: now,
            used: Cell::new(now),
            retire: Notify::new(),
            retired: Cell::new(false),
        });
        let driven = drive(
            driver,
            Rc::clone(&connection),
            Rc::downgrade(self),
            shared.config.stream_grace,
        );
        if shared.background.spawn("mesh-connection", driven).is_err() {
            return Err(PoolError::Overflow);
        }
        Ok(connection)
    }

    async fn dial(&self, shared: &Shared) -> Result<(SocketAddr, TcpStream), PoolError> {
        let mut last = None;
        let families = |address: &&IpAddr| shared.config.ipv6 || address.is_ipv4();
        for ip in self.endpoint.addresses.iter().filter(families) {
            let address = SocketAddr::new(*ip, self.endpoint.hbone_port);
            match dial(
                address,
                shared.config.mark,
                shared.config.limits.connect_timeout,
            )
            .await
            {
                Ok(stream) => {
                    watch_over(&stream);
                    return Ok((address, stream));
                }
                Err(error) => last = Some((address, error.to_string())),
            }
        }
        let (address, why) = last.unwrap_or_else(|| {
            let none = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), self.endpoint.hbone_port);
            (
                none,
                "it has no address of a family that is in use here".to_owned(),
            )
        });
        Err(PoolError::Connect {
            address,
            why: why.into(),
        })
    }

    fn connector(&self, held: &Held) -> Result<Connector, leno_tls::TlsError> {
        if let Some((generation, connector)) = &*self.connector.borrow()
            && *generation == held.generation()
        {
            return Ok(connector.clone());
        }
        let connector = Connector::new(
            &held.certificate,
            &held.bundle,
            std::slice::from_ref(&self.endpoint.identity),
            &[Alpn::Leno1, Alpn::H2],
        )?;
        self.connector
            .replace(Some((held.generation(), connector.clone())));
        Ok(connector)
    }

    /// A connection that proved to be going away takes nothing further.
    pub(crate) fn discard(&self, connection: &Rc<Connection>) {
        drop(self.take(|other| std::ptr::eq(other, &**connection)));
        connection.retire();
        self.room.notify_waiters();
    }

    /// A stream has ended: somebody may wait for its room.
    pub(crate) fn released(&self) {
        self.room.notify_one();
    }

    fn take(&self, mut which: impl FnMut(&Connection) -> bool) -> Vec<Rc<Connection>> {
        let mut connections = self.connections.borrow_mut();
        if !connections.iter().any(|connection| which(connection)) {
            return Vec::new();
        }
        let (gone, kept) = connections
            .drain(..)
            .partition(|connection| which(connection));
        *connections = kept;
        gone
    }

    fn retire_all(&self) {
        for connection in self.take(|_| true) {
            connection.retire();
        }
    }
}

struct EndAttempt<'a> {
    peer: &'a Peer,
    attempt: &'a Attempt,
}

impl Drop for EndAttempt<'_> {
    fn drop(&mut self) {
        self.peer.attempt.replace(None);
        self.attempt.ended.set(true);
        self.attempt.done.notify_waiters();
    }
}

impl Connection {
    /// No stream begins on it any more; it ends with the open ones, or after the grace of streams.
    fn retire(&self) {
        if !self.retired.replace(true) {
            self.h2.close_gracefully();
            self.retire.notify_one();
        }
    }
}

/// Drives a connection to its end.
async fn drive(
    driver: impl Future<Output = ()>,
    connection: Rc<Connection>,
    peer: Weak<Peer>,
    grace: Duration,
) {
    tokio::select! {
        () = driver => {}
        () = async {
            connection.retire.notified().await;
            sleep(grace).await;
        } => {}
    }
    connection.retired.set(true);
    if let Some(peer) = peer.upgrade() {
        drop(peer.take(|other| std::ptr::eq(other, &*connection)));
        peer.room.notify_waiters();
    }
}

/// Connects from this host's own namespace.
pub(crate) async fn dial(
    address: SocketAddr,
    mark: bool,
    limit: Duration,
) -> io::Result<TcpStream> {
    let socket = leno_net::socket::stream_socket(address.is_ipv6(), mark)?;
    match timeout(limit, leno_net::socket::connect(socket, address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} ms", limit.as_millis()),
        )),
    }
}

/// Notices a peer that has vanished without a word.
fn watch_over(stream: &TcpStream) {
    let set = leno_net::socket::set_user_timeout(stream, USER_TIMEOUT).and_then(|()| {
        leno_net::socket::set_keepalive(stream, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
    });
    if let Err(error) = set {
        tracing::debug!(%error, "a mesh connection has no keep-alive");
    }
}

/// Whether an error of a stream means that the endpoint did not get it.
pub(crate) fn had_no_effect(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused)
}
