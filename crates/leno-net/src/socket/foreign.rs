//! Sockets that another user's program passed to us: what they are, and sockets of our own in their place.
//!
//! Whoever passes a descriptor keeps a copy, and with it the flags of the open file description: it can clear
//! `O_NONBLOCK` at any time, and the next `accept`, `connect` or `recv` then stands still with all that waits on its
//! thread. So a stranger's socket only shows where to listen; what is used is made here, in the same namespace.
//! Refuses sockets in a namespace that is not the caller's own: it could otherwise have us listen in another's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, Shutdown, SocketType, sockopt};

use super::{bind, new_socket, stream_socket, transparent_socket};
use crate::{capture, netns::NetNs, sys};

/// The namespace of a socket (linux/sockios.h).
const SIOCGSKNS: libc::Ioctl = 0x894c;
/// The user namespace that owns a namespace (linux/nsfs.h).
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// What a socket should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A TCP listener.
    Listener,
    /// A TCP socket that is bound to a port; whether it listens does not matter.
    BoundStream,
    /// A UDP socket that is bound to a port.
    BoundDatagram,
    /// A TCP socket that is not connected, of IPv6 or not.
    Unconnected {
        /// IPv6.
        v6: bool,
    },
}

/// Checks that a descriptor is what it should be, and makes it one that does not block.
///
/// # Errors
/// What it is not.
pub fn check(fd: &OwnedFd, expected: Expected) -> io::Result<()> {
    let not = |what: &str| {
        let text = format!("a descriptor that came is not {what}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    let Ok(kind) = sockopt::socket_type(fd) else {
        return not("a TCP socket, nor any");
    };
    let (stream, datagram) = (kind == SocketType::STREAM, kind == SocketType::DGRAM);
    let family = sockopt::socket_domain(fd)?;
    let v6 = match family {
        AddressFamily::INET => false,
        AddressFamily::INET6 => true,
        _ => return not("of IPv4 or IPv6"),
    };
    let protocol = sockopt::socket_protocol(fd)?;
    let listens = stream && sockopt::socket_acceptconn(fd)?;
    let tcp = stream && protocol == Some(rustix::net::ipproto::TCP);
    let udp = datagram && protocol == Some(rustix::net::ipproto::UDP);
    let bound = address(fd)?.port() != 0;
    let connected = rustix::net::getpeername(fd).is_ok_and(|peer| peer.is_some());
    match expected {
        Expected::Listener if !(tcp && listens) => return not("a TCP listener"),
        Expected::BoundStream if !(tcp && bound && !connected) => {
            return not("a TCP socket bound to a port");
        }
        Expected::BoundDatagram if !(udp && bound && !connected) => {
            return not("a UDP socket bound to a port");
        }
        Expected::Unconnected { v6: wanted } if !tcp || listens || connected || v6 != wanted => {
            return not("an unconnected TCP socket of the announced family");
        }
        _ => {}
    }
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

fn address(fd: &impl AsFd) -> io::Result<SocketAddr> {
    rustix::net::getsockname(fd)?
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "it has no IP address"))
}

/// The network of another user's program, as its sockets show it.
#[derive(Debug)]
pub struct ForeignNetwork {
    namespace: NetNs,
}

impl ForeignNetwork {
    /// That of a socket, which must be the user's own: made by it, in a user namespace of its own. Needs
    /// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN` there, as root has.
    ///
    /// # Errors
    /// When it is not, or cannot be entered.
    pub fn of(socket: &impl AsFd, user: u32) -> io::Result<Self> {
        let namespace = sys::related_descriptor(socket.as_fd(), SIOCGSKNS)?;
        let owner = sys::related_descriptor(namespace.as_fd(), NS_GET_USERNS)
            .and_then(|owner| sys::owner_of_user_namespace(owner.as_fd()))?;
        if owner != user {
            let text = format!("its sockets are of a network that is not user {user}'s own");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(Self {
            namespace: namespace.into(),
        })
    }

    /// A listener where the user's socket is bound. That one listens no more, and stays bound: it shows the place
    /// again when another asks.
    ///
    /// # Errors
    /// When there can be none.
    pub fn listener(&self, theirs: &OwnedFd, backlog: i32) -> io::Result<TcpListener> {
        let address = address(theirs)?;
        sockopt::set_socket_reuseaddr(theirs, true)?;
        match rustix::net::shutdown(theirs, Shutdown::Both) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => {}
            Err(error) => return Err(error.into()),
        }
        self.namespace.within(|| {
            let fd = shared(address, SocketType::STREAM)?;
            rustix::net::listen(&fd, backlog)?;
            Ok(fd.into())
        })
    }

    /// A UDP socket where the user's is bound. That one hears nothing more: it is connected to the discard port.
    ///
    /// # Errors
    /// When there can be none.
    pub fn datagrams(&self, theirs: &OwnedFd) -> io::Result<UdpSocket> {
        let address = address(theirs)?;
        sockopt::set_socket_reuseaddr(theirs, true)?;
        let nowhere: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, 9).into(),
            SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, 9).into(),
        };
        rustix::net::connect(theirs, &nowhere)?;
        self.namespace
            .within(|| Ok(shared(address, SocketType::DGRAM)?.into()))
    }

    /// Sockets that are not connected yet, marked so that capture leaves them alone; `transparent` ones may speak from
    /// any address.
    ///
    /// # Errors
    /// When there can be none.
    pub fn streams(&self, v6: bool, transparent: bool, count: usize) -> io::Result<Vec<OwnedFd>> {
        let make = |_| match transparent {
            true => transparent_socket(v6, capture::MARK),
            false => stream_socket(v6, true),
        };
        self.namespace.within(|| (0..count).map(make).collect())
    }
}

/// A bound socket that shares its place with the one of a predecessor, which may not have closed it yet.
fn shared(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let fd = new_socket(address.is_ipv6(), kind)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_socket_reuseport(&fd, true)?;
    bind(&fd, address)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn listener() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn a_descriptor_is_what_it_should_be_and_does_not_block() {
        let datagram: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let fresh = |v6| stream_socket(v6, false).unwrap();
        let peer = listener();
        let to = address(&peer).unwrap();
        let connected: OwnedFd = std::net::TcpStream::connect(to).unwrap().into();
        let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let unix: OwnedFd = std::os::unix::net::UnixStream::pair().unwrap().0.into();
        let (one, other) = (
            Expected::Unconnected { v6: false },
            Expected::Unconnected { v6: true },
        );
        let all = [
            Expected::Listener,
            Expected::BoundStream,
            Expected::BoundDatagram,
            one,
            other,
        ];
        for (what, fd, fits) in [
            (
                "a listener",
                listener(),
                vec![Expected::Listener, Expected::BoundStream],
            ),
            ("a datagram socket", datagram, vec![Expected::BoundDatagram]),
            ("an unconnected socket", fresh(false), vec![one]),
            ("one of IPv6", fresh(true), vec![other]),
            ("a connection", connected, vec![]),
            ("a file", file, vec![]),
            ("a Unix socket", unix, vec![]),
        ] {
            for expected in all {
                rustix::io::ioctl_fionbio(&fd, false).ok();
                let outcome = check(&fd, expected);
                assert_eq!(
                    outcome.is_ok(),
                    fits.contains(&expected),
                    "{what}, {expected:?}"
                );
                if outcome.is_ok() {
                    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
                    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK), "{what}");
                }
            }
        }
    }
}
