//! What can go wrong with certificates and handshakes, and the closed set of labels for it.

use std::{
    io,
    time::{Duration, SystemTime},
};

use leno_types::{Identity, TrustDomain};
use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use crate::verify::Refused;

/// Why certificates or keys given to this crate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The PEM text cannot be used.
    #[error("the PEM text cannot be used: {0}")]
    Pem(&'static str),
    /// A bundle with more roots than [`crate::MAX_ROOTS`].
    #[error(
        "a trust bundle has at most {} roots, this has {count}",
        crate::MAX_ROOTS
    )]
    TooManyRoots {
        /// How many there are.
        count: usize,
    },
    /// A certificate in a bundle that is no authority's.
    #[error("a certificate of the trust bundle for {domain} is no certificate authority's")]
    NotAnAuthority {
        /// Whose bundle.
        domain: TrustDomain,
    },
    /// The private key is not the one the certificate was issued for.
    #[error("the private key does not belong to the certificate of {identity}")]
    KeyMismatch {
        /// Whose certificate.
        identity: Identity,
    },
    /// A certificate and a bundle of different trust domains.
    #[error("{identity} is not of the trust domain {domain}")]
    OtherTrustDomain {
        /// Whose certificate.
        identity: Identity,
        /// The bundle's domain.
        domain: TrustDomain,
    },
    /// One's own certificate would be refused by every peer.
    #[error("the certificate would be refused by every peer")]
    Certificate(#[source] VerifyError),
    /// A connector that expects nobody could accept nobody.
    #[error("no identity is expected of the peer: name at least one")]
    NobodyExpected,
    /// No certificate to serve with.
    #[error("there is no certificate to serve with")]
    NoCertificate,
    /// A pin that is not `sha256/` and 43 characters of base64url.
    #[error("\"{0}\" is no pin: sha256/ and 43 characters of base64url")]
    Pin(String),
    /// rustls refused the settings.
    #[error("TLS cannot be set up")]
    Rustls(#[source] rustls::Error),
}

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Past its end.
    #[error("the certificate expired at {}", crate::leaf::show(*not_after))]
    Expired {
        /// Its end.
        not_after: SystemTime,
    },
    /// Before its beginning: a clock is wrong.
    #[error("the certificate is valid from {} only: compare the clocks of both hosts", crate::leaf::show(*not_before))]
    NotYetValid {
        /// Its beginning.
        not_before: SystemTime,
    },
    /// Of another trust domain.
    #[error("the certificate is of trust domain {got}, not of {expected}")]
    OtherTrustDomain {
        /// The domain (or domains) accepted here.
        expected: String,
        /// The certificate's.
        got: TrustDomain,
    },
    /// Signed by itself.
    #[error("the certificate is signed by itself")]
    SelfSigned,
    /// It names the right trust domain, but no root of the bundle stands behind it.
    #[error("no root of the trust bundle stands behind the certificate")]
    UnknownIssuer,
    /// No URI name.
    #[error("the certificate carries no SPIFFE ID")]
    NoSan,
    /// More than one URI name (X.509-SVID 2).
    #[error("the certificate carries {count} URIs where one is allowed")]
    SeveralSans {
        /// How many.
        count: usize,
    },
    /// A URI name that is no SPIFFE ID.
    #[error("the certificate's URI is no SPIFFE ID")]
    BadSan(#[source] leno_types::IdentityError),
    /// Not made for what it is used for.
    #[error("the certificate may not be used {needed}")]
    WrongUsage {
        /// The use it was put to.
        needed: &'static str,
    },
    /// A longer chain than [`crate::MAX_CHAIN`].
    #[error(
        "the chain has {presented} certificates, at most {} are allowed",
        crate::MAX_CHAIN
    )]
    ChainTooLong {
        /// How many were presented.
        presented: usize,
    },
    /// It cannot be parsed, or a signature in the chain is wrong.
    #[error("the certificate is not valid: {0}")]
    Invalid(String),
}

