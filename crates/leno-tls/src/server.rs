//! The server side between proxies: port 15008.
//!
//! Chooses the certificate by SNI, which is the workload's uid (CP4). Refuses a name that is not here, and a caller
//! without a name where it could mean more than one workload. A client certificate is always due.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use leno_types::WorkloadUid;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::{
    Alpn, HANDSHAKE_TIMEOUT, HandshakeError, Peer, SEND_BUFFER_LIMIT, ServerStream, TlsError,
    TrustBundle, WorkloadCertificate,
    provider::{server_config, within},
    verify::{Demand, PeerVerifier},
};

/// An all-digit uid cannot be a host name's last label (RFC 3696 2), so it is sent with this one behind it.
const DIGITS_SUFFIX: &str = ".workload";

/// RFC 8446 6: a fatal `unrecognized_name` alert as a plaintext record; nothing is encrypted yet when it is sent.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The certificates one worker serves with. Of two for one workload the later generation counts.
pub struct ServerIdentities {
    certificates: BTreeMap<Option<WorkloadUid>, WorkloadCertificate>,
    bundle: TrustBundle,
}

impl ServerIdentities {
    /// The certificates of the workloads here; those past their end at `now` are left out.
    #[must_use]
    pub fn new(certs: Vec<WorkloadCertificate>, bundle: TrustBundle, now: SystemTime) -> Self {
        let mut certificates: BTreeMap<_, WorkloadCertificate> = BTreeMap::new();
        for certificate in certs
            .into_iter()
            .filter(|certificate| certificate.remaining(now).is_some())
        {
            let uid = certificate.uid().copied();
            let newer = certificates
                .get(&uid)
                .is_none_or(|held| held.generation() <= certificate.generation());
            if newer {
                certificates.insert(uid, certificate);
            }
        }
        Self {
            certificates,
            bundle,
        }
    }

    /// How many workloads can be served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.certificates.len()
    }

    /// Whether nobody can be served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.certificates.is_empty()
    }
}

/// Accepts connections from other proxies. Clones share the settings.
#[derive(Clone)]
pub struct Acceptor {
    configs: Arc<BTreeMap<Option<WorkloadUid>, Arc<ServerConfig>>>,
    timeout: Duration,
}

/// An authenticated connection from another proxy.
pub struct Accepted<IO> {
    /// The connection.
    pub stream: ServerStream<IO>,
    /// Who called.
    pub peer: Peer,
    /// The workload it called.
    pub uid: Option<WorkloadUid>,
    /// What is spoken.
    pub alpn: Alpn,
}

impl Acceptor {
    /// Mutual TLS with the given certificates, ALPN `leno/1`, then `h2`. With no certificate at all every caller is
    /// refused.
    ///
    /// # Errors
    /// When rustls refuses the settings.
    pub fn new(identities: &ServerIdentities) -> Result<Self, TlsError> {
        let verifier = Arc::new(PeerVerifier {
            demand: Demand::Any(vec![identities.bundle.clone()]),
            optional: false,
        });
        let mut configs = BTreeMap::new();
        for (uid, certificate) in &identities.certificates {
            let config = server_config(
                verifier.clone(),
                certificate.key(),
                &[Alpn::Leno1, Alpn::H2],
            )?;
            configs.insert(*uid, config);
        }
        Ok(Self {
            configs: Arc::new(configs),
            timeout: HANDSHAKE_TIMEOUT,
        })
    }

