//! Every wrong certificate is refused, by either side, for its own reason.

use rcgen::{BasicConstraints, IsCa};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    provider::{client_config, server_config},
    verify::{Demand, PeerVerifier},
    verify_failure_reason,
};

/// The label by which an honest client refuses a server with this certificate.
async fn refused_by_client(mesh: &Mesh, key: Arc<CertifiedKey>) -> &'static str {
    let verifier = PeerVerifier {
        demand: Demand::Any(vec![mesh.bundle.clone()]),
        optional: false,
    };
    let config = server_config(Arc::new(verifier), key, &[Alpn::Leno1]).unwrap();
    let server = tokio_rustls::TlsAcceptor::from(config);
    let client = mesh.connector();
    let (here, there) = tokio::io::duplex(256 * 1024);
    let (accepted, connected) = tokio::join!(server.accept(there), client.connect(here, None));
    let told = HandshakeError::from(accepted.expect_err("the client must refuse"));
    assert_eq!(verify_failure_reason(&told), "refused_by_peer");
    verify_failure_reason(&connected.err().expect("the client must refuse"))
}

/// The label by which an honest server refuses a client with this certificate, or with none.
async fn refused_by_server(mesh: &Mesh, key: Option<Arc<CertifiedKey>>) -> &'static str {
    let acceptor = mesh.acceptor(vec![mesh.certificate("cart", None, 1)]);
    let verifier = PeerVerifier {
        demand: Demand::Any(vec![mesh.bundle.clone()]),
        optional: false,
    };
    let config = client_config(Arc::new(verifier), key, &[Alpn::Leno1]).unwrap();
    let (here, there) = tokio::io::duplex(256 * 1024);
    let (accepted, connected) = tokio::join!(
        acceptor.accept(there),
        crate::client::connect(&config, here, None)
    );
    let label = verify_failure_reason(&accepted.err().expect("the server must refuse"));
    // A client learns it with its first read.
    let error = match connected {
        Ok(mut connected) => {
            HandshakeError::from(connected.stream.read_u8().await.expect_err("refused"))
        }
        Err(error) => error,
    };
    let told = verify_failure_reason(&error);
    assert!(
        matches!(told, "refused_by_peer" | "no_certificate"),
        "{told}: {error}"
    );
    label
}

async fn refused_by_both(mesh: &Mesh, key: Arc<CertifiedKey>, label: &str) {
    assert_eq!(refused_by_client(mesh, Arc::clone(&key)).await, label);
    assert_eq!(refused_by_server(mesh, Some(key)).await, label);
}

#[tokio::test]
async fn the_forger_can_make_a_certificate_that_passes() {
    let mesh = Mesh::new("default.leno");
    let verifier = PeerVerifier {
        demand: Demand::Any(vec![mesh.bundle.clone()]),
        optional: false,
    };
    let config = server_config(Arc::new(verifier), mesh.forge(|_| {}), &[Alpn::Leno1]).unwrap();
    let server = tokio_rustls::TlsAcceptor::from(config);
    let (here, there) = tokio::io::duplex(256 * 1024);
    let client = mesh.connector();
    let (accepted, connected) = tokio::join!(server.accept(there), client.connect(here, None));
    assert!(accepted.is_ok() && connected.is_ok());
}

#[tokio::test]
async fn expired() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let chain = mesh.sign(
        &key,
        &mesh.identity("cart"),
        &[],
        Usage::Workload,
        mesh.now - 2 * HOUR,
    );
    let chain = pem::certificates(&chain).unwrap();
    refused_by_both(&mesh, certified(chain, &key), "expired").await;
}

#[tokio::test]
async fn not_yet_valid() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let chain = mesh.sign(
        &key,
        &mesh.identity("cart"),
        &[],
        Usage::Workload,
        mesh.now + DAY,
    );
    let chain = pem::certificates(&chain).unwrap();
    refused_by_both(&mesh, certified(chain, &key), "not_yet_valid").await;
}

