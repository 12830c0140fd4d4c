//! A namespace of a program's own: nothing gets past the mesh, and nothing waits for a timeout.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use common::{
    V4, V6, any, assert_table, in_namespace, keep_everything_inside, listeners, loopback_listeners,
    of_family, output, udp,
};
use leno_net::capture::{self, OwnNamespace};
use leno_net::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

struct Captured {
    outbound: [TcpListener; 2],
    dns: [TcpListener; 2],
    dns_udp: [UdpSocket; 2],
    rules: OwnNamespace,
}

fn capture_everything() -> Captured {
    keep_everything_inside();
    let (outbound_port, outbound) = loopback_listeners();
    let (dns_port, dns) = loopback_listeners();
    let dns_udp = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ]
    .map(|ip| udp((ip, dns_port).into()));
    let rules = OwnNamespace {
        outbound_port,
        dns_port,
    };
    rules.install("leno").unwrap();
    Captured {
        outbound,
        dns,
        dns_udp,
        rules,
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn source(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { V4.into() } else { V6.into() }
}

#[test]
fn tcp_to_anywhere_reaches_the_outbound_listener_with_its_destination_and_source() {
    in_namespace(|| async {
        let captured = capture_everything();
        for to in [
            "240.240.0.5:80",
            "[2001:2::5]:80",
            "8.8.8.8:443",
            "[2606:4700::1]:25",
            "10.77.0.2:8080",
        ]
        .map(address)
        {
            let client = TcpStream::connect(to).await.unwrap();
            let (accepted, peer) = of_family(&captured.outbound, to.ip())
                .accept()
                .await
                .unwrap();
            assert_eq!(socket::original_destination(&accepted).unwrap(), Some(to));
            assert_eq!(peer.ip(), source(to));
            assert_eq!(
                client.peer_addr().unwrap(),
                to,
                "the program sees the address it asked for"
            );
        }
    });
}

#[test]
fn dns_anywhere_and_on_loopback_reaches_the_resolver() {
    in_namespace(|| async {
        let captured = capture_everything();
        let resolvers = [
            "8.8.8.8:53",
            "[2001:4860::8888]:53",
            // Of systemd, Docker and dnsmasq.
            "127.0.0.53:53",
            "127.0.0.11:53",
            "127.0.1.1:53",
        ];
        for to in resolvers.map(address) {
            let mut client = TcpStream::connect(to).await.unwrap();
            let (mut accepted, _) = of_family(&captured.dns, to.ip()).accept().await.unwrap();
            assert_eq!(socket::original_destination(&accepted).unwrap(), Some(to));
            accepted.write_all(b"tcp").await.unwrap();
            client.read_exact(&mut [0; 3]).await.unwrap();

            let client = udp(any(to.ip()));
            client.connect(to).await.unwrap();
            client.send(b"question").await.unwrap();
            let resolver = of_family(&captured.dns_udp, to.ip());
            let mut buffer = [0; 16];
            let (length, from) = resolver.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"question");
            resolver.send_to(b"answer", from).await.unwrap();
            // A connected socket takes nothing but what comes from the address it asked.
            let length = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"answer");
        }
    });
}

#[test]
fn loopback_is_left_alone() {
    in_namespace(|| async {
        let _captured = capture_everything();
        let (port, private) = loopback_listeners();
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let _client = TcpStream::connect((ip, port)).await.unwrap();
            let (accepted, _) = of_family(&private, ip).accept().await.unwrap();
            assert_eq!(socket::original_destination(&accepted).unwrap(), None);
            let server = udp((ip, 0).into());
            let client = udp((ip, 0).into());
            client
                .send_to(b"x", server.local_addr().unwrap())
                .await
                .unwrap();
            server.recv_from(&mut [0; 1]).await.unwrap();
        }
    });
}

