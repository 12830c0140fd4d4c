//! Decides whether a presented certificate is to be believed, on both sides of a connection.
//!
//! Owns the order of the checks: length of the chain, use, name, trust domain, then signatures and time, then whether
//! it is one of those expected. Every refusal has one reason.
//! Invariant: nothing here ever says yes because something could not be checked.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use leno_types::{Identity, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{
    TrustBundle, VerifyError,
    ca::spki_pin,
    leaf::{self, Leaf},
    provider::provider,
};

/// How many certificates a peer may present: leaf, two intermediates, root.
pub const MAX_CHAIN: usize = 4;

/// The path of every control plane's identity.
const CONTROL_PLANE_PATH: &str = "/leno/control-plane";

/// Why a verifier said no; carried through rustls.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Certificate(#[from] VerifyError),
    #[error("the peer is {got}")]
    Identity {
        expected: Vec<Identity>,
        got: Identity,
    },
    #[error("pin mismatch")]
    Pin {
        expected: Vec<String>,
        got: Vec<String>,
    },
}

impl From<Refused> for rustls::Error {
    fn from(refused: Refused) -> Self {
        // The alert a peer gets is chosen by the kind of error; ours all are "certificate unknown", on purpose: the
        // reason is for this side's log, a stranger need not learn what would be accepted.
        Self::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
            refused,
        ))))
    }
}

/// Which end of a connection a certificate is shown by.
#[derive(Clone, Copy)]
pub(crate) enum ShownBy {
    Server,
    Client,
}

/// Verifies `leaf` and its chain against `bundle` at `now`.
pub(crate) fn verify_chain(
    bundle: &TrustBundle,
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    shown_by: ShownBy,
    now: UnixTime,
) -> Result<Leaf, VerifyError> {
    let leaf = inspect(leaf_der, intermediates, shown_by)?;
    in_domain(bundle, &leaf)?;
    verify_path(bundle, &leaf, leaf_der, intermediates, shown_by, now)?;
    Ok(leaf)
}

/// The checks that need no key: length of the chain, use, name.
fn inspect(
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    shown_by: ShownBy,
) -> Result<Leaf, VerifyError> {
    let presented = intermediates.len().saturating_add(1);
    if presented > MAX_CHAIN {
        return Err(VerifyError::ChainTooLong { presented });
    }
    let leaf = Leaf::parse(leaf_der)?;
    if !leaf.is_end_entity {
        return Err(VerifyError::WrongUsage {
            needed: "as a peer's own certificate",
        });
    }
    match shown_by {
        ShownBy::Server if !leaf.for_servers => Err(VerifyError::WrongUsage {
            needed: "by a server",
        }),
        ShownBy::Client if !leaf.for_clients => Err(VerifyError::WrongUsage {
            needed: "by a client",
        }),
        ShownBy::Server | ShownBy::Client => Ok(leaf),
    }
}

fn in_domain(bundle: &TrustBundle, leaf: &Leaf) -> Result<(), VerifyError> {
    if leaf.identity.domain_str() == bundle.domain().as_str() {
        return Ok(());
    }
    Err(VerifyError::OtherTrustDomain {
        expected: bundle.domain().to_string(),
        got: leaf.identity.trust_domain(),
    })
}

fn verify_path(
    bundle: &TrustBundle,
    leaf: &Leaf,
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    shown_by: ShownBy,
    now: UnixTime,
) -> Result<(), VerifyError> {
    let outcome = match shown_by {
        ShownBy::Server => signed_for_servers(bundle.roots(), leaf_der, intermediates, now),
        ShownBy::Client => bundle
            .client_verifier()
            .verify_client_cert(leaf_der, intermediates, now)
            .map(|_| ()),
    };
    outcome.map_err(|error| fault(error, leaf))
}

fn signed_for_servers(
    roots: &RootCertStore,
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let parsed = ParsedCertificate::try_from(leaf_der)?;
    let algorithms = provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
}

