//! Private keys: ECDSA on P-256.
//!
//! Invariant: the key's bytes exist in zeroed-on-drop memory only, and `Debug` shows none of them.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::SigningKey,
};
use zeroize::{Zeroize, Zeroizing};

use crate::{Secret, TlsError, ca::CaError, pem};

/// An ECDSA P-256 private key. Clones share it.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// A new key from the system's random generator.
    ///
    /// # Panics
    /// When the system has no randomness to give: nothing safe can be done then.
    #[must_use]
    pub fn generate() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .expect("the system's random generator works");
        Self::from_pair(pair).expect("a generated key can be written as PKCS#8")
    }

    /// Reads a PKCS#8 key (`BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// When the text is no PKCS#8 key on P-256.
    pub fn from_pem(pem: &str) -> Result<Self, CaError> {
        let mut der =
            PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| CaError::Key)?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der());
        der.zeroize();
        Self::from_pair(pair.map_err(|_| CaError::Key)?)
    }

    /// The key as PKCS#8 PEM.
    #[must_use]
    pub fn to_pem(&self) -> Secret {
        pem::block("PRIVATE KEY", &self.0.pkcs8).into()
    }

    /// A certificate request (PKCS#10, DER) that proves possession of the key and asks for nothing: the authority
    /// decides on every name.
    ///
    /// # Errors
    /// When signing fails.
    pub fn csr(&self) -> Result<Vec<u8>, CaError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Ok(params.serialize_request(self)?.der().to_vec())
    }

    /// The key as rustls signs with it.
    pub(crate) fn signer(&self) -> Result<Arc<dyn SigningKey>, TlsError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.pkcs8.as_slice()));
        any_supported_type(&der).map_err(TlsError::Rustls)
    }

    fn from_pair(pair: EcdsaKeyPair) -> Result<Self, CaError> {
        let document = pair.to_pkcs8v1().map_err(|_| CaError::Key)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok(Self(Arc::new(Inner { pair, pkcs8 })))
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.pair.sign(&SystemRandom::new(), message);
        Ok(signature
            .map_err(|_| rcgen::Error::RemoteKeyError)?
            .as_ref()
            .to_vec())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}
