//! Which packets each kind of capture takes: pure functions from a description to a batch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use leno_types::ports;

use super::nft::{Hook, Key, Made, Reject, Start, TCP, Table, UDP};
use super::{
    Cgroup, HostCgroups, MARK, MAX_CGROUPS, MAX_CIDRS, MAX_PORTS, MAX_USERS, OwnNamespace,
    SOURCE_MARK, VIP_RANGE_V4, VIP_RANGE_V6, WholeNamespace,
};
use crate::NetError;

const OUTPUT: &str = "output";
const INBOUND: &str = "inbound";
const CAPTURED: &str = "captured";
const REFUSE: &str = "refuse";
const REFUSE_VIPS: &str = "refuse_vips";

/// systemd-resolved's address: where others have their programs, the one on loopback that is captured, for DNS.
const STUB_RESOLVER: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 32);
/// In a network of its own no resolver of the host's is on loopback: whichever a program is told (Docker's 127.0.0.11,
/// dnsmasq's 127.0.1.1), it means ours.
const ANY_RESOLVER: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
const LOOPBACK: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
];
const VIPS: [(IpAddr, u8); 2] = [
    (IpAddr::V4(VIP_RANGE_V4.0), VIP_RANGE_V4.1),
    (IpAddr::V6(VIP_RANGE_V6.0), VIP_RANGE_V6.1),
];
const DNS: u16 = 53;

impl OwnNamespace {
    pub(super) fn batch(&self, name: &str, start: Start) -> Result<Made, NetError> {
        let mut table = Table::make(name, start);
        table.base_chain(OUTPUT, Hook::NatOutput);
        table.rule(OUTPUT, |rule| rule.mark(MARK).accept());
        let ports = (self.outbound_port, self.dns_port);
        capture_outgoing(&mut table, OUTPUT, ports, ANY_RESOLVER);

        // On the way in, not out: everything here is delivered by loopback, and a packet dropped on its way out
        // is EPERM to its sender, while one refused on its way in is ECONNREFUSED.
        table.base_chain(REFUSE, Hook::FilterInput);
        table.rule(REFUSE, |rule| rule.known_connection().accept());
        for network in LOOPBACK {
            table.rule(REFUSE, |rule| rule.destination(network).accept());
        }
        table.rule(REFUSE, |rule| rule.mark(MARK).accept());
        table.rule(REFUSE, |rule| {
            rule.protocol(UDP).reject(Reject::PortUnreachable)
        });
        table.rule(REFUSE, |rule| rule.ping_v4().reject(Reject::Prohibited));
        table.rule(REFUSE, |rule| rule.ping_v6().reject(Reject::Prohibited));
        Ok(table.finish())
    }
}

impl WholeNamespace {
    pub(super) fn batch(&self, name: &str, start: Start) -> Result<Made, NetError> {
        let own_ports = (ports::ADMIN..=ports::DNS).filter(|port| ports::is_reserved(*port));
        let own_ports = own_ports.chain([self.outbound_port, self.inbound_port, self.dns_port]);
        let left_in = distinct(self.excluded_inbound_ports.iter().copied().chain(own_ports));
        let left_out = distinct(self.excluded_outbound_ports.iter().copied());
        at_most(
            "excluded ports",
            left_in.len().max(left_out.len()),
            MAX_PORTS,
        )?;
        at_most(
            "excluded networks",
            self.excluded_outbound_cidrs.len(),
            MAX_CIDRS,
        )?;
        at_most(
            "excluded users",
            self.excluded_outbound_users.len(),
            MAX_USERS,
        )?;

        let mut table = Table::make(name, start);
        let port_key = |port: u16| port.to_be_bytes().to_vec();
        table.set("ports_in", Key::Port, left_in.into_iter().map(port_key));
        table.set("ports_out", Key::Port, left_out.into_iter().map(port_key));

        table.base_chain(OUTPUT, Hook::NatOutput);
        for mark in [MARK, SOURCE_MARK] {
            table.rule(OUTPUT, |rule| rule.mark(mark).accept());
        }
        for uid in &self.excluded_outbound_users {
            table.rule(OUTPUT, |rule| rule.user(*uid).accept());
        }
        for network in &self.excluded_outbound_cidrs {
            table.rule(OUTPUT, |rule| rule.destination(*network).accept());
        }
        for protocol in [TCP, UDP] {
            table.rule(OUTPUT, |rule| {
                rule.protocol(protocol).port_in("ports_out").accept()
            });
        }
        let ports = (self.outbound_port, self.dns_port);
        capture_outgoing(&mut table, OUTPUT, ports, STUB_RESOLVER);

        table.base_chain(INBOUND, Hook::NatPrerouting);
        table.rule(INBOUND, |rule| rule.by_loopback().accept());
        table.rule(INBOUND, |rule| rule.mark(MARK).accept());
        table.rule(INBOUND, |rule| {
            rule.protocol(TCP).port_in("ports_in").accept()
        });
        // What somebody routes through here to another address goes where the kernel sends it: the proxy relays nothing.
        table.rule(INBOUND, |rule| {
            rule.protocol(TCP)
                .destined_here()
                .redirect(self.inbound_port)
        });

        table.base_chain(REFUSE, Hook::FilterOutput);
        table.rule(REFUSE, |rule| rule.mark(MARK).accept());
        refuse_vips(&mut table, REFUSE);
        Ok(table.finish())
    }
}

