//! One TLS connection to the control plane, as a gRPC channel.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use leno_net::socket;
use leno_tls::{Alpn, HandshakeError, TlsError, control::ControlConnector};
use leno_types::HostPort;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// A TCP connection that takes longer will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection that says nothing for so long is asked whether it is still there, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Why the control plane was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection.
    #[error("{address} cannot be reached: {source}; is the control plane running there (leno status), and does a firewall let port {port} through?", port = address.port())]
    Unreachable {
        /// Where.
        address: HostPort,
        /// What the system said.
        source: io::Error,
    },
    /// No TLS, or somebody else.
    #[error("{address} did not prove to be the control plane: {source}")]
    Handshake {
        /// Where.
        address: HostPort,
        /// Why not.
        source: HandshakeError,
    },
    /// Our own settings.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] TlsError),
    /// The connection does not speak gRPC.
    #[error("{address} speaks no gRPC: {source}")]
    Transport {
        /// Where.
        address: HostPort,
        /// What is wrong.
        source: tonic::transport::Error,
    },
}

/// Connects to `address`; the handshake is complete, and the peer is the control plane, when this returns.
pub(crate) async fn dial(
    address: &HostPort,
    connector: &ControlConnector,
) -> Result<Channel, DialError> {
    let unreachable = |source| DialError::Unreachable {
        address: address.clone(),
        source,
    };
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, tcp(address));
    let tcp = tcp
        .await
        .map_err(|_| unreachable(io::ErrorKind::TimedOut.into()))?
        .map_err(unreachable)?;
    let connected = connector.connect(tcp).await;
    let connected = connected.map_err(|source| DialError::Handshake {
        address: address.clone(),
        source,
    })?;
    let mut ready = Some(TokioIo::new(connected.stream));
    // A channel asks for a connection again when the first is lost; whoever owns it dials anew instead, with the
    // certificate of that moment.
    let once = tower::service_fn(move |_| {
        let stream = ready
            .take()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(stream)
    });
    Endpoint::from_static("http://control-plane")
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(once)
        .await
        .map_err(|source| DialError::Transport {
            address: address.clone(),
            source,
        })
}

/// Connects past any capture of this namespace. Without the privilege to mark a socket there is none of ours to pass.
async fn tcp(address: &HostPort) -> io::Result<TcpStream> {
    let mut last = io::ErrorKind::NotFound.into();
    for to in tokio::net::lookup_host((address.host(), address.port())).await? {
        let made = match socket::stream_socket(to.is_ipv6(), true) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                socket::stream_socket(to.is_ipv6(), false)
            }
            made => made,
        };
        match socket::connect(made?, to).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Tries each address in turn.
pub(crate) async fn dial_any(
    addresses: &[HostPort],
    connector: &ControlConnector,
) -> Result<Channel, DialError> {
    let mut last = None;
    for address in addresses {
        match dial(address, connector).await {
            Ok(channel) => return Ok(channel),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| DialError::Tls(TlsError::NobodyExpected)))
}

/// Receive window. Its size also says how many small messages may come at once before h2 takes them for an attack: an
/// agent that comes back is answered for up to 512 workloads in a burst.
const WINDOW: u32 = 1 << 20;
/// What is spoken on these connections.
pub(crate) const ALPN: &[Alpn] = &[Alpn::H2];
