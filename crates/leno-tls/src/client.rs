//! The client side between proxies.
//!
//! Offers one workload's certificate and accepts one of a set of identities; never anybody else, never nobody.

use std::{sync::Arc, time::Duration};

use leno_types::{Identity, WorkloadUid};
use rustls::{
    ClientConfig,
    pki_types::{DnsName, ServerName},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::{
    Alpn, ClientStream, HANDSHAKE_TIMEOUT, HandshakeError, Peer, SEND_BUFFER_LIMIT, TlsError,
    TrustBundle, WorkloadCertificate,
    provider::{client_config, within},
    server::sni_of_uid,
    verify::{Demand, PeerVerifier},
};

/// Opens connections from one workload to one destination. Clones share the settings.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    timeout: Duration,
}

/// An authenticated connection to a server.
pub struct Connected<IO> {
    /// The connection.
    pub stream: ClientStream<IO>,
    /// Who answered.
    pub peer: Peer,
    /// What is spoken.
    pub alpn: Alpn,
}

impl Connector {
    /// Connects as `source` to a peer of `bundle` that is one of `expected`, offering `alpn` in that order.
    ///
    /// # Errors
    /// When nobody is expected, or `source` is of another trust domain than `bundle`.
    pub fn new(
        source: &WorkloadCertificate,
        bundle: &TrustBundle,
        expected: &[Identity],
        alpn: &[Alpn],
    ) -> Result<Self, TlsError> {
        if expected.is_empty() {
            return Err(TlsError::NobodyExpected);
        }
        let verifier = PeerVerifier {
            demand: Demand::OneOf {
                bundle: bundle.clone(),
                expected: expected.to_vec(),
            },
            optional: false,
        };
        let config = client_config(Arc::new(verifier), Some(source.key()), alpn)?;
        Ok(Self {
            config,
            timeout: HANDSHAKE_TIMEOUT,
        })
    }

    /// The same with another limit on the time of a handshake.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Completes a handshake with the server at the other end of `io`, asking for the workload `uid`.
    ///
    /// The server sees our certificate only after this returns (RFC 8446 2): its refusal arrives with the first read,
    /// and [`HandshakeError::from`] finds it in that I/O error.
    ///
    /// # Errors
    /// Why the server was refused.
    pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        uid: Option<&WorkloadUid>,
    ) -> Result<Connected<IO>, HandshakeError> {
        let sni = uid.map(sni_of_uid);
        within(self.timeout, connect(&self.config, io, sni.as_deref())).await
    }
}

/// Completes a client's handshake; `sni` that is no host name is not sent.
pub(crate) async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
    config: &Arc<ClientConfig>,
    io: IO,
    sni: Option<&str>,
) -> Result<Connected<IO>, HandshakeError> {
    // Who the peer must be is the verifier's business alone: this name is only what is sent, and an address is not.
    let unnamed = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let name = sni.and_then(|sni| DnsName::try_from(sni).ok());
    let name = name.map_or(unnamed, |name| ServerName::DnsName(name.to_owned()));
    let connector = TlsConnector::from(Arc::clone(config));
    let limit =
        |session: &mut rustls::ClientConnection| session.set_buffer_limit(Some(SEND_BUFFER_LIMIT));
    let stream = connector.connect_with(name, io, limit).await?;
    let session = stream.get_ref().1;
    let peer = Peer::of_verified(session.peer_certificates().unwrap_or_default())?;
    let alpn = Alpn::negotiated(session.alpn_protocol());
    Ok(Connected { stream, peer, alpn })
}