#[tokio::test]
async fn of_another_mesh() {
    let mesh = Mesh::new("default.leno");
    let other = Mesh::new("other.leno");
    refused_by_both(
        &mesh,
        other.certificate("cart", None, 1).key(),
        "other_trust_domain",
    )
    .await;
    // Also when our own authority's key would have signed it.
    let foreign = mesh.forge(|params| {
        params.subject_alt_names = vec![uri("spiffe://other.leno/ns/shop/sa/cart")]
    });
    refused_by_both(&mesh, foreign, "other_trust_domain").await;
}

#[tokio::test]
async fn of_an_authority_that_only_claims_the_trust_domain() {
    let mesh = Mesh::new("default.leno");
    let pretender = Mesh::new("default.leno");
    refused_by_both(
        &mesh,
        pretender.certificate("cart", None, 1).key(),
        "unknown_issuer",
    )
    .await;
    // Its own root in the chain changes nothing.
    let certificate = pretender.certificate("cart", None, 1);
    refused_by_both(&mesh, certificate.key_with_roots(), "unknown_issuer").await;
}

#[tokio::test]
async fn of_another_workload() {
    let mesh = Mesh::new("default.leno");
    let pay = mesh.certificate("pay", None, 1);
    assert_eq!(
        refused_by_client(&mesh, pay.key()).await,
        "unexpected_identity"
    );
    let acceptor = mesh.acceptor(vec![pay]);
    let (_, connected) = handshake(&acceptor, &mesh.connector(), None).await;
    let Some(HandshakeError::PeerIdentity { expected, got }) = connected.err() else {
        panic!("the identity must be named");
    };
    assert_eq!(
        (expected, got),
        (vec![mesh.identity("cart")], mesh.identity("pay"))
    );
}

#[tokio::test]
async fn signed_by_itself() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let leaf = mesh.params(|_| {}).self_signed(&key).unwrap();
    refused_by_both(
        &mesh,
        certified(vec![leaf.der().clone()], &key),
        "self_signed",
    )
    .await;
}

#[tokio::test]
async fn without_or_with_too_many_or_with_wrong_names() {
    let mesh = Mesh::new("default.leno");
    let none = mesh.forge(|params| params.subject_alt_names.clear());
    refused_by_both(&mesh, none, "no_san").await;
    let dns = mesh.forge(|params| {
        params.subject_alt_names =
            vec![SanType::DnsName("cart.shop".to_owned().try_into().unwrap())];
    });
    refused_by_both(&mesh, dns, "no_san").await;
    let web = mesh.forge(|params| {
        params.subject_alt_names = vec![uri("https://default.leno/ns/shop/sa/cart")]
    });
    refused_by_both(&mesh, web, "no_san").await;
    let two = mesh.forge(|params| {
        params
            .subject_alt_names
            .push(uri("spiffe://default.leno/ns/shop/sa/pay"))
    });
    refused_by_both(&mesh, two, "several_sans").await;
    let foreign_second =
        mesh.forge(|params| params.subject_alt_names.push(uri("https://example.test/")));
    refused_by_both(&mesh, foreign_second, "several_sans").await;
}

