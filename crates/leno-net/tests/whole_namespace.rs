//! A pod's or container's namespace, with a peer at the other end of a real link.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::{any, assert_table, in_namespace, listeners, loopback_listeners, of_family, run, udp};
use leno_net::capture::{self, Cgroup, HostCgroups, MAX_CIDRS, WholeNamespace};
use leno_net::netns::{self, NetNs};
use leno_net::{link, socket};
use tokio::net::{TcpListener, TcpStream};

const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 2);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x78, 0, 0, 0, 0, 0, 1);

/// Joins the present namespace, the pod, with a new one that it returns.
fn peer() -> NetNs {
    let pod = NetNs::current().unwrap();
    netns::unshare_net().unwrap();
    let peer = NetNs::current().unwrap();
    link::loopback_up().unwrap();
    link::create_veth("to-pod", "eth0", &pod).unwrap();
    link::create_bridge("br0").unwrap();
    link::set_master("to-pod", "br0").unwrap();
    for name in ["to-pod", "br0"] {
        link::up(name).unwrap();
    }
    link::add_address("br0", PEER_V4.into(), 24).unwrap();
    link::add_address("br0", PEER_V6.into(), 64).unwrap();
    pod.enter().unwrap();
    link::add_address("eth0", POD_V4.into(), 24).unwrap();
    link::add_address("eth0", POD_V6.into(), 64).unwrap();
    link::up("eth0").unwrap();
    link::add_route(
        (Ipv4Addr::UNSPECIFIED.into(), 0),
        Some(PEER_V4.into()),
        None,
    )
    .unwrap();
    link::add_route(
        (Ipv6Addr::UNSPECIFIED.into(), 0),
        Some(PEER_V6.into()),
        Some("eth0"),
    )
    .unwrap();
    peer
}

struct Pod {
    outbound: [TcpListener; 2],
    inbound: [TcpListener; 2],
    peer: NetNs,
    rules: WholeNamespace,
}