impl HostCgroups {
    pub(super) fn batch(&self, name: &str, start: Start) -> Result<Made, NetError> {
        let cgroups = distinct(self.cgroups.iter().copied());
        at_most("cgroups", cgroups.len(), MAX_CGROUPS)?;
        let levels = distinct(cgroups.iter().map(|cgroup| cgroup.level));

        let mut table = Table::make(name, start);
        // Chains first: rules may only name what is there.
        table.chain(CAPTURED);
        let ports = (self.outbound_port, self.dns_port);
        capture_outgoing(&mut table, CAPTURED, ports, STUB_RESOLVER);
        table.chain(REFUSE_VIPS);
        refuse_vips(&mut table, REFUSE_VIPS);
        table.base_chain(OUTPUT, Hook::NatOutput);
        table.rule(OUTPUT, |rule| rule.mark(MARK).accept());
        table.base_chain(REFUSE, Hook::FilterOutput);
        table.rule(REFUSE, |rule| rule.mark(MARK).accept());
        for level in levels {
            let set = format!("cgroups_{level}");
            let members = cgroups.iter().filter(|cgroup| cgroup.level == level);
            table.set(
                &set,
                Key::Cgroup,
                members.map(|Cgroup { id, .. }| id.to_ne_bytes().to_vec()),
            );
            table.rule(OUTPUT, |rule| rule.cgroup_in(level, &set).goto(CAPTURED));
            // This chain sees every packet of the host: the destination is checked before the cgroup is looked up.
            for network in VIPS {
                table.rule(REFUSE, |rule| {
                    rule.destination(network)
                        .cgroup_in(level, &set)
                        .goto(REFUSE_VIPS)
                });
            }
        }
        Ok(table.finish())
    }
}

/// TCP beyond loopback to `outbound`, and DNS anywhere beyond it, or to the resolvers on it, to `dns`.
fn capture_outgoing(
    table: &mut Table<'_>,
    chain: &str,
    (outbound, dns): (u16, u16),
    resolvers: (IpAddr, u8),
) {
    for protocol in [UDP, TCP] {
        table.rule(chain, |rule| {
            rule.destination(resolvers)
                .protocol(protocol)
                .port(DNS)
                .redirect(dns)
        });
    }
    for network in LOOPBACK {
        table.rule(chain, |rule| rule.destination(network).accept());
    }
    for protocol in [UDP, TCP] {
        table.rule(chain, |rule| {
            rule.protocol(protocol).port(DNS).redirect(dns)
        });
    }
    table.rule(chain, |rule| rule.protocol(TCP).redirect(outbound));
}

/// UDP and pings to virtual addresses are refused at once, so that clients fall back.
fn refuse_vips(table: &mut Table<'_>, chain: &str) {
    for network in VIPS {
        table.rule(chain, |rule| {
            rule.destination(network)
                .protocol(UDP)
                .reject(Reject::PortUnreachable)
        });
    }
    let [v4, v6] = VIPS;
    table.rule(chain, |rule| {
        rule.destination(v4).ping_v4().reject(Reject::Prohibited)
    });
    table.rule(chain, |rule| {
        rule.destination(v6).ping_v6().reject(Reject::Prohibited)
    });
}

/// Sorted and without doubles, which a set would refuse.
fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    values
        .collect::<std::collections::BTreeSet<T>>()
        .into_iter()
        .collect()
}

fn at_most(what: &'static str, given: usize, limit: usize) -> Result<(), NetError> {
    if given <= limit {
        Ok(())
    } else {
        Err(NetError::TooMany { what, given, limit })
    }
}
