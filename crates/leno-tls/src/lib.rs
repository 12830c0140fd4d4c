//! Identities, verification, rotation and certificate authority; the only user of rustls.
#![allow(
    missing_docs,
    unused_variables,
    dead_code,
    reason = "signatures first; bodies follow within minutes"
)]

use leno_types::{Identity, TrustDomain, WorkloadUid};
use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::io::{AsyncRead, AsyncWrite};

pub use tokio_rustls::{client::TlsStream as ClientStream, server::TlsStream as ServerStream};

pub mod ca {
    use super::*;
    #[derive(Debug, thiserror::Error)]
    #[error("certificate authority")]
    pub struct CaError;
    pub struct RootAuthority;
    impl RootAuthority {
        pub fn generate(domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
            todo!()
        }
        pub fn from_pem(cert: &str, key: &str) -> Result<Self, CaError> {
            todo!()
        }
        pub fn domain(&self) -> &TrustDomain {
            todo!()
        }
        pub fn cert_pem(&self) -> String {
            todo!()
        }
        pub fn key_pem(&self) -> Secret {
            todo!()
        }
        pub fn issue_intermediate(
            &self,
            now: SystemTime,
            lifetime: Duration,
        ) -> Result<Intermediate, CaError> {
            todo!()
        }
    }
    pub struct Intermediate;
    impl Intermediate {
        pub fn from_pem(cert: &str, key: &str) -> Result<Self, CaError> {
            todo!()
        }
        pub fn domain(&self) -> &TrustDomain {
            todo!()
        }
        pub fn cert_pem(&self) -> String {
            todo!()
        }
        pub fn key_pem(&self) -> Secret {
            todo!()
        }
        pub fn not_before(&self) -> SystemTime {
            todo!()
        }
        pub fn not_after(&self) -> SystemTime {
            todo!()
        }
        /// `extra_dns`: DNS names, or IP addresses (which become IP SANs).
        pub fn sign(
            &self,
            csr: &Csr,
            identity: &Identity,
            extra_dns: &[String],
            usage: Usage,
            now: SystemTime,
            lifetime: Duration,
        ) -> Result<IssuedChain, CaError> {
            todo!()
        }
    }
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Usage {
        Workload,
        Server,
        Client,
    }
    #[derive(Clone, Debug)]
    pub struct IssuedChain {
        pub chain_pem: String,
        pub not_after: SystemTime,
        pub serial: String,
    }
    pub struct Csr;
    impl Csr {
        pub fn from_der(der: &[u8]) -> Result<Self, CaError> {
            todo!()
        }
    }
    pub fn spki_pin(cert_der: &[u8]) -> String {
        todo!()
    }
}