async fn pod(change: impl FnOnce(&mut WholeNamespace)) -> Pod {
    let peer = peer();
    let ready = || {
        link::is_local(POD_V6.into()) && peer.within(|| Ok(link::is_local(PEER_V6.into()))).unwrap()
    };
    while !ready() {
        tokio::task::yield_now().await;
    }
    let (outbound_port, outbound) = loopback_listeners();
    let (inbound_port, inbound) = listeners(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let mut rules = WholeNamespace {
        outbound_port,
        inbound_port,
        dns_port: 15053,
        excluded_inbound_ports: vec![],
        excluded_outbound_ports: vec![],
        excluded_outbound_cidrs: vec![],
        excluded_outbound_users: vec![],
    };
    change(&mut rules);
    rules.install("leno").unwrap();
    Pod {
        outbound,
        inbound,
        peer,
        rules,
    }
}

/// A listener in another namespace, used from this thread.
fn listener_in(namespace: &NetNs, to: SocketAddr) -> TcpListener {
    let listener = namespace.within(|| socket::listen_tcp(to, 8)).unwrap();
    TcpListener::from_std(listener).unwrap()
}

/// Connects from another namespace.
async fn connect_from(namespace: &NetNs, to: SocketAddr) -> io::Result<TcpStream> {
    let ready = namespace.within(|| socket::stream_socket(to.is_ipv6(), false))?;
    socket::connect(ready, to).await
}

fn peers(port: u16) -> [SocketAddr; 2] {
    [(PEER_V4, port).into(), (PEER_V6, port).into()]
}

fn pods(port: u16) -> [SocketAddr; 2] {
    [(POD_V4, port).into(), (POD_V6, port).into()]
}

#[test]
fn connections_going_out_are_captured_and_marked_ones_are_not() {
    in_namespace(|| async {
        let pod = pod(|_| {}).await;
        for to in peers(8080)
            .into_iter()
            .chain(["240.240.0.5:80", "[2001:2::5]:80"].map(|to| to.parse().unwrap()))
        {
            let _client = TcpStream::connect(to).await.unwrap();
            let (accepted, from) = of_family(&pod.outbound, to.ip()).accept().await.unwrap();
            assert_eq!(socket::original_destination(&accepted).unwrap(), Some(to));
            assert_eq!(
                from.ip(),
                if to.is_ipv4() {
                    IpAddr::from(POD_V4)
                } else {
                    POD_V6.into()
                }
            );
        }
        for to in peers(8080) {
            let server = listener_in(&pod.peer, to);
            let client = socket::connect(socket::stream_socket(to.is_ipv6(), true).unwrap(), to)
                .await
                .unwrap();
            let (_, from) = server.accept().await.unwrap();
            assert_eq!(from, client.local_addr().unwrap());
        }
    });
}

#[test]
fn connections_coming_in_are_captured_except_to_ports_left_alone_and_lenos_own() {
    in_namespace(|| async {
        let pod = pod(|rules| rules.excluded_inbound_ports = vec![22]).await;
        for to in pods(8080) {
            let client = connect_from(&pod.peer, to).await.unwrap();
            let (accepted, from) = of_family(&pod.inbound, to.ip()).accept().await.unwrap();
            assert_eq!(socket::original_destination(&accepted).unwrap(), Some(to));
            assert_eq!(from, client.local_addr().unwrap());
        }
        for port in [
            22,
            leno_types::ports::HBONE,
            leno_types::ports::METRICS,
            leno_types::ports::READINESS,
        ] {
            for to in pods(port) {
                let direct = TcpListener::from_std(socket::listen_tcp(to, 8).unwrap()).unwrap();
                let _client = connect_from(&pod.peer, to).await.unwrap();
                let (accepted, _) = direct.accept().await.unwrap();
                assert_eq!(socket::original_destination(&accepted).unwrap(), None);
            }
        }
        for to in pods(pod.rules.inbound_port) {
            let _client = connect_from(&pod.peer, to).await.unwrap();
            let (accepted, _) = of_family(&pod.inbound, to.ip()).accept().await.unwrap();
            assert_eq!(
                socket::original_destination(&accepted).unwrap(),
                None,
                "who connects to Leno itself is seen"
            );
        }
    });
}

#[test]
fn a_marked_socket_reaches_the_program_at_the_pods_own_address_once() {
    in_namespace(|| async {
        let _pod = pod(|_| {}).await;
        for to in pods(8080) {
            let program = TcpListener::from_std(socket::listen_tcp(to, 8).unwrap()).unwrap();
            let client = socket::connect(socket::stream_socket(to.is_ipv6(), true).unwrap(), to)
                .await
                .unwrap();
            let (_, from) = program.accept().await.unwrap();
            assert_eq!(from, client.local_addr().unwrap());
        }
    });
}

#[test]
fn excluded_ports_and_networks_are_left_alone_going_out() {
    in_namespace(|| async {
        let pod = pod(|rules| {
            rules.excluded_outbound_ports = vec![3306, 3306];
            rules.excluded_outbound_cidrs =
                vec![(PEER_V6.into(), 64), ([192, 0, 2, 77].into(), 24)];
        })
        .await;
        let [v4, v6] = peers(3306);
        for to in [v4, v6, (PEER_V6, 8080).into()] {
            let server = listener_in(&pod.peer, to);
            let _client = TcpStream::connect(to).await.unwrap();
            server.accept().await.unwrap();
        }
        let _client = TcpStream::connect((PEER_V4, 8080)).await.unwrap();
        of_family(&pod.outbound, PEER_V4.into())
            .accept()
            .await
            .unwrap();
    });
}

#[test]
fn an_excluded_user_is_left_alone_going_out_and_others_are_not() {
    in_namespace(|| async {
        let own = leno_net::process::user();
        let pod = pod(|rules| rules.excluded_outbound_users = vec![own]).await;
        for to in peers(8080) {
            let server = listener_in(&pod.peer, to);
            let _client = TcpStream::connect(to).await.unwrap();
            server.accept().await.unwrap();
        }
    });
    in_namespace(|| async {
        let another = leno_net::process::user() + 1;
        let pod = pod(|rules| rules.excluded_outbound_users = vec![another]).await;
        for to in peers(8080) {
            let _client = TcpStream::connect(to).await.unwrap();
            of_family(&pod.outbound, to.ip()).accept().await.unwrap();
        }
    });
}

#[test]
fn udp_is_left_alone_but_refused_at_once_to_virtual_addresses() {
    in_namespace(|| async {
        let pod = pod(|_| {}).await;
        for to in peers(9999) {
            let server = udp_in(&pod.peer, to);
            let client = udp(any(to.ip()));
            client.send_to(b"x", to).await.unwrap();
            server.recv_from(&mut [0; 1]).await.unwrap();
        }
        for to in ["240.240.0.5:443", "[2001:2::5]:443"].map(|to| to.parse::<SocketAddr>().unwrap())
        {
            let client = udp(any(to.ip()));
            client.connect(to).await.unwrap();
            // Dropped on the way out: the kernel says so to the sender, by either error.
            let error = match client.send(b"x").await {
                Err(error) => error,
                Ok(_) => client.recv(&mut [0; 1]).await.unwrap_err(),
            };
            let expected = [
                io::ErrorKind::ConnectionRefused,
                io::ErrorKind::PermissionDenied,
            ];
            assert!(expected.contains(&error.kind()), "{error}");
        }
    });
}

fn udp_in(namespace: &NetNs, to: SocketAddr) -> tokio::net::UdpSocket {
    tokio::net::UdpSocket::from_std(namespace.within(|| socket::bind_udp(to)).unwrap()).unwrap()
}

#[test]
fn the_kernel_has_the_rules_that_were_meant() {
    in_namespace(|| async {
        let pod = pod(|rules| {
            rules.excluded_inbound_ports = vec![22];
            rules.excluded_outbound_ports = vec![3306];
            rules.excluded_outbound_users = vec![4321];
            rules.excluded_outbound_cidrs = vec![
                ([10, 9, 9, 9].into(), 20),
                (PEER_V6.into(), 64),
                ([9, 9, 9, 9].into(), 32),
            ];
        })
        .await;
        let WholeNamespace {
            outbound_port,
            inbound_port,
            dns_port,
            ..
        } = pod.rules;
        assert_table(&format!(
            "set ports_in {{
                type inet_service
                elements = {{ 22, {inbound_port}, {outbound_port}, 15000, 15001, 15006, 15008, 15012, 15014, 15020,
                    15021, 15053 }}
            }}
            set ports_out {{
                type inet_service
                elements = {{ 3306 }}
            }}
            chain output {{
                type nat hook output priority -100; policy accept;
                meta mark 0x1ee0 accept
                meta mark 0x1ee1 accept
                meta skuid 4321 accept
                ip daddr 10.9.0.0/20 accept
                ip6 daddr fd00:78::/64 accept
                ip daddr 9.9.9.9 accept
                tcp dport @ports_out accept
                udp dport @ports_out accept
                ip daddr 127.0.0.53 udp dport 53 redirect to :{dns_port}
                ip daddr 127.0.0.53 tcp dport 53 redirect to :{dns_port}
                ip daddr 127.0.0.0/8 accept
                ip6 daddr ::1 accept
                udp dport 53 redirect to :{dns_port}
                tcp dport 53 redirect to :{dns_port}
                meta l4proto tcp redirect to :{outbound_port}
            }}
            chain inbound {{
                type nat hook prerouting priority -100; policy accept;
                iiftype loopback accept
                meta mark 0x1ee0 accept
                tcp dport @ports_in accept
                meta l4proto tcp fib daddr type local redirect to :{inbound_port}
            }}
            chain refuse {{
                type filter hook output priority 0; policy accept;
                meta mark 0x1ee0 accept
                ip daddr 240.240.0.0/16 meta l4proto udp reject with icmpx port-unreachable
                ip6 daddr 2001:2::/48 meta l4proto udp reject with icmpx port-unreachable
                ip daddr 240.240.0.0/16 icmp type echo-request reject with icmpx admin-prohibited
                ip6 daddr 2001:2::/48 icmpv6 type echo-request reject with icmpx admin-prohibited
            }}"
        ));
    });
}