#[test]
fn a_marked_socket_reaches_the_program_at_the_address_itself() {
    in_namespace(|| async {
        let _captured = capture_everything();
        let (port, program) = listeners(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        for ip in [IpAddr::from(V4), V6.into(), address("240.240.0.9:1").ip()] {
            let to = SocketAddr::from((ip, port));
            let ready = socket::stream_socket(to.is_ipv6(), true).unwrap();
            let client = socket::connect(ready, to).await.unwrap();
            assert!(client.nodelay().unwrap());
            let (accepted, peer) = of_family(&program, ip).accept().await.unwrap();
            assert_eq!(accepted.local_addr().unwrap(), to);
            assert_eq!(peer, client.local_addr().unwrap());
            assert_eq!(socket::original_destination(&accepted).unwrap(), None);
        }
    });
}

#[test]
fn connecting_to_a_closed_port_past_capture_is_refused() {
    in_namespace(|| async {
        let _captured = capture_everything();
        let ready = socket::stream_socket(false, true).unwrap();
        let error = socket::connect(ready, (V4, 9).into()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn other_udp_is_refused_at_once_even_where_a_program_listens_on_every_address() {
    in_namespace(|| async {
        let _captured = capture_everything();
        for to in [
            "240.240.0.5:9999",
            "[2001:2::5]:9999",
            "1.1.1.1:443",
            "10.77.0.2:9999",
        ]
        .map(address)
        {
            let listening = udp(SocketAddr::new(any(to.ip()).ip(), to.port()));
            let client = udp(any(to.ip()));
            client.connect(to).await.unwrap();
            let begun = Instant::now();
            client.send(b"x").await.unwrap();
            let error = client.recv(&mut [0; 1]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}");
            assert!(begun.elapsed() < Duration::from_secs(1));
            let received = listening
                .try_recv_from(&mut [0; 1])
                .map_err(|error| error.kind());
            assert_eq!(received.unwrap_err(), io::ErrorKind::WouldBlock, "{to}");
        }
    });
}

#[test]
fn a_ping_fails_at_once() {
    in_namespace(|| async {
        let _captured = capture_everything();
        for to in ["240.240.0.5", "2001:2::5"] {
            let begun = Instant::now();
            let Some((success, text)) = output("ping", &["-c", "1", "-W", "10", to]) else {
                return;
            };
            assert!(!success && text.contains("+1 errors"), "{text}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{text}");
        }
        let Some((success, text)) = output("ping", &["-c", "1", "-W", "10", "127.0.0.1"]) else {
            return;
        };
        assert!(success, "{text}");
    });
}

#[test]
fn the_kernel_has_the_rules_that_were_meant() {
    in_namespace(|| async {
        let captured = capture_everything();
        let OwnNamespace {
            outbound_port,
            dns_port,
        } = captured.rules;
        assert_table(&format!(
            "chain output {{
                type nat hook output priority -100; policy accept;
                meta mark 0x1ee0 accept
                ip daddr 127.0.0.0/8 udp dport 53 redirect to :{dns_port}
                ip daddr 127.0.0.0/8 tcp dport 53 redirect to :{dns_port}
                ip daddr 127.0.0.0/8 accept
                ip6 daddr ::1 accept
                udp dport 53 redirect to :{dns_port}
                tcp dport 53 redirect to :{dns_port}
                meta l4proto tcp redirect to :{outbound_port}
            }}
            chain refuse {{
                type filter hook input priority 0; policy accept;
                ct state established,related accept
                ip daddr 127.0.0.0/8 accept
                ip6 daddr ::1 accept
                meta mark 0x1ee0 accept
                meta l4proto udp reject with icmpx port-unreachable
                icmp type echo-request reject with icmpx admin-prohibited
                icmpv6 type echo-request reject with icmpx admin-prohibited
            }}"
        ));
    });
}

#[test]
fn installing_again_replaces_and_removing_says_whether_there_was_one() {
    in_namespace(|| async {
        let captured = capture_everything();
        assert!(capture::exists("leno").unwrap());
        let (other_port, others) = loopback_listeners();
        OwnNamespace {
            outbound_port: other_port,
            ..captured.rules.clone()
        }
        .install("leno")
        .unwrap();
        let _client = TcpStream::connect("240.240.0.5:80").await.unwrap();
        of_family(&others, V4.into()).accept().await.unwrap();

        assert!(capture::remove("leno").unwrap());
        assert!(!capture::remove("leno").unwrap());
        assert!(!capture::exists("leno").unwrap());
        let error = TcpStream::connect("240.240.0.5:80").await.unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::ConnectionRefused,
            "nothing listens there itself"
        );
    });
}

#[test]
fn a_name_that_is_none_is_refused_and_leaves_the_old_table() {
    in_namespace(|| async {
        let captured = capture_everything();
        let error = captured.rules.install(&"x".repeat(300)).unwrap_err();
        assert!(error.to_string().contains("nftables"), "{error}");
        assert!(capture::exists("leno").unwrap());
    });
}