/// Text that must not be seen: PEM of a private key. `Debug` is redacted, memory is zeroed on drop.
pub struct Secret(String);
impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[derive(Clone)]
pub struct PrivateKey;
impl PrivateKey {
    pub fn generate() -> Self {
        todo!()
    }
    pub fn from_pem(pem: &str) -> Result<Self, ca::CaError> {
        todo!()
    }
    pub fn to_pem(&self) -> Secret {
        todo!()
    }
    pub fn csr(&self) -> Result<Vec<u8>, ca::CaError> {
        todo!()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("tls")]
pub struct TlsError;

#[derive(Clone, Debug)]
pub struct TrustBundle;
impl TrustBundle {
    pub fn from_pem(domain: TrustDomain, pem: &str) -> Result<Self, TlsError> {
        todo!()
    }
    pub fn domain(&self) -> &TrustDomain {
        todo!()
    }
    pub fn pins(&self) -> Vec<String> {
        todo!()
    }
    pub fn to_pem(&self) -> String {
        todo!()
    }
}

#[derive(Clone, Debug)]
pub struct WorkloadCertificate;
impl WorkloadCertificate {
    pub fn new(
        uid: Option<WorkloadUid>,
        chain_pem: &str,
        key: &PrivateKey,
        bundle: &TrustBundle,
        generation: u64,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        todo!()
    }
    pub fn renew_at(&self, jitter: f64) -> SystemTime {
        todo!()
    }
    pub fn uid(&self) -> Option<&WorkloadUid> {
        todo!()
    }
    pub fn identity(&self) -> &Identity {
        todo!()
    }
    pub fn not_before(&self) -> SystemTime {
        todo!()
    }
    pub fn not_after(&self) -> SystemTime {
        todo!()
    }
    pub fn serial(&self) -> &str {
        todo!()
    }
    pub fn generation(&self) -> u64 {
        todo!()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    Leno1,
    H2,
    Http11,
    None,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    #[error("peer identity")]
    PeerIdentity {
        expected: Vec<Identity>,
        got: Identity,
    },
    #[error("pin mismatch")]
    PinMismatch {
        expected: Vec<String>,
        got: Vec<String>,
    },
    #[error("io")]
    Io(#[source] io::Error),
}

pub fn verify_failure_reason(error: &HandshakeError) -> &'static str {
    todo!()
}

/// Who the peer is, from its verified certificate.
#[derive(Clone, Debug)]
pub struct Peer {
    pub identity: Identity,
    pub not_after: SystemTime,
    pub serial: String,
    pub leaf_der: Arc<[u8]>,
}

pub struct ServerIdentities;
impl ServerIdentities {
    pub fn new(certs: Vec<WorkloadCertificate>, bundle: TrustBundle, now: SystemTime) -> Self {
        todo!()
    }
}

#[derive(Clone)]
pub struct Acceptor;
impl Acceptor {
    pub fn new(identities: &ServerIdentities) -> Result<Self, TlsError> {
        todo!()
    }
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
    ) -> Result<Accepted<IO>, HandshakeError> {
        todo!()
    }
    /// As `accept`, for an address that only one workload has: a caller without SNI means that one.
    pub async fn accept_at<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        only: &WorkloadUid,
    ) -> Result<Accepted<IO>, HandshakeError> {
        todo!()
    }
}
pub struct Accepted<IO> {
    pub stream: ServerStream<IO>,
    pub peer: Peer,
    pub uid: Option<WorkloadUid>,
    pub alpn: Alpn,
}

#[derive(Clone)]
pub struct Connector;
impl Connector {
    pub fn new(
        source: &WorkloadCertificate,
        bundle: &TrustBundle,
        expected: &[Identity],
        alpn: &[Alpn],
    ) -> Result<Self, TlsError> {
        todo!()
    }
    pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        uid: Option<&WorkloadUid>,
    ) -> Result<Connected<IO>, HandshakeError> {
        todo!()
    }
}
pub struct Connected<IO> {
    pub stream: ClientStream<IO>,
    pub peer: Peer,
    pub alpn: Alpn,
}

pub mod control {
    use super::*;
    #[derive(Clone)]
    pub struct ControlAcceptor;
    impl ControlAcceptor {
        /// One certificate and bundle for each mesh; the first is what a caller gets whose SNI names none.
        pub fn new(meshes: &[(WorkloadCertificate, TrustBundle)]) -> Result<Self, TlsError> {
            todo!()
        }
        pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
            &self,
            io: IO,
        ) -> Result<ControlAccepted<IO>, HandshakeError> {
            todo!()
        }
    }
    pub struct ControlAccepted<IO> {
        pub stream: ServerStream<IO>,
        pub peer: Option<Peer>,
        pub alpn: Alpn,
    }
    #[derive(Clone)]
    pub struct ControlConnector;
    impl ControlConnector {
        /// For redemption and login: trusts the CA whose key has one of these pins.
        pub fn pinned(pins: &[String], alpn: &[Alpn]) -> Result<Self, TlsError> {
            todo!()
        }
        /// Expects `spiffe://TD/leno/control-plane` of the bundle's domain; `client` is an agent's or a person's certificate.
        pub fn trusted(
            bundle: &TrustBundle,
            client: Option<&WorkloadCertificate>,
            alpn: &[Alpn],
        ) -> Result<Self, TlsError> {
            todo!()
        }
        pub async fn connect<IO: AsyncRead + AsyncWrite + Unpin>(
            &self,
            io: IO,
        ) -> Result<Connected<IO>, HandshakeError> {
            todo!()
        }
    }
}
