//! Links, addresses and routes of the calling thread's network namespace, by rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netns::NetNs;

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

fn later<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Brings `lo` up.
pub fn loopback_up() -> io::Result<()> {
    up("lo")
}
/// Brings a link up.
pub fn up(_name: &str) -> io::Result<()> {
    later()
}
/// Takes a link down.
pub fn set_down(_name: &str) -> io::Result<()> {
    later()
}
/// Gives a link an address, usable at once (no duplicate address detection).
pub fn add_address(_name: &str, _ip: IpAddr, _prefix: u8) -> io::Result<()> {
    later()
}
/// Delivers everything locally, whatever its destination, with these sources.
pub fn add_local_default(_source_v4: Option<Ipv4Addr>, _source_v6: Option<Ipv6Addr>) -> io::Result<()> {
    later()
}
/// Adds a route.
pub fn add_route(_dest: (IpAddr, u8), _via: Option<IpAddr>, _dev: Option<&str>) -> io::Result<()> {
    later()
}
/// Deletes the route that `add_route` added with the same arguments.
pub fn delete_route(_dest: (IpAddr, u8), _via: Option<IpAddr>, _dev: Option<&str>) -> io::Result<()> {
    later()
}
/// Makes a bridge.
pub fn create_bridge(_name: &str) -> io::Result<()> {
    later()
}
/// Makes a pair of virtual links: `name` here, `peer` in `peer_ns`.
pub fn create_veth(_name: &str, _peer: &str, _peer_ns: &NetNs) -> io::Result<()> {
    later()
}
/// Puts a link into a bridge.
pub fn set_master(_name: &str, _bridge: &str) -> io::Result<()> {
    later()
}
/// Deletes a link.
pub fn delete(_name: &str) -> io::Result<()> {
    later()
}
/// All addresses of all links.
pub fn addresses() -> io::Result<Vec<InterfaceAddress>> {
    later()
}
/// Whether the namespace can send to `ip`.
#[must_use]
pub fn has_route_to(_ip: IpAddr) -> bool {
    false
}
/// Whether IPv6 is there and not disabled.
#[must_use]
pub fn ipv6_enabled() -> bool {
    false
}
