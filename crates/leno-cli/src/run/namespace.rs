//! The program's network namespace: loopback, the host's addresses, a way for everything to the agent's listeners.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use leno_agent::protocol::Socket;
use leno_net::{NetError, capture::OwnNamespace, link, netns, program, socket};
use leno_types::ports;

use crate::exit::{CommandError, chain};

const TABLE: &str = "leno";
/// Inside the namespace nobody else uses port 53, so that a resolver that is told 127.0.0.1 finds us, too.
const DNS_PORT: u16 = 53;
const BACKLOG: i32 = 1_024;

/// What the agent gets of the namespace. Kept here as well, so that an agent's restart loses nothing.
pub(crate) struct Namespace {
    outbound: Vec<TcpListener>,
    dns_udp: Vec<UdpSocket>,
    dns_tcp: Vec<TcpListener>,
    pub(crate) v6: bool,
}

impl Namespace {
    /// The descriptors to hand over, each with what it is.
    pub(crate) fn sockets(&self) -> (Vec<Socket>, Vec<BorrowedFd<'_>>) {
        let outbound = self
            .outbound
            .iter()
            .map(|socket| (Socket::Outbound, socket.as_fd()));
        let udp = self
            .dns_udp
            .iter()
            .map(|socket| (Socket::DnsUdp, socket.as_fd()));
        let tcp = self
            .dns_tcp
            .iter()
            .map(|socket| (Socket::DnsTcp, socket.as_fd()));
        outbound.chain(udp).chain(tcp).unzip()
    }
}

/// Leaves the host's network for a namespace of our own, and prepares it for the program.
pub(crate) fn enter(host: &[IpAddr]) -> Result<Namespace, CommandError> {
    if netns::has_admin_capability() {
        netns::unshare_net().map_err(|error| {
            CommandError::permission(format!("no network namespace can be made: {error}"))
        })?;
    } else {
        netns::unshare_user_and_net().map_err(permission)?;
    }
    prepare(host).map_err(|error| {
        CommandError::failed(format!(
            "the program's network cannot be prepared: {}",
            chain(&error)
        ))
    })
}

fn permission(error: NetError) -> CommandError {
    CommandError::permission(chain(&error))
}

/// Why the namespace is not what it should be.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error("{0}: {1}")]
    Step(&'static str, io::Error),
    #[error(transparent)]
    Capture(#[from] NetError),
}

fn prepare(host: &[IpAddr]) -> Result<Namespace, PrepareError> {
    let step = |what: &'static str| move |error: io::Error| PrepareError::Step(what, error);
    link::loopback_up().map_err(step("loopback"))?;
    let v6 = link::ipv6_enabled();
    let (mut source_v4, mut source_v6) = (None, None);
    for address in host {
        match address {
            IpAddr::V4(v4) if source_v4.is_none() => source_v4 = Some(*v4),
            IpAddr::V6(v6_address) if source_v6.is_none() && v6 => source_v6 = Some(*v6_address),
            _ => continue,
        }
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        link::add_address("lo", *address, prefix).map_err(step("the host's address"))?;
    }
    link::add_local_default(source_v4, source_v6).map_err(step("the route to the agent"))?;
    // The program has no capability, and a port below 1024 here is nobody else's.
    program::allow_low_ports().map_err(step("low ports"))?;
    let namespace = listen(v6).map_err(step("the listeners"))?;
    OwnNamespace {
        outbound_port: ports::OUTBOUND,
        dns_port: DNS_PORT,
    }
    .install(TABLE)?;
    Ok(namespace)
}

fn listen(v6: bool) -> io::Result<Namespace> {
    let mut loopbacks = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    if v6 {
        loopbacks.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
    }
    let mut namespace = Namespace {
        outbound: Vec::new(),
        dns_udp: Vec::new(),
        dns_tcp: Vec::new(),
        v6,
    };
    for loopback in loopbacks {
        namespace.outbound.push(socket::listen_tcp(
            SocketAddr::new(loopback, ports::OUTBOUND),
            BACKLOG,
        )?);
        namespace
            .dns_udp
            .push(socket::bind_udp(SocketAddr::new(loopback, DNS_PORT))?);
        namespace.dns_tcp.push(socket::listen_tcp(
            SocketAddr::new(loopback, DNS_PORT),
            BACKLOG,
        )?);
    }
    Ok(namespace)
}
