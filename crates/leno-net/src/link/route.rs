//! Routes: ordinary ones, and the one that keeps everything inside a namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{address, change, family, index};
use crate::netlink::{ACK, Batch, CREATE, EXCLUSIVE, Netlink, ROUTE};

pub(super) const NEW_ROUTE: u16 = 24;
pub(super) const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;

const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;

const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
const PROTOCOL_STATIC: u8 = 4;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
pub(super) const SCOPE_HOST: u8 = 254;
const TYPE_UNICAST: u8 = 1;
pub(super) const TYPE_LOCAL: u8 = 2;

/// Delivers everything locally, whatever its destination, with these sources, which `lo` must already have.
///
/// A `local` default route in table `local`. Without a source the kernel would use the destination as one, and a
/// connection would come from where it goes. `lo` must be up; a family without source gets no route.
pub fn add_local_default(
    source_v4: Option<Ipv4Addr>,
    source_v6: Option<Ipv6Addr>,
) -> io::Result<()> {
    let sources = [source_v4.map(IpAddr::V4), source_v6.map(IpAddr::V6)];
    sources.into_iter().flatten().try_for_each(|source| {
        change(
            &format!("deliver everything locally from {source}"),
            |netlink, batch| {
                let fixed = route_header(family(source), 0, TABLE_LOCAL, SCOPE_HOST, TYPE_LOCAL);
                let loopback = index(netlink, "lo")?;
                batch.message(NEW_ROUTE, CREATE | EXCLUSIVE | ACK, &fixed, |to| {
                    to.u32(RTA_OIF, loopback);
                    address(to, RTA_PREFSRC, source);
                });
                Ok(())
            },
        )
    })
}

/// Adds a route to network `dest`: by gateway `via`, by link `dev`, or both.
pub fn add_route(dest: (IpAddr, u8), via: Option<IpAddr>, dev: Option<&str>) -> io::Result<()> {
    alter("add", NEW_ROUTE, CREATE | EXCLUSIVE, dest, via, dev)
}

/// Deletes the route that [`add_route`] added with the same arguments; `NotFound` when there is none.
pub fn delete_route(dest: (IpAddr, u8), via: Option<IpAddr>, dev: Option<&str>) -> io::Result<()> {
    alter("delete", DELETE_ROUTE, 0, dest, via, dev)
}

fn alter(
    verb: &str,
    kind: u16,
    flags: u16,
    dest: (IpAddr, u8),
    via: Option<IpAddr>,
    dev: Option<&str>,
) -> io::Result<()> {
    let (network, prefix) = dest;
    change(
        &format!("{verb} the route to {network}/{prefix}"),
        |netlink, batch| {
            if via.is_none() && dev.is_none() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a route needs a gateway or a link",
                ));
            }
            let link = dev.map(|name| index(netlink, name)).transpose()?;
            let scope = if via.is_none() && network.is_ipv4() {
                SCOPE_LINK
            } else {
                SCOPE_UNIVERSE
            };
            let fixed = route_header(family(network), prefix, TABLE_MAIN, scope, TYPE_UNICAST);
            batch.message(kind, flags | ACK, &fixed, |to| {
                address(to, RTA_DST, network);
                if let Some(gateway) = via {
                    address(to, RTA_GATEWAY, gateway);
                }
                if let Some(link) = link {
                    to.u32(RTA_OIF, link);
                }
            });
            Ok(())
        },
    )
}

/// Whether a packet to `ip` would be sent, or delivered here. Says nothing about an answer.
#[must_use]
pub fn has_route_to(ip: IpAddr) -> bool {
    // Unreachable and prohibited ones are no route.
    matches!(route_type(ip), Ok(Some(TYPE_UNICAST | TYPE_LOCAL)))
}

/// Whether a packet to `ip` would be delivered here.
///
/// An IPv6 address is only some time after its link was brought up: the kernel waits for the carrier.
#[must_use]
pub fn is_local(ip: IpAddr) -> bool {
    matches!(route_type(ip), Ok(Some(TYPE_LOCAL)))
}

fn route_type(ip: IpAddr) -> io::Result<Option<u8>> {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let header = route_header(family(ip), length, 0, 0, 0);
    let mut request = Batch::default();
    request.message(GET_ROUTE, 0, &header, |to| address(to, RTA_DST, ip));
    let mut kind = None;
    // The eighth byte of `struct rtmsg`.
    Netlink::open(ROUTE)?.ask(&request, |route| kind = route.get(7).copied())?;
    Ok(kind)
}

/// `struct rtmsg`.
pub(super) fn route_header(family: u8, prefix: u8, table: u8, scope: u8, kind: u8) -> [u8; 12] {
    [
        family,
        prefix,
        0,
        0,
        table,
        PROTOCOL_STATIC,
        scope,
        kind,
        0,
        0,
        0,
        0,
    ]
}
