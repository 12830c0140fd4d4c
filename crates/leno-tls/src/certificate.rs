//! A workload's, agent's, person's or control plane's own certificate with its key.
//!
//! Invariant: the key belongs to the leaf, and the chain was valid under the bundle when this was made.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use leno_types::{Identity, WorkloadUid};
use rustls::{pki_types::CertificateDer, sign::CertifiedKey};

use crate::{
    PrivateKey, TlsError, TrustBundle, VerifyError,
    ca::BACKDATE,
    leaf::{self, Leaf},
    pem,
    verify::{ShownBy, unix, verify_chain},
};

/// A certificate chain and its key. Clones share both.
#[derive(Clone)]
pub struct WorkloadCertificate(Arc<Inner>);

struct Inner {
    uid: Option<WorkloadUid>,
    leaf: Leaf,
    /// When its holder's part of its life began.
    issued: SystemTime,
    generation: u64,
    key: Arc<CertifiedKey>,
    /// The chain, and after it the roots that stand behind it: what a control plane presents to those who know a pin.
    key_with_roots: Arc<CertifiedKey>,
}

impl WorkloadCertificate {
    /// Takes a chain as the authority gave it (leaf first, PEM) and the key it was asked for with.
    ///
    /// # Errors
    /// When the key is another's, the identity is no SPIFFE ID of the bundle's domain, or the chain does not verify
    /// at `now`.
    pub fn new(
        uid: Option<WorkloadUid>,
        chain_pem: &str,
        key: &PrivateKey,
        bundle: &TrustBundle,
        generation: u64,
        now: SystemTime,
    ) -> Result<Self, TlsError> {
        let chain = pem::certificates(chain_pem)?;
        let (first, rest) = chain.split_first().ok_or(TlsError::NoCertificate)?;
        let leaf = Leaf::parse(first).map_err(TlsError::Certificate)?;
        let shown_by = if leaf.for_servers {
            ShownBy::Server
        } else {
            ShownBy::Client
        };
        match verify_chain(bundle, first, rest, shown_by, unix(now)) {
            Ok(_) => {}
            Err(VerifyError::OtherTrustDomain { .. }) => {
                let domain = bundle.domain().clone();
                return Err(TlsError::OtherTrustDomain {
                    identity: leaf.identity,
                    domain,
                });
            }
            Err(fault) => return Err(TlsError::Certificate(fault)),
        }
        let with_roots = with_roots(&chain, bundle);
        let signer = key.signer()?;
        let key = CertifiedKey::new(chain, Arc::clone(&signer));
        if key.keys_match().is_err() {
            return Err(TlsError::KeyMismatch {
                identity: leaf.identity,
            });
        }
        // The authority backdates; half life must not count from a time before the certificate existed.
        let issued = leaf
            .not_before
            .checked_add(BACKDATE)
            .map_or(now, |issued| issued.min(now));
        Ok(Self(Arc::new(Inner {
            uid,
            leaf,
            issued,
            generation,
            key: Arc::new(key),
            key_with_roots: Arc::new(CertifiedKey::new(with_roots, signer)),
        })))
    }

    /// When to ask for the next one: at half of its life, 10 % of that earlier (`jitter` 0) to 10 % later (`jitter`
    /// 1), so that certificates issued together are not renewed together.
    #[must_use]
    pub fn renew_at(&self, jitter: f64) -> SystemTime {
        let life = self
            .not_after()
            .duration_since(self.0.issued)
            .unwrap_or_default();
        let jitter = if jitter.is_finite() {
            jitter.clamp(0.0, 1.0)
        } else {
            0.5
        };
        self.0.issued + life.mul_f64(0.45 + jitter * 0.1)
    }

    /// The workload it is for; `None` for agents, people, gateways and control planes.
    #[must_use]
    pub fn uid(&self) -> Option<&WorkloadUid> {
        self.0.uid.as_ref()
    }

    /// Who its holder is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.leaf.identity
    }

    /// When it begins to be valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.0.leaf.not_before
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.leaf.not_after
    }

    /// How much of its life is left at `now`; `None` when it is over.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.not_after()
            .duration_since(now)
            .ok()
            .filter(|left| !left.is_zero())
    }

    /// Its serial number, lower-case hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.0.leaf.serial
    }

    /// Which of its holder's successive certificates it is: part of a pool's key, so that a renewal makes new
    /// connections.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// The chain as PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        let chain = self.0.key.cert.iter();
        chain
            .map(|certificate| pem::certificate(certificate))
            .collect()
    }

    /// Its DNS names and addresses, as text in lower case.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0.leaf.names
    }

    pub(crate) fn key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.key)
    }

    pub(crate) fn key_with_roots(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.key_with_roots)
    }
}

/// `chain` followed by the roots of `bundle` that signed its last certificate.
fn with_roots(
    chain: &[CertificateDer<'static>],
    bundle: &TrustBundle,
) -> Vec<CertificateDer<'static>> {
    let mut whole = chain.to_vec();
    let Some(last) = chain.last().and_then(|der| leaf::parse(der).ok()) else {
        return whole;
    };
    for root in bundle.certificates() {
        let signed = leaf::parse(root).is_ok_and(|root| {
            root.subject() == last.issuer()
                && last.verify_signature(Some(root.public_key())).is_ok()
        });
        if signed && !whole.contains(root) {
            whole.push(root.clone());
        }
    }
    whole
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("uid", &self.uid())
            .field("identity", self.identity())
            .field("serial", &self.serial())
            .field("generation", &self.generation())
            .field("not_after", &leaf::show(self.not_after()))
            .finish_non_exhaustive()
    }
}