    /// The same with another limit on the time of a handshake.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Completes the handshake of a caller. One that names no workload is accepted only if exactly one is here.
    ///
    /// # Errors
    /// Why the caller was refused.
    pub async fn accept<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
    ) -> Result<Accepted<IO>, HandshakeError> {
        within(self.timeout, self.handshake(io, None)).await
    }

    /// The same for a connection to an address that only the workload `only` has: a caller that names none (as
    /// ztunnel) means that one.
    ///
    /// # Errors
    /// Why the caller was refused.
    pub async fn accept_at<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        only: &WorkloadUid,
    ) -> Result<Accepted<IO>, HandshakeError> {
        within(self.timeout, self.handshake(io, Some(*only))).await
    }

    async fn handshake<IO: AsyncRead + AsyncWrite + Unpin>(
        &self,
        io: IO,
        only: Option<WorkloadUid>,
    ) -> Result<Accepted<IO>, HandshakeError> {
        let mut start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let chosen = self.choose(start.client_hello().server_name(), only);
        let (uid, config) = match chosen {
            Ok(chosen) => chosen,
            Err(refused) => {
                // Best effort: whether or not the caller still listens, this is the reason.
                drop(refuse_name(&mut start).await);
                return Err(refused);
            }
        };
        let stream = finish(start, config).await?;
        let session = stream.get_ref().1;
        let peer = Peer::of_verified(session.peer_certificates().unwrap_or_default())?;
        let alpn = Alpn::negotiated(session.alpn_protocol());
        Ok(Accepted {
            stream,
            peer,
            uid,
            alpn,
        })
    }

    fn choose(
        &self,
        sni: Option<&str>,
        only: Option<WorkloadUid>,
    ) -> Result<(Option<WorkloadUid>, Arc<ServerConfig>), HandshakeError> {
        let named = match sni {
            Some(name) => {
                let unknown = || HandshakeError::UnknownWorkload { sni: name.into() };
                let uid = uid_of_sni(name).ok_or_else(unknown)?;
                self.configs.get_key_value(&Some(uid)).ok_or_else(unknown)?
            }
            None if only.is_some() => {
                let held = self.configs.get_key_value(&only);
                held.ok_or(HandshakeError::AmbiguousWorkload)?
            }
            None => match (self.configs.len(), self.configs.first_key_value()) {
                (1, Some(single)) => single,
                _ => return Err(HandshakeError::AmbiguousWorkload),
            },
        };
        Ok((*named.0, Arc::clone(named.1)))
    }
}

/// The server name by which `uid` is called.
pub(crate) fn sni_of_uid(uid: &WorkloadUid) -> String {
    let label = uid.to_string();
    if label.bytes().all(|byte| byte.is_ascii_digit()) {
        return label + DIGITS_SUFFIX;
    }
    label
}

fn uid_of_sni(name: &str) -> Option<WorkloadUid> {
    let lower = name.to_ascii_lowercase();
    lower
        .strip_suffix(DIGITS_SUFFIX)
        .unwrap_or(&lower)
        .parse()
        .ok()
}

/// Finishes a handshake whose settings are chosen.
pub(crate) async fn finish<IO: AsyncRead + AsyncWrite + Unpin>(
    start: StartHandshake<IO>,
    config: Arc<ServerConfig>,
) -> Result<ServerStream<IO>, HandshakeError> {
    let limit =
        |session: &mut rustls::ServerConnection| session.set_buffer_limit(Some(SEND_BUFFER_LIMIT));
    Ok(start.into_stream_with(config, limit).await?)
}

async fn refuse_name<IO: AsyncRead + AsyncWrite + Unpin>(
    start: &mut StartHandshake<IO>,
) -> std::io::Result<()> {
    start.io.write_all(&UNRECOGNIZED_NAME).await?;
    start.io.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_uid_has_a_server_name_that_reads_back_and_is_a_host_name() {
        for byte in [0x12, 0xa5, 0x99, 0x0f] {
            let uid = WorkloadUid::from_bytes([byte; 16]);
            let name = sni_of_uid(&uid);
            assert!(
                rustls::pki_types::DnsName::try_from(name.as_str()).is_ok(),
                "{name}"
            );
            assert_eq!(uid_of_sni(&name), Some(uid));
            assert_eq!(uid_of_sni(&name.to_ascii_uppercase()), Some(uid));
        }
        assert_eq!(uid_of_sni("cart.shop.svc"), None);
    }
}
