//! Sockets that speak to a program from its caller's address, in a pod's namespace and in a program's own.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::{in_namespace, keep_everything_inside, listeners, output};
use leno_net::capture::{MARK, OwnNamespace, SOURCE_MARK, SourceAddresses, WholeNamespace};
use leno_net::netns::{self, NetNs};
use leno_net::{link, socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const POD: [&str; 2] = ["10.78.0.2", "fd00:78::2"];
const PEER: [&str; 2] = ["10.78.0.1", "fd00:78::1"];
/// Nobody's, and reached by no link of the pod but its default route.
const ELSEWHERE: [&str; 2] = ["192.0.2.7", "2001:db8::7"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A namespace with a link to another, which is returned, and the strictest reverse path filter.
async fn pod() -> NetNs {
    let pod = NetNs::current().unwrap();
    netns::unshare_net().unwrap();
    let peer = NetNs::current().unwrap();
    link::loopback_up().unwrap();
    link::create_veth("to-pod", "eth0", &pod).unwrap();
    let plumb = |name: &str, own: [&str; 2], other: [&str; 2]| {
        for (own, other) in own.map(ip).into_iter().zip(other.map(ip)) {
            let prefix = if own.is_ipv4() { 24 } else { 64 };
            link::add_address(name, own, prefix).unwrap();
            if name == "eth0" {
                let any = if own.is_ipv4() { "0.0.0.0" } else { "::" };
                link::add_route((ip(any), 0), Some(other), Some(name)).unwrap();
            }
        }
    };
    link::up("to-pod").unwrap();
    plumb("to-pod", PEER, POD);
    pod.enter().unwrap();
    link::up("eth0").unwrap();
    plumb("eth0", POD, PEER);
    for of in ["all", "default", "lo", "eth0"] {
        let path = format!("/proc/sys/net/ipv4/conf/{of}/rp_filter");
        std::fs::write(path, "1").unwrap();
    }
    while !link::is_local(ip(POD[1])) {
        tokio::task::yield_now().await;
    }
    peer
}

fn listen(at: SocketAddr) -> TcpListener {
    TcpListener::from_std(socket::listen_tcp(at, 8).unwrap()).unwrap()
}

/// Both ends of a connection carry what is said on them.
async fn talk(mut one: TcpStream, mut other: TcpStream) {
    const MUCH: usize = 1 << 20;
    let said = vec![7; MUCH];
    for _ in 0..2 {
        let mut heard = vec![0; MUCH];
        let both = tokio::join!(one.write_all(&said), other.read_exact(&mut heard));
        both.0.unwrap();
        both.1.unwrap();
        assert_eq!(said, heard);
        std::mem::swap(&mut one, &mut other);
    }
}

#[test]
fn a_program_of_a_pod_is_spoken_to_from_its_callers_address() {
    in_namespace(|| async {
        let _peer = pod().await;
        let rules = WholeNamespace {
            outbound_port: 15001,
            inbound_port: 15006,
            dns_port: 15053,
            excluded_inbound_ports: vec![],
            excluded_outbound_ports: vec![],
            excluded_outbound_cidrs: vec![],
            excluded_outbound_users: vec![],
        };
        rules.install("leno").unwrap();
        let way_back = SourceAddresses::install().unwrap();
        assert!(!way_back.restore().unwrap(), "nobody touched it");
        // Also a caller on this very host, and the workload itself.
        for sources in [PEER, ELSEWHERE, POD] {
            for (source, own) in sources.map(ip).into_iter().zip(POD.map(ip)) {
                let program = listen((own, 8080).into());
                let to = program.local_addr().unwrap();
                let socket = socket::transparent_socket(own.is_ipv6(), SOURCE_MARK).unwrap();
                let ours = socket::connect_from(socket, source, to).await.unwrap();
                let (theirs, from) = program.accept().await.unwrap();
                assert_eq!(from, ours.local_addr().unwrap());
                assert_eq!(from.ip(), source);
                talk(ours, theirs).await;
            }
        }
        assert!(SourceAddresses::remove().unwrap());
        assert!(!SourceAddresses::remove().unwrap());
        assert!(way_back.restore().unwrap());
        assert!(!way_back.restore().unwrap());
        SourceAddresses::install().unwrap();
    });
}

#[test]
fn a_real_connection_of_the_same_ends_is_no_obstacle() {
    in_namespace(|| async {
        let peer = pod().await;
        let (inbound_port, inbound) =
            listeners(Ipv4Addr::UNSPECIFIED, std::net::Ipv6Addr::UNSPECIFIED);
        let rules = WholeNamespace {
            outbound_port: 15001,
            inbound_port,
            dns_port: 15053,
            excluded_inbound_ports: vec![],
            excluded_outbound_ports: vec![],
            excluded_outbound_cidrs: vec![],
            excluded_outbound_users: vec![],
        };
        rules.install("leno").unwrap();
        SourceAddresses::install().unwrap();
        for (own, listener) in POD.map(ip).into_iter().zip(&inbound) {
            let to = SocketAddr::new(own, 8080);
            let program = listen(to);
            let real = peer
                .within(|| socket::stream_socket(own.is_ipv6(), false))
                .unwrap();
            let real = socket::connect(real, to).await.unwrap();
            let (captured, from) = listener.accept().await.unwrap();
            assert_eq!(socket::original_destination(&captured).unwrap(), Some(to));
            let ours = socket::transparent_socket(own.is_ipv6(), SOURCE_MARK).unwrap();
            rustix::net::bind(&ours, &from).unwrap();
            let ours = socket::connect(ours, to).await.unwrap();
            let (theirs, seen) = program.accept().await.unwrap();
            assert_eq!(seen, from, "the very same ends");
            let owner = socket::owner_of(to, from).unwrap();
            assert!(owner.is_some(), "it tells that a program answers");
            talk(ours, theirs).await;
            talk(real, captured).await;
        }
    });
}

#[test]
fn a_program_of_both_families_is_known_to_answer_by_its_mapped_address() {
    in_namespace(|| async {
        let _peer = pod().await;
        SourceAddresses::install().unwrap();
        let program = std::net::TcpListener::bind("[::]:8080").unwrap();
        program.set_nonblocking(true).unwrap();
        let program = TcpListener::from_std(program).unwrap();
        let (source, to) = (ip(ELSEWHERE[0]), SocketAddr::new(ip(POD[0]), 8080));
        let ours = socket::transparent_socket(false, SOURCE_MARK).unwrap();
        let ours = socket::connect_from(ours, source, to).await.unwrap();
        let (_theirs, seen) = program.accept().await.unwrap();
        assert_eq!(seen.ip().to_canonical(), source);
        let from = ours.local_addr().unwrap();
        assert_eq!(socket::owner_of(to, from).unwrap(), None);
        let mapped = |of: SocketAddr| {
            SocketAddr::new(format!("::ffff:{}", of.ip()).parse().unwrap(), of.port())
        };
        assert!(
            socket::owner_of(mapped(to), mapped(from))
                .unwrap()
                .is_some()
        );
    });
}

#[test]
fn a_program_in_a_network_of_its_own_needs_no_way_back() {
    in_namespace(|| async {
        keep_everything_inside();
        let rules = OwnNamespace {
            outbound_port: 15001,
            dns_port: 53,
        };
        rules.install("leno").unwrap();
        let loopback = ["127.0.0.1", "::1"].map(ip);
        let own = [common::V4.into(), common::V6.into()];
        for at in [own, loopback] {
            for (source, at) in ELSEWHERE.map(ip).into_iter().zip(at) {
                let program = listen((at, 8080).into());
                let to = program.local_addr().unwrap();
                let socket = socket::transparent_socket(at.is_ipv6(), MARK).unwrap();
                let ours = socket::connect_from(socket, source, to).await.unwrap();
                let (theirs, from) = program.accept().await.unwrap();
                assert_eq!(from.ip(), source, "to {at}");
                talk(ours, theirs).await;
            }
        }
    });
}

#[test]
fn the_way_back_is_what_other_tools_show() {
    in_namespace(|| async {
        pod().await;
        SourceAddresses::install().unwrap();
        let list = ["list", "table", "inet", "leno-source"];
        let Some((_, text)) = output("nft", &list) else {
            return;
        };
        for rule in [
            "type filter hook output priority raw",
            "meta mark 0x00001ee1 ct original zone set 7905",
            "type route hook output priority mangle",
            "meta mark 0x00001ee1 ct mark set 0x00001ee1",
            "ct mark 0x00001ee1 meta mark set 0x00001ee1",
        ] {
            assert!(text.contains(rule), "{rule}: {text}");
        }
        for family in ["-4", "-6"] {
            let Some((_, text)) = output("ip", &[family, "rule"]) else {
                return;
            };
            assert!(
                text.contains("1000:\tfrom all fwmark 0x1ee1 lookup 7905"),
                "{text}"
            );
            let (_, text) = output("ip", &[family, "route", "list", "table", "7905"]).unwrap();
            assert!(text.starts_with("local default dev lo"), "{text}");
        }
    });
}
