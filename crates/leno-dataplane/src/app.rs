//! Connections to the programs of this host.
//!
//! An HTTP/1 program needs a connection for each request that is open: they are kept, capped and queued for, counted
//! each time (data-plane.md section 3). HTTP/2 ones are shared. Sockets are handed in by the agent or made here.
//!
//! Where that is asked for, a program is spoken to from its caller's address: that of the accepted connection, never one
//! that somebody claims. Invariant: what cannot be said from there is refused, not said from elsewhere.

mod dial;
mod lanes;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    rc::Rc,
    time::Instant,
};

use leno_http::client;
use leno_telemetry::counters::Limit;
use leno_types::Priority;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{timeout, timeout_at},
};

use crate::{
    AppDial,
    clusters::Learned,
    counters::limit,
    queue::{Asks, Open, Queue},
    state::{Local, Shared},
};
pub(crate) use dial::pass_on;
pub(crate) use lanes::Lane;
use lanes::Lanes;

/// How one workload's program is reached.
pub(crate) struct AppSide {
    dial: Cell<AppDial>,
    preserve_source: Cell<bool>,
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
            preserve_source: Cell::new(false),
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
    lanes: Lanes,
    /// Who has a place among HTTP/1's connections, and who waits for one.
    h1: Queue,
    /// The same for requests over HTTP/2.
    h2: Queue,
    /// Which of the candidate addresses answered last.
    good: Cell<Option<IpAddr>>,
    /// When it was last told that callers cannot be preserved.
    told: Cell<Option<Instant>>,
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
    /// It does not accept from its caller's address.
    #[error(
        "the program does not accept connections on port {port} from its caller's address {from}, which is to be preserved"
    )]
    ConnectFrom {
        /// Its port.
        port: u16,
        /// The caller's address.
        from: IpAddr,
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
    /// How the program is dialled from now on, and whether from its callers' addresses.
    pub(crate) fn set_dial(&self, dial: AppDial, preserve_source: bool) {
        self.dial.set(dial);
        self.preserve_source.set(preserve_source);
    }

    /// Whether the program is to see its callers' addresses.
    pub(crate) fn preserves_source(&self) -> bool {
        self.preserve_source.get()
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

    /// Whether a connection that was captured on its way was made here. In a network of the program's own none is.
    pub(crate) fn made(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.dial() == AppDial::Marked
            && self.dialled.borrow().contains(&(from, to))
            && !(self.preserves_source() && dial::is_answered(to, from))
    }

    /// Closes what is kept for later requests, and says whether no connection to the program is left.
    pub(crate) fn is_unused(&self) -> bool {
        for port in self.ports.borrow().values() {
            port.lanes.close();
        }
        self.dialled.borrow().is_empty()
    }

    fn port(&self, shared: &Shared, port: u16) -> Rc<AppPort> {
        let mut ports = self.ports.borrow_mut();
        let limits = &shared.config.limits;
        let make = || {
            Rc::new(AppPort {
                lanes: Lanes::default(),
                h1: Queue::new(limits, limits.app_connections),
                h2: Queue::new(limits, limits.app_streams),
                good: Cell::new(None),
                told: Cell::new(None),
            })
        };
        Rc::clone(ports.entry(port).or_insert_with(make))
    }

    /// Closes what was not used for long.
    pub(crate) fn sweep(&self, shared: &Shared, now: Instant) {
        let limit = shared.config.limits.app_idle;
        for port in self.ports.borrow().values() {
            port.lanes.sweep(limit, now);
            port.h1.tick();
            port.h2.tick();
        }
    }
}

/// The connections of one exchange with an HTTP/1 program: hold it until the exchange is over.
pub(crate) struct Exchange<'p> {
    port: &'p AppPort,
    lane: Rc<Lane>,
    _place: Open<'p>,
    http2: bool,
}

impl Local {
    /// The connections to a port of the program.
    pub(crate) fn app_port(&self, shared: &Shared, port: u16) -> Rc<AppPort> {
        self.app.port(shared, port)
    }

    /// An HTTP/2 connection to the program, shared.
    ///
    /// # Errors
    /// [`AppError`].
    pub(crate) async fn app_h2(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        address: SocketAddr,
        source: Option<IpAddr>,
        exchange: &Exchange<'_>,
    ) -> Result<client::H2, AppError> {
        match exchange.lane.usable() {
            Some(h2) => Ok(h2),
            None => Box::pin(self.open_app_h2(shared, address, source, &exchange.lane)).await,
        }
    }

