//! Links, addresses and routes of the calling thread's network namespace, by rtnetlink.
//!
//! Every change is one request that is acknowledged or refused; what is already there is `AlreadyExists`.

mod marked;
mod route;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

pub use marked::{deliver_marked_here, end_marked_delivery};
pub use route::{add_local_default, add_route, delete_route, has_route_to, is_local};

use crate::netlink::{
    ACK, Attributes, Batch, CREATE, DUMP, EXCLUSIVE, Netlink, ROUTE, attribute, errno, u32_at,
};
use crate::netns::NetNs;

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;

const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;

/// A list that changes all the time is asked for this often, then given up.
const DUMP_ATTEMPTS: usize = 5;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's name.
    pub name: String,
    /// The address.
    pub ip: IpAddr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// Whether the interface is a loopback one.
    pub loopback: bool,
}

/// Brings `lo` up.
pub fn loopback_up() -> io::Result<()> {
    up("lo")
}

/// Brings a link up.
pub fn up(name: &str) -> io::Result<()> {
    set_flags(name, IFF_UP)
}

/// Takes a link down.
pub fn set_down(name: &str) -> io::Result<()> {
    set_flags(name, 0)
}

/// Gives a link an address, usable at once: no duplicate address detection.
pub fn add_address(name: &str, ip: IpAddr, prefix: u8) -> io::Result<()> {
    change(
        &format!("give {name} the address {ip}/{prefix}"),
        |netlink, batch| {
            let [a, b, c, d] = index(netlink, name)?.to_ne_bytes();
            let fixed = [family(ip), prefix, IFA_F_NODAD, 0, a, b, c, d];
            batch.message(NEW_ADDRESS, CREATE | EXCLUSIVE | ACK, &fixed, |to| {
                address(to, IFA_LOCAL, ip);
                address(to, IFA_ADDRESS, ip);
            });
            Ok(())
        },
    )
}

/// Makes a bridge, which is down.
pub fn create_bridge(name: &str) -> io::Result<()> {
    change(&format!("make bridge {name}"), |_, batch| {
        batch.message(
            NEW_LINK,
            CREATE | EXCLUSIVE | ACK,
            &link_header(0, 0, 0),
            |to| {
                to.text(IFLA_IFNAME, name);
                to.nested(IFLA_LINKINFO, |to| to.text(IFLA_INFO_KIND, "bridge"));
            },
        );
        Ok(())
    })
}

/// Makes a pair of virtual links, both down: `name` here, `peer` in `peer_ns`.
pub fn create_veth(name: &str, peer: &str, peer_ns: &NetNs) -> io::Result<()> {
    let namespace = peer_ns.as_fd().as_raw_fd().cast_unsigned();
    change(
        &format!("make the pair of links {name} and {peer}"),
        |_, batch| {
            batch.message(
                NEW_LINK,
                CREATE | EXCLUSIVE | ACK,
                &link_header(0, 0, 0),
                |to| {
                    to.text(IFLA_IFNAME, name);
                    to.nested(IFLA_LINKINFO, |to| {
                        to.text(IFLA_INFO_KIND, "veth");
                        to.nested(IFLA_INFO_DATA, |to| {
                            to.nested(VETH_INFO_PEER, |to| {
                                to.raw(&link_header(0, 0, 0));
                                to.text(IFLA_IFNAME, peer);
                                to.u32(IFLA_NET_NS_FD, namespace);
                            });
                        });
                    });
                },
            );
            Ok(())
        },
    )
}

/// Puts a link into a bridge.
pub fn set_master(name: &str, bridge: &str) -> io::Result<()> {
    change(
        &format!("put {name} into bridge {bridge}"),
        |netlink, batch| {
            let (link, master) = (index(netlink, name)?, index(netlink, bridge)?);
            batch.message(NEW_LINK, ACK, &link_header(link, 0, 0), |to| {
                to.u32(IFLA_MASTER, master)
            });
            Ok(())
        },
    )
}

/// Deletes a link, and its peer if it is one of a pair.
pub fn delete(name: &str) -> io::Result<()> {
    change(&format!("delete link {name}"), |netlink, batch| {
        batch.message(
            DELETE_LINK,
            ACK,
            &link_header(index(netlink, name)?, 0, 0),
            |_| {},
        );
        Ok(())
    })
}

