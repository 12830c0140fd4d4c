//! The certificate authority of one trust domain: a root, its intermediates, what they sign.
//!
//! Owns what a certificate says: names, use, time, serial. Refuses to name anybody of another trust domain. A request's
//! own subject and names count for nothing: the caller decides who it is for.
//! Invariant: no certificate outlives, or begins before, its issuer.
//!
//! Intermediates carry no URI name constraint: rustls' path validation refuses every URI beneath one (it cannot check
//! them, so it fails closed). The trust domain is enforced in each certificate's verification instead.

mod csr;

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use leno_types::{Identity, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, DnsName};
use x509_parser::extensions::GeneralName;

pub use csr::{Csr, MAX_CSR};

use crate::{PrivateKey, Secret, VerifyError, leaf, pem};

/// How long before its issue a certificate is valid already, so that a host whose clock is behind can use it.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// How long a root is valid: ten years.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// How many DNS names and addresses a certificate may have beside its identity.
pub const MAX_EXTRA_NAMES: usize = 32;

/// Why the authority cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The text is no PKCS#8 private key on P-256.
    #[error("this is no PKCS#8 private key on P-256")]
    Key,
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate cannot be used: {0}")]
    Authority(String),
    /// Key and certificate of an authority do not belong together.
    #[error("the authority's private key does not belong to its certificate")]
    KeyMismatch,
    /// A request larger than [`MAX_CSR`].
    #[error("a certificate request has at most {MAX_CSR} bytes, this has {0}")]
    CsrTooLarge(usize),
    /// A request that cannot be parsed.
    #[error("the certificate request is malformed: {0}")]
    CsrMalformed(String),
    /// A request for a key of a kind that is not issued for.
    #[error("the key of a certificate request must be ECDSA P-256 or Ed25519")]
    CsrKey,
    /// A request that is not signed with its own key.
    #[error("the certificate request does not prove possession of its key")]
    CsrProof,
    /// An identity of another trust domain.
    #[error("{identity} is not of this authority's trust domain {domain}")]
    OtherTrustDomain {
        /// Who was asked for.
        identity: Identity,
        /// The authority's domain.
        domain: TrustDomain,
    },
    /// Not a DNS name, not an address, or too many.
    #[error("\"{0}\" cannot be a name in a certificate")]
    Name(String),
    /// The issuer is not valid at the time of issue.
    #[error("the issuing certificate ended at {}: renew it first", leaf::show(*not_after))]
    IssuerExpired {
        /// The issuer's end.
        not_after: SystemTime,
    },
    /// The issuer is not valid yet at the time of issue: the clock went back.
    #[error("this machine's clock is wrong: by it the issuing certificate, made earlier, begins only at {}", leaf::show(*not_before))]
    IssuerNotYetValid {
        /// The issuer's beginning.
        not_before: SystemTime,
    },
    /// The certificate would end before it begins.
    #[error("the lifetime asked for is empty")]
    Lifetime,
    /// Encoding or signing failed.
    #[error("a certificate could not be made")]
    Encode(#[from] rcgen::Error),
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A workload: both ends of a connection.
    Workload,
    /// A server only.
    Server,
    /// A client only.
    Client,
}

/// A signed certificate with its issuer.
#[derive(Clone, Debug)]
pub struct IssuedChain {
    /// Leaf, then intermediate.
    pub chain_pem: String,
    /// When the leaf ends.
    pub not_after: SystemTime,
    /// The leaf's serial number, lower-case hex.
    pub serial: String,
}

/// The root of a mesh's trust.
#[derive(Debug)]
pub struct RootAuthority(Authority);

/// What signs from day to day; it may make no further authorities.
#[derive(Debug)]
pub struct Intermediate(Authority);

/// A certificate that signs others, and its key.
struct Authority {
    domain: TrustDomain,
    certificate: CertificateDer<'static>,
    key: PrivateKey,
    issuer: Issuer<'static, PrivateKey>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl RootAuthority {
    /// A new key and a certificate for ten years.
    ///
    /// # Errors
    /// When encoding or signing fails.
    pub fn generate(domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let key = PrivateKey::generate();
        let from = whole_seconds(now.checked_sub(BACKDATE).unwrap_or(UNIX_EPOCH));
        let until = whole_seconds(now.checked_add(ROOT_LIFETIME).ok_or(CaError::Lifetime)?);
        let constraints = BasicConstraints::Unconstrained;
        let params = authority_params(domain, "root", constraints, from, until)?;
        let certificate = params.self_signed(&key)?.der().clone();
        Authority::new(certificate, key).map(Self)
    }

