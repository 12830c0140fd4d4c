//! A trust bundle: the roots of one trust domain.
//!
//! Invariant: one to [`MAX_ROOTS`] authorities, each once. While a root is being replaced there are two.

use std::{fmt, sync::Arc};

use leno_types::TrustDomain;
use rustls::{
    RootCertStore,
    pki_types::CertificateDer,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{TlsError, ca::spki_pin, leaf, pem, provider::provider};

/// How many roots a bundle may have: each costs every handshake a comparison.
pub const MAX_ROOTS: usize = 16;

/// The roots of one trust domain. Clones share them.
#[derive(Clone)]
pub struct TrustBundle(Arc<Inner>);

struct Inner {
    domain: TrustDomain,
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl TrustBundle {
    /// Reads the roots of `domain` from PEM; a root that is there twice counts once.
    ///
    /// # Errors
    /// When there is none, when there are too many, or when one is no authority's certificate.
    pub fn from_pem(domain: TrustDomain, pem: &str) -> Result<Self, TlsError> {
        let mut certificates: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in pem::certificates(pem)? {
            if !certificates.contains(&certificate) {
                certificates.push(certificate);
            }
        }
        if certificates.len() > MAX_ROOTS {
            return Err(TlsError::TooManyRoots {
                count: certificates.len(),
            });
        }
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let authority = leaf::parse(certificate).is_ok_and(|parsed| parsed.is_ca());
            if !authority || roots.add(certificate.clone()).is_err() {
                return Err(TlsError::NotAnAuthority { domain });
            }
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider())
            .build()
            .map_err(|error| TlsError::Rustls(rustls::Error::General(error.to_string())))?;
        Ok(Self(Arc::new(Inner {
            domain,
            certificates,
            roots,
            clients,
        })))
    }

    /// Whose roots these are.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.0.domain
    }

    /// The pin of each root's key, see [`spki_pin`].
    #[must_use]
    pub fn pins(&self) -> Vec<String> {
        let certificates = self.0.certificates.iter();
        certificates
            .map(|certificate| spki_pin(certificate))
            .collect()
    }

    /// The roots as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let certificates = self.0.certificates.iter();
        certificates
            .map(|certificate| pem::certificate(certificate))
            .collect()
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.certificates
    }

    pub(crate) fn roots(&self) -> &RootCertStore {
        &self.0.roots
    }

    pub(crate) fn client_verifier(&self) -> &dyn ClientCertVerifier {
        &*self.0.clients
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("domain", self.domain())
            .field("pins", &self.pins())
            .finish()
    }
}
