//! Plain sockets: listening on every address, connecting by name, and what a failed call is.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::cli::Origin;
use crate::{Stop, say};

/// Connections one program serves at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// How long open connections may take to finish when the program is asked to end.
const GRACE: Duration = Duration::from_millis(500);
/// How long one call may take, connecting included.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The system's resolver blocks a thread for each look-up; so many may hang while names are not answered.
pub(crate) const LOOKUPS_AT_ONCE: usize = 16;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_AT_ONCE);

/// Why a call got no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot look up {name}: {source}")]
    Lookup { name: String, source: io::Error },
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer within {CALL_TIMEOUT:?}")]
    Timeout,
    #[error("the connection broke: {0}")]
    Broken(Box<dyn std::error::Error>),
    #[error("answered {0}")]
    Status(http::StatusCode),
    #[error("answered grpc-status {code} {message}")]
    Grpc { code: u32, message: String },
    #[error("answered what is not understood: {0}")]
    Strange(String),
}

impl CallError {
    pub(crate) fn broken(source: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self::Broken(source.into())
    }

    /// Whether the peer itself was never heard, so that asking at the usual rate only adds to the trouble.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            Self::Lookup { .. } | Self::Connect(_) | Self::Timeout | Self::Broken(_) => true,
            Self::Status(_) | Self::Grpc { .. } | Self::Strange(_) => false,
        }
    }
}

/// Runs `call`, for as long as one call may take.
pub(crate) async fn within<T>(
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    timeout(CALL_TIMEOUT, call)
        .await
        .unwrap_or(Err(CallError::Timeout))
}

/// Connects to `origin` by the system's resolver, asked anew each time; tries its addresses in turn.
pub(crate) async fn dial(origin: &Origin) -> Result<TcpStream, CallError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in resolve(origin).await? {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                socket.set_nodelay(true).map_err(CallError::Connect)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(CallError::Connect(last))
}

async fn resolve(origin: &Origin) -> Result<Vec<SocketAddr>, CallError> {
    let Origin { host, port, .. } = origin;
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, *port)]);
    }
    let failed = |source| CallError::Lookup {
        name: host.clone(),
        source,
    };
    let permit = LOOKUPS
        .acquire()
        .await
        .map_err(io::Error::other)
        .map_err(failed)?;
    let name = (host.clone(), *port);
    let looked_up = spawn_blocking(move || {
        let found = name.to_socket_addrs().map(Vec::from_iter);
        // Held until the resolver is done, not until the caller gives up: threads that hang are counted.
        drop(permit);
        found
    });
    looked_up
        .await
        .map_err(io::Error::other)
        .flatten()
        .map_err(failed)
}

/// Every address of this machine, at one port.
#[derive(Debug)]
pub(crate) struct Listeners(Vec<TcpListener>);

impl Listeners {
    /// For a program that serves nothing.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Listens on `[::]` and `0.0.0.0`; where IPv6 is missing, on the latter alone.
    pub(crate) async fn bind(port: u16) -> io::Result<Self> {
        let six = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await;
        let port = six.as_ref().ok().map_or(Ok(port), |six| {
            six.local_addr().map(|address| address.port())
        })?;
        let four = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await;
        match (six, four) {
            (Ok(six), Ok(four)) => Ok(Self(vec![six, four])),
            // `[::]` takes IPv4 as well, unless the system is set otherwise (net.ipv6.bindv6only).
            (Ok(six), Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
                Ok(Self(vec![six]))
            }
            (Err(error), Ok(_)) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            (Err(_no_ipv6), Ok(four)) => Ok(Self(vec![four])),
            (_, Err(error)) => Err(error),
        }
    }

    /// The port in use.
    pub(crate) fn port(&self) -> u16 {
        self.0
            .first()
            .and_then(|listener| listener.local_addr().ok())
            .map_or(0, |address| address.port())
    }

    async fn accept(&self) -> io::Result<TcpStream> {
        poll_fn(|context| {
            for listener in &self.0 {
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted.map(|(socket, _peer)| socket));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Hands each connection to `handle` until the stop, then waits a little for those that are open.
    pub(crate) async fn serve<F>(self, stop: &Stop, handle: impl Fn(TcpStream) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        let mut open = JoinSet::new();
        while let Some(accepted) = stop.run_until_cancelled(self.accept()).await {
            match accepted.and_then(|socket| socket.set_nodelay(true).map(|()| socket)) {
                Ok(socket) => drop(open.spawn_local(handle(socket))),
                Err(error) => {
                    say("shop", format_args!("cannot accept a connection: {error}"));
                    // Out of descriptors: asking again at once would only burn the processor.
                    sleep(Duration::from_millis(100)).await;
                }
            }
            while open.try_join_next().is_some() {}
            if open.len() >= MAX_CONNECTIONS {
                stop.run_until_cancelled(open.join_next()).await;
            }
        }
        drop(self);
        finish(open).await;
    }
}

/// Lets `open` end within the grace, and ends the rest.
pub(crate) async fn finish(mut open: JoinSet<()>) {
    // What has not finished by then is dropped with the set.
    let _finished = timeout(GRACE, async { while open.join_next().await.is_some() {} })
        .await
        .is_ok();
}