/// The reason in our terms of what the path validation said.
fn fault(error: rustls::Error, leaf: &Leaf) -> VerifyError {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Expired) => VerifyError::Expired {
            not_after: leaf.not_after,
        },
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after, ..
        }) => VerifyError::Expired {
            not_after: at(not_after),
        },
        rustls::Error::InvalidCertificate(CertificateError::NotValidYet) => {
            VerifyError::NotYetValid {
                not_before: leaf.not_before,
            }
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext {
            not_before,
            ..
        }) => VerifyError::NotYetValid {
            not_before: at(not_before),
        },
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) if leaf.self_issued => {
            VerifyError::SelfSigned
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            VerifyError::UnknownIssuer
        }
        rustls::Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => VerifyError::WrongUsage { needed: "this way" },
        other => VerifyError::Invalid(other.to_string()),
    }
}

/// A time as rustls takes it. Before 1970 is 1970: nothing is valid then.
pub(crate) fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn at(time: UnixTime) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_secs(time.as_secs()))
        .unwrap_or(UNIX_EPOCH)
}

/// What a verifier demands.
pub(crate) enum Demand {
    /// A certificate of this bundle with one of these identities.
    OneOf {
        bundle: TrustBundle,
        expected: Vec<Identity>,
    },
    /// A certificate of any of these bundles.
    Any(Vec<TrustBundle>),
    /// A control plane whose authority has one of these pins. Its trust domain is not known yet.
    Pinned(Vec<String>),
}

/// Verifies a peer's certificate and its handshake signature, for either side.
pub(crate) struct PeerVerifier {
    pub(crate) demand: Demand,
    /// Whether a client may come without a certificate.
    pub(crate) optional: bool,
}

impl PeerVerifier {
    fn check(
        &self,
        leaf_der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        shown_by: ShownBy,
        now: UnixTime,
    ) -> Result<(), Refused> {
        match &self.demand {
            Demand::OneOf { bundle, expected } => {
                let leaf = verify_chain(bundle, leaf_der, intermediates, shown_by, now)?;
                if expected.contains(&leaf.identity) {
                    return Ok(());
                }
                Err(Refused::Identity {
                    expected: expected.clone(),
                    got: leaf.identity,
                })
            }
            Demand::Any(bundles) => {
                let leaf = inspect(leaf_der, intermediates, shown_by)?;
                let domain = leaf.identity.domain_str();
                let bundle = bundles
                    .iter()
                    .find(|bundle| bundle.domain().as_str() == domain);
                let bundle = bundle.ok_or_else(|| none_of(bundles, &leaf))?;
                verify_path(bundle, &leaf, leaf_der, intermediates, shown_by, now)?;
                Ok(())
            }
            Demand::Pinned(pins) => check_pinned(pins, leaf_der, intermediates, now),
        }
    }
}

fn none_of(bundles: &[TrustBundle], leaf: &Leaf) -> VerifyError {
    let domains: Vec<_> = bundles
        .iter()
        .map(TrustBundle::domain)
        .map(TrustDomain::as_str)
        .collect();
    VerifyError::OtherTrustDomain {
        expected: domains.join(" or "),
        got: leaf.identity.trust_domain(),
    }
}

/// A pinned authority is looked for among the authorities presented, and then must really stand behind the leaf.
fn check_pinned(
    pins: &[String],
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Refused> {
    let leaf = inspect(leaf_der, intermediates, ShownBy::Server)?;
    let mut roots = RootCertStore::empty();
    let mut presented = Vec::with_capacity(intermediates.len());
    for certificate in intermediates {
        let authority = leaf::parse(certificate)?.is_ca();
        let pin = spki_pin(certificate);
        if authority && pins.contains(&pin) {
            let added = roots.add(certificate.clone().into_owned());
            added.map_err(|error| fault(error, &leaf))?;
        }
        presented.push(pin);
    }
    if roots.is_empty() {
        return Err(Refused::Pin {
            expected: pins.to_vec(),
            got: presented,
        });
    }
    signed_for_servers(&roots, leaf_der, intermediates, now)
        .map_err(|error| fault(error, &leaf))?;
    if leaf.identity.path() == CONTROL_PLANE_PATH {
        return Ok(());
    }
    let expected = Identity::control_plane(&leaf.identity.trust_domain());
    Err(Refused::Identity {
        expected: vec![expected],
        got: leaf.identity,
    })
}

impl fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerVerifier")
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, ShownBy::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // An empty list means any (RFC 8446 4.2.4), and tells a stranger nothing.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, ShownBy::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
