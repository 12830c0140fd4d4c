#![allow(clippy::unwrap_used, reason = "a test may panic")]
//! What the tests share: a mesh with an authority, honest certificates, and forged ones.

mod authority;
mod control;
mod forged;
mod handshake;
mod hostile_bytes;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use leno_types::{Identity, TrustDomain, WorkloadUid};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyUsagePurpose, SanType};
use rustls::{pki_types::CertificateDer, sign::CertifiedKey};
use tokio::io::DuplexStream;

use crate::{
    Accepted, Acceptor, Alpn, Connected, Connector, HandshakeError, PrivateKey, ServerIdentities,
    TrustBundle, WorkloadCertificate,
    ca::{Csr, Intermediate, RootAuthority, Usage},
    pem,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The authority of a trust domain whose root is 30 days old.
struct Mesh {
    now: SystemTime,
    root: RootAuthority,
    intermediate: Intermediate,
    bundle: TrustBundle,
}

impl Mesh {
    fn new(domain: &str) -> Self {
        let now = SystemTime::now();
        let born = now - 30 * DAY;
        let domain: TrustDomain = domain.parse().unwrap();
        let root = RootAuthority::generate(&domain, born).unwrap();
        let intermediate = root.issue_intermediate(born, 60 * DAY).unwrap();
        let bundle = TrustBundle::from_pem(domain, &root.cert_pem()).unwrap();
        Self {
            now,
            root,
            intermediate,
            bundle,
        }
    }

    fn identity(&self, account: &str) -> Identity {
        Identity::workload(
            self.bundle.domain(),
            &"shop".parse().unwrap(),
            &account.parse().unwrap(),
        )
    }

    fn certificate(
        &self,
        account: &str,
        uid: Option<WorkloadUid>,
        generation: u64,
    ) -> WorkloadCertificate {
        let key = PrivateKey::generate();
        let names: Vec<_> = uid.iter().map(ToString::to_string).collect();
        let identity = self.identity(account);
        let chain = self.sign(&key, &identity, &names, Usage::Workload, self.now);
        WorkloadCertificate::new(uid, &chain, &key, &self.bundle, generation, self.now).unwrap()
    }

    fn sign(
        &self,
        key: &PrivateKey,
        id: &Identity,
        names: &[String],
        usage: Usage,
        now: SystemTime,
    ) -> String {
        let csr = Csr::from_der(&key.csr().unwrap()).unwrap();
        self.intermediate
            .sign(&csr, id, names, usage, now, HOUR)
            .unwrap()
            .chain_pem
    }

    /// A certificate that our authority's key signed although our authority never would have.
    fn forge(&self, change: impl FnOnce(&mut CertificateParams)) -> Arc<CertifiedKey> {
        let key = PrivateKey::generate();
        let authority = pem::certificates(&self.intermediate.cert_pem())
            .unwrap()
            .remove(0);
        let signer = PrivateKey::from_pem(self.intermediate.key_pem().expose()).unwrap();
        let issuer = Issuer::from_ca_cert_der(&authority, signer).unwrap();
        let leaf = self.params(change).signed_by(&key, &issuer).unwrap();
        certified(vec![leaf.der().clone(), authority], &key)
    }

    fn params(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_before = (self.now - HOUR).into();
        params.not_after = (self.now + HOUR).into();
        params.subject_alt_names = vec![uri(self.identity("cart").as_str())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        params
    }

    fn acceptor(&self, certificates: Vec<WorkloadCertificate>) -> Acceptor {
        Acceptor::new(&ServerIdentities::new(
            certificates,
            self.bundle.clone(),
            self.now,
        ))
        .unwrap()
    }

    /// A connector of `web` that expects `cart`.
    fn connector(&self) -> Connector {
        let web = self.certificate("web", None, 1);
        let expected = [self.identity("cart")];
        Connector::new(&web, &self.bundle, &expected, &[Alpn::Leno1, Alpn::H2]).unwrap()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().unwrap())
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::new(chain, key.signer().unwrap()))
}

fn uid(byte: u8) -> WorkloadUid {
    WorkloadUid::from_bytes([byte; 16])
}

type Outcome<IO> = (
    Result<Accepted<IO>, HandshakeError>,
    Result<Connected<IO>, HandshakeError>,
);

/// One handshake over a pipe in memory.
async fn handshake(
    server: &Acceptor,
    client: &Connector,
    uid: Option<&WorkloadUid>,
) -> Outcome<DuplexStream> {
    let (here, there) = tokio::io::duplex(64 * 1024);
    tokio::join!(server.accept(there), client.connect(here, uid))
}
