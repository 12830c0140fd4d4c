//! Links, addresses and routes, compared with what the `ip` tool says where it is installed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{V4, V6, in_namespace, keep_everything_inside, output};
use leno_net::link::{self, InterfaceAddress};
use leno_net::netns::NetNs;

#[test]
fn addresses_are_listed_with_their_links() {
    in_namespace(|| async {
        link::create_bridge("br-test").unwrap();
        link::add_address("br-test", V4.into(), 24).unwrap();
        link::add_address("br-test", V6.into(), 64).unwrap();
        let of = |name: &str, ip: IpAddr, prefix| InterfaceAddress {
            name: name.to_owned(),
            ip,
            prefix,
            loopback: name == "lo",
        };
        let found = link::addresses().unwrap();
        for expected in [
            of("lo", Ipv4Addr::LOCALHOST.into(), 8),
            of("lo", Ipv6Addr::LOCALHOST.into(), 128),
            of("br-test", V4.into(), 24),
            of("br-test", V6.into(), 64),
        ] {
            assert!(found.contains(&expected), "{expected:?} in {found:?}");
        }
        assert!(link::ipv6_enabled());
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        assert!(!link::ipv6_enabled());
    });
}

#[test]
fn the_local_default_makes_everything_reachable_with_a_source() {
    in_namespace(|| async {
        let addresses =
            ["240.240.0.5", "2001:2::5", "8.8.8.8"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert!(addresses.into_iter().all(|ip| !link::has_route_to(ip)));
        keep_everything_inside();
        assert!(addresses.into_iter().all(link::has_route_to));
        assert!(addresses.into_iter().all(link::is_local));
        for (ip, source) in [
            ("240.240.0.5", "src 10.77.0.2"),
            ("2001:2::5", "src fd00:77::2"),
        ] {
            let Some((_, text)) = output("ip", &["route", "get", ip]) else {
                return;
            };
            assert!(text.starts_with("local") && text.contains(source), "{text}");
        }
    });
}

#[test]
fn routes_come_and_go() {
    in_namespace(|| async {
        link::create_bridge("br-test").unwrap();
        link::up("br-test").unwrap();
        for (network, ip) in [("240.240.0.0", "240.240.9.9"), ("2001:2::", "2001:2::9")] {
            let (network, ip): (IpAddr, IpAddr) = (network.parse().unwrap(), ip.parse().unwrap());
            let route = (network, if ip.is_ipv4() { 16 } else { 48 });
            assert!(!link::has_route_to(ip));
            link::add_route(route, None, Some("br-test")).unwrap();
            assert!(link::has_route_to(ip) && !link::is_local(ip));
            let again = link::add_route(route, None, Some("br-test")).unwrap_err();
            assert_eq!(again.kind(), ErrorKind::AlreadyExists, "{again}");
            link::delete_route(route, None, Some("br-test")).unwrap();
            assert!(!link::has_route_to(ip));
            let again = link::delete_route(route, None, Some("br-test")).unwrap_err();
            assert_eq!(again.kind(), ErrorKind::NotFound, "{again}");
            assert_eq!(
                link::add_route(route, None, None).unwrap_err().kind(),
                ErrorKind::InvalidInput
            );
        }
    });
}

#[test]
fn links_are_made_taken_down_and_deleted() {
    in_namespace(|| async {
        let here = NetNs::current().unwrap();
        link::create_veth("left", "right", &here).unwrap();
        link::up("left").unwrap();
        link::set_down("left").unwrap();
        link::delete("left").unwrap();
        for gone in ["left", "right"] {
            let error = link::up(gone).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(
                error.to_string().contains(&format!("bring {gone} up")),
                "{error}"
            );
        }
        assert!(link::create_bridge("a-name-that-is-too-long").is_err());
        link::create_bridge("twice").unwrap();
        assert_eq!(
            link::create_bridge("twice").unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
    });
}