#[tokio::test]
async fn for_another_use() {
    let mesh = Mesh::new("default.leno");
    let only = |usage: ExtendedKeyUsagePurpose| {
        mesh.forge(|params| params.extended_key_usages = vec![usage])
    };
    let client_only = only(ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(refused_by_client(&mesh, client_only).await, "wrong_usage");
    let server_only = only(ExtendedKeyUsagePurpose::ServerAuth);
    assert_eq!(
        refused_by_server(&mesh, Some(server_only)).await,
        "wrong_usage"
    );
    let unspecified = mesh.forge(|params| params.extended_key_usages.clear());
    refused_by_both(&mesh, unspecified, "wrong_usage").await;
    let authority = mesh.forge(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    refused_by_both(&mesh, authority, "wrong_usage").await;
    let signer = mesh.forge(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    refused_by_both(&mesh, signer, "wrong_usage").await;
    let encipherer =
        mesh.forge(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    refused_by_both(&mesh, encipherer, "wrong_usage").await;
}

#[tokio::test]
async fn with_too_long_a_chain() {
    let mesh = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let chain = mesh.sign(&key, &mesh.identity("cart"), &[], Usage::Workload, mesh.now);
    let mut chain = pem::certificates(&chain).unwrap();
    let intermediate = chain[1].clone();
    chain.extend([intermediate.clone(), intermediate.clone(), intermediate]);
    refused_by_both(&mesh, certified(chain, &key), "chain_too_long").await;
}

#[tokio::test]
async fn made_by_a_workload_that_plays_authority() {
    let mesh = Mesh::new("default.leno");
    let mallory = PrivateKey::generate();
    let chain = mesh.sign(
        &mallory,
        &mesh.identity("mallory"),
        &[],
        Usage::Workload,
        mesh.now,
    );
    let mut chain = pem::certificates(&chain).unwrap();
    let issuer = Issuer::from_ca_cert_der(&chain[0], mallory).unwrap();
    let key = PrivateKey::generate();
    let mut params = mesh.params(|_| {});
    params.subject_alt_names = vec![uri(mesh.identity("cart").as_str())];
    let leaf = params.signed_by(&key, &issuer).unwrap();
    chain.insert(0, leaf.der().clone());
    let label = refused_by_client(&mesh, certified(chain, &key)).await;
    assert!(
        matches!(label, "bad_certificate" | "unknown_issuer"),
        "{label}"
    );
}

#[tokio::test]
async fn absent() {
    let mesh = Mesh::new("default.leno");
    assert_eq!(refused_by_server(&mesh, None).await, "no_certificate");
}

#[tokio::test]
async fn a_key_that_is_not_the_certificates_fails_the_handshake() {
    let mesh = Mesh::new("default.leno");
    let chain = pem::certificates(&mesh.certificate("cart", None, 1).chain_pem()).unwrap();
    let stolen = certified(chain, &PrivateKey::generate());
    assert_eq!(refused_by_client(&mesh, stolen).await, "bad_certificate");
}

#[tokio::test]
async fn a_peer_of_tls_1_2_is_refused_as_such() {
    // RFC 5246 7.4.1.2: a ClientHello without `supported_versions`; extensions: signature_algorithms,
    // supported_groups.
    let extensions: &[u8] = &[0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let len = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, len + 4, 1, 0, 0, len];
    record.extend(hello);

    let mesh = Mesh::new("default.leno");
    let acceptor = mesh.acceptor(vec![mesh.certificate("cart", None, 1)]);
    let (mut here, there) = tokio::io::duplex(1024);
    here.write_all(&record).await.unwrap();
    let accepted = acceptor.accept(there).await;
    assert_eq!(
        verify_failure_reason(&accepted.err().unwrap()),
        "tls_version"
    );
    let mut alert = Vec::new();
    here.read_to_end(&mut alert).await.unwrap();
    assert_eq!(
        alert,
        [21, 3, 3, 0, 2, 2, 70],
        "a fatal protocol_version alert"
    );

    // The other way: a server that answers with TLS 1.2.
    let mut answer = vec![3, 3];
    answer.extend([7; 32]);
    answer.extend([0, 0xc0, 0x2b, 0]);
    let len = u8::try_from(answer.len()).unwrap();
    let mut record = vec![22, 3, 3, 0, len + 4, 2, 0, 0, len];
    record.extend(answer);
    let (mut here, there) = tokio::io::duplex(64 * 1024);
    here.write_all(&record).await.unwrap();
    let connected = mesh.connector().connect(there, None).await;
    assert_eq!(
        verify_failure_reason(&connected.err().unwrap()),
        "tls_version"
    );
}
