//! The shop: its hosts, its programs, and who calls whom. Everything that the demo starts is in these tables.
//!
//! ```text
//!                       ┌─ catalog v1   (cat-1)
//!                       ├─ catalog v2   (cat-2)
//!  legacy ── storefront ┼─ cart         (cart-1, cart-2)
//! (outside)   (web)     ├─ reviews      (reviews)
//!                       ├─ prices       (feed)
//!                       └─ stock ── ledger
//!                        (stock)  (reviews)
//! ```
//!
//! One network: 10.77.0.0/16 and fd77::/48. The mesh's members live in its part 1; the control plane is in part 0 and
//! the caller without a proxy in part 2, so that neither is taken for a member.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The namespace that the shop lives in.
pub(super) const NAMESPACE: &str = "shop";
/// The networks of the mesh's members.
pub(super) const PREFIXES: [&str; 2] = ["10.77.1.0/24", "fd77:0:0:1::/64"];
/// The length of the whole network's prefixes.
pub(super) const NETWORK: (u8, u8) = (16, 48);

/// A machine of the demo.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: &'static str,
    /// The network's part it is in, and its number there.
    place: (u8, u8),
}

/// Where the control plane runs.
pub(super) const CONTROL: Host = Host {
    name: "control",
    place: (0, 1),
};
/// Where the caller runs that has no proxy.
pub(super) const OUTSIDE: Host = Host {
    name: "outside",
    place: (2, 1),
};
/// The mesh's members, each with an agent.
pub(super) const MEMBERS: [Host; 8] = [
    Host {
        name: "web",
        place: (1, 1),
    },
    Host {
        name: "cat-1",
        place: (1, 2),
    },
    Host {
        name: "cat-2",
        place: (1, 3),
    },
    Host {
        name: "cart-1",
        place: (1, 4),
    },
    Host {
        name: "cart-2",
        place: (1, 5),
    },
    Host {
        name: "reviews",
        place: (1, 6),
    },
    Host {
        name: "feed",
        place: (1, 7),
    },
    Host {
        name: "stock",
        place: (1, 8),
    },
];

/// A program of the shop, as `leno run` is told of it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) host: &'static str,
    pub(super) service: &'static str,
    /// Empty where there is only one.
    pub(super) version: &'static str,
    /// What `--port` says. Where it names no protocol, the proxies find out by themselves.
    pub(super) port: &'static str,
    /// What `--publish` says; empty for nothing.
    pub(super) publish: &'static str,
    /// The program and its own arguments.
    pub(super) shop: &'static [&'static str],
}

/// The programs that are in the mesh.
#[rustfmt::skip]
pub(super) const PROGRAMS: [Program; 9] = [
    // Each after those that it calls, which are waited for.
    Program { host: "stock",   service: "stock",      version: "",   port: "3306",         publish: "",     shop: &["stock"] },
    Program { host: "cat-1",   service: "catalog",    version: "v1", port: "80:8080/http", publish: "",     shop: &["catalog", "--version", "v1"] },
    Program { host: "cat-2",   service: "catalog",    version: "v2", port: "80:8080/http", publish: "",     shop: &["catalog", "--version", "v2"] },
    Program { host: "cart-1",  service: "cart",       version: "",   port: "80:8080/grpc", publish: "",     shop: &["cart"] },
    Program { host: "cart-2",  service: "cart",       version: "",   port: "80:8080/grpc", publish: "",     shop: &["cart"] },
    Program { host: "reviews", service: "reviews",    version: "",   port: "80:8080",      publish: "",     shop: &["reviews"] },
    Program { host: "feed",    service: "prices",     version: "",   port: "80:8080",      publish: "",     shop: &["prices"] },
    Program { host: "reviews", service: "ledger",     version: "",   port: "80:8080",      publish: "",     shop: &["ledger"] },
    Program { host: "web",     service: "storefront", version: "",   port: "80:8080/http", publish: "8080", shop: &["storefront"] },
];

/// The shop's one route: whoever calls this service is split between its versions.
pub(super) const SPLIT: (&str, u16, [(&str, u32); 2]) = ("catalog", 80, [("v1", 50), ("v2", 50)]);

/// The host whose published port the outside caller uses, and the port.
pub(super) const PUBLISHED: (&str, u16) = ("web", 8080);
/// The outside caller, as the mesh calls it: nobody proved who it is.
pub(super) use leno_controlplane::telemetry::LEGACY;

/// An edge that carries traffic in a shop that works.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) source: &'static str,
    pub(super) destination: &'static str,
    pub(super) protocol: &'static str,
    pub(super) mtls: bool,
}

/// Every edge of the shop.
#[rustfmt::skip]
pub(super) const EDGES: [Expected; 8] = [
    Expected { source: "storefront", destination: "catalog-v1", protocol: "http/1.1",  mtls: true },
    Expected { source: "storefront", destination: "catalog-v2", protocol: "http/1.1",  mtls: true },
    Expected { source: "storefront", destination: "cart",       protocol: "grpc",      mtls: true },
    Expected { source: "storefront", destination: "reviews",    protocol: "http/2",    mtls: true },
    Expected { source: "storefront", destination: "prices",     protocol: "websocket", mtls: true },
    Expected { source: "storefront", destination: "stock",      protocol: "tcp",       mtls: true },
    Expected { source: "ledger",     destination: "stock",      protocol: "tcp",       mtls: true },
    Expected { source: LEGACY,       destination: "storefront", protocol: "http/1.1",  mtls: false },
];

