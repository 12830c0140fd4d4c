//! Connections to the programs of this host.
//!
//! An HTTP/1 program needs a connection for each request that is open: they are kept, capped and queued for, counted
//! each time (data-plane.md section 3). HTTP/2 ones are shared. Sockets are handed in by the agent or made here.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    rc::Rc,
    time::Instant,
};

use leno_http::client;
use leno_telemetry::counters::Limit;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{timeout, timeout_at},
};

use crate::{
    AppDial, Event,
    clusters::Learned,
    counters::limit,
    queue::{Asks, Open, Queue},
    state::{Local, Shared},
};

/// How one workload's program is reached.
pub(crate) struct AppSide {
    dial: Cell<AppDial>,
    stock: [RefCell<Vec<OwnedFd>>; 2],
    demanded: [Cell<bool>; 2],
    arrived: Notify,
    ports: RefCell<HashMap<u16, Rc<AppPort>>>,
    learned: Rc<Learned>,
    /// Open connections made here: one that is accepted as a captured one is a loop.
    dialled: RefCell<HashSet<Ends>>,
}

impl Default for AppSide {
    fn default() -> Self {
        Self {
            dial: Cell::new(AppDial::Marked),
            stock: Default::default(),
            demanded: Default::default(),
            arrived: Notify::new(),
            ports: RefCell::default(),
            learned: Rc::default(),
            dialled: RefCell::default(),
        }
    }
}

/// Connections to one port of a program.
pub(crate) struct AppPort {
    idle: RefCell<Vec<(client::H1, Dialled, Instant)>>,
    /// Who has a place among HTTP/1's connections, and who waits for one.
    h1: Queue,
    /// The same for requests over HTTP/2.
    h2: Queue,
    shared: RefCell<Vec<client::H2>>,
    connecting: Cell<bool>,
    connected: Notify,
    /// Which of the candidate addresses answered last.
    good: Cell<usize>,
}

/// Why a program could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// It does not accept.
    #[error("the program does not accept connections on port {port}")]
    Connect {
        /// Its port.
        port: u16,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The ceiling on connections or on waiting requests.
    #[error("too many requests are open to port {port} of the program")]
    Overflow {
        /// Its port.
        port: u16,
    },
    /// There is room left for what is more important, or for callers that ask less.
    #[error(
        "port {port} of the program has too much to do: {priority} priority, or who asks most, goes first"
    )]
    Shed {
        /// Its port.
        port: u16,
        /// Of what was refused.
        priority: &'static str,
    },
}

/// The mark that a connection was made here; taken back when it is dropped.
pub(crate) struct Dialled {
    local: Rc<Local>,
    ends: Option<Ends>,
}

/// A connection's own address and its peer's. Both: the kernel gives one port to connections with different peers.
type Ends = (SocketAddr, SocketAddr);

impl Dialled {
    fn new(local: &Rc<Local>, stream: &TcpStream) -> Self {
        let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
        if let Some(ends) = ends {
            local.app.dialled.borrow_mut().insert(ends);
        }
        Self {
            local: Rc::clone(local),
            ends,
        }
    }

    /// The connection's own address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.ends.map(|(own, _)| own)
    }
}

impl Drop for Dialled {
    fn drop(&mut self) {
        if let Some(ends) = self.ends {
            self.local.app.dialled.borrow_mut().remove(&ends);
        }
    }
}

/// An HTTP/1 connection to a program, and its place among those that may be open.
pub(crate) struct Lease {
    /// The connection.
    pub(crate) h1: client::H1,
    /// Its mark.
    pub(crate) dialled: Dialled,
}

impl AppSide {
    /// How the program is dialled from now on.
    pub(crate) fn set_dial(&self, dial: AppDial) {
        self.dial.set(dial);
    }

    /// How the program is dialled.
    pub(crate) fn dial(&self) -> AppDial {
        self.dial.get()
    }

    /// Takes sockets made in the program's namespace.
    pub(crate) fn stock(&self, v6: bool, sockets: Vec<OwnedFd>, ceiling: usize) {
        let mut stock = self.stock[usize::from(v6)].borrow_mut();
        stock.extend(sockets);
        stock.truncate(ceiling.saturating_mul(2));
        self.demanded[usize::from(v6)].set(false);
        self.arrived.notify_waiters();
    }

    /// What undeclared ports of the program turned out to speak.
    pub(crate) fn learned(&self) -> Rc<Learned> {
        Rc::clone(&self.learned)
    }

    /// Whether a connection that was captured on its way was made here.
    pub(crate) fn made(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.dialled.borrow().contains(&(from, to))
    }

    /// Closes what is kept for later requests, and says whether no connection to the program is left.
    pub(crate) fn is_unused(&self) -> bool {
        for port in self.ports.borrow().values() {
            port.idle.borrow_mut().clear();
            port.shared.borrow_mut().clear();
        }
        self.dialled.borrow().is_empty()
    }