    /// Reads what [`Self::cert_pem`] and [`Self::key_pem`] wrote.
    ///
    /// # Errors
    /// When either cannot be read or they do not belong together.
    pub fn from_pem(cert: &str, key: &str) -> Result<Self, CaError> {
        Authority::from_pem(cert, key).map(Self)
    }

    /// The trust domain it is for.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.0.domain
    }

    /// Its certificate.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        pem::certificate(&self.0.certificate)
    }

    /// Its private key.
    #[must_use]
    pub fn key_pem(&self) -> Secret {
        self.0.key.to_pem()
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// The pin of its key, see [`spki_pin`].
    #[must_use]
    pub fn pin(&self) -> String {
        spki_pin(&self.0.certificate)
    }

    /// A new intermediate with a key of its own.
    ///
    /// # Errors
    /// When this root has ended, or the lifetime is empty.
    pub fn issue_intermediate(
        &self,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Intermediate, CaError> {
        let (from, until) = self.0.validity(now, lifetime)?;
        let key = PrivateKey::generate();
        let constraints = BasicConstraints::Constrained(0);
        let params = authority_params(&self.0.domain, "intermediate", constraints, from, until)?;
        let certificate = params.signed_by(&key, &self.0.issuer)?.der().clone();
        Authority::new(certificate, key).map(Intermediate)
    }
}

impl Intermediate {
    /// Reads what [`Self::cert_pem`] and [`Self::key_pem`] wrote.
    ///
    /// # Errors
    /// When either cannot be read or they do not belong together.
    pub fn from_pem(cert: &str, key: &str) -> Result<Self, CaError> {
        Authority::from_pem(cert, key).map(Self)
    }

    /// The trust domain it is for.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.0.domain
    }

    /// Its certificate.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        pem::certificate(&self.0.certificate)
    }

    /// Its private key.
    #[must_use]
    pub fn key_pem(&self) -> Secret {
        self.0.key.to_pem()
    }

    /// When it begins to be valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.0.not_before
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Signs a certificate for `identity` with the request's key. It is backdated by [`BACKDATE`], and lies within
    /// the intermediate's own time. Each of `extra_dns` is a DNS name, such as a workload's uid, or an address.
    ///
    /// # Errors
    /// When the identity is of another trust domain, a name is none, or there is no time left to issue for.
    pub fn sign(
        &self,
        csr: &Csr,
        identity: &Identity,
        extra_dns: &[String],
        usage: Usage,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<IssuedChain, CaError> {
        if identity.domain_str() != self.0.domain.as_str() {
            let domain = self.0.domain.clone();
            return Err(CaError::OtherTrustDomain {
                identity: identity.clone(),
                domain,
            });
        }
        let (from, until) = self.0.validity(now, lifetime)?;
        let serial = serial();
        let mut params = params(
            identity.path().trim_start_matches('/'),
            &serial,
            from,
            until,
        )?;
        params.subject_alt_names = names(identity, extra_dns)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            Usage::Workload => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let certificate = params.signed_by(csr.public_key(), &self.0.issuer)?;
        Ok(IssuedChain {
            chain_pem: pem::certificate(certificate.der()) + &self.cert_pem(),
            not_after: until,
            serial: leaf::hex(&serial),
        })
    }
}

impl Authority {
    fn from_pem(cert: &str, key: &str) -> Result<Self, CaError> {
        let mut certificates =
            pem::certificates(cert).map_err(|error| CaError::Authority(error.to_string()))?;
        let only = certificates.pop().filter(|_| certificates.is_empty());
        let certificate =
            only.ok_or_else(|| CaError::Authority("there is more than one".into()))?;
        Self::new(certificate, PrivateKey::from_pem(key)?)
    }