/// Why a handshake did not end in an authenticated connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer is somebody else.
    #[error("the peer is {got}, expected was {}", list(expected))]
    PeerIdentity {
        /// Who it might have been.
        expected: Vec<Identity>,
        /// Who it is.
        got: Identity,
    },
    /// The peer's certificate is refused.
    #[error("the peer's certificate is refused")]
    PeerCertificate(#[source] VerifyError),
    /// No authority in the presented chain has a pinned key. Nothing was sent.
    #[error("pin mismatch: the server's authority is {}, expected was {}; is this the right control plane?", got.join(" or "), expected.join(" or "))]
    PinMismatch {
        /// The pins known.
        expected: Vec<String>,
        /// The pins of the authorities presented.
        got: Vec<String>,
    },
    /// The peer showed no certificate.
    #[error("the peer has no certificate")]
    NoCertificate,
    /// The peer does not speak TLS 1.3.
    #[error("the peer does not speak TLS 1.3")]
    TlsVersion,
    /// The caller asked for a workload that is not here.
    #[error("no workload here is called \"{sni}\"")]
    UnknownWorkload {
        /// The server name it sent.
        sni: String,
    },
    /// The caller named no workload, and several are here.
    #[error("the caller named no workload, and there is not exactly one here")]
    AmbiguousWorkload,
    /// The handshake took too long.
    #[error("the handshake took longer than {after:?}")]
    Timeout {
        /// The limit.
        after: Duration,
    },
    /// The peer refused our certificate or our offer.
    #[error("the peer refused: {alert}")]
    RefusedByPeer {
        /// The TLS alert.
        alert: String,
    },
    /// The connection broke.
    #[error("the connection broke during the handshake")]
    Io(#[source] io::Error),
    /// What the peer sent is not TLS, or breaks it.
    #[error("the peer broke the TLS protocol: {0}")]
    Protocol(String),
}

fn list(identities: &[Identity]) -> String {
    let texts: Vec<_> = identities.iter().map(Identity::as_str).collect();
    texts.join(" or ")
}

/// The label of a failed handshake, one of a closed set.
#[must_use]
pub fn verify_failure_reason(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::PeerIdentity { .. } => "unexpected_identity",
        HandshakeError::PeerCertificate(fault) => match fault {
            VerifyError::Expired { .. } => "expired",
            VerifyError::NotYetValid { .. } => "not_yet_valid",
            VerifyError::OtherTrustDomain { .. } => "other_trust_domain",
            VerifyError::SelfSigned => "self_signed",
            VerifyError::UnknownIssuer => "unknown_issuer",
            VerifyError::NoSan | VerifyError::BadSan(_) => "no_san",
            VerifyError::SeveralSans { .. } => "several_sans",
            VerifyError::WrongUsage { .. } => "wrong_usage",
            VerifyError::ChainTooLong { .. } => "chain_too_long",
            VerifyError::Invalid(_) => "bad_certificate",
        },
        HandshakeError::PinMismatch { .. } => "pin_mismatch",
        HandshakeError::NoCertificate => "no_certificate",
        HandshakeError::TlsVersion => "tls_version",
        HandshakeError::UnknownWorkload { .. } => "unknown_workload",
        HandshakeError::AmbiguousWorkload => "ambiguous_workload",
        HandshakeError::Timeout { .. } => "timeout",
        HandshakeError::RefusedByPeer { .. } => "refused_by_peer",
        HandshakeError::Io(_) => "io",
        HandshakeError::Protocol(_) => "protocol",
    }
}

/// Finds what TLS has to say in an I/O error. A refusal of a client's certificate arrives only with the first read
/// (RFC 8446 4.4.2.4 and 2: the client is done before the server has seen its certificate): use this there too.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        match tls.map(Self::of_rustls) {
            Some(found) => found,
            None => Self::Io(error),
        }
    }
}

impl HandshakeError {
    fn of_rustls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<Refused>() {
                    Some(refused) => refused.clone().into(),
                    None => Self::PeerCertificate(VerifyError::Invalid(other.0.to_string())),
                }
            }
            rustls::Error::InvalidCertificate(other) => {
                Self::PeerCertificate(VerifyError::Invalid(other.to_string()))
            }
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled,
            )
            | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => Self::TlsVersion,
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::NoCertificate
            }
            rustls::Error::AlertReceived(alert) => Self::RefusedByPeer {
                alert: format!("{alert:?}"),
            },
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<Refused> for HandshakeError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Certificate(fault) => Self::PeerCertificate(fault),
            Refused::Identity { expected, got } => Self::PeerIdentity { expected, got },
            Refused::Pin { expected, got } => Self::PinMismatch { expected, got },
        }
    }
}
