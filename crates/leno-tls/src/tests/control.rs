//! The control plane's port: pins, optional client certificates, several meshes.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::*;
use crate::{
    control::{ControlAccepted, ControlAcceptor, ControlConnector},
    provider::server_config,
    verify::{Demand, PeerVerifier},
    verify_failure_reason,
};

impl Mesh {
    fn control_plane(&self) -> WorkloadCertificate {
        let key = PrivateKey::generate();
        let names = [
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        let identity = Identity::control_plane(self.bundle.domain());
        let chain = self.sign(&key, &identity, &names, Usage::Server, self.now);
        WorkloadCertificate::new(None, &chain, &key, &self.bundle, 1, self.now).unwrap()
    }

    fn agent(&self) -> WorkloadCertificate {
        let key = PrivateKey::generate();
        let identity = Identity::agent(self.bundle.domain(), &"host-1".parse().unwrap());
        let chain = self.sign(&key, &identity, &[], Usage::Client, self.now);
        WorkloadCertificate::new(None, &chain, &key, &self.bundle, 1, self.now).unwrap()
    }
}

fn acceptor(meshes: &[&Mesh]) -> ControlAcceptor {
    let meshes: Vec<_> = meshes
        .iter()
        .map(|mesh| (mesh.control_plane(), mesh.bundle.clone()))
        .collect();
    ControlAcceptor::new(&meshes).unwrap()
}

async fn meet(
    server: &ControlAcceptor,
    client: &ControlConnector,
) -> (
    Result<ControlAccepted<DuplexStream>, HandshakeError>,
    Result<Connected<DuplexStream>, HandshakeError>,
) {
    let (here, there) = tokio::io::duplex(64 * 1024);
    tokio::join!(server.accept(there), client.connect(here))
}

#[tokio::test]
async fn an_agent_and_an_anonymous_caller_are_told_apart() {
    let mesh = Mesh::new("default.leno");
    let server = acceptor(&[&mesh]);
    let agent = mesh.agent();
    let client = ControlConnector::trusted(&mesh.bundle, Some(&agent), &[Alpn::H2]).unwrap();
    let (accepted, connected) = meet(&server, &client).await;
    let accepted = accepted.unwrap();
    assert_eq!(accepted.peer.unwrap().identity, *agent.identity());
    assert_eq!(accepted.alpn, Alpn::H2);
    assert_eq!(
        connected.unwrap().peer.identity,
        Identity::control_plane(mesh.bundle.domain())
    );

    let anonymous = ControlConnector::trusted(&mesh.bundle, None, &[Alpn::Http11]).unwrap();
    let (accepted, connected) = meet(&server, &anonymous).await;
    let accepted = accepted.unwrap();
    assert_eq!((accepted.peer, accepted.alpn), (None, Alpn::Http11));
    assert!(connected.is_ok());
}

#[tokio::test]
async fn a_certificate_that_is_sent_must_be_good_although_none_is_due() {
    let mesh = Mesh::new("default.leno");
    let stranger = Mesh::new("default.leno").agent();
    let client = ControlConnector::trusted(&mesh.bundle, Some(&stranger), &[Alpn::H2]).unwrap();
    let (accepted, _) = meet(&acceptor(&[&mesh]), &client).await;
    assert_eq!(
        verify_failure_reason(&accepted.err().unwrap()),
        "unknown_issuer"
    );
}

#[tokio::test]
async fn a_workload_cannot_play_control_plane() {
    let mesh = Mesh::new("default.leno");
    let cart = mesh.certificate("cart", None, 1);
    let server = ControlAcceptor::new(&[(cart, mesh.bundle.clone())]).unwrap();
    let trusted = ControlConnector::trusted(&mesh.bundle, None, &[Alpn::H2]).unwrap();
    let pinned = ControlConnector::pinned(&mesh.bundle.pins(), &[Alpn::H2]).unwrap();
    for client in [trusted, pinned] {
        let (_, connected) = meet(&server, &client).await;
        assert_eq!(
            verify_failure_reason(&connected.err().unwrap()),
            "unexpected_identity"
        );
    }
}

#[tokio::test]
async fn a_pin_finds_the_control_plane_and_another_pin_stops_before_the_first_byte() {
    let mesh = Mesh::new("default.leno");
    let server = acceptor(&[&mesh]);
    let pins = mesh.bundle.pins();
    let client = ControlConnector::pinned(&pins, &[Alpn::H2]).unwrap();
    let (_, connected) = meet(&server, &client).await;
    assert_eq!(
        connected.unwrap().peer.identity,
        Identity::control_plane(mesh.bundle.domain())
    );

    // One character changed.
    let pin = &pins[0];
    let last = if pin.ends_with('A') { 'E' } else { 'A' };
    let wrong = vec![format!("{}{last}", &pin[..pin.len() - 1])];
    let client = ControlConnector::pinned(&wrong, &[Alpn::H2]).unwrap();
    let (accepted, connected) = meet(&server, &client).await;
    assert!(accepted.is_err(), "the server must not get a connection");
    let error = connected.err().unwrap();
    assert_eq!(verify_failure_reason(&error), "pin_mismatch");
    let HandshakeError::PinMismatch { expected, got } = error else {
        unreachable!()
    };
    assert_eq!(expected, wrong);
    assert!(
        got.contains(pin),
        "{got:?} names the authority that is there"
    );
}

#[tokio::test]
async fn showing_the_pinned_root_is_not_enough() {
    let mesh = Mesh::new("default.leno");
    let pretender = Mesh::new("default.leno");
    let key = PrivateKey::generate();
    let identity = Identity::control_plane(mesh.bundle.domain());
    let chain =
        pretender.sign(&key, &identity, &[], Usage::Server, pretender.now) + &mesh.root.cert_pem();
    let key = certified(pem::certificates(&chain).unwrap(), &key);
    let verifier = PeerVerifier {
        demand: Demand::Any(vec![mesh.bundle.clone()]),
        optional: true,
    };
    let server = tokio_rustls::TlsAcceptor::from(
        server_config(Arc::new(verifier), key, &[Alpn::H2]).unwrap(),
    );
    let client = ControlConnector::pinned(&mesh.bundle.pins(), &[Alpn::H2]).unwrap();
    let (here, there) = tokio::io::duplex(64 * 1024);
    let (_, connected) = tokio::join!(server.accept(there), client.connect(here));
    assert_eq!(
        verify_failure_reason(&connected.err().unwrap()),
        "unknown_issuer"
    );
}

#[test]
fn a_pin_that_is_none_is_refused_by_name() {
    for bad in ["", "sha256/", "sha256/AAAA", "md5/AAAA", "sha256/!!!!"] {
        let made = ControlConnector::pinned(&[bad.to_owned()], &[Alpn::H2]);
        assert!(
            matches!(made.err(), Some(crate::TlsError::Pin(pin)) if pin == bad),
            "{bad}"
        );
    }
    assert!(ControlConnector::pinned(&[], &[Alpn::H2]).is_err());
}

#[tokio::test]
async fn each_mesh_of_a_control_plane_has_its_own_certificate() {
    let (one, two) = (Mesh::new("one.leno"), Mesh::new("two.leno"));
    let server = acceptor(&[&one, &two]);
    for mesh in [&one, &two] {
        let client =
            ControlConnector::trusted(&mesh.bundle, Some(&mesh.agent()), &[Alpn::H2]).unwrap();
        let (accepted, connected) = meet(&server, &client).await;
        assert_eq!(
            accepted.unwrap().peer.unwrap().identity.trust_domain(),
            *mesh.bundle.domain()
        );
        assert_eq!(
            connected.unwrap().peer.identity,
            Identity::control_plane(mesh.bundle.domain())
        );

        let client = ControlConnector::pinned(&mesh.bundle.pins(), &[Alpn::H2]).unwrap();
        let client = client.with_server_name(mesh.bundle.domain().as_str());
        let (_, connected) = meet(&server, &client).await;
        assert_eq!(
            connected.unwrap().peer.identity,
            Identity::control_plane(mesh.bundle.domain())
        );
    }
}

/// What hyper and tonic ask of a connection on a runtime of several threads.
#[tokio::test]
async fn the_streams_can_be_handed_to_an_http_library() {
    fn usable<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: IO) -> IO {
        stream
    }
    let mesh = Mesh::new("default.leno");
    let client = ControlConnector::trusted(&mesh.bundle, None, &[Alpn::H2]).unwrap();
    let (accepted, connected) = meet(&acceptor(&[&mesh]), &client).await;
    let mut server = usable(accepted.unwrap().stream);
    let mut client = usable(connected.unwrap().stream);
    server.write_all(b"hello").await.unwrap();
    server.flush().await.unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}