#[test]
fn more_than_the_ceilings_is_refused_by_name() {
    run(async {
        let too_many = WholeNamespace {
            outbound_port: 1,
            inbound_port: 2,
            dns_port: 3,
            excluded_inbound_ports: vec![],
            excluded_outbound_ports: vec![],
            excluded_outbound_cidrs: vec![(PEER_V4.into(), 24); MAX_CIDRS + 1],
            excluded_outbound_users: vec![],
        };
        let error = too_many.install("leno").unwrap_err();
        assert!(
            error.to_string().starts_with("129 excluded networks"),
            "{error}"
        );
        let cgroups = (0..5000).map(|id| Cgroup { level: 1, id }).collect();
        let error = HostCgroups {
            outbound_port: 1,
            dns_port: 2,
            cgroups,
        }
        .install("leno")
        .unwrap_err();
        assert!(error.to_string().starts_with("5000 cgroups"), "{error}");
    });
}

#[test]
fn the_largest_tables_fit_into_one_batch() {
    in_namespace(|| async {
        let ports: Vec<u16> = (1..=1000).collect();
        let whole = WholeNamespace {
            outbound_port: 15001,
            inbound_port: 15006,
            dns_port: 15053,
            excluded_inbound_ports: ports.clone(),
            excluded_outbound_ports: ports,
            excluded_outbound_cidrs: (0..128).map(|n| ([10, n, 0, 0].into(), 16)).collect(),
            excluded_outbound_users: vec![],
        };
        whole.install("leno").unwrap();
    });
}

#[test]
fn rules_that_somebody_removed_or_emptied_are_restored_once() {
    in_namespace(|| async {
        let captured = WholeNamespace {
            outbound_port: 15001,
            inbound_port: 15006,
            dns_port: 15053,
            excluded_inbound_ports: Vec::new(),
            excluded_outbound_ports: Vec::new(),
            excluded_outbound_cidrs: Vec::new(),
            excluded_outbound_users: vec![],
        };
        let other = captured.install("leno-other").unwrap();
        let installed = captured.install("leno").unwrap();
        assert!(!installed.restore().unwrap(), "nobody touched it");
        assert!(capture::remove("leno").unwrap());
        assert!(installed.restore().unwrap());
        assert!(!installed.restore().unwrap());
        for command in [
            "flush table inet leno",
            "flush chain inet leno output",
            "flush ruleset",
        ] {
            let Some((success, text)) = common::output("nft", &[command]) else {
                return;
            };
            assert!(success, "{text}");
            assert!(installed.restore().unwrap(), "{command}");
            assert!(!installed.restore().unwrap(), "{command}");
        }
        assert!(other.restore().unwrap(), "it was in the ruleset");
    });
}
