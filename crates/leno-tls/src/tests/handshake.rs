//! Honest peers: what is negotiated, whose certificate answers, what a rotation does.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::verify_failure_reason;

#[tokio::test]
async fn two_workloads_authenticate_each_other_and_speak_leno() {
    let mesh = Mesh::new("default.leno");
    let cart = mesh.certificate("cart", Some(uid(0xa1)), 1);
    let (accepted, connected) = handshake(
        &mesh.acceptor(vec![cart.clone()]),
        &mesh.connector(),
        Some(&uid(0xa1)),
    )
    .await;
    let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
    assert_eq!(accepted.peer.identity, mesh.identity("web"));
    assert_eq!(accepted.uid, Some(uid(0xa1)));
    assert_eq!(connected.peer.identity, mesh.identity("cart"));
    assert_eq!(connected.peer.serial, cart.serial());
    assert_eq!(connected.peer.not_after, cart.not_after());
    assert_eq!((accepted.alpn, connected.alpn), (Alpn::Leno1, Alpn::Leno1));

    let session = connected.stream.get_ref().1;
    assert_eq!(
        session.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let group = session.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);

    connected.stream.write_all(b"ping").await.unwrap();
    connected.stream.flush().await.unwrap();
    let mut heard = [0; 4];
    accepted.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
}

#[tokio::test]
async fn a_client_that_offers_only_h2_speaks_hbone() {
    let mesh = Mesh::new("default.leno");
    let acceptor = mesh.acceptor(vec![mesh.certificate("cart", Some(uid(1)), 1)]);
    let web = mesh.certificate("web", None, 1);
    let client = Connector::new(&web, &mesh.bundle, &[mesh.identity("cart")], &[Alpn::H2]).unwrap();
    let (accepted, connected) = handshake(&acceptor, &client, None).await;
    assert_eq!(
        (accepted.unwrap().alpn, connected.unwrap().alpn),
        (Alpn::H2, Alpn::H2)
    );
}

#[tokio::test]
async fn no_handshake_ever_resumes_another() {
    let mesh = Mesh::new("default.leno");
    let acceptor = mesh.acceptor(vec![mesh.certificate("cart", None, 1)]);
    let connector = mesh.connector();
    for _ in 0..3 {
        let (accepted, connected) = handshake(&acceptor, &connector, None).await;
        let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
        // Reading is what would deliver a ticket.
        accepted.stream.write_all(b"x").await.unwrap();
        accepted.stream.flush().await.unwrap();
        connected.stream.read_u8().await.unwrap();
        let session = connected.stream.get_ref().1;
        assert_eq!(session.tls13_tickets_received(), 0);
        assert_ne!(
            session.handshake_kind(),
            Some(rustls::HandshakeKind::Resumed)
        );
    }
}

#[tokio::test]
async fn the_server_name_chooses_among_the_workloads_of_one_address() {
    let mesh = Mesh::new("default.leno");
    let cart = mesh.certificate("cart", Some(uid(0xc0)), 1);
    let pay = mesh.certificate("pay", Some(uid(0x11)), 1); // its uid is all digits
    let acceptor = mesh.acceptor(vec![cart, pay]);
    let web = mesh.certificate("web", None, 1);
    for (account, byte) in [("cart", 0xc0), ("pay", 0x11)] {
        let expected = [mesh.identity(account)];
        let client = Connector::new(&web, &mesh.bundle, &expected, &[Alpn::Leno1]).unwrap();
        let (accepted, connected) = handshake(&acceptor, &client, Some(&uid(byte))).await;
        assert_eq!(accepted.unwrap().uid, Some(uid(byte)));
        assert_eq!(connected.unwrap().peer.identity, mesh.identity(account));
    }
    let both = [mesh.identity("cart"), mesh.identity("pay")];
    let client = Connector::new(&web, &mesh.bundle, &both, &[Alpn::Leno1]).unwrap();

    let (accepted, connected) = handshake(&acceptor, &client, Some(&uid(0xee))).await;
    assert_eq!(reason(accepted), "unknown_workload");
    let refusal = connected.err().unwrap();
    assert!(
        matches!(&refusal, HandshakeError::RefusedByPeer { alert } if alert == "UnrecognisedName"),
        "{refusal}"
    );

    let (accepted, _) = handshake(&acceptor, &client, None).await;
    assert_eq!(reason(accepted), "ambiguous_workload");

    let (here, there) = tokio::io::duplex(64 * 1024);
    let only = uid(0x11);
    let (accepted, connected) =
        tokio::join!(acceptor.accept_at(there, &only), client.connect(here, None));
    assert_eq!(accepted.unwrap().uid, Some(uid(0x11)));
    assert_eq!(connected.unwrap().peer.identity, mesh.identity("pay"));
}

