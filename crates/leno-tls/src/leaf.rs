//! What a leaf certificate says: identity, time, serial, use.
//!
//! Parses bytes a peer sent: no indexing, no panic. Says nothing about whether the certificate is to be believed.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use leno_types::Identity;
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
};

use crate::{HandshakeError, VerifyError, ca::BACKDATE};

/// Who the peer is, as its verified certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its SPIFFE ID.
    pub identity: Identity,
    /// When its certificate was issued: one of our own authority's is backdated by [`BACKDATE`].
    pub issued: SystemTime,
    /// When its certificate ends.
    pub not_after: SystemTime,
    /// The certificate's serial number, lower-case hex.
    pub serial: String,
}

impl Peer {
    /// The peer of a finished handshake: its chain was verified by one of this crate's verifiers.
    pub(crate) fn of_verified(chain: &[CertificateDer<'_>]) -> Result<Self, HandshakeError> {
        let der = chain.first().ok_or(HandshakeError::NoCertificate)?;
        let leaf = Leaf::parse(der).map_err(HandshakeError::PeerCertificate)?;
        Ok(Self {
            identity: leaf.identity,
            issued: leaf
                .not_before
                .checked_add(BACKDATE)
                .unwrap_or(leaf.not_before),
            not_after: leaf.not_after,
            serial: leaf.serial,
        })
    }
}

/// The part of a leaf certificate that decisions need.
pub(crate) struct Leaf {
    pub(crate) identity: Identity,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
    /// DNS names and addresses, as text.
    pub(crate) names: Vec<String>,
    /// May sign handshakes, is no authority and signs no certificates (X.509-SVID 4.2, 4.3).
    pub(crate) is_end_entity: bool,
    pub(crate) for_servers: bool,
    pub(crate) for_clients: bool,
    /// Subject and issuer are the same.
    pub(crate) self_issued: bool,
}

impl Leaf {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, VerifyError> {
        let certificate = parse(der)?;
        let (identity, names) = names(&certificate)?;
        let usage = certificate.key_usage().map_err(invalid)?;
        let signs_handshakes = usage.is_some_and(|usage| {
            usage.value.digital_signature()
                && !usage.value.key_cert_sign()
                && !usage.value.crl_sign()
        });
        let extended = certificate.extended_key_usage().map_err(invalid)?;
        Ok(Self {
            identity,
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            serial: hex(certificate.raw_serial()),
            names,
            is_end_entity: signs_handshakes && !certificate.is_ca(),
            for_servers: extended
                .as_ref()
                .is_some_and(|usage| usage.value.server_auth),
            for_clients: extended
                .as_ref()
                .is_some_and(|usage| usage.value.client_auth),
            self_issued: certificate.subject() == certificate.issuer(),
        })
    }
}

/// Parses one certificate; nothing may follow it.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, VerifyError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(VerifyError::Invalid("bytes follow it".into())),
        Err(error) => Err(VerifyError::Invalid(error.to_string())),
    }
}

/// The one URI name and every DNS name and address.
fn names(certificate: &X509Certificate<'_>) -> Result<(Identity, Vec<String>), VerifyError> {
    let extension = certificate.subject_alternative_name().map_err(invalid)?;
    let general = extension.map_or(&[][..], |extension| &extension.value.general_names);
    let mut uris = Vec::new();
    let mut names = Vec::new();
    for name in general {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::DNSName(dns) => names.push(dns.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => names.extend(address(bytes).map(|ip| ip.to_string())),
            _ => {}
        }
    }
    match *uris.as_slice() {
        [] => Err(VerifyError::NoSan),
        [uri] => Ok((uri.parse().map_err(VerifyError::BadSan)?, names)),
        _ => Err(VerifyError::SeveralSans { count: uris.len() }),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn invalid(error: impl std::fmt::Display) -> VerifyError {
    VerifyError::Invalid(error.to_string())
}

/// A serial number as people compare it: hex without leading zero bytes.
pub(crate) fn hex(serial: &[u8]) -> String {
    let significant = serial.iter().skip_while(|byte| **byte == 0);
    significant.map(|byte| format!("{byte:02x}")).collect()
}

/// Certificates may name years far away: what a `SystemTime` cannot hold counts as the epoch, that is, as expired.
pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

/// A time for people, in UTC.
pub(crate) fn show(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}
