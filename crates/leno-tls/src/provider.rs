//! The one cryptographic provider and the settings every TLS connection of Leno shares.

use std::{
    fmt,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use crate::{Alpn, HandshakeError, TlsError};

/// How long a handshake may take from its first byte: a half-open one costs memory.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection buffers towards a slow peer before a write waits. Several TLS records fit, so that a caller who
/// collects frames before it writes (data-plane decision 9) hands them over in one go.
pub const SEND_BUFFER_LIMIT: usize = 256 * 1024;

/// aws-lc-rs with its key exchanges in their own order (X25519MLKEM768 first) and AES-128-GCM before AES-256-GCM:
/// the same security margin in practice for less CPU.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            ..aws_lc_rs::default_provider()
        })
    }))
}

/// The largest record we write, so that it has 4,096 bytes with its header, type and tag: rustls reads so much at a time,
/// and makes its buffer larger, cleared and copied, for each record that is.
const RECORD: usize = 4096 - 17;

/// A server's settings: no tickets, no resumption, no early data.
pub(crate) fn server_config(
    verifier: Arc<dyn ClientCertVerifier>,
    key: Arc<CertifiedKey>,
    alpn: &[Alpn],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Rustls)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(OneCertificate(key)));
    config.alpn_protocols = Alpn::offer(alpn);
    config.max_fragment_size = Some(RECORD);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// A client's settings; `key` is what it shows of itself.
pub(crate) fn client_config(
    verifier: Arc<dyn ServerCertVerifier>,
    key: Option<Arc<CertifiedKey>>,
    alpn: &[Alpn],
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Rustls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(OneCertificate(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = Alpn::offer(alpn);
    config.max_fragment_size = Some(RECORD);
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Ends `handshake` after `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(limit, handshake)
        .await
        .unwrap_or(Err(HandshakeError::Timeout { after: limit }))
}

/// The one certificate an end of a connection has.
struct OneCertificate(Arc<CertifiedKey>);

impl fmt::Debug for OneCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneCertificate")
    }
}

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