#[tokio::test]
async fn a_worker_without_a_valid_certificate_refuses_everybody() {
    let mesh = Mesh::new("default.leno");
    let cart = mesh.certificate("cart", Some(uid(1)), 1);
    let later = mesh.now + 2 * HOUR;
    let identities = ServerIdentities::new(vec![cart], mesh.bundle.clone(), later);
    assert!(identities.is_empty());
    let acceptor = Acceptor::new(&identities).unwrap();
    let (accepted, connected) = handshake(&acceptor, &mesh.connector(), Some(&uid(1))).await;
    assert_eq!(reason(accepted), "unknown_workload");
    assert!(connected.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_for_new_connections_and_old_ones_live_on() {
    let mesh = Mesh::new("default.leno");
    let (first, second) = (
        mesh.certificate("cart", Some(uid(1)), 1),
        mesh.certificate("cart", Some(uid(1)), 2),
    );
    let connector = mesh.connector();
    let (accepted, connected) = handshake(
        &mesh.acceptor(vec![first.clone()]),
        &connector,
        Some(&uid(1)),
    )
    .await;
    let (mut accepted, mut old) = (accepted.unwrap(), connected.unwrap());
    assert_eq!(old.peer.serial, first.serial());

    // Of two generations the later one serves, in whatever order they come.
    let acceptor = mesh.acceptor(vec![second.clone(), first]);
    let (_, connected) = handshake(&acceptor, &connector, Some(&uid(1))).await;
    assert_eq!(connected.unwrap().peer.serial, second.serial());

    old.stream.write_all(b"!").await.unwrap();
    old.stream.flush().await.unwrap();
    assert_eq!(accepted.stream.read_u8().await.unwrap(), b'!');
}

#[tokio::test]
async fn while_a_root_is_replaced_both_roots_certificates_are_good() {
    let (old, new) = (Mesh::new("default.leno"), Mesh::new("default.leno"));
    let pem = old.root.cert_pem() + &new.root.cert_pem() + &old.root.cert_pem();
    let both = TrustBundle::from_pem(old.bundle.domain().clone(), &pem).unwrap();
    assert_eq!(both.pins(), [old.root.pin(), new.root.pin()]);
    let identities = ServerIdentities::new(
        vec![new.certificate("cart", None, 1)],
        both.clone(),
        new.now,
    );
    let acceptor = Acceptor::new(&identities).unwrap();
    let web = old.certificate("web", None, 1);
    let client = Connector::new(&web, &both, &[old.identity("cart")], &[Alpn::Leno1]).unwrap();
    let (accepted, connected) = handshake(&acceptor, &client, None).await;
    assert!(accepted.is_ok() && connected.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_on_after_the_limit() {
    let mesh = Mesh::new("default.leno");
    let acceptor = mesh.acceptor(vec![mesh.certificate("cart", None, 1)]);
    let (_open, there) = tokio::io::duplex(1024);
    assert_eq!(reason(acceptor.accept(there).await), "timeout");
    let (_open, there) = tokio::io::duplex(64 * 1024);
    let connected = mesh.connector().connect(there, None).await;
    assert_eq!(verify_failure_reason(&connected.err().unwrap()), "timeout");
}

#[tokio::test]
async fn what_is_not_tls_and_what_ends_early_have_their_labels() {
    let mesh = Mesh::new("default.leno");
    let acceptor = mesh.acceptor(vec![mesh.certificate("cart", None, 1)]);
    let (mut here, there) = tokio::io::duplex(1024);
    here.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(reason(acceptor.accept(there).await), "protocol");
    let (here, there) = tokio::io::duplex(1024);
    drop(here);
    assert_eq!(reason(acceptor.accept(there).await), "io");
}

#[test]
fn a_connector_that_expects_nobody_cannot_be_made() {
    let mesh = Mesh::new("default.leno");
    let web = mesh.certificate("web", None, 1);
    let connector = Connector::new(&web, &mesh.bundle, &[], &[Alpn::Leno1]);
    assert!(matches!(
        connector.err(),
        Some(crate::TlsError::NobodyExpected)
    ));
}

fn reason<IO>(accepted: Result<Accepted<IO>, HandshakeError>) -> &'static str {
    verify_failure_reason(&accepted.err().expect("must be refused"))
}