    fn port(&self, shared: &Shared, port: u16) -> Rc<AppPort> {
        let mut ports = self.ports.borrow_mut();
        let limits = &shared.config.limits;
        let make = || {
            Rc::new(AppPort {
                idle: RefCell::default(),
                h1: Queue::new(limits, limits.app_connections),
                h2: Queue::new(limits, limits.app_streams),
                shared: RefCell::default(),
                connecting: Cell::new(false),
                connected: Notify::new(),
                good: Cell::new(0),
            })
        };
        Rc::clone(ports.entry(port).or_insert_with(make))
    }

    /// Closes what was not used for long.
    pub(crate) fn sweep(&self, shared: &Shared, now: Instant) {
        let limit = shared.config.limits.app_idle;
        for port in self.ports.borrow().values() {
            port.idle
                .borrow_mut()
                .retain(|(_, _, since)| now.saturating_duration_since(*since) < limit);
            port.shared.borrow_mut().retain(|h2| !h2.is_closing());
            port.h1.tick();
            port.h2.tick();
        }
    }
}

/// The connections of one exchange with an HTTP/1 program: hold it until the exchange is over.
pub(crate) struct Exchange<'p> {
    port: &'p AppPort,
    _place: Open<'p>,
    http2: bool,
}

impl Local {
    /// The connections to a port of the program.
    pub(crate) fn app_port(&self, shared: &Shared, port: u16) -> Rc<AppPort> {
        self.app.port(shared, port)
    }

    /// Connects to the program: its own address first; loopback second where its namespace is its own.
    ///
    /// # Errors
    /// What the last address answered.
    pub(crate) async fn dial_app(
        self: &Rc<Self>,
        shared: &Shared,
        address: SocketAddr,
    ) -> Result<(TcpStream, Dialled), AppError> {
        let port = self.app_port(shared, address.port());
        let candidates = candidates(self.app.dial(), address.ip());
        let good = port.good.get().min(candidates.len() - 1);
        let order = std::iter::once(good).chain((0..candidates.len()).filter(|i| *i != good));
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for index in order {
            let Some(ip) = candidates.get(index) else {
                continue;
            };
            match self
                .dial_one(shared, SocketAddr::new(*ip, address.port()))
                .await
            {
                Ok(stream) => {
                    port.good.set(index);
                    let dialled = Dialled::new(self, &stream);
                    return Ok((stream, dialled));
                }
                Err(error) => last = error,
            }
        }
        Err(AppError::Connect {
            port: address.port(),
            source: last,
        })
    }

