//! The demo's network: a bridge, and for each host a network namespace with one link into it.
//!
//! All of it belongs to the arena's namespaces and goes with them; nothing here has to be undone.

use std::{collections::BTreeMap, io, net::IpAddr};

use leno_net::{
    link,
    netns::{self, NetNs},
};

use super::plan::{self, Host};

const BRIDGE: &str = "lan";
/// The host's end of its link.
const LINK: &str = "eth0";

/// The hosts that are plugged in.
pub(super) struct Network {
    hosts: BTreeMap<&'static str, NetNs>,
    v6: bool,
}

impl Network {
    /// The bridge, and nobody on it.
    pub(super) fn new() -> io::Result<Self> {
        link::loopback_up()?;
        link::create_bridge(BRIDGE)?;
        link::up(BRIDGE)?;
        Ok(Self {
            hosts: BTreeMap::new(),
            v6: link::ipv6_enabled(),
        })
    }

    /// Plugs a host in.
    pub(super) fn add(&mut self, host: &'static Host) -> io::Result<()> {
        let namespace = empty()?;
        let port = format!("to-{}", host.name);
        link::create_veth(&port, LINK, &namespace)?;
        link::set_master(&port, BRIDGE)?;
        link::up(&port)?;
        namespace.within(|| {
            link::loopback_up()?;
            link::up(LINK)?;
            let (v4, v6) = plan::NETWORK;
            self.addresses(host).into_iter().try_for_each(|address| {
                link::add_address(LINK, address, if address.is_ipv4() { v4 } else { v6 })
            })
        })?;
        self.hosts.insert(host.name, namespace);
        Ok(())
    }

    /// A host's addresses: of both versions, where this machine knows both.
    pub(super) fn addresses(&self, host: &Host) -> Vec<IpAddr> {
        if self.v6 {
            vec![host.v4(), host.v6()]
        } else {
            vec![host.v4()]
        }
    }

    /// Does something on a host.
    pub(super) fn on<T>(&self, host: &str, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.hosts.get(host) {
            Some(namespace) => namespace.within(work),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no host {host}"),
            )),
        }
    }
}

/// A new network namespace. A thread of its own makes it, and so stays the only one that was ever inside.
#[expect(
    clippy::disallowed_methods,
    reason = "a thread whose whole life is one namespace; it is joined at once"
)]
fn empty() -> io::Result<NetNs> {
    let made = std::thread::spawn(|| {
        netns::unshare_net()?;
        NetNs::current()
    });
    made.join().unwrap_or_else(|_| {
        Err(io::Error::other(
            "the thread that made a namespace panicked",
        ))
    })
}