    async fn open_app_h2(
        self: &Rc<Self>,
        shared: &Rc<Shared>,
        address: SocketAddr,
        source: Option<IpAddr>,
        lane: &Rc<Lane>,
    ) -> Result<client::H2, AppError> {
        let port = self.app_port(shared, address.port());
        let limits = &shared.config.limits;
        let overflow = || {
            limit(Limit::AppQueue);
            AppError::Overflow {
                port: address.port(),
            }
        };
        let deadline = Instant::now() + limits.queue_timeout;
        while lane.connecting.get() || lane.shared.borrow().len() >= limits.app_h2_connections {
            limit(Limit::AppConnections);
            // Another caller's connections are no help.
            if source.is_none() && !lane.connecting.get() {
                port.full(lane);
            }
            let changed = lane.connected.notified();
            if timeout_at(deadline.into(), changed).await.is_err() {
                return Err(overflow());
            }
            lane.shared.borrow_mut().retain(|h2| !h2.is_closing());
            if let Some(h2) = lane.usable() {
                return Ok(h2);
            }
        }
        // Cleared however this ends; who waited tries again.
        let _connecting = Connecting::begin(lane);
        let (stream, dialled) = self.dial_app(shared, address, source).await?;
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
        lane.shared.borrow_mut().push(h2.clone());
        // Weak: a connection that nobody uses does not keep its lane from making room.
        let lane = Rc::downgrade(lane);
        let driven = async move {
            driver.await;
            drop(dialled);
            if let Some(lane) = lane.upgrade() {
                lane.shared.borrow_mut().retain(|h2| !h2.is_closing());
                lane.connected.notify_waiters();
            }
            if source.is_none() {
                port.h2.set_places(usize::MAX);
            }
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
        source: Option<IpAddr>,
        exchange: &Exchange<'_>,
    ) -> Result<Lease, AppError> {
        if let Some((h1, dialled)) = exchange.lane.reuse() {
            return Ok(Lease { h1, dialled });
        }
        let (stream, dialled) = Box::pin(self.dial_app(shared, address, source)).await?;
        Ok(Lease {
            h1: client::H1::new(stream, Rc::clone(&shared.http)),
            dialled,
        })
    }
}

impl AppPort {
    fn lane(&self, shared: &Shared, source: Option<IpAddr>) -> Rc<Lane> {
        let ceiling = shared.config.limits.app_sources;
        let (lane, full) = self.lanes.lane(source, ceiling, Instant::now());
        if full {
            limit(Limit::AppSources);
        }
        lane
    }

    /// A place among the requests that may be open over this version of HTTP; waits in a bounded line.
    ///
    /// # Errors
    /// [`AppError::Overflow`], [`AppError::Shed`].
    pub(crate) async fn begin(
        &self,
        shared: &Shared,
        (to, source): (SocketAddr, Option<IpAddr>),
        http2: bool,
        caller: u64,
        priority: impl FnOnce() -> Priority,
    ) -> Result<Exchange<'_>, AppError> {
        let queue = if http2 { &self.h2 } else { &self.h1 };
        let place = match queue.begin_calm(caller) {
            Some(place) => place,
            None => {
                let priority = priority();
                Box::pin(queue.begin(to.port(), Asks { priority, caller })).await?
            }
        };
        Ok(Exchange {
            port: self,
            lane: self.lane(shared, source),
            _place: place,
            http2,
        })
    }

    /// All connections that may be open are, and none takes a further stream: as many requests as they take have a
    /// place, and the others wait in line.
    fn full(&self, lane: &Lane) {
        let shared = lane.shared.borrow();
        let streams = shared.iter().map(client::H2::stream_limit);
        self.h2.set_places(streams.fold(0, usize::saturating_add));
    }
}

impl Exchange<'_> {
    /// Keeps a connection for the next exchange.
    pub(crate) fn keep(&self, shared: &Shared, h1: client::H1, dialled: Dialled) {
        let ceiling = shared.config.limits.app_idle_connections;
        self.port.lanes.keep(&self.lane, h1, dialled, ceiling);
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if self.http2 {
            // A stream of a shared connection is free.
            self.lane.connected.notify_one();
        }
    }
}

/// A connection is being made while it lives.
struct Connecting<'l>(&'l Lane);

impl<'l> Connecting<'l> {
    fn begin(lane: &'l Lane) -> Self {
        lane.connecting.set(true);
        Self(lane)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
}
