//! TLS of the control plane's port, both sides.
//!
//! The server's certificate is for DNS names and addresses as well as a SPIFFE ID; a client's certificate is optional
//! and verified whenever one is sent. Clients know the control plane by its trust bundle or, before they have one, by
//! a pin of its authority's key (section 2 of the control plane's design).
//! Invariant: a pin is checked before a single byte of the application is sent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use leno_types::{Identity, TrustDomain};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;

use crate::{
    Alpn, Connected, HANDSHAKE_TIMEOUT, HandshakeError, Peer, ServerStream, TlsError, TrustBundle,
    WorkloadCertificate,
    ca::is_pin,
    client::connect,
    provider::{client_config, server_config, within},
    server::finish,
    verify::{Demand, PeerVerifier},
};

/// Accepts connections to the control plane. Clones share the settings.
#[derive(Clone)]
pub struct ControlAcceptor {
    named: Arc<BTreeMap<String, Arc<ServerConfig>>>,
    default: Arc<ServerConfig>,
    timeout: Duration,
}

/// A connection to the control plane.
pub struct ControlAccepted<IO> {
    /// The connection.
    pub stream: ServerStream<IO>,
    /// Who called, when a certificate was sent. Its trust domain says of which mesh.
    pub peer: Option<Peer>,
    /// What is spoken.
    pub alpn: Alpn,
}

impl ControlAcceptor {
    /// Serves with one certificate for each mesh: chosen by SNI, which may be the mesh's trust domain or any name in
    /// a certificate; the first is for callers who name none. A client's certificate may be of any of the meshes:
    /// whoever handles the request compares its trust domain.
    ///
    /// # Errors
    /// When there is no certificate at all, or rustls refuses the settings.
    pub fn new(meshes: &[(WorkloadCertificate, TrustBundle)]) -> Result<Self, TlsError> {
        let bundles = meshes.iter().map(|(_, bundle)| bundle.clone()).collect();
        let verifier = Arc::new(PeerVerifier {
            demand: Demand::Any(bundles),
            optional: true,
        });
        let mut named = BTreeMap::new();
        let mut default = None;
        for (certificate, bundle) in meshes {
            let key = certificate.key_with_roots();
            let config = server_config(verifier.clone(), key, &[Alpn::H2, Alpn::Http11])?;
            default.get_or_insert_with(|| Arc::clone(&config));
            named.insert(bundle.domain().to_string(), Arc::clone(&config));
            for name in certificate.names() {
                named
                    .entry(name.clone())
                    .or_insert_with(|| Arc::clone(&config));
            }
        }
        Ok(Self {
            named: Arc::new(named),
            default: default.ok_or(TlsError::NoCertificate)?,
            timeout: HANDSHAKE_TIMEOUT,
        })
    }

    /// The same with one more name in SNI for the mesh of a trust domain, unless it means another already: for callers
    /// who do not know the trust domain yet.
    #[must_use]
    pub fn with_alias(mut self, alias: &str, domain: &TrustDomain) -> Self {
        if let Some(config) = self.named.get(domain.as_str()).cloned() {
            Arc::make_mut(&mut self.named)
                .entry(alias.to_owned())
                .or_insert(config);
        }
        self
    }

    /// The same with another limit on the time of a handshake.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Completes the handshake of a caller.
    ///
    /// # Errors
    /// Why the caller was refused.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
    ) -> Result<ControlAccepted<IO>, HandshakeError> {
        within(self.timeout, async {
            let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
            let name = start
                .client_hello()
                .server_name()
                .map(str::to_ascii_lowercase);
            let config = name
                .and_then(|name| self.named.get(&name))
                .unwrap_or(&self.default);
            let stream = finish(start, Arc::clone(config)).await?;
            let session = stream.get_ref().1;
            let peer = session
                .peer_certificates()
                .map(Peer::of_verified)
                .transpose()?;
            let alpn = Alpn::negotiated(session.alpn_protocol());
            Ok(ControlAccepted { stream, peer, alpn })
        })
        .await
    }
}

/// Connects to the control plane. Clones share the settings.
#[derive(Clone)]
pub struct ControlConnector {
    config: Arc<ClientConfig>,
    server_name: Option<Arc<str>>,
    timeout: Duration,
}

impl ControlConnector {
    /// For redemption and login: trusts a control plane whose authority's key has one of `pins`. Shows no
    /// certificate.
    ///
    /// # Errors
    /// When there is no pin, or one is malformed.
    pub fn pinned(pins: &[String], alpn: &[Alpn]) -> Result<Self, TlsError> {
        Self::build(pinned(pins)?, None, None, alpn)
    }

    /// The same for a host that was let in before: shows the certificate it had then. Only worth trying where that is
    /// of an authority with one of the pins; another refuses the handshake.
    ///
    /// # Errors
    /// When there is no pin, or one is malformed.
    pub fn pinned_as(
        pins: &[String],
        client: &WorkloadCertificate,
        alpn: &[Alpn],
    ) -> Result<Self, TlsError> {
        Self::build(pinned(pins)?, Some(client), None, alpn)
    }

    /// Expects `spiffe://TD/leno/control-plane` of the bundle's trust domain; `client` is the certificate of an agent
    /// or a person.
    ///
    /// # Errors
    /// When rustls refuses the settings.
    pub fn trusted(
        bundle: &TrustBundle,
        client: Option<&WorkloadCertificate>,
        alpn: &[Alpn],
    ) -> Result<Self, TlsError> {
        let demand = Demand::OneOf {
            bundle: bundle.clone(),
            expected: vec![Identity::control_plane(bundle.domain())],
        };
        Self::build(demand, client, Some(bundle.domain().as_str()), alpn)
    }

    fn build(
        demand: Demand,
        client: Option<&WorkloadCertificate>,
        server_name: Option<&str>,
        alpn: &[Alpn],
    ) -> Result<Self, TlsError> {
        let verifier = Arc::new(PeerVerifier {
            demand,
            optional: false,
        });
        let key = client.map(WorkloadCertificate::key);
        Ok(Self {
            config: client_config(verifier, key, alpn)?,
            server_name: server_name.map(Arc::from),
            timeout: HANDSHAKE_TIMEOUT,
        })
    }

    /// The same with a server name: a mesh's trust domain, where a control plane serves several.
    #[must_use]
    pub fn with_server_name(self, name: &str) -> Self {
        Self {
            server_name: Some(name.into()),
            ..self
        }
    }

    /// The same with another limit on the time of a handshake.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Completes a handshake with the control plane at the other end of `io`.
    ///
    /// # Errors
    /// Why the server was refused.
    pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
    ) -> Result<Connected<IO>, HandshakeError> {
        let name = self.server_name.as_deref();
        within(self.timeout, connect(&self.config, io, name)).await
    }
}

fn pinned(pins: &[String]) -> Result<Demand, TlsError> {
    if let Some(bad) = pins.iter().find(|pin| !is_pin(pin)) {
        return Err(TlsError::Pin(bad.clone()));
    }
    if pins.is_empty() {
        return Err(TlsError::NobodyExpected);
    }
    Ok(Demand::Pinned(pins.to_vec()))
}