    fn new(certificate: CertificateDer<'static>, key: PrivateKey) -> Result<Self, CaError> {
        let unusable = |error: VerifyError| CaError::Authority(error.to_string());
        let parsed = leaf::parse(&certificate).map_err(unusable)?;
        if !parsed.is_ca() {
            return Err(CaError::Authority("it is no authority's".into()));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::KeyMismatch);
        }
        let names = parsed.subject_alternative_name().ok().flatten();
        let domain = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .find_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix("spiffe://")?.parse().ok(),
                _ => None,
            })
            .ok_or_else(|| CaError::Authority("it names no trust domain (spiffe://..)".into()))?;
        let not_before = leaf::system_time(parsed.validity().not_before);
        let not_after = leaf::system_time(parsed.validity().not_after);
        let issuer = Issuer::from_ca_cert_der(&certificate, key.clone())?;
        Ok(Self {
            domain,
            not_before,
            not_after,
            issuer,
            key,
            certificate: certificate.clone(),
        })
    }

    /// From when until when something issued at `now` is valid.
    fn validity(
        &self,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(SystemTime, SystemTime), CaError> {
        if now >= self.not_after {
            return Err(CaError::IssuerExpired {
                not_after: self.not_after,
            });
        }
        if now < self.not_before {
            return Err(CaError::IssuerNotYetValid {
                not_before: self.not_before,
            });
        }
        let from = now
            .checked_sub(BACKDATE)
            .unwrap_or(UNIX_EPOCH)
            .max(self.not_before);
        let until = now
            .checked_add(lifetime)
            .unwrap_or(self.not_after)
            .min(self.not_after);
        let (from, until) = (whole_seconds(from), whole_seconds(until));
        if until <= from || until <= whole_seconds(now) {
            return Err(CaError::Lifetime);
        }
        Ok((from, until))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .field("pin", &spki_pin(&self.certificate))
            .field("not_after", &leaf::show(self.not_after))
            .finish_non_exhaustive()
    }
}

/// The pin of a certificate's key: `sha256/` and the base64url digest of its `SubjectPublicKeyInfo`. The pin of what
/// is no certificate is the bare prefix, which is equal to no pin.
#[must_use]
pub fn spki_pin(cert_der: &[u8]) -> String {
    let digest = leaf::parse(cert_der)
        .map(|parsed| digest::digest(&digest::SHA256, parsed.public_key().raw));
    let mut pin = String::from(PIN_PREFIX);
    if let Ok(digest) = digest {
        URL_SAFE_NO_PAD.encode_string(digest, &mut pin);
    }
    pin
}

/// Whether `text` has the form of a pin.
pub(crate) fn is_pin(text: &str) -> bool {
    let digest = text
        .strip_prefix(PIN_PREFIX)
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    digest.is_some_and(|digest| digest.len() == digest::SHA256.output_len())
}

const PIN_PREFIX: &str = "sha256/";

/// A random serial number of 127 bits: positive in DER without a further byte (RFC 5280 4.1.2.2).
fn serial() -> [u8; 16] {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the system's random generator works");
    let [first, ..] = &mut bytes;
    *first &= 0x7f;
    bytes
}

fn authority_params(
    domain: &TrustDomain,
    kind: &str,
    constraints: BasicConstraints,
    from: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, CaError> {
    let serial = serial();
    // Part of the serial makes the subject unique: a chain is then built by name without trying every issuer.
    let unique = leaf::hex(&serial).chars().take(8).collect::<String>();
    let mut params = params(&format!("leno {kind} {unique}"), &serial, from, until)?;
    let organization: String = domain.as_str().chars().take(64).collect();
    params
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    // X.509-SVID 3.1: an authority's SPIFFE ID has no path.
    let uri = format!("spiffe://{domain}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What every certificate has. A common name is for people's eyes, and at most 64 characters (RFC 5280 A.1).
fn params(
    common_name: &str,
    serial: &[u8; 16],
    from: SystemTime,
    until: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    let common_name: String = common_name.chars().take(64).collect();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = from.into();
    params.not_after = until.into();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn names(identity: &Identity, extra: &[String]) -> Result<Vec<SanType>, CaError> {
    if let Some(surplus) = extra.get(MAX_EXTRA_NAMES) {
        return Err(CaError::Name(surplus.clone()));
    }
    let mut names = vec![SanType::URI(identity.as_str().to_owned().try_into()?)];
    for name in extra {
        names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if is_dns_name(name) => SanType::DnsName(name.to_ascii_lowercase().try_into()?),
            Err(_) => return Err(CaError::Name(name.clone())),
        });
    }
    Ok(names)
}

/// A host name, or the single label of a uid, which may be all digits.
fn is_dns_name(name: &str) -> bool {
    DnsName::try_from(name).is_ok() || name.parse::<leno_types::WorkloadUid>().is_ok()
}

/// Certificates count whole seconds; rounding down never makes one outlive what was asked for.
fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
