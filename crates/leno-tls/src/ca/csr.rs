//! Certificate requests (PKCS#10, RFC 2986), as strangers send them.
//!
//! Takes the public key and nothing else. Invariant: a [`Csr`] was signed with its own key, which is ECDSA P-256 or
//! Ed25519.

use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::CaError;

/// How large a request may be; one for a P-256 key has about 200 bytes.
pub const MAX_CSR: usize = 8 * 1024;

/// A verified request: a public key whose owner asked for a certificate.
pub struct Csr(rcgen::SubjectPublicKeyInfo);

impl Csr {
    /// Parses a request and verifies that its sender has the private key. Subject, names and extensions in it are
    /// ignored.
    ///
    /// # Errors
    /// When it is too large, malformed, for a key of another kind, or not signed with that key.
    pub fn from_der(der: &[u8]) -> Result<Self, CaError> {
        if der.len() > MAX_CSR {
            return Err(CaError::CsrTooLarge(der.len()));
        }
        let request = match X509CertificationRequest::from_der(der) {
            Ok(([], request)) => request,
            Ok(_) => return Err(CaError::CsrMalformed("bytes follow it".into())),
            Err(error) => return Err(CaError::CsrMalformed(error.to_string())),
        };
        let key = &request.certification_request_info.subject_pki;
        let public = rcgen::SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CaError::CsrKey)?;
        let algorithm = rcgen::PublicKeyData::algorithm(&public);
        if *algorithm != rcgen::PKCS_ECDSA_P256_SHA256 && *algorithm != rcgen::PKCS_ED25519 {
            return Err(CaError::CsrKey);
        }
        request.verify_signature().map_err(|_| CaError::CsrProof)?;
        Ok(Self(public))
    }

    /// Names the key: the same for every request of its owner. Lower-case hex of its SHA-256.
    #[must_use]
    pub fn key_id(&self) -> String {
        let key = rcgen::PublicKeyData::der_bytes(&self.0);
        crate::leaf::hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key).as_ref())
    }

    pub(crate) fn public_key(&self) -> &rcgen::SubjectPublicKeyInfo {
        &self.0
    }
}

impl std::fmt::Debug for Csr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Csr")
    }
}