impl Host {
    pub(super) fn v4(&self) -> IpAddr {
        let (part, number) = self.place;
        Ipv4Addr::new(10, 77, part, number).into()
    }

    pub(super) fn v6(&self) -> IpAddr {
        let (part, number) = self.place;
        Ipv6Addr::new(0xfd77, 0, 0, part.into(), 0, 0, 0, number.into()).into()
    }

    /// Its programs.
    pub(super) fn programs(&self) -> impl Iterator<Item = &'static Program> + use<> {
        let name = self.name;
        PROGRAMS.iter().filter(move |program| program.host == name)
    }
}

impl Program {
    /// What edges call it: its service, with its version if it has one.
    pub(super) fn edge_name(&self) -> String {
        match self.version {
            "" => self.service.into(),
            version => format!("{}-{version}", self.service),
        }
    }

    /// The same, with its host where it is not the only one.
    pub(super) fn name(&self) -> String {
        let name = self.edge_name();
        if replicas(&name) == 1 {
            name
        } else {
            format!("{name} on {}", self.host)
        }
    }
}

/// Whom a program calls; both in the names of edges.
pub(super) fn called_by(caller: &str) -> impl Iterator<Item = &'static str> {
    EDGES
        .iter()
        .filter(move |edge| edge.source == caller)
        .map(|edge| edge.destination)
}

/// How many programs an edge's name stands for.
pub(super) fn replicas(name: &str) -> usize {
    PROGRAMS
        .iter()
        .filter(|program| program.edge_name() == name)
        .count()
}

/// Every machine, the control plane's first.
pub(super) fn hosts() -> impl Iterator<Item = &'static Host> {
    std::iter::once(&CONTROL)
        .chain(&MEMBERS)
        .chain(std::iter::once(&OUTSIDE))
}

/// How many programs there are, the one outside included.
pub(super) const fn program_count() -> usize {
    PROGRAMS.len() + 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_shop_is_as_large_as_promised() {
        assert!(program_count() >= 8 && hosts().count() >= 7);
        assert!(MEMBERS.iter().any(|host| host.programs().count() == 2));
        let replicas = |service| PROGRAMS.iter().filter(|of| of.service == service).count();
        assert_eq!((replicas("catalog"), replicas("cart")), (2, 2));
        let protocols: BTreeSet<_> = EDGES.iter().map(|edge| edge.protocol).collect();
        assert_eq!(
            protocols,
            BTreeSet::from(["grpc", "http/1.1", "http/2", "tcp", "websocket"])
        );
    }

    #[test]
    fn addresses_differ_and_only_members_are_inside_the_mesh() {
        let addresses: BTreeSet<_> = hosts().flat_map(|host| [host.v4(), host.v6()]).collect();
        assert_eq!(addresses.len(), 2 * hosts().count());
        let mut config = leno_controlplane::Config::new("/".into());
        config.prefixes = PREFIXES.iter().map(|text| text.parse().unwrap()).collect();
        for host in hosts() {
            let member = MEMBERS.iter().any(|member| member.name == host.name);
            for address in [host.v4(), host.v6()] {
                let inside = config
                    .prefixes
                    .iter()
                    .any(|prefix| prefix.contains(address));
                assert_eq!(inside, member, "{}", host.name);
            }
        }
    }

    #[test]
    fn every_program_has_a_host_and_every_edge_two_ends() {
        for program in &PROGRAMS {
            assert!(
                MEMBERS.iter().any(|host| host.name == program.host),
                "{}",
                program.name()
            );
        }
        assert_eq!(
            PROGRAMS
                .iter()
                .map(Program::name)
                .collect::<BTreeSet<_>>()
                .len(),
            PROGRAMS.len()
        );
        let named = |name: &str| replicas(name) > 0;
        for edge in &EDGES {
            assert!(named(edge.destination), "{}", edge.destination);
            assert_eq!(named(edge.source), edge.mtls, "{}", edge.source);
            assert_eq!(edge.source == LEGACY, !edge.mtls);
        }
        assert!(
            PROGRAMS
                .iter()
                .any(|of| (of.host, of.publish) == (PUBLISHED.0, "8080"))
        );
    }

    #[test]
    fn the_route_leads_to_programs() {
        let (service, _, shares) = SPLIT;
        for (version, _) in shares {
            assert_eq!(replicas(&format!("{service}-{version}")), 1);
        }
    }

    #[test]
    fn whoever_is_called_starts_before_who_calls() {
        for (index, program) in PROGRAMS.iter().enumerate() {
            for called in called_by(&program.edge_name()) {
                let last = PROGRAMS
                    .iter()
                    .rposition(|of| of.edge_name() == called)
                    .unwrap();
                assert!(last < index, "{called} and {}", program.name());
            }
        }
    }
}
