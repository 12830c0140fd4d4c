//! TCP and UDP sockets as a proxy needs them: original destinations, marks, owners.

mod foreign;
mod owner;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::TcpStream;

pub use foreign::{Expected, ForeignNetwork, check};
pub use owner::{OwnerQuery, SocketOwner, owner_of};

use crate::{capture, sys};

/// Where a captured connection was going before the kernel redirected it to us.
///
/// `None` when it was not redirected: the caller connected to this listener itself, or nothing tracks connections
/// here. Only to be asked of accepted connections.
pub fn original_destination(s: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = s.local_addr()?;
    let answer = match local {
        SocketAddr::V4(_) => sockopt::ip_original_dst(s).map(SocketAddr::V4),
        SocketAddr::V6(_) => sockopt::ipv6_original_dst(s).map(SocketAddr::V6),
    };
    match answer {
        Ok(original) if original.ip() == local.ip() && original.port() == local.port() => Ok(None),
        Ok(original) => Ok(Some(original)),
        // ENOENT: no tracked connection; the others: no connection tracking in this kernel at all.
        Err(Errno::NOENT | Errno::NOPROTOOPT | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A listener that does not block, may reuse its port after a restart, and takes IPv6 only when it is IPv6.
pub fn listen_tcp(addr: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let fd = new_socket(addr.is_ipv6(), SocketType::STREAM)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    bind(&fd, addr)?;
    rustix::net::listen(&fd, backlog)?;
    Ok(fd.into())
}

/// A UDP socket that does not block, IPv6 only when it is IPv6.
pub fn bind_udp(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let fd = new_socket(addr.is_ipv6(), SocketType::DGRAM)?;
    bind(&fd, addr)?;
    Ok(fd.into())
}

/// Lets about so many bytes of messages wait in a socket, the kernel's own expenses not counted: above the host's
/// `net.core.rmem_max` only with `CAP_NET_ADMIN` on the host, otherwise as many as that permits.
pub fn widen_inbox(s: &impl AsFd, bytes: usize) -> io::Result<()> {
    match sockopt::set_socket_recv_buffer_size_force(s, bytes) {
        Err(Errno::PERM) => Ok(sockopt::set_socket_recv_buffer_size(s, bytes)?),
        done => Ok(done?),
    }
}

/// How many messages a socket lost since it was made, mostly because its inbox was full; the number wraps.
pub fn dropped_messages(s: &impl AsFd) -> io::Result<u32> {
    sys::dropped_messages(s.as_fd())
}

/// A TCP socket that is not connected yet; with `mark`, one that capture leaves alone (`capture::MARK`).
///
/// The mark needs `CAP_NET_ADMIN` in the user namespace that owns the network namespace; without it the answer
/// is `PermissionDenied`, never an unmarked socket.
pub fn stream_socket(v6: bool, mark: bool) -> io::Result<OwnedFd> {
    let fd = new_socket(v6, SocketType::STREAM)?;
    if mark {
        set_mark(&fd)?;
    }
    Ok(fd)
}

/// A TCP socket that is not connected yet, may speak from an address that nobody here has ([`connect_from`]), and has a
/// mark: `capture::MARK`, or `capture::SOURCE_MARK` where the answers need a way back.
///
/// Both need `CAP_NET_ADMIN`, as [`stream_socket`].
pub fn transparent_socket(v6: bool, mark: u32) -> io::Result<OwnedFd> {
    let fd = new_socket(v6, SocketType::STREAM)?;
    put_mark(&fd, mark)?;
    let (level, transparent) = if v6 {
        (libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
    } else {
        (libc::SOL_IP, libc::IP_TRANSPARENT)
    };
    sys::set_option(fd.as_fd(), level, transparent, 1)?;
    // The port is chosen at connect, for these two ends: each caller has all of them.
    sys::set_option(fd.as_fd(), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    Ok(fd)
}

/// A UDP socket that is not bound yet, marked like [`stream_socket`].
pub fn datagram_socket(v6: bool, mark: bool) -> io::Result<OwnedFd> {
    let fd = new_socket(v6, SocketType::DGRAM)?;
    if mark {
        set_mark(&fd)?;
    }
    Ok(fd)
}

/// Marks a socket as Leno's own, so that capture leaves it alone. Needs `CAP_NET_ADMIN`, as [`stream_socket`].
pub fn set_mark(socket: &impl AsFd) -> io::Result<()> {
    put_mark(socket, capture::MARK)
}

fn put_mark(socket: &impl AsFd, mark: u32) -> io::Result<()> {
    let (level, option) = (libc::SOL_SOCKET, libc::SO_MARK);
    sys::set_option(socket.as_fd(), level, option, mark.cast_signed())
}

/// Connects a socket of [`transparent_socket`] from an address of its family, whosever that is.
pub async fn connect_from(fd: OwnedFd, source: IpAddr, addr: SocketAddr) -> io::Result<TcpStream> {
    rustix::net::bind(&fd, &SocketAddr::new(source, 0)).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cannot speak from {source}: {error}"))
    })?;
    connect(fd, addr).await
}

/// Connects a socket of [`stream_socket`] and waits for the answer; Nagle's delay is off.
pub async fn connect(fd: OwnedFd, addr: SocketAddr) -> io::Result<TcpStream> {
    sockopt::set_tcp_nodelay(&fd, true)?;
    // Connecting comes before registering: epoll reports an unconnected socket as hung up.
    match rustix::net::connect(&fd, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from_std(fd.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

/// Ends the connection when sent data stays unacknowledged for `timeout` (RFC 5482); zero is the system's default.
pub fn set_user_timeout(s: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(s, milliseconds)?)
}

/// Probes an idle peer after `idle`, then every `interval`, and gives up after `count` unanswered probes.
pub fn set_keepalive(
    s: &impl AsFd,
    idle: Duration,
    interval: Duration,
    count: u32,
) -> io::Result<()> {
    sockopt::set_tcp_keepidle(s, idle)?;
    sockopt::set_tcp_keepintvl(s, interval)?;
    sockopt::set_tcp_keepcnt(s, count)?;
    Ok(sockopt::set_socket_keepalive(s, true)?)
}

fn new_socket(v6: bool, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let fd = rustix::net::socket_with(
        family,
        kind,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    if v6 {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    Ok(fd)
}

fn bind(fd: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    rustix::net::bind(fd, &addr).map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"))
    })
}