/// All addresses of all links.
pub fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    for _ in 0..DUMP_ATTEMPTS {
        match read_addresses() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
    Err(io::Error::other(
        "the list of addresses keeps changing while it is read",
    ))
}

fn read_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut netlink = Netlink::open(ROUTE)?;
    let mut links = BTreeMap::new();
    let mut request = Batch::default();
    request.message(GET_LINK, DUMP, &link_header(0, 0, 0), |_| {});
    netlink.ask(&request, |payload| links.extend(parse_link(payload)))?;
    let mut found = Vec::new();
    let mut request = Batch::default();
    request.message(GET_ADDRESS, DUMP, &[0; 8], |_| {});
    netlink.ask(&request, |payload| found.extend(parse_address(payload)))?;
    let named = found.into_iter().filter_map(|(index, ip, prefix)| {
        let (name, flags) = links.get(&index)?;
        Some(InterfaceAddress {
            name: String::clone(name),
            ip,
            prefix,
            loopback: flags & IFF_LOOPBACK != 0,
        })
    });
    Ok(named.collect())
}

/// Index, name and flags out of `struct ifinfomsg` and its attributes.
fn parse_link(payload: &[u8]) -> Option<(u32, (String, u32))> {
    let name = attribute(payload.get(16..)?, IFLA_IFNAME)?;
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Some((u32_at(payload, 4)?, (name, u32_at(payload, 8)?)))
}

/// Link, address and prefix length out of `struct ifaddrmsg` and its attributes.
fn parse_address(payload: &[u8]) -> Option<(u32, IpAddr, u8)> {
    let rest = payload.get(8..)?;
    // Of a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL one's own; IPv6 has mostly the former only.
    let bytes = attribute(rest, IFA_LOCAL).or_else(|| attribute(rest, IFA_ADDRESS))?;
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk()?)),
        _ => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk()?)),
    };
    Some((u32_at(payload, 4)?, ip, *payload.get(1)?))
}

/// Whether IPv6 is there and enabled, for new links and for loopback.
#[must_use]
pub fn ipv6_enabled() -> bool {
    ["all", "lo"].into_iter().all(|scope| {
        std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"))
            .is_ok_and(|text| text.trim() == "0")
    })
}

fn set_flags(name: &str, flags: u32) -> io::Result<()> {
    let direction = if flags & IFF_UP == 0 { "down" } else { "up" };
    change(&format!("bring {name} {direction}"), |netlink, batch| {
        batch.message(
            NEW_LINK,
            ACK,
            &link_header(index(netlink, name)?, flags, IFF_UP),
            |_| {},
        );
        Ok(())
    })
}

/// Sends what `build` makes; an error says what was to be done.
fn change(
    what: &str,
    build: impl FnOnce(&Netlink, &mut Batch) -> io::Result<()>,
) -> io::Result<()> {
    let attempt = || {
        let mut netlink = Netlink::open(ROUTE)?;
        let mut batch = Batch::default();
        build(&netlink, &mut batch)?;
        netlink.send(&batch)
    };
    attempt().map_err(|error| {
        let kind = match errno(&error) {
            // The kernel's ways of saying that a route or a link is not there.
            Some(libc::ESRCH | libc::ENODEV) => io::ErrorKind::NotFound,
            _ => error.kind(),
        };
        io::Error::new(kind, format!("cannot {what}: {error}"))
    })
}

fn index(netlink: &Netlink, name: &str) -> io::Result<u32> {
    Ok(rustix::net::netdevice::name_to_index(netlink, name)?)
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, changed: u32) -> [u8; 16] {
    let mut header = [0; 16];
    for (target, value) in header
        .chunks_exact_mut(4)
        .skip(1)
        .zip([index, flags, changed])
    {
        target.copy_from_slice(&value.to_ne_bytes());
    }
    header
}

fn family(ip: IpAddr) -> u8 {
    const INET: u8 = 2;
    const INET6: u8 = 10;
    if ip.is_ipv4() { INET } else { INET6 }
}

fn address(to: &mut Attributes<'_>, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => to.bytes(kind, &ip.octets()),
        IpAddr::V6(ip) => to.bytes(kind, &ip.octets()),
    }
}