    async fn dial_one(&self, shared: &Shared, address: SocketAddr) -> io::Result<TcpStream> {
        let v6 = address.is_ipv6();
        let socket = match self.app.dial() {
            AppDial::Marked => leno_net::socket::stream_socket(v6, shared.config.mark)?,
            AppDial::Handed => self.socket(shared, v6).await?,
        };
        let limit = shared.config.limits.connect_timeout;
        match timeout(limit, leno_net::socket::connect(socket, address)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// A socket from the stock; asks for more when it runs low.
    async fn socket(&self, shared: &Shared, v6: bool) -> io::Result<OwnedFd> {
        let deadline = Instant::now() + shared.config.limits.socket_timeout;
        loop {
            let (socket, left) = {
                let mut stock = self.app.stock[usize::from(v6)].borrow_mut();
                (stock.pop(), stock.len())
            };
            let wanted = shared.config.limits.app_sockets;
            let demanded = &self.app.demanded[usize::from(v6)];
            if left <= wanted / 2 && !demanded.replace(true) {
                shared.outbox.push(Event::NeedSockets {
                    uid: self.uid,
                    v6,
                    count: wanted.saturating_sub(left).max(1),
                });
            }
            match socket {
                Some(socket) => return Ok(socket),
                None => {
                    let arrived = self.app.arrived.notified();
                    if timeout_at(deadline.into(), arrived).await.is_err() {
                        // Asked once more next time: the agent may have missed it.
                        demanded.set(false);
                        let why = "no socket of the program's namespace came in time";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                    }
                }
            }
        }
    }

    /// An HTTP/2 connection to the program, shared.
    ///
    /// # Errors
    /// [`AppError`].
    pub(crate) async fn app_h2(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        address: SocketAddr,
    ) -> Result<client::H2, AppError> {
        let port = self.app_port(shared, address.port());
        if let Some(h2) = port.usable() {
            return Ok(h2);
        }
        Box::pin(self.open_app_h2(shared, address, port)).await
    }

    async fn open_app_h2(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        address: SocketAddr,
        port: Rc<AppPort>,
    ) -> Result<client::H2, AppError> {
        let limits = &shared.config.limits;
        let overflow = || {
            limit(Limit::AppQueue);
            AppError::Overflow {
                port: address.port(),
            }
        };
        let deadline = Instant::now() + limits.queue_timeout;
        while port.connecting.get() || port.shared.borrow().len() >= limits.app_h2_connections {
            limit(Limit::AppConnections);
            if !port.connecting.get() {
                port.full();
            }
            let changed = port.connected.notified();
            if timeout_at(deadline.into(), changed).await.is_err() {
                return Err(overflow());
            }
            port.shared.borrow_mut().retain(|h2| !h2.is_closing());
            if let Some(h2) = port.usable() {
                return Ok(h2);
            }
        }
        // Cleared however this ends; who waited tries again.
        let _connecting = Connecting::begin(&port);
        let (stream, dialled) = self.dial_app(shared, address).await?;
        let failed = |error: String| AppError::Connect {
            port: address.port(),
            source: io::Error::other(error),
        };
        let made = timeout(
            limits.connect_timeout,
            client::H2::handshake(stream, Rc::clone(&shared.http)),
        );
        let (h2, driver) = match made.await {
            Ok(made) => made.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed("HTTP/2 did not begin in time".into())),
        };
        h2.carry_case(false);
        port.shared.borrow_mut().push(h2.clone());
        let port_ = Rc::clone(&port);
        let driven = async move {
            driver.await;
            drop(dialled);
            port_.shared.borrow_mut().retain(|h2| !h2.is_closing());
            port_.h2.set_places(usize::MAX);
            port_.connected.notify_waiters();
        };
        shared
            .background
            .spawn("app-connection", driven)
            .map_err(|_| overflow())?;
        Ok(h2)
    }

    /// A connection to an HTTP/1 program for one exchange.
    ///
    /// # Errors
    /// [`AppError`].
    pub(crate) async fn app_h1(
        self: &Rc<Self>,
        shared: &Shared,
        address: SocketAddr,
        exchange: &Exchange<'_>,
    ) -> Result<Lease, AppError> {
        if let Some(lease) = exchange.reuse() {
            return Ok(lease);
        }
        let (stream, dialled) = Box::pin(self.dial_app(shared, address)).await?;
        Ok(Lease {
            h1: client::H1::new(stream, Rc::clone(&shared.http)),
            dialled,
        })
    }
}

impl AppPort {
    fn usable(&self) -> Option<client::H2> {
        let shared = self.shared.borrow();
        shared.iter().find(|h2| h2.has_capacity()).cloned()
    }

    /// A place among the requests that may be open over this version of HTTP; waits in a bounded line.
    ///
    /// # Errors
    /// [`AppError::Overflow`], [`AppError::Shed`].
    pub(crate) async fn begin(
        &self,
        port: u16,
        http2: bool,
        who: impl FnOnce() -> Asks,
    ) -> Result<Exchange<'_>, AppError> {
        let queue = if http2 { &self.h2 } else { &self.h1 };
        let place = match queue.begin_calm() {
            Some(place) => place,
            None => Box::pin(queue.begin(port, who())).await?,
        };
        Ok(Exchange {
            port: self,
            _place: place,
            http2,
        })
    }

    /// All connections that may be open are, and none takes a further stream: as many requests as they take have a
    /// place, and the others wait in line.
    fn full(&self) {
        let shared = self.shared.borrow();
        let streams = shared.iter().map(client::H2::stream_limit);
        self.h2.set_places(streams.fold(0, usize::saturating_add));
    }
}

impl Exchange<'_> {
    fn reuse(&self) -> Option<Lease> {
        let mut idle = self.port.idle.borrow_mut();
        while let Some((h1, dialled, _)) = idle.pop() {
            if h1.is_reusable() {
                return Some(Lease { h1, dialled });
            }
        }
        None
    }

    /// Keeps a connection for the next exchange.
    pub(crate) fn keep(&self, shared: &Shared, h1: client::H1, dialled: Dialled) {
        let mut idle = self.port.idle.borrow_mut();
        if idle.len() < shared.config.limits.app_idle_connections {
            idle.push((h1, dialled, Instant::now()));
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.http2 {
            // A stream of a shared connection is free.
            self.port.connected.notify_one();
        }
    }
}

/// A connection is being made while it lives.
struct Connecting<'p>(&'p AppPort);

impl<'p> Connecting<'p> {
    fn begin(port: &'p AppPort) -> Self {
        port.connecting.set(true);
        Self(port)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
}

/// The addresses a program may be bound to, in the order they are tried.
fn candidates(dial: AppDial, address: IpAddr) -> Vec<IpAddr> {
    let (v4, v6) = (
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    );
    match (dial, address) {
        (AppDial::Marked, _) => vec![address],
        (AppDial::Handed, IpAddr::V4(_)) => vec![address, v4, v6],
        (AppDial::Handed, IpAddr::V6(_)) => vec![address, v6, v4],
    }
}
